"""Which blocks a pack has, by the heads of its sections, and whether they can be believed without hashing."""

from collections.abc import Iterator
from pathlib import Path

from hamt_bulk.car import HEADER_V2_BYTES, Section, header_v1, header_v2, read_header, scan
from hamt_bulk.car_index import decode_index, encode_index, read_index
from hamt_bulk.cas.files import is_unreadable, outside
from hamt_bulk.cas.packremoval import home_of
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.packs.named import Named
from hamt_bulk.packs.reading import FIRST_SECTION, is_ours
from hamt_bulk.packs.summary import Summary


class Heads:
    """
    The sections of one pack, read once, without their blocks.

    damage   what is wrong with the file beside its blocks, or `None`; known when `sections` is at its end
    certain  whether the heads are what its writer wrote: the name of one of our packs is their hash
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: str | None = None
        self.certain = False

    def sections(self) -> Iterator[Section]:
        """The sections, up to the first that is damaged. Offsets are from the file's start."""
        summary = Summary()
        try:
            with outside("cannot read", self.path), self.path.open("rb") as file:
                header = read_header(file)
                for section in scan(file, header):
                    at = header.data_offset
                    section = Section(
                        section.cid, section.offset + at, section.data_offset + at, section.data_length
                    )
                    summary.add_head(section.cid, section.offset, section.data_length)
                    yield section
                if not header.finished:
                    raise InvalidInput("its writer died before it was finished")
                end = header.data_offset + header.data_size
                file.seek(0)
                first = file.read(FIRST_SECTION)
                start = end if header.index_offset is None else header.index_offset
                index = read_index(file, start, header.data_size) if header.version == 2 else b""
        except InvalidInput as error:
            self.damage = str(error)
            return
        except CASError as error:
            if not is_unreadable(error):
                raise
            self.damage = str(error)
            return
        if is_ours(self.path):
            sound = header_v2(HEADER_V2_BYTES, end - HEADER_V2_BYTES, end) + header_v1()
            self.certain = home_of(self.path).name == summary.name
            if first != sound:
                self.damage = "its header does not say where payload and index are"
            elif index != encode_index(summary.index(HEADER_V2_BYTES)):
                self.damage = "its index does not say what its sections say"
            elif not self.certain:
                self.damage = "its name is not that of its blocks in their order"
        elif header.index_offset is not None:
            try:
                named = Named(decode_index(index, header.data_size), header.data_offset)
            except InvalidInput as error:
                self.damage = str(error)
            else:
                if left_out := summary.left_out(named):
                    self.damage = f"its index leaves out {left_out} of its blocks"


def damage_of(path: Path) -> str | None:
    """What is wrong with a pack beside its blocks, or `None`."""
    heads = Heads(path)
    for _ in heads.sections():
        pass
    return heads.damage

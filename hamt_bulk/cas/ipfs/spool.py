"""A folder of packs with what was sent to a daemon, until the daemon is known to have it."""

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hamt_bulk.block import Block
from hamt_bulk.car import read_header, scan
from hamt_bulk.cas.files import outside
from hamt_bulk.cas.pack import PackCAS
from hamt_bulk.cas.writer import Writer

_AT_ONCE = 256


def send_again(spool: PackCAS, writer: Writer) -> bool:
    """Sends all blocks of a spool once more. Whether there were any."""
    blocks, some = _blocks(spool.path), False
    while group := list(islice(blocks, _AT_ONCE)):
        writer.save_many(group)
        some = True
    writer.flush()
    return some


def remove(spool: PackCAS) -> None:
    """Removes a spool with all that it holds."""
    spool.close()
    with outside("cannot remove", spool.path):
        if spool.path.is_dir():
            shutil.rmtree(spool.path)


def _blocks(folder: Path) -> Iterator[Block]:
    """The blocks of all packs, as they were written; the daemon compares each with its CID."""
    for path in sorted(folder.glob("packs/*/*.car")):
        with outside("cannot read", path), path.open("rb") as file:
            header = read_header(file)
            for section in scan(file, header):
                file.seek(header.data_offset + section.data_offset)
                yield Block(section.cid, file.read(section.data_length))

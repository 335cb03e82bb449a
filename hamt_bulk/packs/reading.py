"""
Reading a pack past what is damaged in it.

A pack says most things twice: where a block is by its section's head and by the index, what it is by its CID and
by its bytes, and which blocks there are by the pack's name. So where one is damaged the other leads on; where both
are, the next section is looked for by the bytes that CIDs start with.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hamt_bulk.block import MAX_CID_BYTES, RAW, read_varint, varint, verify
from hamt_bulk.car import (
    HEADER_V2_BYTES,
    MAX_SECTION_BYTES,
    Header,
    cid_at,
    header_v1,
    header_v2,
    read_header,
)
from hamt_bulk.car_index import decode_index, encode_index
from hamt_bulk.cas.files import is_unreadable, outside
from hamt_bulk.cas.packremoval import home_of
from hamt_bulk.errors import BlockMismatch, CASError, InvalidInput
from hamt_bulk.packs.named import Name, Named
from hamt_bulk.packs.summary import Piece, Summary, codec_of
from hamt_bulk.packs.window import Window

HEAD_BYTES = 9 + MAX_CID_BYTES
MAX_WIDTH = 5  # of the varint before a section of at most MAX_SECTION_BYTES

FIRST_SECTION = HEADER_V2_BYTES + len(header_v1())
"""Where the sections of our packs start."""

_CID_START = re.compile(rb"\x01[\x55\x70\x71][\x12\x1e]\x20")
_INDEX_START = re.compile(rb"\x81\x08[\x00-\x08]\x00\x00\x00")
_OUR_NAME = re.compile(r"[0-9a-f]{40}\.car")


class Reading:
    """
    One pack, read once. What is said here is known when `pieces` is at its end.

    faults   what is wrong with the file beside its blocks
    hidden   whole blocks that stores do not find, since neither the index nor the sections before lead to them
    is_pack  whether anything about it is that of a CAR file
    is_less  whether blocks are lost, and nothing says how many: neither an index is there nor the end of the payload,
             and what is left does not have the pack's name
    """

    def __init__(self, path: Path, hints: Callable[[], Mapping[int, int]] = dict) -> None:
        """`hints`: where other indexes say that sections start, and with which eight bytes their digests do."""
        self.path = path
        self._hints = hints
        self.faults: list[str] = []
        self.hidden = 0
        self.is_pack = True
        self.is_less = False
        self._summary = Summary()
        self._ours = is_ours(path)
        self._codec = codec_of(path)
        self._named: Named | None = None
        self._index_at: int | None = None
        self._index_bytes = b""
        self._index_fault = "nothing says where it is"
        self._thread_lost = self._is_hinted = False

    def pieces(self) -> Iterator[Piece]:
        """The blocks in the order of the file, one in memory at a time; then those that only the index names."""
        with Window(self.path) as self._window:
            header = self._header()
            self._offset = header.data_offset if header else HEADER_V2_BYTES
            if header is not None and header.index_offset is not None:
                self._take_index(header.index_offset)
            at = self._offset + header.sections_offset if header else FIRST_SECTION
            payload = None if header is None else header.data_offset + header.data_size
            # The header of one of ours may lie about where the payload ends, and the sections then do not end there.
            self._stop = self._window.size if self._ours or payload is None else payload
            while at < self._stop and at not in (self._index_at, payload) and not self._is_index(at):
                piece, at = self._piece(at)
                self._summary.add(piece)
                self.hidden += piece.data is not None and self._thread_lost and self._named is None
                yield piece
            if self._named is None and header is not None and header.version == 2:
                self._take_index(at)
            if self._named is not None:
                for piece in self._summary.only_named(self._named, at, self._codec):
                    self._summary.damaged += 1
                    yield piece
            elif self._ours:
                yield from self._hinted()
            self._compare(header, at)

    @property
    def has_index(self) -> bool:
        """Whether its index can be read, so that what it names and is not there is known."""
        return self._named is not None

    def _header(self) -> Header | None:
        try:
            with outside("cannot read", self.path), self.path.open("rb") as file:
                header = read_header(file)
        except InvalidInput as error:
            self.faults.append(f"its header does not fit it: {error}")
            return None
        except CASError as error:
            if not is_unreadable(error):
                raise
            self.faults.append(str(error))
            return None
        if not header.finished:
            self.faults.append("its writer died before it was finished, or its header is damaged")
        return header

    # The index.

    def _take_index(self, at: int) -> bool:
        if not self._spans_the_rest(at):
            return False
        data = self._window.read(at, self._window.size - at)
        try:
            self._named = Named(decode_index(data, max(at - self._offset, 0)), self._offset)
        except InvalidInput as error:
            self._index_fault = str(error)
            return False
        self._index_at, self._index_bytes = at, data
        return True

    def _spans_the_rest(self, at: int) -> bool:
        """Whether an index may start there: its counts say where it ends. What is no index is not read whole."""
        try:
            at += read_varint(self._window.read(at, 9), 0)[1]
            codes, at = int.from_bytes(self._window.read(at, 4), "little"), at + 4
            for _ in range(min(codes, 64)):
                widths, at = int.from_bytes(self._window.read(at + 8, 4), "little"), at + 12
                for _ in range(min(widths, 64)):
                    length = int.from_bytes(self._window.read(at + 4, 8), "little")
                    at += 12 + length
        except ValueError:
            return False
        return at == self._window.size

    def _is_index(self, at: int) -> bool:
        return (
            self._index_at is None
            and bool(_INDEX_START.match(self._window.read(at, 6)))
            and self._take_index(at)
        )

    # One section.

    def _piece(self, at: int) -> tuple[Piece, int]:
        """What is at `at`, and where the next section starts."""
        head = self._window.read(at, min(HEAD_BYTES, self._stop - at))
        cid = stop = None
        try:
            length, body = read_varint(head, 0)
            cid = cid_at(head, body, length)
            left = self._stop - at - body
            if length > min(MAX_SECTION_BYTES, left):
                raise ValueError(f"a section of {length} bytes, where {left} are left")
            stop = at + body + length
            start = at + body + len(cid)
            data = self._window.read(start, stop - start)
            verify(cid, data)
            return Piece(at, cid, data, None), stop
        except ValueError as error:
            fault = _plain(error)
        named = self._named.at(at) if self._named else []
        following = self._following(at)
        for bound, name in ((b, n) for b in (following, stop) if b is not None for n in named):
            if (block := self._by_name(name, at, bound, head)) is not None:
                return Piece(at, *block, "the head of its section is damaged"), bound
        if named:
            cid = named[0].cid(self._codec)
        after = self._next(at, stop, following)
        self._thread_lost |= after != stop
        return Piece(at, cid, None, fault), after

    def _by_name(self, name: Name, at: int, stop: int, head: bytes) -> tuple[bytes, bytes] | None:
        """The block `name`, if all of its section, [at, stop), but the head is whole."""
        for width in range(1, MAX_WIDTH + 1):
            codec = head[width + 1] if head[width + 1 : width + 2] in (b"\x55", b"\x70") else self._codec
            cid = name.cid(codec if self._codec == RAW else self._codec)
            length = stop - at - width
            if not len(cid) <= length <= MAX_SECTION_BYTES or len(varint(length)) != width:
                continue
            data = self._window.read(at + width + len(cid), length - len(cid))
            try:
                verify(cid, data)
            except ValueError:
                continue
            return cid, data
        return None

    # The way past damage.

    def _following(self, at: int) -> int | None:
        """Where the next section starts, as the index says."""
        following = self._named.after(at) if self._named else None
        return self._index_at if following is None else following

    def _next(self, at: int, stop: int | None, following: int | None) -> int:
        """Where to go on after a damaged section, which `stop` says is its own end."""
        if stop is not None and (following is None or stop <= following) and self._leads_on(stop):
            return stop
        return self._search(at + 1) if following is None else following

    def _leads_on(self, at: int) -> bool:
        """Whether a section or the index seems to start there."""
        if at in (self._stop, self._index_at) or self._is_index(at):
            return True
        head = self._window.read(at, min(HEAD_BYTES, self._stop - at))
        try:
            length, body = read_varint(head, 0)
            cid_at(head, body, length)
        except ValueError:
            return False
        return length <= self._stop - at - body

    def _search(self, start: int) -> int:
        """The next whole section from `start` on, or the index, or the end."""
        matches = self._window.matches(_INDEX_START, 6, start, self._stop)
        limit = next((at for at in matches if self._is_index(at)), self._stop)
        for match in self._window.matches(_CID_START, 4, start, limit):
            for at in range(match - 1, max(match - 1 - MAX_WIDTH, start - 1), -1):
                if self._is_whole(at, match, limit):
                    return at
        return limit

    def _is_whole(self, at: int, body: int, limit: int) -> bool:
        """Whether there is a whole section at `at`, whose CID starts at `body`."""
        head = self._window.read(at, min(HEAD_BYTES, limit - at))
        try:
            length, width = read_varint(head, 0)
            if at + width != body or length > min(MAX_SECTION_BYTES, limit - body):
                return False
            cid = cid_at(head, width, length)
            verify(cid, self._window.read(body + len(cid), length - len(cid)))
        except ValueError:
            return False
        return True

    def _hinted(self) -> Iterator[Piece]:
        """What another index names, where the pack's own is lost."""
        known, hints = set(self._summary.starts), self._hints()
        self._is_hinted = bool(hints)
        for offset, prefix in sorted(hints.items()):
            if offset in known:
                continue
            head = self._window.read(offset, HEAD_BYTES)
            lost = f"only the multi-pack index names it: its digest starts with {prefix:016x}"
            try:
                length, body = read_varint(head, 0)
                cid = cid_at(head, body, length)
                data = self._window.read(offset + body + len(cid), length - len(cid))
                verify(cid, data)
                piece = Piece(offset, cid, data, "only the multi-pack index leads to it")
            except ValueError:
                piece = Piece(offset, None, None, lost)
            self._summary.add(piece)
            yield piece

    # The whole.

    def _compare(self, header: Header | None, end: int) -> None:
        """Compares what was read, up to `end`, with what header, index and name say."""
        summary = self._summary
        if self._named is None:
            self.is_pack = header is not None or summary.whole > 0
            if self._ours or (header is not None and header.index_offset is not None):
                cut = end >= self._window.size
                if self._ours and not self._is_hinted and (cut or header is None or not header.finished):
                    self.is_less = summary.name != home_of(self.path).name
                self.faults.append(
                    "it was cut short" if cut else f"its index is damaged: {self._index_fault}"
                )
            return
        if self._index_bytes != encode_index(summary.index(self._offset)):
            self.hidden += summary.left_out(self._named)
            if not summary.damaged and (self._ours or self.hidden):
                self.faults.append("its index does not say what its sections say")
        if not self._ours or summary.damaged:
            return
        sound = header_v2(HEADER_V2_BYTES, end - HEADER_V2_BYTES, end) + header_v1()
        if self._window.read(0, FIRST_SECTION) != sound and not self.faults:
            self.faults.append("its header does not say where payload and index are")
        if summary.name != home_of(self.path).name:
            self.faults.append(
                "its name is not that of its blocks in their order: a codec was altered, or it is another pack that "
                "has taken this one's name, whose own blocks are lost"
            )


def is_ours(path: Path) -> bool:
    """Whether a file is called as packs that this package writes are: by the hash of their sections' heads."""
    return bool(_OUR_NAME.fullmatch(home_of(path).name))


def _plain(error: ValueError) -> str:
    """What is wrong, without the CID and the advice, which are said elsewhere."""
    what = str(error)
    if isinstance(error, BlockMismatch):
        return what.partition(": ")[2].partition(". The copy")[0]
    return what

"""
Trustless gateways: blocks and CARs by HTTP.

    GET /ipfs/{cid}?format=raw                                 one block
    GET /ipfs/{cid}/{segment}/…?format=car&dag-scope=block     all blocks on the way, and the last

Source: https://specs.ipfs.tech/http-gateways/trustless-gateway/
"""

from collections.abc import Sequence
from itertools import islice
from urllib.parse import quote

from hamt_bulk.block import Block, text, verify
from hamt_bulk.cas.ipfs.archives import blocks_in
from hamt_bulk.cas.ipfs.source import MAX_BLOCK_ANSWER_BYTES, Source
from hamt_bulk.cas.ipfs.transport import Answer
from hamt_bulk.errors import BlockMismatch, CASError, InvalidInput

_BLOCK = "application/vnd.ipld.raw"
_ARCHIVE = "application/vnd.ipld.car"
_RAW = {"Accept": _BLOCK}
_CAR = {"Accept": f"{_ARCHIVE}; version=1; order=dfs; dups=n"}
_UNABLE = (400, 405, 406, 415, 501)
"""How gateways refuse to give a CAR, or a path in one."""


class Gateway(Source):
    """A gateway that need not be trusted."""

    gives_paths = True

    async def block(self, cid: bytes) -> bytes:
        answer = await self.server.ask(
            "GET",
            f"/ipfs/{text(cid)}?format=raw",
            headers=_RAW,
            repeats=_is_missing,
            limit=MAX_BLOCK_ANSWER_BYTES,
        )
        self._refuse(answer, cid)
        try:
            verify(cid, answer.body)
        except BlockMismatch as error:
            if _kind(answer) == "text/html":
                raise self.server.failure(
                    f"gave a page of HTML for {text(cid)}: no gateway answers there, or none that gives single blocks"
                ) from error
            raise self.altered(error) from error
        return answer.body

    async def size(self, cid: bytes) -> int:
        answer = await self.server.ask(
            "HEAD", f"/ipfs/{text(cid)}?format=raw", headers=_RAW, repeats=_is_missing
        )
        self._refuse(answer, cid)
        length = answer.headers.get("content-length", "")
        if _kind(answer) == _BLOCK and length.isascii() and length.isdigit() and len(length) <= _SIZE_DIGITS:
            return int(length)
        return len(await self.block(cid))  # it may answer whatever it is asked

    async def path(self, root: bytes, segments: Sequence[str]) -> list[Block]:
        way = "".join(f"/{quote(segment, safe='')}" for segment in segments)
        answer = await self.server.ask(
            "GET",
            f"/ipfs/{text(root)}{way}?format=car&dag-scope=block",
            headers=_CAR,
            retries=0,  # what a failure costs is the blocks below the first, which are asked for one by one then
        )
        if answer.status in _UNABLE:
            self.gives_paths = False
            return []
        # Of a path that ends early it may say that it found nothing.
        if answer.status == 404 or _is_missing(answer):
            return []
        self._refuse(answer, root)
        found: list[Block] = []
        try:
            # No way has more blocks than steps; what else a server sends is not kept.
            for block in islice(blocks_in(answer.body), len(segments) + 1):
                found.append(block)
        except BlockMismatch as error:
            if not found:
                raise self.altered(error) from error
        except InvalidInput:
            self.gives_paths = _kind(answer) == _ARCHIVE
        return found

    def _refuse(self, answer: Answer, cid: bytes) -> None:
        """Raises what an answer other than 200 means."""
        match answer.status:
            case 200:
                return
            case 404 if _is_elsewhere(answer):
                raise self.server.failure(
                    "no gateway answers there (404 page not found): is this the address of an RPC? A daemon's gateway "
                    "is usually at port 8080"
                )
            case _ if _is_missing(answer):
                raise self.not_found(cid, self.server.says(answer))
            case _:
                raise self._refused(answer, cid)

    def _refused(self, answer: Answer, cid: bytes) -> CASError:
        says = self.server.says(answer)
        hint = {
            401: "; give it credentials (auth= or headers=)",
            403: "; give it credentials (auth= or headers=), or ask who runs it",
            405: "; no gateway answers there: give the address of one",
            429: "; it asks for fewer requests: lower `concurrency`, or add another gateway",
        }.get(answer.status, "")
        return self.server.failure(f"answered {says} for {text(cid)}{hint}")


def _is_missing(answer: Answer) -> bool:
    """Whether a gateway says that it lacks a block, or found nobody who has it: Kubo's takes 30 s for that."""
    if answer.status in (404, 410):
        return True
    return answer.status in (500, 502, 504) and any(words in answer.body[:2000] for words in _MISSING)


def _is_elsewhere(answer: Answer) -> bool:
    """Whether Go's own page for unknown addresses came, which a gateway does not give for blocks that it lacks."""
    if answer.body:
        return answer.body.strip() == _NO_PAGE
    return answer.headers.get("content-length") == str(len(_NO_PAGE) + 1)  # the answer to HEAD


def _kind(answer: Answer) -> str:
    """The media type, without its parameters."""
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


_SIZE_DIGITS = 20  # those of 2**64
_NO_PAGE = b"404 page not found"
_MISSING = (b"could not find", b"not found locally", b"no providers found")

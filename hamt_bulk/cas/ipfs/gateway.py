"""
Trustless gateways: blocks and CARs by HTTP.

    GET /ipfs/{cid}?format=raw                                 one block
    GET /ipfs/{cid}/{segment}/…?format=car&dag-scope=block     all blocks on the way, and the last

Source: https://specs.ipfs.tech/http-gateways/trustless-gateway/
"""

from collections.abc import Sequence
from urllib.parse import quote

from hamt_bulk.block import Block, text, verify
from hamt_bulk.cas.ipfs.archives import blocks_in
from hamt_bulk.cas.ipfs.source import MAX_BLOCK_ANSWER_BYTES, Source
from hamt_bulk.cas.ipfs.transport import Answer
from hamt_bulk.errors import BlockMismatch, CASError, InvalidInput

_RAW = {"Accept": "application/vnd.ipld.raw"}
_CAR = {"Accept": "application/vnd.ipld.car; version=1; order=dfs; dups=n"}


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
            if answer.headers.get("content-type", "").startswith("text/html"):
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
        try:
            return int(answer.headers["content-length"])
        except (KeyError, ValueError):
            return len(await self.block(cid))

    async def path(self, root: bytes, segments: Sequence[str]) -> list[Block]:
        way = "".join(f"/{quote(segment, safe='')}" for segment in segments)
        answer = await self.server.ask(
            "GET", f"/ipfs/{text(root)}{way}?format=car&dag-scope=block", headers=_CAR, repeats=_is_missing
        )
        if answer.status == 200:
            try:
                return list(blocks_in(answer.body))
            except InvalidInput:
                self.gives_paths = False
        elif answer.status in (400, 406, 415, 501):
            self.gives_paths = False
        return []

    def _refuse(self, answer: Answer, cid: bytes) -> None:
        """Raises what an answer other than 200 means."""
        match answer.status:
            case 200:
                return
            case _ if _is_missing(answer):
                raise self.not_found(cid, self.server.says(answer))
            case _:
                raise self._refused(answer, cid)

    def _refused(self, answer: Answer, cid: bytes) -> CASError:
        says = self.server.says(answer)
        hint = {
            401: "; give it credentials (auth= or headers=)",
            403: "; give it credentials (auth= or headers=), or ask who runs it",
            405: "; this looks like an RPC address, which answers POST alone: give it as rpc_base_url",
            429: "; it asks for fewer requests: lower `concurrency`, or add another gateway",
        }.get(answer.status, "")
        return self.server.failure(f"answered {says} for {text(cid)}{hint}")


def _is_missing(answer: Answer) -> bool:
    """Whether a gateway says that it lacks a block, or found nobody who has it: Kubo's takes 30 s for that."""
    if answer.status in (404, 410):
        return True
    return answer.status in (500, 502, 504) and any(words in answer.body[:2000] for words in _MISSING)


_MISSING = (b"could not find", b"not found locally", b"no providers found")

"""`check` of trees that were made to take for ever, on disks that fail in part, and with one fault that two ways lead to."""

import json
from collections.abc import Iterable, Sequence

import pytest
from checked import MANY, found, put

import hamt_bulk.integrity.answers as answers
import hamt_bulk.integrity.seen as seen
from hamt_bulk import InMemoryCAS, build, check
from hamt_bulk.block import Block, Data, identify, text, to_bytes
from hamt_bulk.errors import CASError
from hamt_bulk.layout import PyHamt, Slot


class Watched(InMemoryCAS):
    """A store that counts the blocks it gives, and fails to give some."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0
        self.failing: set[bytes] = set()
        self.is_down = False

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        if self.is_down or not self.failing.isdisjoint(cids):
            raise CASError("cannot read: the disk or the network failed")
        self.given += len(cids)
        return super().load_blocks(cids)


WIDE, DEEP = 600, 12


def layers(cas: InMemoryCAS) -> tuple[bytes, int]:
    """A root over layers of nodes, of which each links two of the next one, and how many nodes there are."""
    layout, empty = PyHamt(), {}

    def layer(nodes: Iterable[list[Slot]]) -> list[bytes]:
        blocks = [layout.encode_slots([*slots, *[empty] * (256 - len(slots))]) for slots in nodes]
        with cas.writer() as writer:
            writer.save_many(Block(*block) for block in blocks)
            writer.flush()
        return [block.cid for block in blocks]

    last = layer([{f"key {n}": identify(b"value")}] for n in range(WIDE))
    for _ in range(DEEP):
        last = layer([last[2 * n % WIDE], last[(2 * n + 1) % WIDE]] for n in range(WIDE))
    return put(cas, dict(enumerate(layer([last[at : at + 256] for at in range(0, WIDE, 256)])))), WIDE * (
        DEEP + 1
    )


def test_shared_layers_wider_than_the_memory_are_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of such a tree the ways double from layer to layer. Only the last nodes are remembered with their places."""
    monkeypatch.setattr(answers, "REMEMBERED", 200)
    monkeypatch.setattr(seen, "_LOOSE", 800)
    cas = Watched()
    root, nodes = layers(cas)
    report = check(root, cas, values=False)
    assert cas.given < 2 * nodes < 2**DEEP * WIDE / 100
    assert {problem.kind for problem in report.problems} >= {"misplaced"}
    assert "elsewhere too, and its keys cannot belong in both places" in str(report)


def test_blocks_that_a_disk_does_not_give_are_named_however_many() -> None:
    """A disk that fails in places fails in many blocks in a row; whatever else there is, it goes on giving."""
    cas = Watched()
    root = build(MANY, cas)
    lost = {identify(value): key for key, value in list(MANY.items())[::3]}
    cas.failing = set(lost)
    assert found(check(root, cas)) == {("unreadable", text(cid), key) for cid, key in lost.items()}


def test_a_store_that_stops_giving_ends_the_check() -> None:
    cas = Watched()
    root = build(MANY, cas)

    def stop(progress: object) -> None:
        cas.is_down = True

    with pytest.raises(CASError, match="cannot read"):
        check(root, cas, progress=stop)


GROUP = {"zarr_format": 2}
ARRAY = {
    "zarr_format": 2,
    "shape": [2],
    "chunks": [1],
    "dtype": "<i4",
    "compressor": None,
    "fill_value": 0,
    "order": "C",
    "filters": None,
}


def of_format_2(documents: dict[str, object], lacking: str, extra: dict[str, bytes]) -> dict[str, bytes]:
    consolidated = {"zarr_consolidated_format": 1, "metadata": documents}
    stored = {key: json.dumps(document).encode() for key, document in documents.items() if key != lacking}
    return {".zmetadata": json.dumps(consolidated).encode(), **stored, **extra}


@pytest.mark.parametrize("lacking", ["g/.zgroup", "g/h/.zgroup"])
def test_a_group_that_is_named_and_needed_is_missed_once(lacking: str) -> None:
    """By the consolidated metadata, and by what lies below it."""
    documents: dict[str, object] = {
        ".zgroup": GROUP,
        "g/.zgroup": GROUP,
        "g/h/.zgroup": GROUP,
        "g/h/a/.zarray": ARRAY,
    }
    cas = InMemoryCAS()
    report = check(build(of_format_2(documents, lacking, {"g/h/a/0": b"1234"}), cas), cas)
    assert [(problem.kind, problem.where) for problem in report.problems] == [("inconsistent", lacking)]


def test_a_document_that_is_not_zarrs_is_not_missed_as_well() -> None:
    """Whether readers miss it makes no difference: they could not read it."""
    items = of_format_2({".zgroup": GROUP}, "", {"a/.zarray": b"{}"})
    cas = InMemoryCAS()
    report = check(build(items, cas), cas)
    [problem] = report.problems
    assert (problem.kind, problem.where) == ("inconsistent", "a/.zarray")
    assert "it is not valid metadata of Zarr" in problem.message
    assert to_bytes(problem.cid) == identify(b"{}")

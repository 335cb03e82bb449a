"""`check`: a sound tree is sound, and blocks that are missing or altered are named."""

import pytest
from checked import LONG, MANY, found, path_of, place_of
from hypothesis import given, settings
from hypothesis import strategies as st
from trees_made import crowded_hashfn

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.integrity import Problem, Report, check
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.progress import BuildProgress


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=5) | st.integers(0, 99).map(str), st.binary(max_size=9), max_size=120),
    st.sampled_from([blake3_hashfn, crowded_hashfn]),
    st.integers(1, 23),
    st.sampled_from(["blake3", "sha2-256"]),
    st.booleans(),
)
def test_a_sound_tree_is_always_ok(items, hash_fn, bucket_size, hasher, tell):
    cas = InMemoryCAS(hasher)
    root = build(items, cas, max_bucket_size=bucket_size, hash_fn=hash_fn)
    report = check(root, cas, hash_fn=hash_fn, max_bucket_size=bucket_size if tell else None)
    assert report.ok, str(report)
    assert report.problems == ()
    assert report.entries == len(items)
    assert report.values == len(set(items.values()))
    assert report.blocks == len(cas.blocks)
    assert report.bytes == sum(map(len, cas.blocks.values()))
    assert 1 <= report.bucket_size <= bucket_size


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 99).map(str), max_size=60),
    st.dictionaries(st.integers(0, 99).map(str), st.none() | st.binary(max_size=2), max_size=60),
)
def test_an_edited_tree_is_ok(keys, edits):
    cas = InMemoryCAS()
    before = dict.fromkeys(keys, b"x")
    root = build(edits, cas, base=build(before, cas, hash_fn=crowded_hashfn), hash_fn=crowded_hashfn)
    assert check(root, cas, hash_fn=crowded_hashfn).ok


def test_counts_are_those_of_the_tree(tmp_path):
    cas = PackCAS(tmp_path)
    report = check(build(MANY | {"long": LONG}, cas), cas)
    assert report.ok
    assert (report.entries, report.values, report.depth, report.bucket_size) == (3001, 3001, 1, 4)
    assert report.nodes == 253
    assert report.blocks == 253 + 3000 + 5
    assert str(report).splitlines()[-1] == "sound"


def test_each_block_that_is_missing_is_named():
    cas = InMemoryCAS()
    root = to_bytes(build(MANY | {"long": LONG}, cas))
    node = place_of(cas, root, "air/c/7")[-1]
    leaf, value = identify(LONG[1 << 20 : 2 << 20]), identify(b"value 8")
    lost = [key for key in MANY if node in place_of(cas, root, key)]
    for cid in (node, leaf, value):
        del cas.blocks[cid]
    report = check(root, cas)
    assert found(report) == {
        ("missing", text(node), path_of("air/c/7", 1)),
        ("missing", text(leaf), "long"),
        ("missing", text(value), "air/c/8"),
    }
    assert report.entries == 3001 - len(lost)
    assert not report.ok
    assert "3 problems" in str(report)
    assert "missing: 'air/c/8': no block" in str(report)


def test_each_block_that_is_altered_is_named():
    cas = InMemoryCAS()
    root = to_bytes(build(MANY | {"long": LONG}, cas))
    node, value = place_of(cas, root, "air/c/7")[-1], identify(b"value 8")
    leaf = identify(LONG[: 1 << 20])
    for cid in (node, leaf, value):
        cas.blocks[cid] = cas.blocks[cid][:-1] + b"?"
    assert found(check(root, cas)) == {
        ("altered", text(node), path_of("air/c/7", 1)),
        ("altered", text(leaf), "long"),
        ("altered", text(value), "air/c/8"),
    }


def test_damage_in_a_pack_is_found(tmp_path):
    cas = PackCAS(tmp_path)
    root = build(MANY, cas)
    [pack] = (tmp_path / "packs" / "values").iterdir()
    data = pack.read_bytes()
    pack.write_bytes(data.replace(b"value 1234", b"value 1?34"))
    report = check(root, PackCAS(tmp_path))
    assert found(report) == {("altered", text(identify(b"value 1234")), "air/c/1234")}


def test_a_root_that_is_missing_or_no_node_is_a_problem_too():
    cas = InMemoryCAS()
    absent = identify(b"absent", 0x71)
    assert found(check(absent, cas)) == {("missing", text(absent), "/")}
    with cas.writer() as writer:
        writer.save(b"no node")
        writer.flush()
    report = check(identify(b"no node"), cas)
    assert found(report) == {("unreadable", text(identify(b"no node")), "/")}
    assert "not a node" in str(report)
    with pytest.raises(InvalidInput, match="not a CID"):
        check("no root", cas)


def test_a_value_that_several_keys_share_is_read_once_and_missed_under_each():
    cas = InMemoryCAS()
    items = {f"k{n}": b"fill" for n in range(500)}
    root = build(items, cas)
    report = check(root, cas)
    assert (report.values, report.blocks) == (1, len(cas.blocks))
    del cas.blocks[identify(b"fill")]
    assert found(check(root, cas)) == {("missing", text(identify(b"fill")), key) for key in items}


def test_without_values_only_nodes_are_read():
    cas = InMemoryCAS()
    root = to_bytes(build(MANY, cas))
    for value in MANY.values():
        del cas.blocks[identify(value)]
    report = check(root, cas, values=False)
    assert report.ok
    assert (report.entries, report.values, report.blocks) == (3000, 0, len(cas.blocks))


def test_problems_are_listed_up_to_a_limit_and_all_are_counted():
    cas = InMemoryCAS()
    root = build(MANY, cas)
    for value in MANY.values():
        del cas.blocks[identify(value)]
    report = check(root, cas, max_problems=3)
    assert (len(report.problems), report.problem_count) == (3, 3000)
    assert "and 2,997 more" in str(report)


class Plain(ContentAddressedStore):
    """A store with nothing but `save` and `load`, and whole values."""

    def __init__(self, inner: InMemoryCAS) -> None:
        self.inner = inner
        self.asked: list[bytes] = []
        self.down = False

    async def save(self, data, codec):
        return await self.inner.save(data, codec)

    async def load(self, id, offset=None, length=None, suffix=None):
        self.asked.append(to_bytes(id))
        if self.down:
            raise ConnectionError("gone")
        return await self.inner.load(id, offset, length, suffix)


def test_stores_that_give_whole_values_are_checked_too():
    inner = InMemoryCAS()
    root = build(MANY | {"long": LONG}, inner)
    report = check(root, Plain(inner))
    assert report.ok
    assert (report.entries, report.values) == (3001, 3001)
    del inner.blocks[identify(b"value 8")]
    assert found(check(root, Plain(inner))) == {("missing", text(identify(b"value 8")), "air/c/8")}


def test_a_store_that_is_out_of_reach_is_no_damage():
    inner = InMemoryCAS()
    plain = Plain(inner)
    root = build(MANY, inner)

    def cut(progress: BuildProgress) -> None:
        plain.down = progress.done > 20

    with pytest.raises(CASError, match="gone"):
        check(root, plain, progress=cut)


def test_progress_goes_from_nothing_to_all():
    cas = InMemoryCAS()
    steps: list[BuildProgress] = []
    check(build(MANY, cas), cas, progress=steps.append)
    assert [step.done for step in steps] == list(range(1, 254))
    assert {(step.stage, step.total) for step in steps} == {("check", 253)}


def test_no_more_than_a_few_blocks_are_asked_for_at_a_time():
    class Counting(InMemoryCAS):
        most = 0

        def load_blocks(self, cids):
            self.most = max(self.most, len(cids))
            assert len(set(cids)) == len(cids)
            return super().load_blocks(cids)

    cas = Counting()
    root = build({f"{n}": b"%d" % n for n in range(20_000)} | {"long": LONG}, cas)
    assert check(root, cas).ok
    assert cas.most <= 256


def test_reports_and_problems_compare_and_print():
    problem = Problem("missing", "bafk", "a/b", "no block")
    assert str(problem) == "missing: 'a/b': no block (bafk)"
    one = Report("bafy", 1, 1, 1, 1, 1, 0, 1, (problem,), 1)
    assert str(one).splitlines()[-2:] == ["1 problem", f"  {problem}"]

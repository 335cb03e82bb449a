"""Our HAMT does what py-hamt's does, call by call."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees_made import collect, crowded_hashfn

from hamt_bulk import InMemoryCAS, blake3_hashfn, errors
from hamt_bulk.block import text, to_bytes
from hamt_bulk.hamt import HAMT

from .py_hamt import Call, KeyHasher, PeerRun, PyHamt

HASH_FNS = {"blake3": blake3_hashfn, "crowded": crowded_hashfn}
NAMES = [f"{'k' * (number % 3)}{number}" for number in range(24)]


@dataclass(frozen=True)
class Options:
    """How a tree is made, for both."""

    max_bucket_size: int
    values_are_bytes: bool
    key_hasher: KeyHasher

    def ours(self, script: list[Call], root: str | None, blocks: Mapping[str, bytes]) -> PeerRun:
        """What our HAMT does with a script, as the peer says it."""
        return asyncio.run(self._ours(script, root, blocks))

    async def _ours(self, script: list[Call], root: str | None, blocks: Mapping[str, bytes]) -> PeerRun:
        cas = InMemoryCAS()
        cas.blocks |= {to_bytes(cid): data for cid, data in blocks.items()}
        hamt = await HAMT.build(
            cas, HASH_FNS[self.key_hasher], root, False, self.max_bucket_size, self.values_are_bytes
        )
        answers = [(name, await answer(hamt, name, arguments)) for name, *arguments in script]
        root = str(hamt.root_node_id) if hamt.read_only else None
        return PeerRun(answers, root, {text(cid): data for cid, data in cas.blocks.items()}, 0)


async def answer(hamt: HAMT, name: str, arguments: list[Any]) -> Any:
    try:
        if name == "keys":
            return await collect(hamt.keys())
        answer = await getattr(hamt, name)(*arguments)
    except KeyError:
        return "KeyError"
    except errors.HamtError:
        return "refused"
    return (
        str(hamt.root_node_id)
        if name == "make_read_only"
        else str(answer)
        if name == "get_pointer"
        else answer
    )


def comparable(answers: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Keys come in any order; 1, 1.0 and True are different values."""
    return [(name, repr(sorted(answer) if name == "keys" else answer)) for name, answer in answers]


keys = st.sampled_from(NAMES)
ipld = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
no_ipld = st.sampled_from([math.nan, math.inf, 2**70, {1: 2}, {1}])
ranges = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 7)),
    st.tuples(st.integers(0, 7), st.integers(0, 7)),
    st.tuples(st.none(), st.none(), st.integers(0, 7)),
)
every_options = st.builds(
    Options, st.sampled_from([1, 2, 4]), st.booleans(), st.sampled_from(["blake3", "crowded"])
)


def scripts(values_are_bytes: bool) -> st.SearchStrategy[list[Call]]:
    """Calls, mostly sets, that end in a root."""
    values = st.binary(max_size=6) if values_are_bytes else ipld | no_ipld
    sets = st.lists(st.tuples(st.just("set"), keys, values), max_size=20)
    call = st.one_of(
        st.tuples(st.just("set"), keys, values),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("delete"), keys),
        st.builds(lambda key, range: ("get", key, *range), keys, ranges if values_are_bytes else st.just(())),
        st.tuples(st.just("get_pointer"), keys),
        st.sampled_from([("keys",), ("len",), ("cache_vacate",), ("make_read_only",), ("enable_write",)]),
    )
    ending = [("keys",), ("make_read_only",), ("len",), *(("get", name) for name in NAMES)]
    return st.builds(lambda first, then: [*first, *then, *ending], sets, st.lists(call, max_size=25))


@given(st.data(), every_options)
@settings(max_examples=100)
def test_both_answer_a_script_alike_and_go_on_with_each_others_trees(py_hamt: PyHamt, data, options):
    first, second = (data.draw(scripts(options.values_are_bytes)) for _ in range(2))
    theirs, ours = py_hamt.run(first, **vars(options)), options.ours(first, None, {})
    assert comparable(ours.answers) == comparable(theirs.answers)
    assert ours.root == theirs.root
    on_ours = py_hamt.run(second, ours.root, ours.blocks, **vars(options))
    on_theirs = options.ours(second, theirs.root, theirs.blocks)
    assert comparable(on_theirs.answers) == comparable(on_ours.answers)
    assert on_theirs.root == on_ours.root


@pytest.mark.parametrize("key_hasher", ["blake3", "crowded"])
def test_a_large_tree_that_shrinks_has_the_same_root_at_every_size(py_hamt: PyHamt, key_hasher):
    """Nodes become buckets again on the way."""
    script: list[Call] = [("set", str(number), b"%d" % number) for number in range(1500)]
    for start in range(0, 1500, 300):
        script += [("make_read_only",), ("enable_write",)]
        script += [("delete", str(number)) for number in range(start, start + 300)]
    script += [("make_read_only",), ("len",)]
    options = Options(4, True, key_hasher)
    theirs, ours = py_hamt.run(script, **vars(options)), options.ours(script, None, {})
    assert ours.answers == theirs.answers
    assert len({root for name, root in ours.answers if name == "make_read_only"}) == 6


def test_the_peer_says_what_was_refused_and_raises_for_a_bad_block(py_hamt: PyHamt):
    """Else two that both fail would agree."""
    script: list[Call] = [("set", "a", b"1"), ("delete", "b"), ("make_read_only",), ("set", "a", b"2")]
    run = py_hamt.run(script)
    assert [answer for _, answer in run.answers][1:2] == ["KeyError"]
    assert run.answers[3] == ("set", "refused") and run.answers[2] == ("make_read_only", run.root)
    with pytest.raises(Exception, match="is not among the 0 blocks given"):
        py_hamt.run([("get", "a")], run.root, {})

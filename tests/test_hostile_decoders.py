"""No bytes make a decoder raise what its callers do not expect, or work without end. `python -m tests.fuzz` runs more."""

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzz.mutate import case, cases
from fuzz.runner import MAX_GROWTH_BYTES, run
from fuzz.target import Meter, Target, Wrong, outcome
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hamt_bulk.errors import InvalidInput

FULL = os.environ.get("HAMT_BULK_FULL") == "1"
pytestmark = pytest.mark.timeout(2 * 3600 if FULL else 300)
ALL = pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))


@ALL
@settings(max_examples=2000 if FULL else 25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_it_is_given_a_decoder_raises_what_its_callers_expect(
    target: Target, data: st.DataObject
) -> None:
    made = data.draw(
        st.binary(max_size=80) | st.randoms(use_true_random=False).map(lambda random: case(target, random))
    )
    outcome(target, made)


@ALL
def test_a_run_of_many_cases_takes_little_memory(target: Target) -> None:
    tally = run(target, 1_000_000 if FULL else 300, 1)
    assert tally.growth < MAX_GROWTH_BYTES


@ALL
def test_among_the_seeds_are_some_that_are_taken(target: Target) -> None:
    """Else only what refuses them would be tested."""
    found = {outcome(target, seed) for seed in target.seeds}
    assert found - {"InvalidInput"}, found


def test_a_run_repeats_itself() -> None:
    target = TARGETS["node"]
    assert list(cases(target, 50, 3)) == list(cases(target, 50, 3)) != list(cases(target, 50, 4))


@pytest.mark.parametrize(
    "error", [IndexError("no"), RecursionError("no"), MemoryError(), ValueError("no"), OSError("no")]
)
def test_an_error_that_is_not_ours_is_told_with_its_input(error: Exception) -> None:
    def decode(data: bytes) -> None:
        raise error

    with pytest.raises(Wrong, match=rf"'mine': {type(error).__name__}(.|\n)*input: 616263"):
        outcome(Target("mine", decode, [b""], (InvalidInput,)), b"abc")


def test_too_much_work_is_told_with_its_input() -> None:
    def decode(data: bytes) -> None:
        meter = Meter(2, "blocks")
        for _ in data:
            meter.add(1)

    target = Target("mine", decode, [b""], (InvalidInput,))
    assert outcome(target, b"ab") == "none"
    with pytest.raises(Wrong, match=r"3 blocks, expected at most 2\ninput: 616263"):
        outcome(target, b"abc")


def test_cases_are_made_of_the_seeds_and_of_what_is_made() -> None:
    target = Target("mine", len, [b"seed"], (), lambda random: b"made", [b"token"])  # type: ignore[arg-type]
    made = {case(target, Random(number)) for number in range(200)}
    assert len(made) > 100
    assert any(b"token" in data for data in made) and any(data.startswith(b"made") for data in made)


def test_the_program_prints_what_came_of_each_target() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--cases", "200", "--target", "node", "--target", "cid"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    node, cid = found.stdout.splitlines()
    assert re.fullmatch(r"node +200 cases +\d+/s +[\d.]+ MiB  MalformedNode \d+, none \d+", node)
    assert cid.startswith("cid")

"""A coverage-guided fuzzer on every decoder; where there is none for this Python, the one that mutates."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from fuzz.target import FOLDER
from fuzz.targets import TARGETS

SECONDS = 60 if os.environ.get("HAMT_BULK_FULL") == "1" or os.environ.get("CI") else 15
"""For all targets together."""

CASES = 20 * SECONDS
"""For each, where there is no guidance."""


def test_nothing_is_found_that_no_input_may_do(tmp_path: Path) -> None:
    """What is found comes with the target and the input in hexadecimal: add it to the target's seeds."""
    guided = [sys.executable, "-m", "tests.fuzz.guided", str(tmp_path / "corpus"), "--seconds", str(SECONDS)]
    mutating = [sys.executable, "-m", "tests.fuzz", "--cases", str(CASES)]
    has_guide = find_spec("atheris") is not None
    done = subprocess.run(
        guided if has_guide else mutating,
        cwd=Path(__file__).parent.parent,
        env=os.environ | {FOLDER: str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=SECONDS * 4 + 120,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith(("Wrong", "target", "input", "=="))]
    assert done.returncode == 0, "\n".join(found)[:20_000] + done.stdout[-2000:]
    if has_guide:
        assert len(list((tmp_path / "corpus").iterdir())) > sum(
            len(target.seeds) for target in TARGETS.values()
        )

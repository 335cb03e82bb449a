"""
Coverage-guided: `python -m tests.fuzz.guided CORPUS --seconds N`, by atheris.

The first byte of an input says which target it is for. Only Python is instrumented: of what a library in C does with
its input no more is seen than what it returns.
"""

import argparse
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hamt_bulk"], enable_loader_override=False):
    from .target import Target, outcome
    from .targets import TARGETS

MEMORY_MIB = 1024
MAX_BYTES = 1 << 14


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided")
    parser.add_argument("corpus", type=Path, help="a folder, which gets the seeds and what is found")
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    # The largest are slow, and what is found in them is found in small ones.
    targets = list(TARGETS.values())
    given.corpus.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(targets):
        for count, seed in enumerate(target.seeds):
            (given.corpus / f"{number}-{count}").write_bytes(bytes([number]) + seed[:MAX_BYTES])
    os.chdir(given.corpus)  # where the input of a crash is put
    flags = [
        f"-max_total_time={given.seconds}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={MAX_BYTES}",
        "-timeout=60",
    ]
    atheris.Setup([sys.argv[0], *flags, str(given.corpus)], lambda data: one(targets, data))
    atheris.Fuzz()


def one(targets: list[Target], data: bytes) -> None:
    """One input, for the target that its first byte names."""
    if data:
        outcome(targets[data[0] % len(targets)], data[1:])


if __name__ == "__main__":
    main()

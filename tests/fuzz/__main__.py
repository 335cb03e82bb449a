"""`python -m tests.fuzz`"""

import argparse
import sys

from .runner import MAX_GROWTH_BYTES, run
from .target import Wrong
from .targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Hostile input for every decoder."
    )
    parser.add_argument("--cases", type=int, default=100_000, help="for each target")
    parser.add_argument(
        "--target", choices=sorted(TARGETS), action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    status = 0
    for name in given.target or TARGETS:
        try:
            tally = run(TARGETS[name], given.cases, given.seed)
        except Wrong as error:
            print(error, flush=True)
            status = 1
            continue
        print(tally, flush=True)
        if tally.growth > MAX_GROWTH_BYTES:
            print(f"target {name!r}: more than {MAX_GROWTH_BYTES >> 20} MiB of memory", flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

"""A driver in a process of its own: `python driver.py STORE LOG WORKERS` prints the root."""

import sys
from pathlib import Path

import dask
import disasters

from hamt_bulk.xarray import to_hamt


def main(store: str, log: str, workers: str) -> None:
    """Builds on so many worker processes, or on threads of this one where that is 0."""
    ds = disasters.dataset(Path(log), 0.01)
    disasters.small_batches()
    if workers == "0":
        with dask.config.set(scheduler="threads", num_workers=2):
            root = to_hamt(ds, disasters.SlowPacks(store), journal=True, progress=False)
    else:
        with disasters.cluster(int(workers)):
            root = to_hamt(ds, disasters.SlowPacks(store), journal=True, progress=False)
    print(root)


if __name__ == "__main__":
    main(*sys.argv[1:])

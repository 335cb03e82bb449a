"""
For tests of stores, and of what is built on stores.

`FaultyCAS` puts faults around a store: see `hamt_bulk.testing.faults`. The tests that every store has to pass are in
`hamt_bulk.testing.contract`, which needs pytest and hypothesis, and so is imported by its own name.
"""

from hamt_bulk.testing.faults import (
    CALLS,
    LOADS,
    SAVES,
    Alter,
    Delay,
    Disconnect,
    DiskFull,
    Drop,
    Fail,
    Fault,
)
from hamt_bulk.testing.faulty import FaultyCAS

__all__ = [
    "CALLS",
    "LOADS",
    "SAVES",
    "Alter",
    "Delay",
    "Disconnect",
    "DiskFull",
    "Drop",
    "Fail",
    "Fault",
    "FaultyCAS",
]

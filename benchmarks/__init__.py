"""
What the package promises about time, space and memory, measured.

    python -m benchmarks [--size small|full]             all of them, each in a process of its own
    python -m benchmarks.NAME [--size small|full]        one

Each prints a table with every figure beside its target. What depends on the machine is a ratio against a
peer or a limit that was measured in the same run, in turns.
"""

SUBJECTS = (
    "index",
    "diff",
    "convert",
    "edits",
    "appends",
    "traffic",
    "disk",
    "check",
    "throughput",
    "memory",
    "scale",
    "kubo",
)
"""The modules, the quick ones first."""

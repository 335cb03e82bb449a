"""go-car reads the .car files that `copy` makes."""

from collections.abc import Callable
from pathlib import Path

from hamt_bulk import CarCAS, InMemoryCAS, build, copy
from hamt_bulk.block import to_bytes
from peers.test_gocar import gocar

__all__ = ["gocar"]


def test_go_car_reads_a_copied_tree_and_writes_the_same_index(
    gocar: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    """Of two hashers, with a file; go-car hashes each block and finds it through our index."""
    items = {f"{n}": b"%d" % n for n in range(3000)}
    base = build(items, blake3 := InMemoryCAS())
    both = InMemoryCAS("sha2-256")
    both.blocks |= blake3.blocks
    root = to_bytes(
        build({"7": b"changed", "long": b"".join(map(b"%7d".__mod__, range(400_000)))}, both, base=base)
    )
    path = tmp_path / "tree.car"
    copied = copy(root, both, path)
    said = f"version=2 roots=1 blocks={copied.blocks} index=car-multihash-index-sorted\n"
    assert gocar("check", path).decode() == said
    header, _ = CarCAS(path)._open()
    assert header.roots == (root,)
    assert gocar("index", path) == path.read_bytes()[header.index_offset :]

"""What is stored, in a plain Zarr store and in a tree, as dicts."""

from zarr.storage import MemoryStore

from hamt_bulk.block import to_bytes
from hamt_bulk.layout import PyHamt
from hamt_bulk.tree import Found, entries


def in_tree(root, cas) -> dict[str, bytes]:
    """Every key of a tree and its value."""
    walk = entries(to_bytes(root), PyHamt(hasher=cas.hasher))
    pointers: dict[str, bytes] = {}
    sent = None
    while True:
        try:
            step = walk.send(sent)
        except StopIteration:
            break
        if isinstance(step, Found):
            pointers.update(step)
            sent = None
        else:
            sent = cas.load_many(step)
    return dict(zip(pointers, cas.load_many(list(pointers.values())), strict=True))


def by_to_zarr(dataset, **options) -> dict[str, bytes]:
    """Every key and value that xarray stores itself."""
    store = MemoryStore()
    dataset.to_zarr(store, **options)
    return in_store(store)


def in_store(store: MemoryStore) -> dict[str, bytes]:
    """Every key of a Zarr store and its value."""
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Key by key, so that a failure names the first that differs."""
    assert sorted(found) == sorted(expected)
    for key, value in expected.items():
        assert found[key] == value, f"{key}: {found[key][:200]!r}, expected {value[:200]!r}"

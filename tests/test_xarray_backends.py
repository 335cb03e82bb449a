"""
xarray's own tests of its Zarr backend, on trees.

They come with xarray, so they are those of the version that is installed, and a class that it does not have
is left out. Where they name a path, zarr opens a tree for it: to write, a store of a HAMT; to read, the
read-only store of the root which that HAMT flushes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr
import zarr
from xarray.tests import conftest, test_backends, test_backends_datatree  # it sets an option, see below
from zarr.core.sync import sync
from zarr.storage import LocalStore

from hamt_bulk import errors
from hamt_bulk.cas import InMemoryCAS, PackCAS
from hamt_bulk.hamt import HAMT
from hamt_bulk.zarr import ZarrHAMTStore

xr.set_options(warn_for_unclosed_files=False)  # theirs, which would hold for all tests of the session


class Fails(NamedTuple):
    error: type[Exception]
    reason: str


PICKLED = Fails(
    errors.NotPortable,
    "what was opened through a store that is written to sees edits which are in this process alone",
)
EXCEPTIONS = {
    "TestWritableStore": {"test_pickle": PICKLED, "test_pickle_dataarray": PICKLED},
    "TestWithoutConsolidatedMetadata": {"test_pickle": PICKLED, "test_pickle_dataarray": PICKLED},
    "TestUnevenChunks": {
        "test_append_does_not_resize_before_erroring": Fails(
            FileNotFoundError, "opens a folder of a Zarr store as one of its own, by its path"
        )
    },
}
"""By class, the tests of theirs that must fail, how, and why. All others must pass."""

pytestmark = [
    # zarr's, of a keyword that the tests use; xarray's own configuration lets it pass.
    pytest.mark.filterwarnings("ignore:Automatic shard shape inference is experimental"),
    pytest.mark.usefixtures("no_fsync"),
]

FIXTURES = (
    "create_test_datatree",
    "default_zarr_format",
    "simple_datatree",
    "time_unit",
    "tmp_store",
    "unaligned_datatree_zarr_factory",
    "use_dask",
)
globals().update(
    {
        name: getattr(module, name)
        for module in (conftest, test_backends, test_backends_datatree)
        for name in FIXTURES
        if hasattr(module, name)
    }
)


@pytest.fixture(autouse=True)
def as_xarray_runs_them(request: pytest.FixtureRequest) -> None:
    """What the configuration of their tests does, and our exceptions."""
    np.random.seed(0)
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    for mark in request.node.iter_markers("skip_if_param"):
        given = {name: value for name, value in mark.kwargs.items() if name not in ("reason", "condition")}
        if mark.kwargs.get("condition", True) and all(params.get(name) == given[name] for name in given):
            pytest.skip(mark.kwargs["reason"])
    if fails := EXCEPTIONS.get(getattr(request.cls, "__name__", ""), {}).get(request.node.originalname):
        request.applymarker(pytest.mark.xfail(raises=fails.error, reason=fails.reason, strict=True))


def suite(module, name: str) -> type:
    """A class of theirs, or one without tests when this version has none of that name."""
    return getattr(module, name, object)


def writable() -> ZarrHAMTStore:
    return ZarrHAMTStore(sync(HAMT.build(cas=InMemoryCAS(), values_are_bytes=True)))


class OnAStore:
    """Reads and writes through one store, whose edits are not flushed."""

    @contextmanager
    def create_zarr_target(self) -> Iterator[ZarrHAMTStore]:
        yield writable()


class TestWritableStore(OnAStore, test_backends.TestZarrDictStore):
    pass


class TestWithoutConsolidatedMetadata(suite(test_backends, "TestZarrNoConsolidatedMetadataSupport")):
    """What is in a group is found by listing, in one of the formats: both list alike."""

    @pytest.fixture(params=[3])
    def default_zarr_format(self, request):
        with zarr.config.set(default_zarr_format=request.param):
            yield

    @contextmanager
    def create_zarr_target(self):
        yield test_backends.NoConsolidatedMetadataSupportStore(writable())


class TestRequests(OnAStore, test_backends.TestInstrumentedZarrStore):
    """No more requests than zarr's own memory store gets."""

    @pytest.fixture(autouse=True)
    def instrument_ours(self, monkeypatch):
        monkeypatch.setattr(test_backends, "KVStore", ZarrHAMTStore)


class Trees:
    """The trees that were written, by the path that stands for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: dict[str, ZarrHAMTStore] = {}
        self.read = 0

    async def open(self, root, *, read_only: bool = False, mode: str | None = None) -> ZarrHAMTStore:
        path = os.path.abspath(root)
        if path not in self.written:
            if read_only or mode in ("r", "r+"):
                raise FileNotFoundError(f"{path} does not exist")
            os.makedirs(path, exist_ok=True)  # for the tests that remove it
            cas = PackCAS(self.folder / str(len(self.written)))
            self.written[path] = ZarrHAMTStore(await HAMT.build(cas=cas, values_are_bytes=True))
        store = self.written[path]
        if not read_only:
            return store
        self.read += 1
        return ZarrHAMTStore.open(await store.hamt.flush(), store.hamt.cas)

    def find(self, path) -> tuple[ZarrHAMTStore, str]:
        """The tree in which a path lies, and the key it has there."""
        [found] = [root for root in self.written if os.path.commonpath([root, path]) == root]
        return self.written[found], os.path.relpath(path, found)


@pytest.fixture
def trees(monkeypatch, tmp_path_factory) -> Iterator[Trees]:
    """Lets zarr open a tree wherever it is given a path."""
    trees = Trees(tmp_path_factory.mktemp("packs"))

    async def opened(cls, root, **options):
        return await trees.open(root, **options)

    def refused(*arguments, **options):
        raise AssertionError("a folder and not a tree")

    monkeypatch.setattr(LocalStore, "open", classmethod(opened))
    monkeypatch.setattr(LocalStore, "__init__", refused)
    yield trees
    for store in trees.written.values():
        store.flush()


def test_a_path_is_a_tree_that_is_read_by_its_root(trees, tmp_path):
    """What the classes below rest on."""
    path = tmp_path / "a.zarr"
    ds = xr.Dataset({"v": ("x", [1, 2])})
    ds.to_zarr(path)
    [store] = trees.written.values()
    assert not store.read_only and store.hamt.draft.waiting and not trees.read
    with xr.open_zarr(path) as found:
        assert found.identical(ds)
    assert trees.read and not store.hamt.draft.waiting
    read = zarr.open_group(path, mode="r").store
    assert isinstance(read, ZarrHAMTStore) and not read.supports_writes and read.root == store.root
    assert not list(path.iterdir())


@pytest.mark.usefixtures("trees")
class OnPaths:
    pass


class TestRoots(OnPaths, test_backends.TestZarrWriteEmpty):
    """Also all of `TestZarrDirectoryStore`."""

    @pytest.fixture(autouse=True)
    def walk_trees(self, monkeypatch, trees):
        async def names(store, folder):
            return [key.removeprefix(folder) async for key in store.list_prefix(folder)]

        def walk(path):
            store, key = trees.find(path)
            yield path, [], sync(names(store, f"{key}/"))

        monkeypatch.setattr(os, "walk", walk)


class TestRegions(OnPaths, test_backends.TestZarrRegionAuto):
    pass


class TestDataArrays(OnPaths, test_backends.TestDataArrayToZarr):
    @pytest.fixture
    def tmp_store(self, tmp_path):
        return tmp_path


class TestUnevenChunks(OnPaths, suite(test_backends, "TestZarrRectilinearChunksRead")):
    pass


class TestDataTrees(OnPaths, test_backends_datatree.TestZarrDatatreeIO):
    @pytest.fixture
    def tmp_path(self, tmp_path, trees):
        class TreePath(type(tmp_path)):
            """Also sees what lies in trees."""

            def exists(self) -> bool:
                return self.is_file() or self.is_dir()

            def is_file(self) -> bool:
                store, key = trees.find(self)
                return sync(store.exists(key))

            def is_dir(self) -> bool:
                store, key = trees.find(self)
                return not sync(store.is_empty(key))

        return TreePath(tmp_path)

    @pytest.fixture
    def tmpdir(self, tmp_path):
        return tmp_path

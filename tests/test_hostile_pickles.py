"""No pickle is ever read from storage: a pickle runs whatever its maker likes."""

import ast
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import libipld
import pytest
import xarray as xr
from multiformats import CID

import hamt_bulk
from hamt_bulk import HAMT, BlockCAS, CarCAS, InMemoryCAS, PackCAS, build, check, copy, diff, merge, update
from hamt_bulk.block import Block, identify, to_bytes, to_cid
from hamt_bulk.car import HEADER_V2_BYTES, header_v1, header_v2, section_head
from hamt_bulk.errors import HamtError
from hamt_bulk.journal import live_of_journals
from hamt_bulk.layout import WIDTH

SOURCE = Path(hamt_bulk.__file__).parent

ALLOWED = {
    "cli/demo.py": "no pickle: a package with data, by a name that stands there",
    "crypto/sources.py": "what fetches a key, within the pickle of an argument of a task",
    "dask/failures.py": "an error of a reader, pickled a line before, to see whether it can travel",
    "dask/parcel.py": "an argument of a task, on its way from the client to a worker",
    "testing/contract.py": "a store of its author's own, pickled by the test itself",
    "testing/reading.py": "a store of its author's own, pickled by the test itself",
    "xarray/write.py": "the Zarr arrays that a task writes to, on their way from the client to a worker",
    "zarr/carried.py": "a store with its key, within the pickle of an argument of a task",
}
"""Where pickles are read, and why they are none of storage's."""

READERS = {"load", "loads", "Unpickler", "_Unpickler", "load_pickle", "read_pickle", "deserialize"}
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "distributed.protocol",
}


def reads_of_pickles(source: str) -> Iterator[str]:
    """What in a module reads pickles, or might: calls, names that are imported, options that allow them."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            dotted = ast.unparse(node)
            first, _, rest = dotted.partition(".")
            whole = f"{names.get(first, first)}.{rest}".rstrip(".")
            module, _, last = whole.rpartition(".")
            if last in READERS and any(
                module == name or module.endswith(f".{name}") for name in MODULES | {"pickle"}
            ):
                yield whole
            if last in ("read_pickle", "__import__") or whole == "importlib.import_module":
                yield whole
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield "allow_pickle"
        elif isinstance(node, ast.Constant) and node.value in MODULES - {"distributed.protocol"}:
            yield f"the name {node.value!r}"


def test_pickles_are_read_only_where_tasks_get_their_arguments() -> None:
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if any(reads_of_pickles(path.read_text()))
    }
    assert found == ALLOWED.keys()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.load(file)",
        "from pickle import loads\nloads(b'')",
        "from pickle import loads as decode\nmap(decode, x)",
        "import cloudpickle\nf = cloudpickle.loads",
        "import pickle\nclass C(pickle.Unpickler): pass",
        "from distributed.protocol import pickle\npickle.loads(x)",
        "import distributed.protocol.pickle as p\np.loads(x)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import marshal\nmarshal.loads(x)",
        "__import__('pickle')",
        "import importlib\nimportlib.import_module('pickle')",
        "from distributed.protocol import deserialize\ndeserialize(x)",
    ],
)
def test_the_search_finds_every_way_to_read_one(source: str) -> None:
    assert list(reads_of_pickles(source))


@pytest.mark.parametrize(
    "source", ["import pickle\npickle.dumps(x)", "import json\njson.loads(x)", "x.load(y)"]
)
def test_the_search_leaves_alone_what_reads_none(source: str) -> None:
    assert not list(reads_of_pickles(source))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "unpickled")


@pytest.fixture(params=range(pickle.HIGHEST_PROTOCOL + 1))
def bomb(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    """A pickle, of each protocol, that must not have been read when the test is over."""
    mark = tmp_path / "mark"
    data = pickle.dumps(Bomb(mark), protocol=request.param)
    pickle.loads(data)
    assert mark.exists()
    mark.unlink()
    yield data
    assert not mark.exists()


def everything(root: CID, cas: BlockCAS) -> None:
    """All that reads a root. What it has is not sound, as a rule."""
    other = build({"other": b"1"}, InMemoryCAS())
    calls: list[Callable[[], object]] = [
        lambda: check(root, cas),
        lambda: copy(root, cas, InMemoryCAS()),
        lambda: list(diff(root, other, cas)),
        lambda: merge(root, root, root, cas),
        lambda: update(root, {"new": b"1"}, cas),
        lambda: cas.load_many([root]),
        lambda: cas.size_many([root]),
    ]
    for call in calls:
        with suppress(HamtError):
            call()
    for consolidated in (True, False):
        # What is wrong with a document is for Zarr to say.
        with suppress(HamtError, ValueError, KeyError, TypeError, FileNotFoundError):
            xr.open_dataset(root, engine="hamt", cas=cas, consolidated=consolidated).load()


async def test_a_value_that_is_a_pickle_is_bytes(bomb: bytes, tmp_path: Path) -> None:
    """Also as Zarr's metadata, and as a chunk."""
    cas = PackCAS(tmp_path / "packs")
    items = dict.fromkeys(
        ("zarr.json", ".zgroup", ".zarray", ".zmetadata", "a/zarr.json", "a/c/0", "key"), bomb
    )
    root = build(items, cas)
    hamt = await HAMT.build(cas=cas, root_node_id=root, read_only=True, values_are_bytes=True)
    assert await hamt.get("key") == bomb
    everything(root, cas)


def test_a_node_that_is_a_pickle_is_refused(bomb: bytes) -> None:
    cas = InMemoryCAS()
    slots: list[object] = [{"key": identify(bomb)}] + [{}] * (WIDTH - 1)
    for data in (
        bomb,
        libipld.encode_dag_cbor(bomb),
        libipld.encode_dag_cbor([bomb] * WIDTH),
        libipld.encode_dag_cbor(slots),
    ):
        for codec in (0x71, 0x70):
            root = identify(data, codec)
            cas.blocks |= {root: data, identify(bomb): bomb}
            everything(to_cid(root), cas)


def test_files_of_a_store_that_are_pickles_are_damaged_files(bomb: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "packs"
    cas = PackCAS(folder)
    root = to_bytes(build({"key": b"value"}, cas))
    cas.close()
    payload = header_v1() + section_head(identify(bomb), len(bomb)) + bomb
    (folder / "journals").mkdir(exist_ok=True)
    for number, data in enumerate(
        (bomb, header_v2(HEADER_V2_BYTES, len(payload), 0) + payload, payload + bomb)
    ):
        for name in (
            "packs/nodes/x{}.car",
            "packs/values/x{}.car",
            "index/x{}.mpi",
            "tmp/x{}",
            "journals/x{}.journal",
        ):
            (folder / name.format(number)).write_bytes(data)
    everything(to_cid(root), PackCAS(folder))
    everything(to_cid(identify(bomb)), PackCAS(folder))
    with pytest.raises(HamtError):
        list(live_of_journals(folder / "journals"))
    (folder / "format").write_bytes(bomb)
    everything(to_cid(root), PackCAS(folder))


def test_a_car_file_that_is_or_holds_a_pickle_is_read_as_blocks(bomb: bytes, tmp_path: Path) -> None:
    block = Block(identify(bomb), bomb)
    for number, data in enumerate((bomb, header_v1([block.cid]) + section_head(block.cid, len(bomb)) + bomb)):
        path = tmp_path / f"{number}.car"
        path.write_bytes(data)
        everything(to_cid(block.cid), CarCAS(path))

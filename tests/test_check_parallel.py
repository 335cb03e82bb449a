"""`check` on a cluster: the report of the serial one, whatever the parts, the workers and their fate."""

import asyncio
import os
import signal
import threading
from contextlib import suppress

import dask
import numpy as np
import pytest
import xarray as xr
from checked import put
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees_made import crowded_hashfn

from hamt_bulk import InMemoryCAS, PackCAS, build, check
from hamt_bulk.block import identify, to_bytes
from hamt_bulk.cas import LocalCAS
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.integrity import Report, parallel
from hamt_bulk.layout import PyHamt
from hamt_bulk.progress import BuildProgress
from hamt_bulk.xarray import to_hamt

pytestmark = pytest.mark.timeout(120)

FULL = os.environ.get("HAMT_BULK_FULL") == "1"

LONG = b"".join(n.to_bytes(4, "big") for n in range(600_000))
"""A value of three leaves and the node of its file."""


def alone(*arguments, **options) -> Report:
    """The serial check, whatever Client is active."""
    with dask.config.set(scheduler="synchronous"):
        return check(*arguments, **options)


def dataset(size: int = 400) -> xr.Dataset:
    """Some arrays of few bytes in many chunks, of which some are equal."""
    values = np.arange(size * 6.0).reshape(size, 6) // 9
    return xr.Dataset(
        {"t": (("x", "y"), values), "u": ("x", values[:, 0])}, coords={"x": np.arange(size)}
    ).chunk(x=1, y=2)


@pytest.fixture(scope="module")
def tree() -> tuple[bytes, InMemoryCAS]:
    """A hierarchy with strays, values that several keys have, and a file."""
    cas = InMemoryCAS()
    root = to_hamt(dataset(), cas, encoding={"u": {"chunks": (1,)}})
    strays = {f"t/c/{n}/9": b"stray" for n in range(5)} | {"long": LONG, "again": LONG}
    return to_bytes(build(strays, cas, base=root)), cas


def damaged(cas: InMemoryCAS, root: bytes, draw) -> tuple[bytes, InMemoryCAS]:
    """A copy of the store that lost some blocks, others changed, and a root one of whose nodes lies elsewhere too."""
    other = InMemoryCAS()
    other.blocks = dict(cas.blocks)
    order = sorted(other.blocks)
    for cid in draw(st.lists(st.sampled_from(order), max_size=4, unique=True)):
        del other.blocks[cid]
    for cid in draw(st.lists(st.sampled_from(order), max_size=3, unique=True)):
        if cid in other.blocks:
            other.blocks[cid] += b"?"
    if draw(st.booleans()) and root in other.blocks and other.blocks[root] == cas.blocks[root]:
        slots = list(PyHamt().decode(root, other.blocks[root]))
        places = draw(st.lists(st.integers(0, 255), min_size=2, max_size=2, unique=True))
        slots[places[0]] = slots[places[1]]
        root = put(other, slots)
    return root, other


@settings(max_examples=150 if FULL else 25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_report_is_that_of_the_serial_check(threads, tree, monkeypatch, data):
    root, cas = damaged(tree[1], tree[0], data.draw)
    monkeypatch.setattr(parallel, "PARTS", data.draw(st.sampled_from([1, 2, 7, 64, 256])))
    monkeypatch.setattr(parallel, "PARTS_PER_WORKER", 0)
    options = {
        "max_problems": data.draw(st.sampled_from([0, 1, 3, 1000])),
        "values": data.draw(st.booleans()),
        "zarr": data.draw(st.booleans()),
    }
    assert check(root, cas, **options) == alone(root, cas, **options)


@settings(max_examples=60 if FULL else 10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    items=st.dictionaries(
        st.integers(0, 999).map(str), st.integers(0, 30).map(lambda n: b"%d" % n), max_size=150
    ),
    size=st.integers(1, 5),
)
def test_the_report_is_that_of_the_serial_check_of_any_tree(threads, data, items, size):
    cas = InMemoryCAS()
    root = to_bytes(build(items, cas, hash_fn=crowded_hashfn, max_bucket_size=size))
    root, cas = damaged(cas, root, data.draw)
    assert check(root, cas, hash_fn=crowded_hashfn) == alone(root, cas, hash_fn=crowded_hashfn)


def counted(monkeypatch) -> list[int]:
    """Grows by one with each part that is looked at in this process."""
    calls: list[int] = []
    look = parallel.part

    def noting(*arguments):
        calls.append(threading.get_ident())
        return look(*arguments)

    monkeypatch.setattr(parallel, "part", noting)
    return calls


def test_parts_are_looked_at_on_the_workers(threads, tree, monkeypatch):
    root, cas = tree
    calls = counted(monkeypatch)
    report = check(root, cas)
    assert len(calls) == 64
    assert threading.get_ident() not in calls
    assert (report.problem_count, report.arrays) == (7, alone(root, cas).arrays)
    assert len(calls) == 64


def test_a_node_in_two_parts_is_judged_by_one_walk(threads):
    """Parts that each see one of its places would both find it in order, or both not."""
    cas = InMemoryCAS()
    items = {f"k{n}": b"%d" % n for n in range(3000)}
    root = to_bytes(build(items, cas))
    slots = list(PyHamt().decode(root, cas.blocks[root]))
    slots[2] = slots[1]
    root = put(cas, slots)
    report = check(root, cas)
    assert report == alone(root, cas)
    assert [problem.where for problem in report.problems] == ["/02"]


def test_values_that_parts_share_are_counted_once(threads):
    cas = InMemoryCAS()
    root = build({f"k{n}": b"%d" % (n % 3) for n in range(3000)} | {"a": LONG, "b": LONG}, cas)
    report = check(root, cas)
    assert (report.values, report.blocks) == (4, len(cas.blocks))
    assert report.bytes == sum(map(len, cas.blocks.values()))


def test_progress_goes_from_nothing_to_all(threads, tree):
    steps: list[BuildProgress] = []
    check(*tree, progress=steps.append)
    serial: list[BuildProgress] = []
    alone(*tree, progress=serial.append)
    assert (steps[0].done, steps[-1]) == (0, serial[-1])
    assert [step.done for step in steps] == sorted(step.done for step in steps)


def test_a_root_that_is_missing_is_a_problem_on_a_cluster_too(threads):
    cas = InMemoryCAS()
    absent = identify(b"absent", 0x71)
    report = check(absent, cas)
    assert [(problem.kind, problem.where) for problem in report.problems] == [("missing", "/")]
    assert report == alone(absent, cas)


def test_an_asynchronous_client_is_refused():
    async def attempt() -> None:
        cas = InMemoryCAS()
        root = build({"a": b"1"}, cas)
        async with (
            LocalCluster(
                n_workers=1, processes=False, dashboard_address="127.0.0.1:0", asynchronous=True
            ) as cluster,
            Client(cluster, asynchronous=True),
        ):
            with pytest.raises(
                InvalidInput, match=r"Client is asynchronous: check in this process.*scheduler=\"threads\""
            ):
                check(root, cas)
            with dask.config.set(scheduler="threads"):
                assert check(root, cas).ok

    asyncio.run(attempt())


def test_a_task_checks_where_it_runs(tree):
    """On a cluster of one thread it could not wait for other tasks."""
    with (
        LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        report = client.submit(check, *tree, pure=False).result(timeout=60)
    assert report == alone(*tree)


class Attached(InMemoryCAS):
    """A store that cannot be pickled."""

    def __reduce__(self):
        raise TypeError("cannot pickle a connection")


def test_a_store_that_cannot_be_pickled_is_checked_here(processes):
    cas = Attached()
    root = build({f"{n}": b"%d" % n for n in range(3000)}, cas)
    assert check(root, cas) == alone(root, cas)


def test_a_store_of_this_process_is_checked_here(processes, tree):
    root, cas = tree
    steps: list[BuildProgress] = []
    assert check(root, cas, progress=steps.append) == alone(root, cas)
    assert steps[0].done == 1, "the serial check tells of subtrees one by one"


def test_processes_give_the_same_report(processes, tree, tmp_path):
    cas = PackCAS(tmp_path)
    root = copied(tree[1], cas, tree[0])
    whole = check(root, cas)
    assert whole == alone(root, cas)
    assert whole.problem_count == 7
    [pack] = (tmp_path / "packs" / "values").iterdir()
    pack.write_bytes(pack.read_bytes().replace(LONG[5000:6000], bytes(1000)))
    report = check(root, PackCAS(tmp_path))
    assert report == alone(root, PackCAS(tmp_path))
    assert {problem.where for problem in report.problems if problem.kind == "altered"} == {"long", "again"}


def copied(source: LocalCAS, target: LocalCAS, root: bytes) -> bytes:
    with target.writer() as writer:
        writer.save_many([*zip(source.blocks, source.blocks.values(), strict=True)])
        writer.flush()
    return root


class Deadly(PackCAS):
    """Its tenth request on a worker kills the process, once for all workers."""

    requests = 0

    def load_blocks(self, cids):
        Deadly.requests += os.getpid() != int((self.path / "driver").read_text())
        if Deadly.requests == 10:
            with suppress(FileNotFoundError):
                os.rename(self.path / "loaded", self.path / "fired")
                os.kill(os.getpid(), signal.SIGKILL)
        return super().load_blocks(cids)


def test_a_worker_that_is_killed_changes_nothing(processes, tree, tmp_path):
    root = copied(tree[1], PackCAS(tmp_path), tree[0])
    (tmp_path / "driver").write_text(str(os.getpid()))
    (tmp_path / "loaded").touch()
    before = set(processes.run(os.getpid).values())
    assert check(root, Deadly(tmp_path)) == alone(root, PackCAS(tmp_path))
    assert (tmp_path / "fired").exists()
    processes.wait_for_workers(2, timeout=30)
    assert set(processes.run(os.getpid).values()) != before


def test_workers_that_see_another_folder_are_refused(processes, tree, tmp_path, monkeypatch):
    """Else all of the tree would be reported as missing."""
    root = copied(tree[1], PackCAS(tmp_path / "here"), tree[0])
    with pytest.raises(
        CASError, match=r"has not the root .* that the driver sees in it: put the store where"
    ):
        check(root, Elsewhere(tmp_path / "here"))


class Elsewhere(PackCAS):
    """Another folder in each process."""

    def __reduce__(self):
        return _elsewhere, (str(self.path), os.getpid())


def _elsewhere(path: str, pid: int) -> PackCAS:
    return PackCAS(path if pid == os.getpid() else path + "-there")

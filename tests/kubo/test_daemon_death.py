"""The daemon dies in the middle of a build, and starts again."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hamt_bulk import InMemoryCAS, KuboCAS, build, update
from hamt_bulk.cas.ipfs import uploads
from hamt_bulk.errors import CASError
from kubo.daemon import Daemon

ITEMS = {f"key {number}": b"value %d" % number * 50 for number in range(5000)}
NewKubo = Callable[..., Daemon]


@pytest.fixture(autouse=True)
def small_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_IMPORT_BLOCKS", 200)


def killing(daemon: Daemon, after: int, seconds: float) -> Iterator[tuple[str, bytes]]:
    """The items; after some of them the daemon is killed, and back after a while."""
    for number, item in enumerate(ITEMS.items()):
        if number == after:
            daemon.kill()
            threading.Timer(seconds, daemon.start).start()
        yield item


@pytest.mark.parametrize("after", [0, 500, 2500, 4999])
def test_the_build_goes_on_when_it_is_back(new_kubo: NewKubo, after: int) -> None:
    daemon = new_kubo()
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, initial_delay=0.2)
    first = build({"a": b"b"}, cas)
    root = update(first, killing(daemon, after, 0.7), cas, pin="all")
    assert root == build(ITEMS | {"a": b"b"}, InMemoryCAS())
    assert daemon.pins() == {str(root): "all"}
    assert daemon.stat(str(root)).blocks > len(ITEMS)


def test_a_daemon_that_stays_away_ends_the_build_and_the_next_one_is_whole(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, initial_delay=0.01)

    def dying() -> Iterator[tuple[str, bytes]]:
        for number, item in enumerate(ITEMS.items()):
            if number == 2500:
                daemon.kill()
            yield item

    with pytest.raises(CASError, match=r"127\.0\.0\.1"):
        build(dying(), cas, pin="all")
    daemon.start()
    root = build(ITEMS, cas, pin="all")
    assert root == build(ITEMS, InMemoryCAS())
    assert daemon.stat(str(root)).blocks > len(ITEMS)


def test_what_a_daemon_loses_is_sent_again_from_the_spool(
    new_kubo: NewKubo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubo syncs nothing to disk: after a power cut blocks may be gone that it had acknowledged."""
    daemon = new_kubo()
    spool = tmp_path / "spool"
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, spool=spool)
    secure = KuboCAS.secure

    def after_a_power_cut(self: KuboCAS, *arguments: object) -> None:
        assert list(spool.glob("*/packs/*/*.car")), "all that was sent is in the spool"
        daemon.kill()
        files = [path for path in (daemon.repo / "blocks").glob("*/*.data") if path.stat().st_size < 2000]
        for path in files[::3]:
            path.unlink()
        daemon.start()
        secure(self, *arguments)

    monkeypatch.setattr(KuboCAS, "secure", after_a_power_cut)
    root = build(ITEMS, cas, pin="all")
    assert daemon.pins()[str(root)] == "all"
    assert daemon.stat(str(root)).blocks > len(ITEMS)
    assert not list(spool.glob("*/packs/*/*.car")), "the spool is empty once the root is pinned"


def test_every_build_has_a_spool_of_its_own(new_kubo: NewKubo, tmp_path: Path) -> None:
    daemon = new_kubo()
    spool = tmp_path / "spool"
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, spool=spool, initial_delay=0.01)

    def items() -> Iterator[tuple[str, bytes]]:
        for number, item in enumerate(ITEMS.items()):
            if number == 1000:
                assert build({"another": b"build"}, cas)
            yield item
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build(items(), cas)
    for _ in range(2):
        assert build(ITEMS, cas) == build(ITEMS, InMemoryCAS())
    assert not list(spool.iterdir()), "nothing is left of those that ended, well or not"
    assert daemon.pins() == {}

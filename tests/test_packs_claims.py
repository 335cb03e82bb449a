"""What a store that is open says of packs that another process has removed, or written again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packs_made import HOUR, age, blocks_in, contents, items_of, packs_in, tree, write

from hamt_bulk import copy
from hamt_bulk.block import identify
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import BlockNotFound
from hamt_bulk.packs import rebuild

pytestmark = pytest.mark.usefixtures("no_fsync")


def removed_by_another_process(path: Path) -> None:
    subprocess.run([sys.executable, "-c", f"import os; os.unlink({str(path)!r})"], check=True)


def test_what_was_claimed_once_is_not_claimed_when_it_is_gone(store: Path) -> None:
    [pack] = write(store, [b"old", b"older"])
    cas, cids = PackCAS(store), [identify(b"old"), identify(b"older")]
    assert cas.load_many(cids) == [b"old", b"older"]
    assert cas.claim_many(cids) == [True, True]
    removed_by_another_process(pack)
    assert cas.claim_many(cids) == [False, False]
    assert cas.has_many(cids) == [False, False]
    with pytest.raises(BlockNotFound):
        cas.load_many(cids)


def test_every_claim_makes_the_pack_young(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And makes it so once, however many of its blocks are claimed."""
    values = [b"%d" % n for n in range(50)]
    [pack] = write(store, values)
    cas, real, renewed = PackCAS(store), os.utime, []

    def utime(path: Path) -> None:
        renewed.append(path)
        real(path)

    monkeypatch.setattr(os, "utime", utime)
    for times in (1, 2):
        real(pack, (HOUR, HOUR))
        assert cas.claim_many([identify(value) for value in values]) == [True] * 50
        assert renewed == [pack] * times
        assert pack.stat().st_mtime > HOUR


def test_a_copy_into_a_store_that_lost_its_copy_meanwhile_is_whole(store: Path, tmp_path: Path) -> None:
    source = PackCAS(tmp_path / "source")
    root = tree(source.path, items_of("copied", 20))
    target = PackCAS(store)
    kept = tree(store, {"z": b"z"})
    copy(root, source, target)
    assert copy(root, source, target).copied_blocks == 0
    age(store, 48)
    for path in packs_in(store):
        if kept not in blocks_in(path) and identify(b"z") not in blocks_in(path):
            removed_by_another_process(path)
    assert copy(root, source, target).copied_blocks > 20
    assert contents(store, root) == items_of("copied", 20)


def test_a_pack_whose_damaged_heads_were_mended_is_read_by_who_has_the_damaged_one_open(store: Path) -> None:
    [pack] = write(store, [b"one", b"two"])
    rebuild(store)  # an index file that covers it
    data, cid = bytearray(pack.read_bytes()), identify(b"one")
    data[data.index(cid) + 10] ^= 1
    pack.write_bytes(data)
    readers = PackCAS(store), PackCAS(store)
    for reader in readers:
        assert reader.has_many([cid, identify(b"two")]) == [False, True]
        with pytest.raises(BlockNotFound):
            reader.load_blocks([cid])
    write(store, [b"one", b"two"])
    assert readers[0].load_blocks([cid]) == [b"one"]
    PackCAS(store).close()
    assert readers[1].has_many([cid]) == [True]
    assert readers[1].claim_many([cid]) == [True]


def test_has_many_alone_sees_a_mended_head_too(store: Path) -> None:
    [pack] = write(store, [b"one", b"two"])
    rebuild(store)
    data, cid = bytearray(pack.read_bytes()), identify(b"one")
    data[data.index(cid) + 10] ^= 1
    pack.write_bytes(data)
    reader = PackCAS(store)
    assert reader.has_many([cid]) == [False]
    write(store, [b"one", b"two"])
    assert reader.has_many([cid]) == [True]

"""CIDs as callers have them."""

import copy
import pickle

import cloudpickle
import pytest
from distributed import Client
from multiformats import CID, multihash

from hamt_bulk.block import identify, text, to_cid


@pytest.mark.parametrize("hasher", ["blake3", "sha2-256"])
def test_a_root_is_pickled_after_somebody_has_hashed_with_its_hash_function(hasher: str) -> None:
    root = to_cid(identify(b"a root", hasher=hasher))
    assert bytes(multihash.digest(b"a root", hasher, size=32)) == bytes(root.digest)
    CID("base32", 1, "raw", bytes(root.digest))
    for dumps in (pickle.dumps, cloudpickle.dumps):
        data = dumps(root)
        assert pickle.loads(data) == root
        assert len(data) < 150
    assert copy.deepcopy([root]) == [root]


@pytest.mark.parametrize("base", ["base32", "base58btc", "base16", "base36"])
def test_a_pickled_cid_keeps_its_base(base: str) -> None:
    cid = to_cid(identify(b"a value")).set(base=base)
    again = pickle.loads(pickle.dumps(cid))
    assert (again, str(again)) == (cid, str(cid))


def test_a_cid_of_version_0_is_pickled() -> None:
    cid = CID.decode("QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n")
    again = pickle.loads(pickle.dumps(cid))
    assert (again, again.version) == (cid, 0)


def test_a_root_goes_to_workers_and_back(processes: Client) -> None:
    root = to_cid(identify(b"a root"))
    CID("base32", 1, "raw", bytes(root.digest))
    assert processes.submit(lambda given: (given, text(bytes(given))), root).result(60) == (root, str(root))

"""The store in a dict."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hamt_bulk.cas import InMemoryCAS
from hamt_bulk.errors import InvalidInput
from hamt_bulk.testing.contract import CASContract


class TestInMemoryCAS(CASContract):
    portable = False

    def fresh(self, folder: Path) -> InMemoryCAS:
        return InMemoryCAS()

    def corrupt(self, cas: InMemoryCAS, cid: bytes) -> None:
        data = cas.blocks[cid]
        cas.blocks[cid] = bytes([data[0] ^ 1]) + data[1:]


class TestInMemoryCASWithSHA2(TestInMemoryCAS):
    def fresh(self, folder: Path) -> InMemoryCAS:
        return InMemoryCAS("sha2-256")


def test_pickled_it_is_the_same_object() -> None:
    cas = InMemoryCAS()
    assert pickle.loads(pickle.dumps(cas)) is cas


def test_in_another_process_it_is_refused() -> None:
    cas = InMemoryCAS()
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(cas), capture_output=True)
    assert run.returncode == 1
    assert b"NotPortable: this InMemoryCAS lives in process" in run.stderr
    assert b'PackCAS("folder")' in run.stderr


def test_a_store_that_is_gone_is_refused() -> None:
    data = pickle.dumps(InMemoryCAS())
    with pytest.raises(Exception, match="lives in process"):
        pickle.loads(data)


@pytest.mark.parametrize("hasher", ["sha1", "", "BLAKE3", None])
def test_blocks_are_named_with_hashes_we_know(hasher: str) -> None:
    with pytest.raises(InvalidInput, match="'blake3', 'sha2-256'"):
        InMemoryCAS(hasher)  # type: ignore[arg-type]

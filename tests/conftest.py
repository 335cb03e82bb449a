"""What the tests share."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from peers.py_hamt import PeerUnavailable, PyHamt

# How long an example takes says more about the machine than about the code; a hang is pytest-timeout's.
settings.register_profile("here", deadline=None)
settings.load_profile("here")


@pytest.fixture(scope="session")
def py_hamt() -> Iterator[PyHamt]:
    """A real py-hamt; without one the test is skipped, or fails where HAMT_BULK_REQUIRE_PEERS is 1."""
    try:
        peer = PyHamt.start()
    except PeerUnavailable as error:
        if os.environ.get("HAMT_BULK_REQUIRE_PEERS") == "1":
            pytest.fail(f"HAMT_BULK_REQUIRE_PEERS is 1, and {error}", pytrace=False)
        pytest.skip(str(error))
    with peer:
        yield peer

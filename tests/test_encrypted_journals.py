"""Encrypted builds that go on where others ended."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from encrypted import opened
from keys_hidden import KEY, assert_hidden

from hamt_bulk import Encryption, PackCAS, check, errors
from hamt_bulk.xarray import to_hamt

pytestmark = pytest.mark.filterwarnings("ignore:the Dask arrays of")


class Stop(Exception):
    """What ends the calls here."""


def stopping(stop_at: int | None) -> xr.Dataset:
    computed: list[int] = []

    def read(block: np.ndarray) -> np.ndarray:
        if len(computed) == stop_at:
            raise Stop
        computed.append(1)
        return block

    values = da.arange(60, chunks=2).map_blocks(read, dtype="i8", meta=np.zeros(0, "i8"))
    return xr.Dataset({"secret_variable": ("x", values)}, coords={"x": np.arange(60)})


@pytest.fixture
def small_batches(cut_batches):
    cut_batches(32)


@pytest.mark.parametrize(
    "options", [{}, {"hide_names": True}, {"format": "py-hamt-3"}, {"deterministic": True}]
)
def test_a_build_that_was_stopped_goes_on_whatever_its_nonces(tmp_path, small_batches, options):
    """What is stored differs each time; which build it is does not."""
    cas, journal = PackCAS(tmp_path / "store"), tmp_path / "journal"
    with dask.config.set(scheduler="synchronous"):
        for stop_at in (10, 5):
            with pytest.raises(Stop):
                to_hamt(stopping(stop_at), cas, encryption=Encryption(KEY, **options), journal=journal)
            assert_hidden(journal)
            assert (b"secret_variable" in journal.read_bytes()) != bool(options.get("hide_names"))
        seen = []
        root = to_hamt(
            stopping(None),
            cas,
            encryption=Encryption(KEY, **options),
            journal=journal,
            resume=True,
            progress=seen.append,
        )
    first = next(progress for progress in seen if progress.stage == "write")
    assert 10 < first.done <= 15 and first.total == 30
    xr.testing.assert_identical(opened(root, cas, Encryption(KEY, **options)).load(), stopping(None).load())
    assert check(root, cas, zarr=False).ok and not journal.exists()


@pytest.mark.parametrize(
    "other",
    [
        None,
        Encryption(bytes(32)),
        Encryption(KEY, header=b"h"),
        Encryption(KEY, deterministic=True),
        Encryption(KEY, exclude_vars=["x"]),
        Encryption(KEY, encrypt_metadata=False),
        Encryption(KEY, hide_names=True),
        Encryption(KEY, format="py-hamt-3"),
    ],
    ids=repr,
)
def test_the_journal_of_another_key_or_of_other_options_is_that_of_another_build(
    tmp_path, small_batches, other
):
    cas, journal = PackCAS(tmp_path / "store"), tmp_path / "journal"
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(Stop):
            to_hamt(stopping(10), cas, encryption=Encryption(KEY), journal=journal)
        before = journal.read_bytes()
        with pytest.raises(errors.JournalMismatch, match="are: encryption") as caught:
            to_hamt(stopping(None), cas, encryption=other, journal=journal)
        assert_hidden(caught.value)
        assert journal.read_bytes() == before


def test_a_journal_tells_changed_coordinates_by_their_plain_values(tmp_path, small_batches):
    cas, journal = PackCAS(tmp_path / "store"), tmp_path / "journal"
    with dask.config.set(scheduler="synchronous"), pytest.raises(Stop):
        to_hamt(stopping(10), cas, encryption=Encryption(KEY), journal=journal)
    changed = stopping(None).assign_coords(x=np.arange(60) + 1)
    with pytest.raises(errors.JournalMismatch, match="are: values of 'x'"):
        to_hamt(changed, cas, encryption=Encryption(KEY), journal=journal)

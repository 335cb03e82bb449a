"""Zarr v2 variables that become v3: what xarray takes for missing stays missing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import MemoryStore
from zarr3_made import TEXT, assert_equal, buffers, converted_values, refusal, variable_of_v2


def opened_both_ways(values: Mapping[str, bytes]) -> tuple[xr.Dataset, xr.Dataset]:
    stores = (MemoryStore(buffers(one)) for one in (values, converted_values(values)))
    before, after = (xr.open_zarr(store, consolidated=False).load() for store in stores)
    return before, after


MASKED: dict[str, tuple[Any, ...]] = {
    "i4": ("<i4", 2, [1, 2, 3], {}),
    "beyond 2**53": ("<u8", 2**64 - 1, np.array([1, 2**64 - 1, 3], "u8"), {}),
    "f4 by value": ("<f4", 1e20, np.array([1, 1e20, 3], "f4"), {}),
    "f2 by NaN": ("<f2", np.nan, [1, np.nan, 3], {}),
    "infinity": (">f8", np.inf, [1, np.inf, 3], {}),
    "complex": ("<c8", 1 + 2j, np.array([1 + 2j, 0, 3], "c8"), {}),
    "bool": ("?", True, [True, False, True], {}),
    "unsigned": ("i1", -1, np.array([1, -2, -1], "i1"), {"_Unsigned": "true", "scale_factor": 2.0}),
    "also by another": ("<i4", 2, [1, 2, 3], {"missing_value": 3}),
    "by an attribute": ("<i4", None, [1, 2, 3], {"_FillValue": 2}),
    "by an attribute that is a float": ("<f4", None, [1, 2, 3], {"_FillValue": 2}),
    "by an attribute that is NaN": ("<f8", None, [1, np.nan, 3], {"_FillValue": "NaN"}),
    "text": (str, "ab", TEXT, {}),
    "empty text": (str, "", TEXT, {}),
    "U": ("<U3", "ab", TEXT.astype("U"), {}),
    "U by an attribute": ("<U3", None, TEXT.astype("U"), {"_FillValue": "ab"}),
}


@pytest.mark.parametrize("case", MASKED)
@pytest.mark.filterwarnings("ignore:variable 'v' has multiple fill values")
def test_what_xarray_takes_for_missing_stays_missing(case) -> None:
    before, after = opened_both_ways(variable_of_v2(*MASKED[case]))
    assert before.v.isnull().any()
    xr.testing.assert_identical(after, before)
    assert after.v.dtype == before.v.dtype


@pytest.mark.parametrize("fill", [0, np.datetime64("NaT", "s")], ids=str)
def test_times_are_as_they_were_and_nothing_takes_their_fill_value_for_missing(fill) -> None:
    """In v2 xarray shows it among the attributes, as a time, which no attribute of v3 can be."""
    data = np.array([0, 1, "NaT"], "M8[s]")
    before, after = opened_both_ways(variable_of_v2("<M8[s]", fill, data, {"note": 1}))
    assert_equal(after.v, before.v)
    assert after.v.attrs == {"note": 1}


def test_text_of_bytes_of_which_xarray_masks_some_is_refused() -> None:
    values = variable_of_v2("S3", b"ab", np.array([b"a", b"ab", b""]), {})
    assert refusal(values) == (
        "'v/.zarray' is an array of '|S3' with no codec, in which xarray takes np.bytes_(b'ab') for a missing value, and in "
        "Zarr v3 it cannot: set fill_value to null, and its attribute _FillValue to none"
    )
    assert "takes 'ab' for a missing" in refusal(variable_of_v2(str, "ab", TEXT, {"missing_value": "a"}))
    assert "_FillValue is 'none'" in refusal(variable_of_v2("<i4", None, [1, 2, 3], {"_FillValue": "none"}))

"""Zarr v2 that has no form in v3, and metadata that is damaged: the key is named."""

from typing import Any

import numcodecs
import pytest
import zarr
from zarr3_made import array_document, needs_numcodecs, refusal

GROUP = {"zarr_format": 2}


@pytest.mark.parametrize("codec", ["json2", "msgpack2", "pickle", "categorize", "nobody's"])
def test_a_codec_that_v3_has_no_form_for_is_named_with_its_array(codec) -> None:
    array = array_document(dtype="|O", filters=[{"id": codec}])
    assert refusal({".zgroup": GROUP, "g/v/.zarray": array}) == (
        f"'g/v/.zarray' is an array of '|O' with {codec!r}, and zarr {zarr.__version__} has no {codec!r} for Zarr v3"
    )


@needs_numcodecs
def test_what_zarr_does_not_read_back_is_refused() -> None:
    """A chunk is tried before anything is promised."""
    twice = array_document(dtype="<f8", filters=[numcodecs.Quantize(2, "<f8", "<f4").get_config()])
    found = refusal({"v/.zarray": twice})
    assert "'v/.zarray' is an array of '<f8' with 'quantize', which zarr" in found
    assert "does not read from Zarr v3" in found
    swapped = array_document(dtype=">f4", filters=[numcodecs.Quantize(2, ">f4").get_config()])
    assert "come out wrong" in refusal({"v/.zarray": swapped})
    late = [numcodecs.Shuffle(4).get_config(), numcodecs.Delta("<i4").get_config()]
    assert "'delta' takes arrays" in refusal({"v/.zarray": array_document(filters=late)})


def test_fields_in_two_byte_orders_are_refused() -> None:
    array = array_document(dtype=[["a", "<i4"], ["b", ">i4"]], fill_value=None)
    assert "does not read from Zarr v3: [(" in refusal({"v/.zarray": array})


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"v/.zarray": b"{"}, "'v/.zarray' is not JSON: "),
    "no object": ({"v/.zarray": b"[1]"}, "'v/.zarray' is '[1]', expected a JSON object"),
    "too deep": (
        {".zgroup": GROUP, ".zattrs": b'{"a":' + b"[" * 400 + b"]" * 400 + b"}"},
        "'.zattrs' is not JSON: ",
    ),
    "no field": (
        {"v/.zarray": {"zarr_format": 2, "shape": [1]}},
        "'v/.zarray' is not valid metadata of Zarr: it has no",
    ),
    "format": (
        {".zgroup": {"zarr_format": 3}},
        "'.zgroup' is not valid metadata of Zarr: zarr_format is 3, expected 2",
    ),
    "copies": (
        {".zgroup": GROUP, ".zmetadata": {}},
        "'.zmetadata' is not valid metadata of Zarr: zarr_consolidated",
    ),
    "type": (
        {"v/.zarray": array_document(dtype="<q9")},
        "'v/.zarray' is an array of '<q9' with no codec, which zarr",
    ),
    "codec": (
        {"v/.zarray": array_document(filters=["zlib"])},
        "'v/.zarray' has the codec 'zlib', expected an object",
    ),
    "level": (
        {"v/.zarray": array_document(compressor={"id": "blosc", "cname": "none"})},
        "'v/.zarray' is an array of '<i4' with 'blosc', which zarr",
    ),
    "filters": (
        {"v/.zarray": array_document(filters=3)},
        "'v/.zarray' is not valid metadata of Zarr: filters is 3",
    ),
    "separator": (
        {"v/.zarray": array_document(dimension_separator="-")},
        "'v/.zarray' is an array of '<i4' with no codec",
    ),
    "array and group": (
        {"v/.zarray": array_document(), "v/.zgroup": GROUP},
        "'v/.zarray' and 'v/.zgroup' are both there: an array and a group cannot have one path",
    ),
    "attributes alone": (
        {".zgroup": GROUP, "v/.zattrs": {}},
        "'v/.zattrs' belongs to nothing, there is no .zarray or",
    ),
    "copies alone": (
        {"v/.zarray": array_document(), "v/.zmetadata": {"zarr_consolidated_format": 1, "metadata": {}}},
        "'v/.zmetadata' belongs to nothing, there is no .zgroup beside it",
    ),
    "copies of nothing": (
        {".zgroup": GROUP, ".zmetadata": {"zarr_consolidated_format": 1, "metadata": {"v/.zarray": {}}}},
        "'.zmetadata' names 'v/.zarray', which is not there",
    ),
    "both formats": (
        {"v/.zarray": array_document(), "v/zarr.json": {"zarr_format": 3, "node_type": "group"}},
        "'v/.zarray' says that this is a Zarr v2 array, and 'v/zarr.json' beside it that the node_type is 'group'",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_documents_that_are_damaged_or_contradict_are_told_by_key(case) -> None:
    values, expected = DAMAGED[case]
    assert refusal(values).startswith(expected)


@pytest.mark.parametrize("values", [{}, {"a": b"1"}, {"zarr.json": {"zarr_format": 3, "node_type": "group"}}])
def test_where_nothing_is_v2_that_is_said(values) -> None:
    assert refusal(values).startswith("nothing here is Zarr v2: ")

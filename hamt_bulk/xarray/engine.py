"""`engine="hamt"`: xarray opens roots."""

from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from typing import Any

import xarray as xr
from multiformats import CID
from xarray.backends import BackendEntrypoint
from xarray.backends.zarr import ZarrBackendEntrypoint

from hamt_bulk.block import to_bytes
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.crypto import Encryption, checked
from hamt_bulk.errors import InvalidInput
from hamt_bulk.zarr import ZarrHAMTStore
from hamt_bulk.zarr.checked import has, open_checked, refuse_other_names


class HamtBackendEntrypoint(BackendEntrypoint):
    """
    Opens a root as the dataset that was stored, lazily.

        xr.open_dataset(root, engine="hamt", cas=cas, chunks={})

    `cas` is a store or its URL, `encryption` how the root was encrypted. All other arguments are those of xarray's Zarr engine.
    """

    description = "Open roots of content-addressed Zarr hierarchies (hamt_bulk)"
    supports_groups = True
    open_dataset_parameters = (
        "cas",
        "encryption",
        "group",
        "consolidated",
        "zarr_format",
        "drop_variables",
        "mask_and_scale",
        "decode_times",
        "concat_characters",
        "decode_coords",
        "use_cftime",
        "decode_timedelta",
    )

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether this is a CID. Text that is not one may be a file."""
        with suppress(InvalidInput):
            if isinstance(filename_or_obj, (CID, str, PathLike)):
                to_bytes(filename_or_obj)
                return True
        return False

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: CID | str | PathLike[str],
        *,
        cas: ContentAddressedStore | str | None = None,
        encryption: Encryption | None = None,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        consolidated: bool | None = None,
        zarr_format: int | None = None,
        **decoders: Any,
    ) -> xr.Dataset:
        """The dataset of a root, or of one of its groups."""
        options: dict[str, Any] = {"group": group, "zarr_format": zarr_format}
        store = _store(filename_or_obj, cas, encryption, options)
        return ZarrBackendEntrypoint().open_dataset(
            store, drop_variables=drop_variables, consolidated=consolidated, **options, **decoders
        )

    def open_datatree(  # type: ignore[override]
        self,
        filename_or_obj: CID | str | PathLike[str],
        *,
        cas: ContentAddressedStore | str | None = None,
        encryption: Encryption | None = None,
        **options: Any,
    ) -> xr.DataTree:
        """The tree of all groups of a root."""
        return ZarrBackendEntrypoint().open_datatree(
            _store(filename_or_obj, cas, encryption, options), **options
        )

    def open_groups_as_dict(  # type: ignore[override]
        self,
        filename_or_obj: CID | str | PathLike[str],
        *,
        cas: ContentAddressedStore | str | None = None,
        encryption: Encryption | None = None,
        **options: Any,
    ) -> dict[str, xr.Dataset]:
        """The groups of a root by their paths."""
        return ZarrBackendEntrypoint().open_groups_as_dict(
            _store(filename_or_obj, cas, encryption, options), **options
        )


def _format_of(store: ZarrHAMTStore, group: str | None) -> int | None:
    """
    3 where the group's metadata is a zarr.json, else `None`: zarr has to look.

    It would look for four documents at once, and on a network each costs a request.
    """
    folder = (group or "").strip("/")
    return 3 if has(store, f"{folder}/zarr.json".lstrip("/")) else None


def _store(
    root: CID | str | PathLike[str],
    cas: ContentAddressedStore | str | None,
    encryption: Encryption | None,
    options: dict[str, Any],
) -> Any:  # xarray's own type leaves Zarr stores out
    """The store of a root; the Zarr format that it has goes to `options`, unless they name one."""
    if cas is None:
        raise InvalidInput(
            'where are the blocks? Pass cas=, a store or its URL: xr.open_dataset(root, engine="hamt", cas="store")'
        )
    store = open_checked(root, cas, checked(encryption))
    found = _format_of(store, options.get("group"))
    if found is None:
        refuse_other_names(store)
    if options.get("zarr_format") is None:
        options["zarr_format"] = found
    return store

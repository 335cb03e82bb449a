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
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.formats.recognise import open_root
from hamt_bulk.formats.trees import PyHamtRoot
from hamt_bulk.zarr import ZarrHAMTStore
from hamt_bulk.zarr.checked import has, open_checked, refuse_other_names
from hamt_bulk.zarr.roots import RootStore


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


def _of_others(
    root: CID | str | PathLike[str],
    cas: ContentAddressedStore | str,
    encryption: Encryption | None,
    error: MalformedNode,
) -> RootStore:
    """The store of a root that is no tree of py-hamt 3's, as `error` says."""
    try:
        opened = open_root(root, cas, encryption=encryption)
    except InvalidInput as other:
        raise other from error
    if isinstance(opened, PyHamtRoot):
        raise error  # it is damaged
    return RootStore(opened)


def _store(
    root: CID | str | PathLike[str],
    cas: ContentAddressedStore | str | None,
    encryption: Encryption | None,
    options: dict[str, Any],
) -> Any:  # xarray's own type leaves Zarr stores out
    """
    The store of a root; the Zarr format that it has goes to `options`, unless they name one.

    That is 3 where the group's metadata is a zarr.json; else zarr has to look, for four documents at once, of which each
    costs a request on a network.
    """
    if cas is None:
        raise InvalidInput(
            'where are the blocks? Pass cas=, a store or its URL: xr.open_dataset(root, engine="hamt", cas="store")'
        )
    tree = open_checked(root, cas, checked(encryption))
    store: ZarrHAMTStore | RootStore = tree
    folder = (options.get("group") or "").strip("/")
    document = f"{folder}/zarr.json".lstrip("/")
    try:
        found = 3 if has(tree, document) else None
        if found is None:
            refuse_other_names(tree)
    except MalformedNode as error:
        store = others = _of_others(root, cas, encryption, error)
        found = 3 if document in others.source else None
    if options.get("zarr_format") is None:
        options["zarr_format"] = found
    return store

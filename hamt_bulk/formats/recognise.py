"""`open_root`: whose root it is, told from its block."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING

from hamt_bulk.block import DAG_CBOR, DAG_PB, RAW, AnyCID, Data, parse, text, to_bytes
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import BlockNotFound, InvalidInput
from hamt_bulk.foreign import from_cbor
from hamt_bulk.formats.ipldstore import MAX_ROOT_BYTES, IpldstoreRoot, is_ipldstore, why_no_ipldstore
from hamt_bulk.formats.kinds import is_py_hamt_2, is_pyhamt
from hamt_bulk.formats.root import Root
from hamt_bulk.formats.sealed import opened_with, transformer_of
from hamt_bulk.formats.trees import HashMapRoot, PyHamt2Root, PyHamtRoot, Transformer
from hamt_bulk.hashers import blake3_hashfn
from hamt_bulk.layout import PyHamt
from hamt_bulk.layout.cbor import MAP
from hamt_bulk.layout.hashmap import is_hashmap
from hamt_bulk.layout.seen import described
from hamt_bulk.shapes import placing_of_2, shape_of
from hamt_bulk.tree.guards import refuse_child

if TYPE_CHECKING:
    from hamt_bulk.crypto import Encryption

WHAT_IS_READ = "a root of py-hamt 1, 2 or 3, of an IPLD HashMap or of ipldstore"


def open_root(
    root: AnyCID | PathLike[str],
    cas: ContentAddressedStore | str | PathLike[str],
    *,
    encryption: "Encryption | None" = None,
    transformer_decode: Transformer | None = None,
) -> Root:
    """
    A root of any kind, for reading: of py-hamt 1, 2 and 3, of an IPLD HashMap (js ipld-hashmap, IAMap) and of ipldstore.

        opened = open_root(root, cas)
        opened.kind, len(opened), opened.get("zarr.json")
        ds = xr.open_zarr(opened.store())

    encryption          what its values, and perhaps its key names, were encrypted with
    transformer_decode  that of py-hamt 2, for a root of it

    Loads the root, and of a HashMap with nothing but links in it one node a level, to see how its keys are placed. Raises
    `InvalidInput`, which says what was seen, for what is no root.
    """
    cid, opened = to_bytes(root), open_cas(cas)
    if encryption is not None:
        from hamt_bulk.crypto import checked

        checked(encryption)
    if encryption is not None and transformer_decode is not None:
        raise InvalidInput("encryption= and transformer_decode=: values are decoded by one of them")
    found = _recognised(cid, opened, transformer_decode or transformer_of(encryption))
    if transformer_decode is not None and not isinstance(found, PyHamt2Root):
        raise InvalidInput(
            f"transformer_decode= is for roots of py-hamt 2, and {text(cid)} is a {found.kind} root: wrap its store in "
            "hamt_bulk.zarr.TransformedStore"
        )
    return found if encryption is None else opened_with(found, encryption)


def _recognised(cid: bytes, cas: ContentAddressedStore, transformer: Transformer | None) -> Root:
    codec = parse(cid).codec
    reader = Reader(cas)
    if codec == DAG_PB:
        with _naming(cid, cas):
            start = _start_of(reader, cid)
        if is_ipldstore(start):
            return IpldstoreRoot(cid, cas)  # of a version of dClimate's that had `ipfs add` take its roots
    if codec in (RAW, DAG_PB):
        what = "raw bytes, a value" if codec == RAW else "a UnixFS file or folder"
        raise InvalidInput(f"{text(cid)} names {what}, and not {WHAT_IS_READ}")
    if codec != DAG_CBOR:
        raise InvalidInput(f"{text(cid)} has the codec {codec:#x}, and a root is dag-cbor ({DAG_CBOR:#x})")
    with _naming(cid, cas):
        [data] = reader.blocks([cid])
    if is_pyhamt(data):
        layout = PyHamt()
        refuse_child(cid, layout.decode(cid, data, is_root=True), layout, blake3_hashfn)
        return PyHamtRoot(cid, cas)
    if is_hashmap(data):
        return HashMapRoot(cid, cas, shape_of(cid, data, reader))
    if is_py_hamt_2(data):
        return PyHamt2Root(cid, cas, transformer, placing_of_2(cid, data, reader))
    why = why_no_ipldstore(data)
    if why is None:
        return IpldstoreRoot(cid, cas)
    seen = _seen(data)
    more = f"; for an ipldstore, {why}" if seen.startswith("a map") else ""
    raise InvalidInput(f"{text(cid)} is not {WHAT_IS_READ}: {seen}{more}")


@contextmanager
def _naming(root: bytes, cas: ContentAddressedStore) -> Iterator[None]:
    try:
        yield
    except BlockNotFound as error:
        raise BlockNotFound(f"the root {text(root)} is not in this store, {cas!r}: {error}") from error


def _start_of(reader: Reader, cid: bytes) -> bytes:
    """A file, or its first byte where that does not begin a dag-cbor map."""
    first = reader.read(cid, 0, 1)
    return reader.read(cid, 0, MAX_ROOT_BYTES + 1) if first and first[0] & 0xE0 == MAP else first


def _seen(data: Data) -> str:
    try:
        return described(from_cbor(data))
    except ValueError as error:
        return f"{len(data)} bytes that are no dag-cbor ({error})"

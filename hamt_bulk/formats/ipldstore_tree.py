"""
The one block that an ipldstore root is: a hierarchy as nested maps.

    root   = folder
    folder = {segment: part, …}          segments: the parts of a key between its slashes
    part   = folder
           | link                        the CID of a value
           | document                    under .zarray, .zgroup, .zattrs, .zmetadata: the JSON that it holds

Two relatives are read as well. In the oldest version the root was one folder whose segments were whole keys,
slashes and all. A fork keeps its chunks in an IPLD HashMap, which the root links to as `hamt`.

Sources: the code of d70-t/ipldstore and of dClimate/ipldstore.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from hamt_bulk.block import DAG_CBOR, DAG_PB, RAW, parse
from hamt_bulk.errors import Conflict, InvalidInput
from hamt_bulk.foreign import from_json
from hamt_bulk.formats.ipldstore_cbor import Link, decode, encode
from hamt_bulk.manifest import encode_key
from hamt_bulk.pointers import INLINE, is_inline

DOCUMENTS = (".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""The last segments of keys whose values lie in the root itself. `zarr.json` is not one of them."""

HAMT = "hamt"
"""Where a fork's root links to the HashMap of its chunks."""


VALUE_CODECS = (RAW, DAG_PB)
"""What leaves link to: bytes in a block, or in a file of several."""

MAX_KEY_SHARE = 16
"""How many times as long as its block the keys of a root may be together: all that lies in a folder repeats its name."""


class Hierarchy(NamedTuple):
    """What a root's block says: the pointers by key, and the CID of the HashMap that has the others."""

    entries: dict[str, bytes]
    hamt: bytes | None


def parse_root(data: bytes) -> Hierarchy:
    """What the block of an ipldstore root says. Raises `ValueError` with what it holds, when it is none."""
    root = decode(data)
    if not isinstance(root, dict):
        raise ValueError(f"{_name(root)}, expected a map")
    link = root.get(HAMT)
    hamt = bytes(link) if isinstance(link, Link) and parse(link).codec == DAG_CBOR else None
    entries: dict[str, bytes] = {}
    room = MAX_KEY_SHARE * len(data)
    for key, part in _parts("", root):
        room -= len(key)
        if room < 0:
            raise ValueError(f"its keys are more than {MAX_KEY_SHARE} times as long as it is")
        if key == HAMT and hamt is not None:
            continue
        if key in entries:
            raise ValueError(f"the key {key!r:.80} comes twice")
        entries[key] = _pointer(key, part)
    if conflict := _both(entries):
        raise ValueError(f"{conflict!r:.80} is both a value and a folder")
    return Hierarchy(entries, hamt)


def encode_root(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """
    The block of the root that has these keys.

    For a document's key comes its JSON, or its inline pointer; for any other the CID of the value. Raises
    `InvalidInput` for what the format has no form for, and `Conflict` for a key with two values.
    """
    given: dict[str, bytes] = {}
    for key, value in entries:
        encode_key(key)
        if given.setdefault(key, value) != value:
            raise Conflict(f"{key!r} is given two values: {given[key][:40]!r} and {value[:40]!r}")
    if conflict := _both(given):
        raise InvalidInput(
            f"{conflict!r} is a value, and other keys lie below it: ipldstore has no form for that"
        )
    root: dict[str, Any] = {}
    for key, value in given.items():
        *folders, name = key.split("/")
        inside = root
        for folder in folders:
            if folder in DOCUMENTS:
                raise InvalidInput(
                    f"{key!r}: what lies in a folder {folder!r} would be taken for a document's content"
                )
            inside = inside.setdefault(folder, {})
        inside[name] = _document(key, value) if name in DOCUMENTS else _link(key, value)
    try:
        return encode(root)
    except ValueError as error:  # each document has a form, so it is the depth of the keys
        raise InvalidInput(f"the keys have too many slashes: {error}") from None


def pointer_of_document(key: str, data: bytes) -> bytes:
    """The inline pointer of a document, from its JSON. Raises `InvalidInput` for what dag-cbor has no form for."""
    return INLINE + encode(_document(key, data))


def document(pointer: bytes) -> bytes:
    """The JSON of a document that lies in the root, as `json.dumps` gives it."""
    return json.dumps(decode(pointer[len(INLINE) :])).encode()


def _parts(prefix: str, folder: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What lies below a folder that is no folder itself, with its key."""
    waiting = [(prefix, folder)]
    while waiting:
        prefix, folder = waiting.pop()
        for name, part in folder.items():
            if isinstance(part, dict) and not is_document(name):
                waiting.append((f"{prefix}{name}/", part))
            else:
                yield prefix + name, part


def is_document(key: str) -> bool:
    """Whether the value of `key` lies in the root itself."""
    return key.rpartition("/")[2] in DOCUMENTS


def _pointer(key: str, part: Any) -> bytes:
    """What the root holds under `key`."""
    if is_document(key):
        if not isinstance(part, dict) or (other := _other_than_json(part)) is not None:
            found = f"{_name(other)} within it" if isinstance(part, dict) else _name(part)
            raise ValueError(f"{key!r:.80} is {found}, expected the JSON of a document")
        return INLINE + encode(part, strict=False)
    if not isinstance(part, Link):
        raise ValueError(f"{key!r:.80} is {_name(part)}, expected a link to a value or a map, a folder")
    if parse(part).codec not in VALUE_CODECS:
        raise ValueError(
            f"{key!r:.80} links to codec {parse(part).codec:#x}, expected raw or dag-pb, a value"
        )
    return bytes(part)


def _document(key: str, given: bytes) -> dict[str, Any]:
    """The content of a document, from its JSON or its inline pointer."""
    try:
        content = decode(given[len(INLINE) :]) if is_inline(given) else from_json(given)
        if not isinstance(content, dict):
            raise ValueError(f"{_name(content)}, expected an object")
        encode(content)
    except ValueError as error:
        raise InvalidInput(
            f"{key!r} has no form in an ipldstore root, whose documents are JSON that is also IPLD: {error}. A "
            '"pyhamt" root keeps documents as they are'
        ) from None
    return content


def _link(key: str, given: bytes) -> Link:
    if is_inline(given):
        raise InvalidInput(
            f"{key!r} has its value inline, and an ipldstore root links to it: save it, and give its CID"
        )
    if parse(given).codec not in VALUE_CODECS:
        raise InvalidInput(
            f"{key!r} has a CID of codec {parse(given).codec:#x}, and an ipldstore root links to raw bytes"
        )
    return Link(given)


def _both(keys: Mapping[str, bytes]) -> str | None:
    """A key that is also a folder of others, if there is one."""
    # To note the folders of a key, all of them, takes the square of its length. In this order what lies in one follows it.
    above = ""
    for key in sorted(keys, key=_slashes_first):
        if key.startswith(f"{above}/") and above in keys:
            return above
        above = key
    return None


def _slashes_first(key: str) -> str:
    """What sorts as the key would if no character were before a slash."""
    return key.replace("\1", "\1\2").replace("\0", "\1\1").replace("/", "\0")


def _other_than_json(whole: Any) -> Any:
    """A part that JSON has no form for, if there is one."""
    waiting = [whole]
    while waiting:
        match part := waiting.pop():
            case dict():
                waiting += part.values()
            case list():
                waiting += part
            case bytes():
                return part
    return None


def _name(value: Any) -> str:
    """What a value is, in a word or two."""
    match value:
        case None:
            return "null"
        case Link():
            return "a link"
        case bytes():
            return f"a byte string of {len(value)}"
        case str():
            return f"the text {value[:40]!r}"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"a map of {len(value)}"
        case _:
            return f"{value!r:.40}"

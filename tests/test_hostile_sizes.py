"""Small input that asks for much: keys, blocks, indexes, and lists without end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import dag_cbor
import pytest
from fuzz.answers import _ADDRESS, server
from hypothesis import given
from hypothesis import strategies as st
from measured import peak_of

from hamt_bulk import CarCAS, InMemoryCAS, build, check, foreign, open_root
from hamt_bulk.block import BLAKE3, Block, identify, text, to_cid, varint
from hamt_bulk.car import header_v1, section_head
from hamt_bulk.car_index import MAX_KINDS, Columns, decode_index, encode_index
from hamt_bulk.cas.ipfs.credentials import Credentials
from hamt_bulk.cas.ipfs.retry import Retries
from hamt_bulk.cas.ipfs.server import Server
from hamt_bulk.cas.ipfs.transport import Answer, Request, Transport
from hamt_bulk.crypto.encryption import _path_of
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput
from hamt_bulk.foreign import MAX_HOLDERS, SMALL_BYTES, from_cbor, from_json
from hamt_bulk.formats.ipldstore_tree import encode_root, parse_root
from hamt_bulk.formats.kinds import links_of_block
from hamt_bulk.formats.trees import from_value
from hamt_bulk.ipfs import pinapi, remotepins
from hamt_bulk.ipfs.pinapi import PinningApi
from hamt_bulk.keys import array_of, is_metadata
from hamt_bulk.layout import PyHamt
from hamt_bulk.layout.cbor import ARRAY, MAP, TEXT, head
from hamt_bulk.pointers import INLINE, inline_value
from hamt_bulk.roots.hierarchy import _folders
from hamt_bulk.zarr.folders import Folders

CID = identify(b"any", 0x71)
LINK = b"\xd8\x2a\x58\x25\x00" + identify(b"value")
LONG = 200_000
TERMINAL = "\x1b]0;title\x07"
SPOOF = f"a{TERMINAL}\nsound\u202e"


# Keys

NAMES = st.lists(st.sampled_from(["c", "0", "12", "/", ".", "a", "c/", "/0", "zarr.json"])).map("".join)


@given(NAMES)
def test_the_array_of_a_key_is_what_the_longest_end_that_is_a_chunks_leaves(key: str) -> None:
    """Against patterns that try every place, which takes the square of the length."""
    found = re.search(r"(?:^|/)(?:c(?:/[0-9]+)+|[0-9]+(?:[./][0-9]+)*)\Z", key)
    assert array_of(key) == (None if found is None else key[: found.start()])
    found = re.search(r"(?:^|/)(?:c(?:[./][0-9]+)*|[0-9]+(?:[./][0-9]+)*)\Z", key)
    if not is_metadata(key):
        assert _path_of(key) == (None if found is None else key[: found.start()])
    cuts = [-1, *(at for at, char in enumerate(key) if char == "/")]
    chunk = re.compile("(?:c|[0-9]+)(?:/[0-9]+)*")
    assert list(_folders(key)) == [
        key[: max(cut, 0)] for cut in cuts if cut == cuts[-1] or chunk.fullmatch(key, cut + 1)
    ]


@pytest.mark.parametrize("part", ["0", "a", "c", ""])
@pytest.mark.parametrize("end", ["", "x", "/c"])
def test_a_very_long_key_is_placed_at_once(part: str, end: str) -> None:
    """A key may be as long as a node; what takes the square of that never ends."""
    key = "/".join([part] * LONG) + end
    assert array_of(key) == _path_of(key) or end == "/c" or part == "c"
    assert next(iter(_folders(key))) in ("", key.rpartition("/")[0], key[: -2 * len(end)])
    folders = Folders()
    assert peak_of(lambda: folders.add(key)) < 64 * LONG
    assert folders.names("nothing") in (None, {})


def test_a_tree_with_such_a_key_is_checked_and_listed() -> None:
    cas = InMemoryCAS()
    keys = ["/".join([part] * 100_000) + end for part in "0a" for end in ("", "x")]
    root = build({"zarr.json": b'{"zarr_format": 3, "node_type": "group"}'} | dict.fromkeys(keys, b"1"), cas)
    assert check(root, cas, progress=False).problem_count == len(keys)
    assert {*open_root(root, cas).keys()} == {"zarr.json", *keys}


def test_the_folders_of_ordinary_hierarchies_are_remembered_as_ever() -> None:
    folders = Folders()
    for number in range(20_000):
        folders.add(f"group/variable_{number}/zarr.json")
    assert len(folders.names("group") or ()) == 20_000
    folders.add("/".join(["deep"] * LONG))
    assert folders.names("group") is None, "so it is walked"


# Roots of one block


def test_a_key_of_slashes_takes_no_more_than_its_length() -> None:
    key = b"/" * LONG
    data = b"\xa1" + head(TEXT, len(key)) + key + LINK
    assert peak_of(lambda: parse_root(data)) < 20 * LONG
    assert parse_root(data).entries.keys() == {"/" * LONG}


def test_a_long_folder_full_of_keys_is_refused() -> None:
    """Each key has the folder's name in it: 2 MB of block would be 20 GB of keys."""
    name, count = b"a" * 1_000_000, 20_000
    inner = head(MAP, count) + b"".join(b"\x65%05d" % number + LINK for number in range(count))
    data = b"\xa1" + head(TEXT, len(name)) + name + inner

    def refused() -> None:
        with pytest.raises(ValueError, match="its keys are more than 16 times as long as it is"):
            parse_root(data)

    assert peak_of(refused) < 100 << 20


PARTS = st.lists(st.sampled_from(["a", "/", "\0", "\1", "-", "b/"]), min_size=1, max_size=6).map("".join)


@given(st.sets(PARTS, max_size=8))
def test_a_key_that_is_also_a_folder_is_found(keys: set[str]) -> None:
    below = [(key, other) for key in keys for other in keys if other.startswith(f"{key}/")]
    entries = [(key, identify(b"value")) for key in sorted(keys)]
    if below:
        with pytest.raises(InvalidInput, match="is a value, and other keys lie below it"):
            encode_root(entries)
    else:
        assert parse_root(encode_root(entries)).entries == dict(entries)


# Blocks


def full_of(item: bytes, count: int) -> bytes:
    return head(ARRAY, count) + item * count


ITEMS = {
    "empty maps": b"\xa0",
    "maps of one": b"\xa1\x60\x00",
    "lists of one": b"\x81\x00",
    "numbers": b"\x00",
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=list(ITEMS))
def test_a_block_that_is_far_larger_in_memory_is_not_decoded(
    item: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here with limits of a thousandth, since a measured call takes its time."""
    monkeypatch.setattr(foreign, "MAX_ITEMS", 1 << 10)
    monkeypatch.setattr(foreign, "MAX_HOLDERS", 1 << 8)
    monkeypatch.setattr(foreign, "SMALL_BYTES", 1 << 8)
    data = full_of(item, 20_000)

    def refused() -> None:
        for decode in (from_cbor, from_value, lambda data: PyHamt().decode(CID, data)):
            with pytest.raises(ValueError, match="more than 1,024 values, or 256 lists and maps"):
                decode(data)
        with pytest.raises(InvalidInput, match="more than"):
            inline_value(INLINE + data)

    assert peak_of(refused) < 200_000
    assert links_of_block(CID, data) == [], "which are found without"


@pytest.mark.parametrize("count", [MAX_HOLDERS - 1, MAX_HOLDERS])
def test_what_a_block_may_hold_is_decoded_and_no_more(count: int) -> None:
    data = full_of(b"\xa0", count)
    if count < MAX_HOLDERS:
        assert len(data) > SMALL_BYTES and len(from_cbor(data)) == count
        return
    with pytest.raises(ValueError, match="more than 1,048,576 values, or 262,144 lists and maps"):
        from_cbor(data)


def test_blocks_of_many_links_and_of_long_strings_are_decoded_as_ever() -> None:
    links = full_of(LINK, 45_000)
    assert len(from_cbor(links)) == len(links_of_block(CID, links)) == 45_000
    pages = head(ARRAY, 2) + head(0x40, 1 << 21) + b"\xa0" * (1 << 21) + b"\x00"
    assert from_cbor(pages)[1] == 0, "the bytes of a string are no maps"


@pytest.mark.parametrize("depth", [250, 900])
def test_what_is_said_of_a_nested_value_is_short(depth: int) -> None:
    data = b"\x82\xa0" * depth + b"\x81"
    with pytest.raises(InvalidInput, match="is not dag-cbor") as caught:
        inline_value(INLINE + data)
    with pytest.raises(ValueError) as told_so:
        from_value(data)
    assert max(len(str(caught.value)), len(str(told_so.value))) < 400


def test_values_of_all_kinds_are_decoded_as_ever() -> None:
    value = [1, "text", b"bytes", None, {"a": [to_cid(CID)]}, 1.5, [[]] * 50]
    assert from_value(dag_cbor.encode(value)) == inline_value(INLINE + dag_cbor.encode(value)) == value


CRASH = """
import sys, threading
sys.setrecursionlimit(1_000_000)
from hamt_bulk.foreign import from_json

def decode():
    for deep in ("[" * 400_000, '{"a":' * 400_000, "[" * 400_000 + "]" * 400_000, "[1, " * 257):
        for data in (deep, deep.encode(), deep.encode("utf-16")):
            try:
                from_json(data)
            except ValueError as error:
                print("nest deeper than 256" in str(error))

thread = threading.Thread(target=decode)
thread.start()
thread.join()
"""


def test_a_program_that_raised_pythons_recursion_limit_is_not_ended_by_json() -> None:
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["True"] * 12, "")


@given(
    st.recursive(
        st.text("[]{}\\\"'a\n") | st.none() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('[{\\"'), inner),
    )
)
def test_json_that_is_measured_first_is_decoded_as_ever(value: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "SAFE_RECURSION", 0)
        for encoding in ("utf-8", "utf-16", "utf-32-le"):
            assert from_json(json.dumps(value, ensure_ascii=False).encode(encoding)) == value
        for broken in ('"[[[', '"\\"' + "[" * 300, "[" * 256 + '"' + "[" * 300):
            with pytest.raises(ValueError, match=r"Unterminated|Expecting|Invalid"):
                from_json(broken)
        assert from_json('"' + "[" * 300 + '"') == "[" * 300


# Indexes


def test_a_car_file_of_very_many_kinds_of_hashes_is_indexed_in_little_memory(tmp_path: Path) -> None:
    """What can be verified is found, wherever it lies; of the others, which cannot, no more than an index may have."""
    count, block = 8000, Block(identify(b"value"), b"value")
    junk = (b"\x01\x55" + varint(1000 + number) + b"\x00" for number in range(count))
    path = tmp_path / "kinds.car"
    sections = b"".join(varint(len(cid)) + cid for cid in junk)
    path.write_bytes(header_v1() + sections + section_head(block.cid, len(block.data)) + bytes(block.data))
    cas = CarCAS(path)
    assert peak_of(lambda: cas.has_many([block.cid])) < 3 << 20
    assert cas.load_blocks([block.cid]) == [b"value"]
    assert len(cas._open()[1]) == MAX_KINDS + 1
    with pytest.raises(BlockNotFound):
        cas.load_blocks([identify(b"another")])


def test_an_index_of_too_many_kinds_is_made_again_from_the_file() -> None:
    import numpy as np

    def index(count: int) -> bytes:
        one = Columns(np.zeros((1, 32), np.uint8), np.zeros(1, np.uint64))
        return encode_index({(code, 32): one for code in range(BLAKE3, BLAKE3 + count)})

    assert len(decode_index(index(MAX_KINDS))) == MAX_KINDS
    with pytest.raises(InvalidInput, match="digests of more than 1024 kinds; scan the file"):
        decode_index(index(MAX_KINDS + 1))


# Servers


class Endless(Transport):
    """A pinning service that always has another page."""

    def __init__(self, details: str = "") -> None:
        self.asked = 0
        self._details = details

    async def _send(self, request: Request) -> Answer:
        self.asked += 1
        pin = {
            "requestid": str(self.asked),
            "status": "pinned",
            "created": f"2030-01-{self.asked}",
            "pin": {"cid": text(identify(b"a")), "name": "name"},
            "info": {"status_details": self._details},
        }
        return Answer(200, {}, json.dumps({"count": 1 << 40, "results": [pin]}).encode())

    async def close(self) -> None:
        """There is nothing to close."""


@pytest.mark.parametrize(("details", "pages"), [("", 7), ("x" * 5000, 3)])
async def test_a_service_that_has_another_page_for_ever_is_not_asked_for_ever(
    details: str, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the number of pages, or by all that they say."""
    monkeypatch.setattr(pinapi, "MAX_PAGES", 7)
    monkeypatch.setattr(pinapi, "MAX_LISTED_BYTES", 12_000)
    transport, retries = Endless(details), Retries(0, 1.0, 1.0)
    api = PinningApi(Server(_ADDRESS, transport, Credentials({}), retries, 1, trusted=True), retries)
    with pytest.raises(CASError, match=f"more requests than are listed, {pages} came: ask for a name"):
        await api.requests(None, None, remotepins.STATES)
    assert transport.asked == pages


async def test_what_a_server_says_does_not_speak_to_the_terminal() -> None:
    said = f"no {TERMINAL} such \x9b31m thing \u202e" + "x" * 100_000
    refusal = json.dumps({"error": {"reason": said, "details": said}}).encode()
    for status, body in ((200, said.encode()), (400, said.encode()), (400, refusal)):
        with pytest.raises(CASError, match=r"no \\+x1b\]0;title\\+x07") as caught:
            await PinningApi(server(status, {}, body), Retries(0, 1.0, 1.0)).request("1")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 2500

"""The hashes that place keys: known answers, and how others are registered."""

import hashlib
import json
import pickle
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import cloudpickle
import dag_cbor
import mmh3
import pytest
from multiformats import CID

from hamt_bulk import hashers, manifest
from hamt_bulk.block import DAG_CBOR, RAW, identify, text
from hamt_bulk.errors import InvalidInput
from hamt_bulk.hashers import (
    BLAKE3,
    MURMUR3_32,
    MURMUR3_128,
    SHA2_256,
    KeyHasher,
    hasher_of,
    register_hasher,
)

BUILT_IN = [SHA2_256, BLAKE3, MURMUR3_128, MURMUR3_32]
ROWS = json.loads((Path(__file__).parent / "vectors" / "roots.json").read_text())["ipld_hashmap"]
MURMUR3 = {
    b"": (0, 0, 0),
    b"hello": (0x248BFA47, 0xCBD8A7B341BD9B02, 0x5B1E906A48AE1D19),
    b"hello, world": (0x149BBB7F, 0x342FAC623A5EBC8E, 0x4CDCBC079642414D),
    b"19 Jan 2038 at 3:14:07 AM": (0xE31E8A70, 0xB89E5988B737AFFC, 0x664FC2950231B2CB),
    b"The quick brown fox jumps over the lazy dog.": (0xD5C48BFC, 0xCD99481F9EE902C9, 0x695DA1A38987B6E7),
}
"""The 32-bit hash and both halves of the 128-bit one: spaolacci/murmur3, murmur_test.go, seed 0."""


def sha1_hashfn(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def other_hashfn(data: bytes) -> bytes:
    return sha1_hashfn(data)[::-1]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(hashers, "_by_code", dict(hashers._by_code))


def test_sha2_256_gives_the_standards_digests():
    """FIPS 180-4's examples: the one-block message "abc", and the empty one of NIST's SHA256ShortMsg.rsp."""
    assert SHA2_256.hash(b"").hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert SHA2_256.hash(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("length", "digest"),
    [
        (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
        (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"),
    ],
)
def test_blake3_gives_the_digests_of_its_test_vectors(length, digest):
    """BLAKE3-team/BLAKE3, test_vectors/test_vectors.json: bytes 0 to 250, repeated."""
    assert BLAKE3.hash(bytes(n % 251 for n in range(length))).hex() == digest


@pytest.mark.parametrize("data", MURMUR3)
def test_murmur3_gives_the_published_numbers_in_iamaps_byte_order(data):
    """Each half of the 128 bits is big-endian, the 32 bits are little-endian."""
    short, first, second = MURMUR3[data]
    assert MURMUR3_128.hash(data) == struct.pack(">QQ", first, second)
    assert MURMUR3_32.hash(data) == struct.pack("<I", short)


def test_murmur3_passes_smhashers_verification():
    """
    SMHasher's VerificationTest (main.cpp lists both numbers): keys 0, 0 1, 0 1 2, … each with a seed of 256 minus
    its length, and the hash of all their digests with seed 0, which here is ours.
    """
    keys = [bytes(range(length)) for length in range(256)]
    digests = b"".join(mmh3.mmh3_32_digest(key, 256 - len(key)) for key in keys)
    assert int.from_bytes(MURMUR3_32.hash(digests), "little") == 0xB0F57EE3
    digests = b"".join(mmh3.mmh3_x64_128_digest(key, 256 - len(key)) for key in keys)
    assert int.from_bytes(MURMUR3_128.hash(digests)[4:8], "big") == 0x6384BA69


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["impl"] == "iamap" and "root_hex" in row], ids=lambda row: row["id"]
)
def test_roots_of_iamap_name_a_hasher_that_places_their_keys(row):
    """IAMap's own roots of one node say which byte order its murmur3-128 has: the bits of their slots."""
    keys = [f"temp/c/{t // 400}/{t // 20 % 20}/{t % 20}".encode() for t in range(row["n"])]
    hasher = hasher_of(row["hash_alg_code"])
    assert hasher is hasher_of(row["index_hash"])
    slots = defaultdict(list)
    for key in keys:
        bits = f"{int.from_bytes(hasher.hash(key), 'big'):0{8 * len(hasher.hash(key))}b}"
        slots[int(bits[: row["bit_width"]], 2)].append(key)
    assert one_node_root(slots, row) == row["root"]


def one_node_root(slots: dict[int, list[bytes]], row) -> str:
    """The CID of an IPLD HashMap of one node."""

    def value(key: bytes) -> CID:
        return CID.decode(identify(b"v:" + key, RAW, row["value_kind"].removeprefix("cid-")))

    bits = sum(1 << slot for slot in slots).to_bytes(2 ** row["bit_width"] // 8, "little")
    data = [[[key, value(key)] for key in sorted(slots[slot])] for slot in sorted(slots)]
    root = {"hamt": [bits, data], "hashAlg": row["hash_alg_code"], "bucketSize": row["bucket_size"]}
    return text(identify(dag_cbor.encode(root), DAG_CBOR, row["block_hash"]))


@pytest.mark.parametrize("hasher", BUILT_IN, ids=lambda hasher: hasher.name)
def test_a_hasher_is_found_by_name_and_by_code_and_stays_itself(hasher):
    assert hasher_of(hasher.name) is hasher_of(hasher.code) is hasher_of(hasher) is hasher
    assert len(hasher.hash(b"")) == {"murmur3-128": 16, "murmur3-32": 4}.get(hasher.name, 32)


def test_pyhamts_hash_is_the_blake3_of_the_table():
    """By identity: manifests hash many keys at a time when it is this one."""
    assert BLAKE3.hash is manifest.blake3_hashfn


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0x1B, r"hash code 0x1b is not registered: .*sha2-256 \(0x12\).* call hamt_bulk.register_hasher"),
        ("keccak-256", "key hasher 'keccak-256' is not registered"),
        ("0x12", "key hasher '0x12' is not registered"),
        (None, "key hasher None is not registered"),
        (True, "hash code 0x1 is not registered"),
    ],
)
def test_an_unknown_hasher_is_refused_with_those_there_are(which, message):
    with pytest.raises(InvalidInput, match=message):
        hasher_of(which)


def test_a_registered_hasher_is_found_and_registering_it_again_gives_the_same():
    hasher = register_hasher("sha1", 0x11, sha1_hashfn)
    assert hasher == KeyHasher("sha1", 0x11, sha1_hashfn)
    assert hasher_of("sha1") is hasher_of(0x11) is register_hasher("sha1", 0x11, sha1_hashfn) is hasher


@pytest.mark.parametrize(
    ("name", "code", "function"),
    [("sha1", 0x11, other_hashfn), ("sha1", 0x99, sha1_hashfn), ("other", 0x11, sha1_hashfn)],
    ids=["another function", "another code", "another name"],
)
def test_a_name_and_a_code_stand_for_one_function(name, code, function):
    hasher = register_hasher("sha1", 0x11, sha1_hashfn)
    with pytest.raises(InvalidInput, match=r"'sha1' \(0x11\) already is, with test_hashers.sha1_hashfn"):
        register_hasher(name, code, function)
    assert hasher_of("sha1") is hasher_of(0x11) is hasher
    for which in (0x99, "other"):
        with pytest.raises(InvalidInput, match="is not registered"):
            hasher_of(which)


def test_the_built_in_hashers_cannot_be_replaced():
    with pytest.raises(InvalidInput, match=r"already is, with hamt_bulk\.hashers\.sha2_256_hashfn"):
        register_hasher("sha2-256", 0x12, sha1_hashfn)
    assert hasher_of(0x12).hash(b"") == hashlib.sha256().digest()


counter = iter(range(10**6))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda data: b"123", "digests of 3, 3, 3 bytes, expected one length of at least 4"),
        (lambda data: b"1234" + data, "digests of 4, 5, 260 bytes, expected one length"),
        (lambda data: "1234", "gave str, expected bytes"),
        (lambda data: bytearray(4), "gave bytearray, expected bytes"),
        (hashlib.sha256, "gave HASH, expected bytes"),
        (lambda data: next(counter).to_bytes(4, "big"), "gave two digests for b''"),
    ],
    ids=["short", "longer with the key", "text", "bytearray", "object", "not a function of the key"],
)
def test_a_function_that_cannot_place_keys_is_refused(function, message):
    with pytest.raises(InvalidInput, match=message):
        register_hasher("bad", 0x300001, function)
    with pytest.raises(InvalidInput, match="not registered"):
        hasher_of("bad")


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("", 0x300001, "must be text that is not empty"),
        (None, 0x300001, "must be text that is not empty, found None"),
        ("x", -1, "whole number from 0 to 0x7fffffffffffffff, found -1"),
        ("x", 1 << 63, "whole number from 0 to"),
        ("x", "0x12", "whole number from 0 to .*, found '0x12'"),
        ("x", True, "whole number from 0 to .*, found True"),
    ],
)
def test_a_name_is_text_and_a_code_a_multicodec_number(name, code, message):
    with pytest.raises(InvalidInput, match=message):
        register_hasher(name, code, sha1_hashfn)


@pytest.mark.parametrize(
    "hasher", [*BUILT_IN, KeyHasher("sha1", 0x11, sha1_hashfn)], ids=lambda hasher: hasher.name
)
def test_a_hasher_equals_its_pickle(hasher):
    assert pickle.loads(pickle.dumps(hasher)) == hasher
    assert hash(pickle.loads(pickle.dumps(hasher))) == hash(hasher)
    assert hasher != KeyHasher(hasher.name, hasher.code, other_hashfn)


def test_a_hasher_works_in_a_process_that_did_not_register_it():
    """As Dask sends what a notebook defined: the function goes along, by value where no module has it."""
    sha1 = hashlib.sha1
    hasher = register_hasher("sha1", 0x11, lambda data: sha1(data).digest())
    code = """if True:
        import sys, pickle
        hasher = pickle.load(sys.stdin.buffer)
        from hamt_bulk.hashers import _by_code
        print(hasher.name, hasher.code in _by_code, hasher.hash(b"abc").hex())
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=cloudpickle.dumps(hasher),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [b"sha1", b"False", sha1(b"abc").hexdigest().encode()]

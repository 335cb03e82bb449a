"""The formats that py-hamt writes."""

import dag_cbor
import pytest
from Crypto.Cipher import ChaCha20_Poly1305
from hypothesis import given
from hypothesis import strategies as st
from keys_hidden import KEY

from hamt_bulk import Encryption, errors
from hamt_bulk.crypto import pyhamt, transformers

THREE = Encryption(KEY, header=b"era5", format="py-hamt-3")
TWO = Encryption(KEY, header=b"era5", format="py-hamt-2", exclude_vars=["lat"])

sizes = st.integers(0, 300) | st.sampled_from([65_535, 65_536, 65_540])


def as_py_hamt(value: bytes, header: bytes = b"era5", nonce: bytes = bytes(24)) -> bytes:
    cipher = ChaCha20_Poly1305.new(key=KEY, nonce=nonce)
    cipher.update(header)
    ciphertext, tag = cipher.encrypt_and_digest(value)
    return nonce + tag + ciphertext


@given(st.text(max_size=9), sizes)
def test_format_3_is_nonce_tag_and_ciphertext(key, size):
    value = bytes(size)
    stored = THREE.seal(key, value)
    assert stored == as_py_hamt(value, nonce=stored[:24])
    assert THREE.open(key, stored) == value
    assert THREE.size(key, len(stored)) == size


@given(sizes)
def test_format_2_is_that_of_the_dag_cbor_form(size):
    value = bytes(size)
    stored = TWO.seal("t/c/0", value)
    assert stored == as_py_hamt(dag_cbor.encode(value), nonce=stored[:24])
    assert TWO.open("t/c/0", stored) == value
    assert TWO.size("t/c/0", len(stored)) is None


THREE_HEX = "000000000000000000000000000000000000000000000000cf28f5376f72835affd5d837f77ac899d50eb4005b"
TWO_HEX = "0000000000000000000000000000000000000000000000006a9cdac9e0cc360378f405370880112de619b9194b45"


def test_what_was_written_once_is_read_for_ever():
    assert as_py_hamt(b"value").hex() == THREE_HEX
    assert THREE.open("a", bytes.fromhex(THREE_HEX)) == b"value"
    assert as_py_hamt(b"\x45value").hex() == TWO_HEX
    assert TWO.open("a", bytes.fromhex(TWO_HEX)) == b"value"


@pytest.mark.parametrize("encryption", [THREE, TWO])
def test_what_cannot_be_decrypted_is_a_wrong_key_which_the_format_cannot_tell_from_damage(encryption):
    stored = encryption.seal("a/c/0", b"some value")
    while stored[0] >> 5 == 2:  # a piece of it could be a dag-cbor byte string
        stored = encryption.seal("a/c/0", b"some value")
    others = [
        Encryption(bytes(32), header=b"era5", format=encryption.format).open,
        Encryption(KEY, header=b"", format=encryption.format).open,
    ]
    for opened in others:
        with pytest.raises(
            errors.WrongKey, match="the key or the header is another one, or the data was altered"
        ):
            opened("a/c/0", stored)
    for at in range(len(stored)):
        changed = bytearray(stored)
        changed[at] ^= 1
        with pytest.raises(errors.WrongKey):
            encryption.open("a/c/0", changed)
    for length in range(len(stored)):
        with pytest.raises(errors.WrongKey if length >= 40 else errors.NotAuthentic):
            encryption.open("a/c/0", stored[:length])


def test_what_is_something_else_is_said():
    with pytest.raises(
        errors.WrongKey, match=r"looks like a plain Zarr document: open it without encryption="
    ):
        THREE.open("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(errors.NotAuthentic, match=r"looks like a plain Zarr document"):
        THREE.open("zarr.json", b'{"zarr_format": 3}')
    with pytest.raises(errors.WrongKey, match="encrypted by this package, in the format 'bound'"):
        THREE.open("a", Encryption(KEY).seal("a", b"value"))
    with pytest.raises(errors.NotAuthentic, match="format='py-hamt-3'"):
        Encryption(KEY).open("a", THREE.seal("a", b"value"))


def test_these_formats_do_not_tie_a_value_to_its_key():
    """What the documentation says of them."""
    for encryption in (THREE, TWO):
        assert encryption.open("another", encryption.seal("a/c/0", b"value")) == b"value"


@pytest.mark.parametrize(
    "key", ["zarr.json", "t/zarr.json", "oddzarr.json", "lat/c/0", "lat/.zarray", "lat/deep/c/0"]
)
def test_in_format_2_metadata_and_what_is_excluded_stay_clear(key):
    assert TWO.is_clear(key) and TWO.seal(key, b"value") == b"value" == TWO.open(key, b"value")
    assert TWO.size(key, 5) == 5


@pytest.mark.parametrize("key", ["lat", "t/c/0", "g/lat/c/0", ".zmetadata", "t/.zarray"])
def test_in_format_2_all_else_is_encrypted(key):
    assert not TWO.is_clear(key)


@given(sizes)
def test_in_format_2_what_its_writer_excluded_is_read(size):
    reader = Encryption(bytes(32), header=b"", format="py-hamt-2")
    assert reader.open("time/c/0", dag_cbor.encode(bytes(size))) == bytes(size)


@pytest.mark.parametrize(
    "data",
    [b"\x45valu", b"\x45values", b"\x58\x05value", b"\x5f\x41a\xff", b"\x65value", b"", b"\x5b" + bytes(8)],
)
def test_only_a_byte_string_in_the_strict_sense_is_taken_for_that(data):
    assert pyhamt.from_cbor_bytes(data) is None
    with pytest.raises((errors.WrongKey, errors.NotAuthentic)):
        TWO.open("time/c/0", data)


@given(st.binary(max_size=300))
def test_the_dag_cbor_form_is_that_of_dag_cbor(value):
    assert pyhamt.cbor_bytes(value) == dag_cbor.encode(value)
    assert pyhamt.from_cbor_bytes(pyhamt.cbor_bytes(value)) == value
    try:
        expected = dag_cbor.decode(value)
    except Exception:
        expected = None
    assert pyhamt.from_cbor_bytes(value) == (expected if isinstance(expected, bytes) else None)


def test_what_decrypts_to_no_byte_string_is_refused():
    with pytest.raises(errors.NotAuthentic, match="no dag-cbor byte string"):
        TWO.open("t/c/0", as_py_hamt(dag_cbor.encode({"a": 1})))


# The pair that py-hamt 2 gives


def test_transformers_are_py_hamt_2s():
    encode, decode = transformers(TWO)
    form = dag_cbor.encode(b"value")
    stored = encode("t/c/0", form)
    assert stored == as_py_hamt(form, nonce=stored[:24]) and decode("t/c/0", stored) == form
    assert TWO.open("t/c/0", stored) == b"value"
    for key in ("zarr.json", "lat/c/0"):
        assert encode(key, form) == form == decode(key, form)
    assert decode("time/c/0", form) == form
    with pytest.raises(errors.WrongKey, match="py-hamt's format cannot tell which"):
        decode("t/c/0", bytes(100))
    with pytest.raises(errors.InvalidInput, match="transformers are for format='py-hamt-2'"):
        transformers(THREE)

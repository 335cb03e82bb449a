"""Records of names whose owners sign what no record may say, or bring keys that no name may have."""

import hashlib
from typing import Any

import libipld
import pytest
from Crypto.PublicKey import RSA
from Crypto.Signature import eddsa
from fuzz.names import KEY, NOW, SAID

from hamt_bulk.block import varint
from hamt_bulk.errors import InvalidInput
from hamt_bulk.ipfs.records import MAX_RECORD_BYTES, BadRecord, key_of, read_record

SECRET = eddsa.import_private_key(bytes(range(32)))
GOOD = libipld.encode_dag_cbor(SAID)


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def signed(said: bytes) -> bytes:
    """What the owner of the name that `KEY` is says, with a signature that is right."""
    signature = eddsa.new(SECRET, "rfc8032").sign(b"ipns-signature:" + said)
    return field(8, signature) + field(9, said)


def by_rsa(key: bytes) -> tuple[bytes, bytes]:
    """A name, and a record that brings this key for it."""
    message = b"\x08\x00" + field(2, key)
    return b"\x12\x20" + hashlib.sha256(message).digest(), field(7, message) + field(8, bytes(256)) + field(
        9, GOOD
    )


def test_the_record_that_the_others_are_made_of_is_good() -> None:
    assert read_record(KEY, signed(GOOD), NOW).value == "/ipfs/bafkqaaa"


@pytest.mark.parametrize("value", [0, -1, 1.5, None, True, "text", b"", b"\xff", [], {}, [b""], 1 << 63])
@pytest.mark.parametrize("name", ["Value", "Validity", "ValidityType", "Sequence"])
def test_a_field_of_another_kind_is_a_bad_record_or_a_harmless_one(name: str, value: Any) -> None:
    data = signed(libipld.encode_dag_cbor(SAID | {name: value}))
    try:
        record = read_record(KEY, data, NOW)
    except BadRecord as error:
        assert "is not its owner's, or valid no longer" in str(error)
    else:
        assert isinstance(record.value, str) and isinstance(record.sequence, int) and record.expires > NOW


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"\x81" * 900 + b"\x80", "list indices"),
        (b"\x81" * 5000 + b"\x80", "nest deeper"),
        (b"\xa0", "'ValidityType'"),
        (b"\xf6", "not subscriptable"),
        (b"text", "DAG-CBOR"),
    ],
)
def test_what_is_signed_and_is_no_record_is_a_bad_one(said: bytes, message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        read_record(KEY, signed(said), NOW)


def test_a_record_has_a_largest_length() -> None:
    with pytest.raises(BadRecord, match="10241 bytes, at most 10240"):
        read_record(KEY, bytes(MAX_RECORD_BYTES + 1), NOW)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("private", {"format": "DER"}),
        ("private", {"format": "DER", "pkcs": 8}),
        ("public", {"format": "PEM"}),
    ],
)
def test_a_key_in_another_form_is_refused_before_anything_is_computed(
    form: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a private key the numbers are tried whether they are primes, which takes minutes for long ones."""
    whole = RSA.generate(2048)
    key, record = by_rsa((whole if form == "private" else whole.public_key()).export_key(**options))
    monkeypatch.setattr(RSA, "import_key", lambda data: pytest.fail("it was looked into"))
    with pytest.raises(BadRecord, match="an RSA key in another form than PKIX"):
        read_record(key, record, NOW)


@pytest.mark.parametrize(
    ("bits", "exponent", "message"),
    [
        (1024, 65537, "another form than PKIX|an RSA key of 1024 bits"),
        (2048, (1 << 2000) + 1, "an exponent of more than 32 bits"),
        (8192, 65537, "[Ii]nvalid signature|Incorrect signature"),
        (16_384, 65537, "another form than PKIX"),
    ],
)
def test_a_key_of_another_size_is_refused(bits: int, exponent: int, message: str) -> None:
    modulus = (1 << bits) - 1 - 2 * sum(1 << number for number in range(5, bits - 2, 3))
    key, record = by_rsa(RSA.construct((modulus | 1, exponent), consistency_check=False).export_key("DER"))
    with pytest.raises(BadRecord, match=message):
        read_record(key, record, NOW)


@pytest.mark.parametrize(
    "name", ["k" + "5" * 100_000, "\0", "", "k51", "1", "Qm", "z" * 2000, "k51ß", "12D3" + "0" * 50]
)
def test_a_text_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a name") as caught:
        key_of(name)
    assert len(str(caught.value)) < 1000

"""Hidden key names, and which keys stay clear."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk import Encryption, errors

KEY = bytes(range(32))
HIDING = Encryption(KEY, header=b"era5", hide_names=True)

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)


@given(keys)
def test_a_hidden_name_stands_for_its_key(key):
    name = HIDING.name(key)
    assert HIDING.key_of(name) == key
    assert HIDING.name(key) == name
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    hidden = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4))
    assert len(hidden) == 16 + (len(key.encode()) // 32 + 1) * 32


@given(keys, keys)
def test_names_of_different_keys_differ(one, other):
    assert (HIDING.name(one) == HIDING.name(other)) == (one == other)


def test_names_depend_on_key_and_header():
    others = [Encryption(bytes(32), header=b"era5", hide_names=True), Encryption(KEY, hide_names=True)]
    for other in others:
        assert other.name("zarr.json") != HIDING.name("zarr.json")
        with pytest.raises(errors.WrongKey, match="which this key and header do not give"):
            other.key_of(HIDING.name("zarr.json"))


@pytest.mark.parametrize(
    "name", ["", "zarr.json", "t2m/c/0/1", "A" * 63, "A" * 65, "é" * 64, "+" * 64, "A" * 64 + "="]
)
def test_what_has_not_the_form_of_a_hidden_name_is_refused(name):
    with pytest.raises(errors.NotAuthentic, match="is not a hidden name"):
        HIDING.key_of(name)


def test_every_character_of_a_name_counts():
    for key in ("zarr.json", "x" * 40):
        name = HIDING.name(key)
        for at in range(len(name)):
            for char in "AB_z9":
                changed = name[:at] + char + name[at + 1 :]
                if changed != name:
                    with pytest.raises((errors.WrongKey, errors.NotAuthentic)):
                        HIDING.key_of(changed)


def test_names_stay_as_they_are_unless_they_are_hidden():
    assert Encryption(KEY).name("a/b") == "a/b" == Encryption(KEY).key_of("a/b")
    assert HIDING.seal("a", b"1")[:13] == Encryption(KEY, header=b"era5").seal("a", b"1")[:13]


def test_the_names_are_these_for_ever():
    assert HIDING.name("zarr.json") == NAME
    assert HIDING.name("t2m/c/0/1/" + "7" * 30) == LONG_NAME


NAME = "laTn5DOGgSh0nzsCokvznurdsIQcYFakPBioZoqX-EGXB1fLmRg82WAz4O6nricz"
LONG_NAME = "xvDAM7tg1Rf1uYQHaC45CoeANhT4U7LZvTbfA-OfdDNXt_qnMOGPyIFNZuP-qaaaYZ7bZOJDUrWsWV9e2AM1MVkexGg3Wj0rHofeMN0B0O8"


# What stays clear

EXCLUDING = Encryption(KEY, exclude_vars=["lat", "/g/time/"])
CLEAR = [
    *("lat/zarr.json", "lat/c/0", "lat/c", "lat/c.0.1", "lat/0.0", "lat/0/1", "lat/.zarray", "lat/.zattrs"),
    *("deep/group/lat/zarr.json", "deep/group/lat/c/0/1", "g/time/c/3", "g/time/zarr.json"),
]
ENCRYPTED = [
    *(
        "zarr.json",
        ".zmetadata",
        "lat2/c/0",
        "xlat/zarr.json",
        "lat/t/zarr.json",
        "lat/t/c/0",
        "lat",
        "lat/notes.txt",
    ),
    *("time/c/0", "time/zarr.json", "x/g/time/c/0", "c/0", "0.0", "c", "t/c/0"),
]


@pytest.mark.parametrize("key", CLEAR)
def test_documents_and_chunks_of_excluded_arrays_stay_clear(key):
    assert EXCLUDING.is_clear(key)
    assert EXCLUDING.seal(key, b"value") == b"value" == EXCLUDING.open(key, b"value")
    assert EXCLUDING.size(key, 5) == 5


@pytest.mark.parametrize("key", ENCRYPTED)
def test_all_else_is_encrypted(key):
    assert not EXCLUDING.is_clear(key)
    with pytest.raises(errors.NotAuthentic):
        EXCLUDING.open(key, b"value")


def test_metadata_stays_clear_where_it_is_said_so():
    open_to_all = Encryption(KEY, encrypt_metadata=False)
    for key in ("zarr.json", "a/zarr.json", ".zmetadata", "a/.zattrs"):
        assert open_to_all.seal(key, b"{}") == b"{}"
    assert not open_to_all.is_clear("a/c/0")


def test_an_encrypted_value_where_a_clear_one_is_expected_is_refused():
    stored = Encryption(KEY).seal("lat/c/0", b"value")
    with pytest.raises(errors.NotAuthentic, match="is encrypted, and exclude_vars"):
        EXCLUDING.open("lat/c/0", stored)
    # Of other keys nothing is known: they are bytes like any others.
    assert Encryption(bytes(32), exclude_vars=["lat"]).open("lat/c/0", stored) == stored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hide_names": True, "exclude_vars": ["a"]}, "leave out exclude_vars"),
        ({"hide_names": True, "encrypt_metadata": False}, "leave out encrypt_metadata=False"),
        ({"format": "py-hamt-3", "hide_names": True}, "has no hide_names"),
        ({"format": "py-hamt-3", "deterministic": True}, "has no deterministic"),
        ({"format": "py-hamt-3", "exclude_vars": ["a"]}, "has no exclude_vars"),
        ({"format": "py-hamt-3", "encrypt_metadata": False}, "has no encrypt_metadata=False"),
        (
            {"format": "py-hamt-2", "hide_names": True, "deterministic": True},
            "has no hide_names, deterministic",
        ),
        ({"format": "aes"}, "expected one of 'bound'"),
        ({"exclude_vars": "lat"}, r"such as \['lat'\]"),
        ({"exclude_vars": ["/"]}, "expected names or paths"),
        ({"exclude_vars": [3]}, "expected names or paths"),
        ({"header": "era5"}, "header is a str, expected bytes"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options, message):
    with pytest.raises(errors.InvalidInput, match=message):
        Encryption(KEY, **options)

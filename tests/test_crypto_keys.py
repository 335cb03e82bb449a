"""Where keys come from, where they travel, and that they are seen nowhere."""

import base64
import functools
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback

import cloudpickle
import keys_hidden
import pytest
from dask.base import tokenize
from keys_hidden import KEY, assert_hidden

from hamt_bulk import Encryption, KeyEnv, KeyFile, errors
from hamt_bulk.errors import CASError, InvalidInput, NotPortable, WrongKey

STORED = Encryption(KEY).seal("a", b"value")


# What is a key


@pytest.mark.parametrize(
    "content", [KEY, KEY.hex().encode(), KEY.hex().upper().encode() + b"\n", KEY.hex().encode() + b"\r\n"]
)
def test_a_file_has_the_key_raw_or_in_hexadecimal(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    assert Encryption(KeyFile(tmp_path / "key")).open("a", STORED) == b"value"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        KEY[:31],
        KEY + b"\n",
        KEY.hex().encode()[:-1],
        b"x" * 64,
        KEY.hex().encode() + b"\n\n",
        KEY * 1000,
    ],
)
def test_a_file_with_something_else_is_refused_and_not_shown(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"key holds \d+ bytes, expected 32 raw bytes or 64 hex") as caught:
        Encryption(KeyFile(tmp_path / "key")).open("a", STORED)
    assert not content or content.decode("latin-1") not in str(caught.value)
    assert_hidden(*traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        f" {KEY.hex()}\n",
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(KEY).decode().rstrip("="),
    ],
)
def test_a_variable_has_the_key_in_hexadecimal_or_base64(monkeypatch, text):
    monkeypatch.setenv("THE_KEY", text)
    assert Encryption(KeyEnv("THE_KEY")).open("a", STORED) == b"value"


@pytest.mark.parametrize(
    "text", ["", KEY.hex()[:-2], base64.b64encode(KEY[:31]).decode(), "é" * 64, "!" * 44]
)
def test_a_variable_with_something_else_is_refused_and_not_shown(monkeypatch, text):
    monkeypatch.setenv("THE_KEY", text)
    with pytest.raises(InvalidInput, match=r"'THE_KEY' holds .* that are not a key") as caught:
        Encryption(KeyEnv("THE_KEY")).fetch()
    assert not text or text not in str(caught.value)


def test_what_cannot_be_fetched_is_no_missing_chunk(tmp_path, monkeypatch):
    """zarr would take KeyError and FileNotFoundError for one."""
    monkeypatch.delenv("THE_KEY", raising=False)
    for source, kind in (
        (KeyFile(tmp_path / "none"), CASError),
        (KeyEnv("THE_KEY"), InvalidInput),
        (keys_hidden.broken, CASError),
        (keys_hidden.short, InvalidInput),
        (keys_hidden.text, InvalidInput),
    ):
        with pytest.raises(kind) as caught:
            Encryption(source).open("a", STORED)
        assert not isinstance(caught.value, (KeyError, FileNotFoundError))
        assert_hidden(caught.value)
    assert "keys_hidden.broken, which raised KeyError" in str(_error(keys_hidden.broken))
    assert "No such file" in str(_error(KeyFile(tmp_path / "none")))
    assert "31 bytes, expected 32" in str(_error(keys_hidden.short))


def _error(source) -> Exception:
    with pytest.raises(errors.HamtError) as caught:
        Encryption(source).fetch()
    return caught.value


@pytest.mark.parametrize("key", [KEY[:31], KEY + b"0", b"", KEY.hex(), KEY.hex().encode(), 7, None])
def test_what_is_no_key_is_refused_and_not_shown(key):
    with pytest.raises(InvalidInput, match=r"32") as caught:
        Encryption(key)
    assert_hidden(caught.value)


# Where it travels


def test_the_key_is_fetched_where_it_is_needed_and_once(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("KEY_OF_TESTS_LOG", str(log))
    encryption = Encryption(keys_hidden.fetched, header=b"once")
    pickled = pickle.dumps(encryption)
    assert not log.exists() and repr(encryption) and not encryption.is_ready
    stored = encryption.seal("a", b"value")
    for _ in range(3):
        assert encryption.open("a", stored) == b"value"
    for _ in range(5):
        assert pickle.loads(pickled).open("a", stored) == b"value"
    assert len(log.read_text().split()) == 2


PROGRAM = """
import pickle, sys
encryption = pickle.loads(bytes.fromhex(sys.argv[1]))
again = pickle.loads(pickle.dumps(encryption))
assert repr(again) == repr(encryption) and not again.is_ready
again.open("a", b"")
"""


def test_bytes_stay_in_their_process():
    encryption = Encryption(KEY, header=b"h", exclude_vars=["a"])
    for dumps in (pickle.dumps, cloudpickle.dumps):
        data = dumps(encryption)
        assert_hidden(data)
        assert pickle.loads(data) == encryption
        assert pickle.loads(data).exclude_vars == {"a"}
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM, data.hex()],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "NotPortable: this key was given as bytes in process" in found.stderr
        assert "KeyFile(path), KeyEnv(name)" in found.stderr


def test_of_bytes_whose_encryption_is_gone_nothing_is_left():
    data = pickle.dumps(Encryption(KEY))
    with pytest.raises(NotPortable, match="its Encryption is gone: keep it as long as"):
        pickle.loads(data).fetch()


def test_a_forked_child_has_what_its_parent_had():
    encryption, file = Encryption(KEY), Encryption(keys_hidden.given)
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        with pytest.raises(NotPortable):
            pickle.loads(data).fetch()
        answers.put((encryption.open("a", STORED), file.open("a", STORED)))
        os._exit(0)  # what this process has to do at its end is its parent's

    data = pickle.dumps(encryption)
    process = multiprocessing.get_context("fork").Process(target=child)
    with file._source._lock:  # as another thread of the parent may
        process.start()
        process.join(60)
    assert process.exitcode == 0 and not answers.empty() and answers.get() == (b"value", b"value")


@pytest.mark.parametrize(
    "source", [KeyFile("key"), KeyEnv("KEY"), keys_hidden.given, keys_hidden.Named("production")]
)
def test_what_fetches_the_key_travels(source):
    encryption = Encryption(source, hide_names=True)
    for dumps in (pickle.dumps, cloudpickle.dumps):
        data = dumps(encryption)
        assert_hidden(data)
        assert pickle.loads(data)._options() == encryption._options()


def module_level_lambda() -> object:
    return None


unnamed = lambda: KEY  # noqa: E731


@pytest.mark.parametrize("which", ["lambda", "closure", "module lambda", "main", "partial of main"])
def test_what_others_cannot_import_is_refused_at_once(which):
    key = KEY

    def closure() -> bytes:
        return key

    def of_main() -> bytes:
        return KEY

    of_main.__module__, of_main.__qualname__, of_main.__name__ = "__main__", "of_main", "of_main"
    source = {
        "lambda": lambda: key,
        "closure": closure,
        "module lambda": unnamed,
        "main": of_main,
        "partial of main": functools.partial(of_main),
    }[which]
    main = sys.modules["__main__"]
    main.of_main = of_main
    try:
        with pytest.raises(NotPortable, match="KeyFile\\(path\\), KeyEnv\\(name\\), or a function") as caught:
            Encryption(source)
    finally:
        del main.of_main
    assert_hidden(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        keys_hidden.Vault(KEY),
        keys_hidden.Vault(KEY.hex()),
        keys_hidden.Vault(KEY.hex().upper()),
        functools.partial(bytes.fromhex, KEY.hex()),
        functools.partial(base64.b64decode, base64.b64encode(KEY)),
        functools.partial(base64.urlsafe_b64decode, base64.urlsafe_b64encode(KEY)),
        functools.partial(bytes, KEY),
    ],
)
def test_a_callable_that_would_take_the_key_along_is_refused(source):
    encryption = Encryption(source)
    for use in (
        lambda: pickle.dumps(encryption),
        lambda: cloudpickle.dumps(encryption),
        lambda: encryption.seal("a", b""),
    ):
        with pytest.raises(NotPortable, match="holds the key itself") as caught:
            use()
        assert_hidden(caught.value)
    assert_hidden(encryption)


def test_a_file_that_has_another_key_elsewhere_is_told(key_file):
    encryption = Encryption(KeyFile(key_file), header=b"changes")
    encryption.fetch()
    data = pickle.dumps(encryption)
    key_file.write_bytes(bytes(32))
    with pytest.raises(WrongKey, match="gives another key in process"):
        pickle.loads(data).open("a", STORED)
    assert Encryption(KeyFile(key_file)) != encryption


# That it is seen nowhere


def test_nothing_shows_the_key(key_file, monkeypatch, caplog):
    monkeypatch.setenv("THE_KEY", KEY.hex())
    monkeypatch.setenv("KEY_OF_TESTS_LOG", os.devnull)
    caplog.set_level(logging.DEBUG)
    for source in (KEY, bytearray(KEY), KeyFile(key_file), KeyEnv("THE_KEY"), keys_hidden.fetched):
        encryption = Encryption(source, header=b"h")
        stored = encryption.seal("a", b"value")
        assert_hidden(stored, encryption, encryption._source, encryption._keys, encryption.fingerprint)
        assert_hidden(tokenize(encryption), pickle.dumps(encryption), cloudpickle.dumps(encryption))
        assert_hidden(getattr(encryption, "__dict__", {}), getattr(encryption._source, "__dict__", {}))
        for wrong in (b"{}", bytes(stored[:-1]), bytes(100)):
            with pytest.raises(errors.NotAuthentic) as caught:
                encryption.open("a", wrong)
            assert_hidden(caught.value, *traceback.format_exception(caught.value))
        with pytest.raises(WrongKey) as wrong_key:
            Encryption(bytes(32)).open("a", stored)
        assert_hidden(wrong_key.value)
    assert_hidden(caplog.text)


def test_what_is_derived_is_not_pickled():
    with pytest.raises(TypeError, match="keys are not pickled"):
        pickle.dumps(Encryption(KEY)._keys)


def test_equal_are_those_that_encrypt_alike(key_file):
    one = Encryption(KEY, header=b"h", exclude_vars=["a", "b"])
    assert one == Encryption(KeyFile(key_file), header=b"h", exclude_vars=["b", "a"])
    assert hash(one) == hash(Encryption(KeyFile(key_file), header=b"h", exclude_vars=["b", "a"]))
    assert tokenize(one) == tokenize(Encryption(KeyFile(key_file), header=b"h", exclude_vars=["b", "a"]))
    others = [
        Encryption(KEY, header=b"h", exclude_vars=["a"]),
        Encryption(KEY, header=b"h", exclude_vars=["ab"]),
        Encryption(KEY, header=b"ha", exclude_vars=["b"]),
        Encryption(bytes(32), header=b"h", exclude_vars=["a", "b"]),
        Encryption(KEY, header=b"h", exclude_vars=["a", "b"], deterministic=True),
        Encryption(KEY, header=b"h", exclude_vars=["a", "b"], encrypt_metadata=False),
        Encryption(KEY, header=b"h", hide_names=True),
        Encryption(KEY, header=b"h", format="py-hamt-3"),
    ]
    everyone = [one, *others]
    assert len({encryption.fingerprint for encryption in everyone}) == len(everyone)
    assert all((a == b) == (a is b) for a in everyone for b in everyone)
    assert one != KEY


def test_digests_tell_nothing_without_the_key():
    assert Encryption(KEY).digest(b"v") == Encryption(KEY).digest(b"v") != Encryption(KEY).digest(b"w")
    assert Encryption(KEY).digest(b"v") != Encryption(bytes(32)).digest(b"v")

"""What `encryption=` takes: a key, and what of a hierarchy is encrypted with it, and how."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, get_args

from blake3 import blake3

from hamt_bulk.block import Data
from hamt_bulk.crypto import bound, pyhamt
from hamt_bulk.crypto.names import HiddenNames
from hamt_bulk.crypto.sources import Fetch, Source
from hamt_bulk.crypto.subkeys import Subkeys, lengths_ahead
from hamt_bulk.errors import HamtError, InvalidInput, NotAuthentic
from hamt_bulk.keys import array_of, is_metadata
from hamt_bulk.manifest import encode_key

EncryptionFormat: TypeAlias = Literal["bound", "py-hamt-3", "py-hamt-2"]
"""How values are stored: `hamt_bulk.crypto.bound`, and the two of `hamt_bulk.crypto.pyhamt`."""

Transformer: TypeAlias = Callable[[str, bytes], bytes]
"""A key, and bytes in one form, to those in another."""

_BACKWARDS = re.compile(r"(?:[0-9]++[./])*+c(?=/|\Z)")
"""The end of a chunk's key that begins with a c, that of an array without dimensions included, read backwards."""


class Encryption:
    """
    A key and how it is used.

        Encryption(KeyFile("secret.key"), exclude_vars=["time", "lat", "lon"])

    key               32 bytes, or a callable that returns them: `KeyFile(path)`, `KeyEnv(name)`, or a function of a module
                      that every process can import. It is called where the key is needed, once in each process.
                      Bytes stay in this process, so they serve every scheduler that does, and no cluster
    header            bytes that are not secret and have to be the same when reading, such as what the data is
    exclude_vars      arrays whose documents and chunks stay clear, by name (the last part of the path) or path
    encrypt_metadata  `False`: all metadata documents stay clear, so that who has no key can open the dataset
    hide_names        key names are hidden as well
    deterministic     equal keys, names and values give equal bytes, and so equal roots
    format            "bound", or what py-hamt writes ("py-hamt-3", "py-hamt-2"), which protects less

    What each of them protects, and what not, is in `hamt_bulk.crypto`. Immutable, and serves any number of threads.
    Equal are those that encrypt alike.
    """

    __slots__ = (
        "_names",
        "_source",
        "deterministic",
        "encrypt_metadata",
        "exclude_vars",
        "format",
        "header",
        "hide_names",
    )

    def __init__(
        self,
        key: bytes | Fetch,
        *,
        header: bytes = b"",
        exclude_vars: Iterable[str] = (),
        encrypt_metadata: bool = True,
        hide_names: bool = False,
        deterministic: bool = False,
        format: EncryptionFormat = "bound",
    ) -> None:
        if not isinstance(header, (bytes, bytearray)):
            raise InvalidInput(f"header is a {type(header).__name__}, expected bytes")
        if isinstance(exclude_vars, str):
            raise InvalidInput(
                f"exclude_vars={exclude_vars!r}: expected several names, such as [{exclude_vars!r}]"
            )
        self.header = bytes(header)
        self.exclude_vars = frozenset(map(_variable, exclude_vars))
        self.encrypt_metadata = encrypt_metadata
        self.hide_names = hide_names
        self.deterministic = deterministic
        self.format = format
        self._refuse_contradictions()
        self._source = key if isinstance(key, Source) else Source(key, self.header)
        self._names: HiddenNames | None = None

    def _refuse_contradictions(self) -> None:
        if self.format not in get_args(EncryptionFormat):
            known = ", ".join(map(repr, get_args(EncryptionFormat)))
            raise InvalidInput(f"format={self.format!r}, expected one of {known}")
        chosen = {
            "exclude_vars": bool(self.exclude_vars),
            "encrypt_metadata=False": not self.encrypt_metadata,
            "hide_names": self.hide_names,
            "deterministic": self.deterministic,
        }
        possible = {"bound": set(chosen), "py-hamt-3": set[str](), "py-hamt-2": {"exclude_vars"}}[self.format]
        if missing := [name for name, is_on in chosen.items() if is_on and name not in possible]:
            raise InvalidInput(f"format={self.format!r} has no {', '.join(missing)}: format='bound' has")
        if self.hide_names and (self.exclude_vars or not self.encrypt_metadata):
            clear = "exclude_vars" if self.exclude_vars else "encrypt_metadata=False"
            raise InvalidInput(
                f"hide_names=True hides the keys of everything, so nothing can be read without the key: leave out {clear}"
            )

    def seal(self, key: str, value: Data) -> Data:
        """What is stored for the value of `key`: the value itself where that stays clear."""
        if self.is_clear(key):
            return value
        match self.format:
            case "bound":
                encode_key(key)
                return bound.seal(self._keys, self.header, key, value, self.deterministic)
            case "py-hamt-3":
                return pyhamt.encrypted(self._keys.given, self.header, value)
            case "py-hamt-2":
                return pyhamt.encrypted(self._keys.given, self.header, pyhamt.cbor_bytes(value))

    def open(self, key: str, stored: Data) -> bytes:
        """
        The value of `key` from what is stored for it.

        Raises `WrongKey` for what was encrypted with another key or header, `NotAuthentic` for what is not encrypted,
        was altered, or is the value of another key.
        """
        if self.is_clear(key):
            self._refuse_encrypted(key, stored)
            return bytes(stored)
        match self.format:
            case "bound":
                return bound.open_whole(self._keys, self.header, key, stored)
            case "py-hamt-3":
                return pyhamt.decrypted(self._keys.given, self.header, key, stored)
            case "py-hamt-2":
                return self._opened_2(key, stored)

    @property
    def opens_ranges(self) -> bool:
        """Whether a part of a stored value can be opened without the rest."""
        return self.format == "bound"

    def check_head(self, key: str, head: Data) -> None:
        """Raises `WrongKey` or `NotAuthentic` when a value whose first bytes are these cannot be opened."""
        bound.read_head(self._keys, key, head)

    def open_range(
        self, key: str, head: Data, sealed: Data, shape: bound.Shape, start: int, stop: int | None
    ) -> bytes:
        """
        Bytes `start` to `stop` of a value that is stored in the format "bound".

        head    the first bytes of what is stored, `bound.HEAD_BYTES`
        sealed  of what is stored the part that `bound.span_of` says
        """
        prefix = bound.read_head(self._keys, key, head)
        span = bound.span_of(shape, start, stop)
        plain = b"".join(bound.open_segments(self._keys, self.header, key, prefix, sealed, span, shape))
        skipped = span.first * bound.SEGMENT_BYTES
        return plain[max(start - skipped, 0) : None if stop is None else max(stop - skipped, 0)]

    def name(self, key: str) -> str:
        """What stands for `key` in the tree: itself, unless names are hidden."""
        if not self.hide_names:
            return key
        encode_key(key)
        return self._hidden.hide(key)

    def key_of(self, name: str) -> str:
        """The key that `name` stands for. Raises `NotAuthentic` or `WrongKey` for a name that stands for none."""
        return self._hidden.reveal(name) if self.hide_names else name

    def is_clear(self, key: str) -> bool:
        """Whether the value of `key` is stored as it is."""
        if self.format == "py-hamt-2":
            return pyhamt.is_clear_in_2(key, self.exclude_vars)
        if not self.encrypt_metadata and is_metadata(key):
            return True
        if not self.exclude_vars:
            return False
        path = _path_of(key)
        return path is not None and not self.exclude_vars.isdisjoint((path, path.rpartition("/")[2]))

    def size(self, key: str, stored_size: int) -> int | None:
        """The length of the value of `key` from that of what is stored; `None` when only the value tells."""
        if self.is_clear(key):
            return stored_size
        match self.format:
            case "bound":
                return bound.shape_of(key, stored_size).size
            case "py-hamt-3" if stored_size >= pyhamt.OVERHEAD_BYTES:
                return stored_size - pyhamt.OVERHEAD_BYTES
            case _:
                return None

    @property
    def fingerprint(self) -> str:
        """What is public of the key, the header and the options: equal where they are, and tells nothing else of the key."""
        options = [self.format, self.encrypt_metadata, self.hide_names, self.deterministic]
        parts = [self.header, *(str(part).encode() for part in [*options, *sorted(self.exclude_vars)])]
        return blake3(lengths_ahead(*parts), key=self._keys.fingerprint).hexdigest()

    def digest(self, value: Data) -> bytes:
        """A digest of 16 bytes, by which a value can be recognised with the key, and not without it."""
        return blake3(key=self._keys.digest).update(value).digest()[:16]

    @property
    def is_ready(self) -> bool:
        """Whether the key is here, and need not be fetched first."""
        return self._source.is_here

    def fetch(self) -> None:
        """Fetches the key, unless it is here. Raises `CASError`, `InvalidInput` or `WrongKey` when that fails."""
        self._source.subkeys()

    def refuse_other_processes(self) -> None:
        """Raises `NotPortable` when other processes cannot have the key."""
        self._source.refuse_other_processes()

    @property
    def _keys(self) -> Subkeys:
        return self._source.subkeys()

    @property
    def _hidden(self) -> HiddenNames:
        if self._names is None:
            self._names = HiddenNames(self._keys, self.header)
        return self._names

    def _opened_2(self, key: str, stored: Data) -> bytes:
        try:
            form = pyhamt.decrypted(self._keys.given, self.header, key, stored)
        except HamtError:
            excluded = pyhamt.from_cbor_bytes(stored)
            if excluded is None:
                raise
            return excluded
        value = pyhamt.from_cbor_bytes(form)
        if value is None:
            raise NotAuthentic(
                f"{key!r} decrypts to something that is no dag-cbor byte string, so it is no Zarr value"
            )
        return value

    def _refuse_encrypted(self, key: str, stored: Data) -> None:
        """Raises `NotAuthentic` for what this key has encrypted where the options say that it is clear."""
        if self.format == "bound":
            start = bytes(memoryview(stored)[: bound.HEAD_BYTES])
            if start.startswith(bound.MAGIC) and start.startswith(bound.MAGIC + self._keys.key_id):
                raise NotAuthentic(
                    f"{key!r} is encrypted, and exclude_vars or encrypt_metadata=False say that it is not: pass what it was "
                    "written with"
                )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encryption) and (
            (self._source is other._source and self._options() == other._options())
            or self.fingerprint == other.fingerprint
        )

    def __hash__(self) -> int:
        return hash(self._options())

    def __dask_tokenize__(self) -> tuple[str, str]:
        return type(self).__qualname__, self.fingerprint

    def _options(self) -> tuple[Any, ...]:
        names = ("header", "exclude_vars", "encrypt_metadata", "hide_names", "deterministic", "format")
        return tuple(getattr(self, name) for name in names)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self._source, *self._options())

    def __repr__(self) -> str:
        shown = f"Encryption({self._source!r}, header={self.header!r}, format={self.format!r}"
        if self.exclude_vars:
            shown += f", exclude_vars={sorted(self.exclude_vars)}"
        for name in ("encrypt_metadata", "hide_names", "deterministic"):
            if getattr(self, name) != (name == "encrypt_metadata"):
                shown += f", {name}={getattr(self, name)}"
        return f"{shown})"


def transformers(encryption: Encryption) -> tuple[Transformer, Transformer]:
    """
    `encode` and `decode` of values in dag-cbor form by their key: the pair that py-hamt 2's
    `create_zarr_encryption_transformers` gives.

    `decode` raises `WrongKey` for what it cannot decrypt, but takes a dag-cbor byte string for the value of a variable
    that the writer excluded.
    """
    if encryption.format != "py-hamt-2":
        raise InvalidInput(f"transformers are for format='py-hamt-2', found {encryption.format!r}")

    def encode(key: str, value: bytes) -> bytes:
        if encryption.is_clear(key):
            return value
        return pyhamt.encrypted(encryption._keys.given, encryption.header, value)

    def decode(key: str, stored: bytes) -> bytes:
        if encryption.is_clear(key):
            return stored
        try:
            return pyhamt.decrypted(encryption._keys.given, encryption.header, key, stored)
        except HamtError:
            if pyhamt.from_cbor_bytes(stored) is None:
                raise
            return stored

    return encode, decode


def checked(encryption: object) -> Encryption | None:
    """What was given for `encryption=`. Raises `InvalidInput` for what is none, and shows nothing of it: it may be a key."""
    if encryption is not None and not isinstance(encryption, Encryption):
        raise InvalidInput(f"encryption= is a {type(encryption).__name__}, expected Encryption(key, …)")
    return encryption


def _rebuilt(
    source: Source,
    header: bytes,
    exclude_vars: frozenset[str],
    encrypt_metadata: bool,
    hide_names: bool,
    deterministic: bool,
    format: EncryptionFormat,
) -> Encryption:
    return Encryption(
        source,  # type: ignore[arg-type]  # the key stays in it
        header=header,
        exclude_vars=exclude_vars,
        encrypt_metadata=encrypt_metadata,
        hide_names=hide_names,
        deterministic=deterministic,
        format=format,
    )


def _variable(name: object) -> str:
    if not isinstance(name, str) or not name.strip("/"):
        raise InvalidInput(f"exclude_vars has {name!r}, expected names or paths of arrays")
    return name.strip("/")


def _path_of(key: str) -> str | None:
    """The path of the array or group whose document or chunk `key` is; `None` for something else."""
    if is_metadata(key):
        return key.rpartition("/")[0]
    chunk = _BACKWARDS.match(key[::-1])
    return array_of(key) if chunk is None else key[: max(len(key) - chunk.end() - 1, 0)]

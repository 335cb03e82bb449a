"""A root without some of its keys."""

from collections.abc import Collection, Iterable

from multiformats import CID

from hamt_bulk.block import AnyCID, text, to_bytes
from hamt_bulk.bulk import Target, concluded, edited
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import InvalidInput, KeyNotFound
from hamt_bulk.keys import is_metadata
from hamt_bulk.layout import BUCKET_SIZE
from hamt_bulk.manifest import HashFn, blake3_hashfn, encode_key
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.clashes import folders_above

SHOWN_KEYS = 5


def delete(
    root: AnyCID,
    cas: ContentAddressedStore | str,
    keys: Iterable[str] | None = None,
    prefix: str | None = None,
    *,
    max_bucket_size: int = BUCKET_SIZE,
    hash_fn: HashFn = blake3_hashfn,
    pin: str | None = None,
) -> CID:
    """
    The root without these keys, or without a folder: a variable, a group, a range of chunks.

    keys    each has to be there: raises `KeyNotFound` otherwise, and nothing is deleted
    prefix  a folder, as in zarr's `delete_dir`: "t2m" and "t2m/" are the same, and leave "t2m_max" alone
    pin     as in `build`

    Consolidated metadata of groups above is brought up to date. The old root stays as it was.
    """
    if (keys is None) == (prefix is None):
        raise InvalidInput("pass keys=, several keys, or prefix=, a folder")
    target, base = Target.of(cas, max_bucket_size, hash_fn, pin), to_bytes(root)
    return concluded(target, base, lambda: _without(target.for_base(base), base, keys, prefix))


def _without(target: Target, base: bytes, keys: Iterable[str] | None, prefix: str | None) -> bytes:
    tree = Tree(base, target.cas, target.layout, target.hash_fn)
    found = _in_folder(tree, prefix) if prefix is not None else _all_there(tree, keys or ())
    without = edited(target, tree.root, dict.fromkeys(found))
    documents = {key.rpartition("/")[0] for key in found if is_metadata(key)}
    groups = sorted({group for folder in documents for group in folders_above(folder)})
    return brought_up_to_date(target, without, groups, [tree])


def brought_up_to_date(
    target: Target, root: bytes, groups: Iterable[str], sources: list[Tree], documents: Collection[str] = ()
) -> bytes:
    """
    The root with the consolidated metadata of those of `groups` that had it in one of `sources`.

    documents  keys of metadata that may be there now, besides those that have been consolidated in `sources`
    """
    for group in groups:
        # zarr takes half a second to import, and most trees that are edited by key do without.
        from hamt_bulk.zarr.consolidated import consolidated, has_consolidated

        if any(has_consolidated(source, group) for source in sources):
            tree = Tree(root, target.cas, target.layout, target.hash_fn)
            if all(tree.pointer(f"{group}/{name}".lstrip("/")) is None for name in ("zarr.json", ".zgroup")):
                continue  # the group itself is gone
            root = edited(target, root, consolidated(tree, group, sources, documents))
    return root


def _in_folder(tree: Tree, prefix: str) -> list[str]:
    start = encode_key(prefix.rstrip("/")).decode() + "/"
    if start == "/":
        raise InvalidInput("prefix='': that would delete everything; an empty tree is build({}, cas)")
    found = [key for key, _ in tree.entries() if key.startswith(start)]
    if not found:
        raise KeyNotFound(f"{text(tree.root)} has no key in the folder {start!r}")
    return found


def _all_there(tree: Tree, keys: Iterable[str]) -> list[str]:
    if isinstance(keys, (str, bytes)):
        raise InvalidInput(f"keys={keys!r}: expected several keys, such as [{keys!r}]")
    wanted = list(dict.fromkeys(keys))
    missing = [key for key in wanted if tree.pointer(key) is None]
    if missing:
        shown = ", ".join(map(repr, missing[:SHOWN_KEYS]))
        more = f" and {len(missing) - SHOWN_KEYS} others" if len(missing) > SHOWN_KEYS else ""
        raise KeyNotFound(f"{text(tree.root)} has no {shown}{more}; nothing was deleted")
    return wanted

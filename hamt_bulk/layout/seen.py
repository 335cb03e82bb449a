"""What a decoded block looks like, in words: for errors that say what was seen."""

from typing import Any


def is_other_root(node: Any) -> bool:
    """Whether a block is known to be the root of something, other than of py-hamt 3."""
    match node:
        case {"hamt": [bytes(), list()], "hashAlg": int(), "bucketSize": int()}:
            return True
        case {"B": dict(), "L": dict()}:
            return len(node) == 2
        case _:
            return False


def described(node: Any) -> str:
    """What a block, or an item of one, looks like."""
    match node:
        case {"hamt": [bytes(), list()], "hashAlg": int(), "bucketSize": int()}:
            return "it is the root of an IPLD HashMap"
        case {"B": dict(), "L": dict()} if len(node) == 2:
            return "it is a node of py-hamt 2"
        case dict():
            shown = ", ".join(repr(key)[:40] for key in list(node)[:5])
            return f"a map of {len(node)} keys" + (
                f": {shown}{', …' if len(node) > 5 else ''}" if node else ""
            )
        case [bytes(), list()]:
            return "a list of 2, expected 256: it is a child node of an IPLD HashMap, not a root"
        case list() if len(node) == 256:
            return "a list of 256: it is a node of py-hamt 3"
        case list():
            return f"a list of {len(node)}, expected 256"
        case bytes():
            return f"bytes, {len(node)} of them"
        case _:
            return f"a {type(node).__name__}"

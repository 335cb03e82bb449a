"""
Encryption of a hierarchy's values, and of its key names.

What each format protects from whoever has the tree and its blocks, and may change them, but has no key:

                                            bound    bound,      py-hamt-3  py-hamt-2
                                                     hide_names
    content of values                        yes      yes         yes        yes, but what is excluded, and zarr.json
    a value that was altered is refused      yes      yes         yes        yes (see below)
    … moved to another key, or swapped       yes      yes         no         no
    … truncated, extended, in another order  yes      yes         yes        yes
    a plain value in its place is refused    yes      yes         yes        no, if it is a dag-cbor byte string
    a key or header that is wrong is told    yes      yes         no: it looks like altered data
    from altered data
    names of variables, groups and chunks    no       yes         no         no
    ranges are read without the rest         yes      yes         no         no

No format hides how long each value is, how many there are, which are read, and which keys two roots have in common and
which have changed between them. What stays clear (exclude_vars, encrypt_metadata=False) is not protected in any way.
An older value of the same key, from another root of the same key and header, is a valid one: a root's CID says which
values are meant, so take it from somebody you trust. `deterministic=True` tells who compares roots whether a key's
value is the same in both; without it, nobody can tell. Hidden names are deterministic by need: a key has the same
name in all roots of one key and header, so these can be told to have keys in common, and its length is known in steps
of 32 bytes.

A key serves for any number of values (nonces are random, of 152 bits in "bound" and 192 in the others).
"""

from hamt_bulk.crypto.encryption import Encryption, EncryptionFormat, checked, transformers
from hamt_bulk.crypto.keyfiles import KeyEnv, KeyFile

__all__ = ["Encryption", "EncryptionFormat", "KeyEnv", "KeyFile", "checked", "transformers"]

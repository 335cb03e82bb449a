"""Input that is nearly right."""

from collections.abc import Iterator
from random import Random

from .target import Target

MAX_BYTES = 1 << 16
NUMBERS = [0, 1, 2, 23, 24, 31, 32, 36, 42, 0x55, 0x70, 0x71, 0x7F, 0x80, 0x81, 0xA0, 0xA1, 0xD8, 0xFE, 0xFF]
LENGTHS = [
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\xff" * 7 + b"\x7f",
    b"\x80" * 8 + b"\x01",
    b"\xff" * 8 + b"\x7f",
    b"\x80\x00",
    b"\x00" * 8,
]
"""Numbers at the edges of their types, in either order of bytes, and varints that are too long."""


def cases(target: Target, count: int, seed: int) -> Iterator[bytes]:
    """So many inputs, always the same ones: the seeds first, then what is made of them."""
    random = Random(f"{target.name} {seed}")
    yield from list(target.seeds)[:count]
    for _ in range(count - len(target.seeds)):
        yield case(target, random)


def case(target: Target, random: Random) -> bytes:
    """One input."""
    made = target.make is not None and random.random() < 0.3
    data = target.make(random) if made and target.make else random.choice(target.seeds)
    if made and random.random() < 0.5:
        return data[:MAX_BYTES]
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        _change(changed, target, random)
    return bytes(changed[:MAX_BYTES])


def _change(data: bytearray, target: Target, random: Random) -> None:
    at = random.randint(0, len(data))
    match random.randrange(10):
        case 0 | 1 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 2 if at < len(data):
            data[at] = random.choice(NUMBERS)
        case 3:
            del data[at : at + random.choice((1, 2, 4, 16, 64))]
        case 4:
            data[at:at] = random.randbytes(random.choice((1, 2, 8)))
        case 5:
            data[at : at + random.choice((0, 4, 8))] = random.choice(LENGTHS)
        case 6 if target.tokens:
            data[at : at + random.choice((0, 0, 1, 4))] = random.choice(target.tokens)
        case 7:
            length = random.choice((1, 4, 40, 300))
            start = random.randint(0, len(data))
            data[at:at] = data[start : start + length] * random.choice((1, 1, 2, 60))
        case 8:
            other = random.choice(target.seeds)
            start = random.randint(0, len(other))
            data[at : at + random.choice((0, 40))] = other[start : start + random.choice((4, 40, 400))]
        case _:
            del data[at:]

"""Numbers, and what others wrote, as people read them."""


def size_text(count: int) -> str:
    """Bytes as people read them."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def many(count: int, one: str) -> str:
    """`count` things, such as "1 pack" or "1,200 packs"."""
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


def printable(text: str) -> str:
    """
    `text` with escapes for all that is not seen: names and messages of others may tell a terminal what to do, or go on as
    if they were lines of this program.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """As `printable`, for text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()

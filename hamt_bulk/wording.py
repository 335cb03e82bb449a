"""Numbers as people read them."""


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

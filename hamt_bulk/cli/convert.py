"""`hamt-bulk convert`: a root of any kind as one of another."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hamt_bulk.cli.cluster import running_on
from hamt_bulk.cli.console import CasOption, command, root_of, say, store, wrong
from hamt_bulk.cli.encryption import EncryptionOption, encryption_of
from hamt_bulk.errors import InvalidInput


def add_to(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(convert)


@command
def convert(
    root: Annotated[str, typer.Argument(metavar="ROOT", help="A root of any kind: its CID.")],
    to: Annotated[
        Literal["pyhamt", "hashmap", "ipldstore"], typer.Option(help="What it becomes.", show_default=False)
    ],
    cas: CasOption = None,
    target: Annotated[
        str | None, typer.Option(metavar="URL", help="The store of the result. Default: that of --cas.")
    ] = None,
    bit_width: Annotated[int | None, typer.Option(help="Of --to hashmap: 3 to 16. Default: 8.")] = None,
    bucket_size: Annotated[int | None, typer.Option(help="Of --to hashmap. Default: 3.")] = None,
    hasher: Annotated[
        str | None,
        typer.Option(help="Of --to hashmap: sha2-256 (the default), blake3, murmur3-128 or murmur3-32."),
    ] = None,
    zarr_format: Annotated[
        int | None, typer.Option(help="3: documents of Zarr v2 become those of v3; chunks stay.")
    ] = None,
    encryption: EncryptionOption = None,
    decryption: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="How the values of ROOT are encrypted.")
    ] = None,
    pin: Annotated[str | None, typer.Option(metavar="NAME", help="Pin the new root under this name.")] = None,
    no_journal: Annotated[
        bool, typer.Option("--no-journal", help="Note nothing: a call that ends too early is lost.")
    ] = False,
    resume: Annotated[
        bool | None, typer.Option("--resume/--anew", help="As of `hamt-bulk ingest`.", show_default=False)
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Worker processes; 0: threads of this one.", show_default=True)
    ] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads, in each worker process.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask cluster to work on, as in tcp://host:8786.")
    ] = None,
) -> None:
    """
    Make of a root one of another kind with the same keys and values, and print it.

    Reads roots of py-hamt 1, 2 and 3, of IPLD HashMaps (js ipld-hashmap, IAMap) and of ipldstore. Values are not written
    again where their bytes allow it.
    """
    if scheduler is not None and (workers or threads is not None):
        wrong("--scheduler", "the workers of a cluster are its own: leave out --workers and --threads")
    if no_journal and resume is not None:
        wrong("--no-journal", "contradicts --resume and --anew: leave one of them out")
    shape = {"bit_width": bit_width, "bucket_size": bucket_size, "hasher": hasher}
    given: dict[str, Any] = {name: value for name, value in shape.items() if value is not None}
    if given and to != "hashmap":
        wrong(f"--{next(iter(given)).replace('_', '-')}", f"is for --to hashmap, found --to {to}")
    source, wanted = store(cas), root_of(root)

    from hamt_bulk.cas import open_cas
    from hamt_bulk.conversion import convert as convert_root
    from hamt_bulk.layout import HashMap

    try:
        written = None if target is None else open_cas(target)
    except InvalidInput as error:
        wrong("--target", str(error))
    try:
        wanted_kind: Any = HashMap(**given) if to == "hashmap" else to
    except InvalidInput as error:
        wrong("--to", str(error))
    started = time.perf_counter()
    with running_on(workers, threads, scheduler) as where:
        say(f"on         {where}")
        new = convert_root(
            wanted,
            source,
            wanted_kind,
            written,
            encryption=encryption_of(encryption),
            decryption=encryption_of(decryption, "--decryption"),
            zarr_format=zarr_format,  # type: ignore[arg-type]  # another number is refused there
            pin=pin,
            journal=not no_journal,
            resume=resume,
        )
    say(f"seconds    {time.perf_counter() - started:.1f}")
    print(new)

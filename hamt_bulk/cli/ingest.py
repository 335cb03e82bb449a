"""`hamt-bulk ingest`: files become a root."""

import json
import time
from typing import Annotated, Any

import typer

from hamt_bulk.cli.cluster import running_on
from hamt_bulk.cli.console import CasOption, command, say, store, url_of, wrong


def add_to(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(ingest)


@command
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="netCDF or GRIB files, globs of them, or a Zarr folder or URL."
        ),
    ],
    cas: CasOption = None,
    chunks: Annotated[
        str | None,
        typer.Option(
            metavar="DIM=N,…",
            help="Chunks by dimension, as in time=24,lat=-1 (-1: all of it). Those not named are chosen: for "
            "files, whole chunks of the file joined up to 16 MiB; for Zarr, what the source has.",
        ),
    ] = None,
    group: Annotated[str | None, typer.Option(help="The group of the new hierarchy that it becomes.")] = None,
    engine: Annotated[str | None, typer.Option(help="What xarray is to read it with.")] = None,
    concat_dim: Annotated[
        str | None,
        typer.Option(
            metavar="DIM",
            help="Join the files along this dimension, in the order given, and not by coordinates.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Worker processes; 0: threads of this process. Default: one for each core."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads in each worker process. Default: 1.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask cluster to work on, as in tcp://host:8786.")
    ] = None,
    zarr_format: Annotated[
        int | None, typer.Option(min=2, max=3, help="Zarr's format, 2 or 3. Default: the source's, else 3.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='xarray\'s encoding, as in {"t2m": {"dtype": "float32"}}.'),
    ] = None,
) -> None:
    """Store datasets, and print the root that names them."""
    if scheduler is not None and (workers is not None or threads is not None):
        wrong("--scheduler", "the workers of a cluster are its own: leave out --workers and --threads")
    target = store(cas)
    sizes, encodings = parse_chunks(chunks), parse_encoding(encoding)

    from hamt_bulk.block import text, to_bytes
    from hamt_bulk.cli.sources import open_sources
    from hamt_bulk.xarray import to_hamt

    started = time.perf_counter()
    source = open_sources(sources, sizes, engine=engine, concat_dim=concat_dim, zarr_format=zarr_format)
    say(f"variables  {', '.join(map(str, source.ds.data_vars)) or 'none'}")
    say(f"chunks     {source.chosen}")
    with running_on(workers, threads, scheduler) as where:
        say(f"on         {where}")
        root = to_hamt(source.ds, target, group=group, encoding=encodings, zarr_format=source.zarr_format)
    root_text = text(to_bytes(root))
    say(f"seconds    {time.perf_counter() - started:.1f}")
    say()
    say(opening(root_text, url_of(target, cas), group))
    print(root_text)


def parse_chunks(given: str | None) -> dict[str, int]:
    """`time=24,lat=-1` as a dict."""
    sizes: dict[str, int] = {}
    for item in (given or "").split(",") if given else []:
        dim, separator, size = (part.strip() for part in item.partition("="))
        try:
            sizes[dim] = int(size)
        except ValueError:
            wrong("--chunks", f"{item!r}: expected DIM=N, as in time=24,lat=-1")
        if not dim or not separator or (sizes[dim] < 1 and sizes[dim] != -1):
            wrong("--chunks", f"{item!r}: expected DIM=N with N of 1 or more, or -1 for all of it")
    return sizes


def parse_encoding(given: str | None) -> dict[str, dict[str, Any]] | None:
    """The encoding by variable."""
    if given is None:
        return None
    try:
        encoding = json.loads(given)
    except ValueError as error:
        wrong("--encoding", f"not JSON: {error}")
    if not isinstance(encoding, dict) or not all(isinstance(own, dict) for own in encoding.values()):
        wrong("--encoding", 'expected an object for each variable, as in {"t2m": {"dtype": "float32"}}')
    return encoding


def opening(root: str, url: str, group: str | None = None) -> str:
    """The Python that opens a root."""
    more = "" if group is None else f", group={group!r}"
    return (
        f'import xarray as xr\nds = xr.open_dataset("{root}", engine="hamt", cas={url!r}{more}, chunks={{}})'
    )

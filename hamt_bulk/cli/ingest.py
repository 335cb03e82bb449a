"""`hamt-bulk ingest` and `append`: files become a root."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cli.cluster import running_on
from hamt_bulk.cli.console import CasOption, RootArgument, command, root_of, say, store, url_of, wrong
from hamt_bulk.cli.encryption import EncryptionOption, encryption_of
from hamt_bulk.errors import InvalidInput

if TYPE_CHECKING:
    import xarray as xr
    from multiformats import CID

    from hamt_bulk.crypto import Encryption

SourcesArgument = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE...", help="netCDF or GRIB files, globs of them, or a Zarr folder or URL."),
]
ChunksOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIM=N,…",
        help="Chunks by dimension, as in time=24,lat=-1 (-1: all of it). Those not named are chosen: for "
        "files, whole chunks of the file joined up to 16 MiB; for Zarr, what the source has.",
    ),
]
GroupOption = Annotated[str | None, typer.Option(help="The group of the hierarchy that it becomes.")]
EngineOption = Annotated[str | None, typer.Option(help="What xarray is to read it with.")]
ConcatOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIM", help="Join the files along this dimension, in the order given, and not by coordinates."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Worker processes; 0: threads of this process. Default: one for each core."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads in each worker process. Default: 1.")]
SchedulerOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A Dask cluster to work on, as in tcp://host:8786.")
]
PinOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Pin the root under this name, where the store needs that (a Kubo daemon does). The pin of a base that "
        "has the name moves.",
    ),
]
JournalPath = Annotated[
    Path | None,
    typer.Option(
        "--journal",
        metavar="FILE",
        help="Where finished batches are noted. Default: among the journals of the store. It is removed when the root is "
        "there.",
    ),
]
NoJournal = Annotated[
    bool, typer.Option("--no-journal", help="Note nothing: a call that ends too early is lost.")
]
ResumeOption = Annotated[
    bool | None,
    typer.Option(
        "--resume/--anew",
        help="--resume: there has to be something to go on with; --anew: begin from nothing. Default: go on where an "
        "earlier call of the same ended, if one did.",
        show_default=False,
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command()(ingest)
    app.command()(append)


@command
def ingest(
    sources: SourcesArgument,
    cas: CasOption = None,
    chunks: ChunksOption = None,
    group: GroupOption = None,
    engine: EngineOption = None,
    concat_dim: ConcatOption = None,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    scheduler: SchedulerOption = None,
    zarr_format: Annotated[
        int | None, typer.Option(min=2, max=3, help="Zarr's format, 2 or 3. Default: the source's, else 3.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='xarray\'s encoding, as in {"t2m": {"dtype": "float32"}}.'),
    ] = None,
    encryption: EncryptionOption = None,
    pin: PinOption = None,
    journal: JournalPath = None,
    no_journal: NoJournal = False,
    resume: ResumeOption = None,
) -> None:
    """
    Store datasets, and print the root that names them.

    Whatever ends it too early, a call with the same arguments goes on from there.
    """
    _refuse_both(scheduler, workers, threads)
    target, key = store(cas), encryption_of(encryption)
    sizes, encodings = parse_chunks(chunks), parse_encoding(encoding)

    from hamt_bulk.cli.sources import open_sources
    from hamt_bulk.xarray import to_hamt

    started = time.perf_counter()
    source = open_sources(sources, sizes, engine=engine, concat_dim=concat_dim, zarr_format=zarr_format)
    say(f"variables  {', '.join(map(str, source.ds.data_vars)) or 'none'}")
    say(f"chunks     {source.chosen}")
    with running_on(workers, threads, scheduler) as where:
        say(f"on         {where}")
        root = to_hamt(
            source.ds,
            target,
            group=group,
            encoding=encodings,
            zarr_format=source.zarr_format,
            encryption=key,
            pin=pin,
            journal=_journal(journal, no_journal),
            resume=resume,
        )
    _tell(root, started, url_of(target, cas), group, key)


@command
def append(
    root: RootArgument,
    sources: SourcesArgument,
    dim: Annotated[
        str, typer.Option(metavar="DIM", help="The dimension along which the base becomes longer.")
    ],
    cas: CasOption = None,
    group: GroupOption = None,
    engine: EngineOption = None,
    concat_dim: ConcatOption = None,
    workers: Annotated[
        int,
        typer.Option(min=0, help="Worker processes; 0: threads of this process, which is enough for a day."),
    ] = 0,
    threads: ThreadsOption = None,
    scheduler: SchedulerOption = None,
    encryption: EncryptionOption = None,
    pin: PinOption = None,
    journal: JournalPath = None,
    no_journal: NoJournal = False,
    resume: ResumeOption = None,
) -> None:
    """
    Append datasets to a root, and print the new one. The old one stays as it was.

    Only what changes is read and written. Chunks are those of the base. Values of --dim that the base has
    already are refused, so a call that is made twice appends once.
    """
    _refuse_both(scheduler, workers or None, threads)
    target, base, key = store(cas), root_of(root), encryption_of(encryption)

    from hamt_bulk.cli.sources import open_sources
    from hamt_bulk.xarray import to_hamt

    started = time.perf_counter()
    source = open_sources(sources, {}, engine=engine, concat_dim=concat_dim, zarr_format=None)
    refuse_overlap(source.ds, dim, base, target, group, key)
    say(f"variables  {', '.join(map(str, source.ds.data_vars)) or 'none'}")
    say(f"appended   {source.ds.sizes[dim]} along {dim}")
    with running_on(None if scheduler else workers, threads, scheduler) as where:
        say(f"on         {where}")
        new = to_hamt(
            source.ds,
            target,
            base=base,
            group=group,
            append_dim=dim,
            align_chunks=True,
            encryption=key,
            pin=pin,
            journal=_journal(journal, no_journal),
            resume=resume,
        )
    _tell(new, started, url_of(target, cas), group, key)


def refuse_overlap(
    ds: "xr.Dataset",
    dim: str,
    base: bytes,
    cas: ContentAddressedStore,
    group: str | None,
    encryption: "Encryption | None" = None,
) -> None:
    """Raises `InvalidInput` when the base has some of the coordinate's values already."""
    import xarray as xr

    from hamt_bulk.block import text

    if dim not in ds.dims:
        raise InvalidInput(f"the sources have no dimension {dim!r}, but {', '.join(map(str, ds.dims))}")
    there = xr.open_dataset(
        text(base), engine="hamt", cas=cas, group=group, encryption=encryption, chunks=None
    )
    if dim not in ds.indexes or dim not in there.indexes:
        return
    both = ds.indexes[dim].intersection(there.indexes[dim])
    if len(both):
        raise InvalidInput(
            f"the base has {len(both)} of the {ds.sizes[dim]} values of {dim!r} already, such as {both[0]}: nothing "
            'was appended. To write over them call to_hamt(…, region="auto") in Python'
        )


def _journal(path: Path | None, none: bool) -> Path | bool:
    if path is not None and none:
        wrong("--journal", "contradicts --no-journal: leave one of them out")
    return path or not none


def _refuse_both(scheduler: str | None, workers: int | None, threads: int | None) -> None:
    if scheduler is not None and (workers is not None or threads is not None):
        wrong("--scheduler", "the workers of a cluster are its own: leave out --workers and --threads")


def _tell(root: "CID", started: float, url: str, group: str | None, encryption: "Encryption | None") -> None:
    """The root on stdout, and for people how it is opened."""
    from hamt_bulk.block import text, to_bytes

    root_text = text(to_bytes(root))
    say(f"seconds    {time.perf_counter() - started:.1f}")
    say()
    say(opening(root_text, url, group, encryption))
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


def opening(root: str, url: str, group: str | None = None, encryption: "Encryption | None" = None) -> str:
    """The Python that opens a root."""
    more = "" if group is None else f", group={group!r}"
    names = ""
    if encryption is not None:
        more += f", encryption={encryption!r}"
        names = "from hamt_bulk import Encryption, KeyEnv, KeyFile\n"
    return f'import xarray as xr\n{names}ds = xr.open_dataset("{root}", engine="hamt", cas={url!r}{more}, chunks={{}})'

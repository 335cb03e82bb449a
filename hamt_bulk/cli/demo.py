"""`hamt-bulk demo`: a real climate file, there and back."""

import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from hamt_bulk.cli.cluster import running_on
from hamt_bulk.cli.console import command, packs_of, say, size_text, store, url_of
from hamt_bulk.cli.ingest import opening
from hamt_bulk.errors import HamtError, InvalidInput

FILE = "A1B_north_america.nc"
VARIABLE = "/air_temperature"
CHUNKS = {"time": 24}
WORKERS = 2


def add_to(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(demo)


@command
def demo(
    cas: Annotated[
        str, typer.Option("--cas", metavar="URL", envvar="HAMT_BULK_CAS", help="A folder for the packs.")
    ] = "./hamt-bulk-demo",
) -> None:
    """Store a climate file on two worker processes, open it again, and compare."""
    target = store(cas)
    source = sample()

    import xarray as xr

    from hamt_bulk.block import text, to_bytes
    from hamt_bulk.cli.describe import described
    from hamt_bulk.integrity import check
    from hamt_bulk.xarray import to_hamt

    started = time.perf_counter()
    with xr.open_dataset(source, chunks=CHUNKS) as ds:
        say(f"reading    {source.name}: {' × '.join(f'{dim} {size}' for dim, size in ds.sizes.items())}")
        with running_on(WORKERS, 1, None) as where:
            say(f"storing    in {url_of(target, cas)}, on {where}")
            root = to_hamt(ds, target)
        stored = time.perf_counter() - started
        root_text = text(to_bytes(root))
        expected = ds.load()
    with xr.open_dataset(root_text, engine="hamt", cas=target) as again:
        found = again.load()
    for name in expected.variables:
        if name not in found.variables or not found[name].identical(expected[name]):
            raise HamtError(f"{name} is not what it was: this is a fault of hamt-bulk, please report it")
    xr.testing.assert_identical(found, expected)
    report = check(to_bytes(root), target)
    if not report.ok:
        raise HamtError(f"the tree is damaged: {report.problems[0]}")

    chunks = {array["path"]: array["chunks_stored"] for array in described(to_bytes(root), target)["arrays"]}
    packs = packs_of(target)
    say(f"compared   {len(expected.variables)} variables with the source: identical")
    say()
    say(f"root       {root_text}")
    say(f"variables  {', '.join(map(str, expected.data_vars))}")
    say(f"chunks     {sum(chunks.values())}, of which {chunks[VARIABLE]} of {VARIABLE}")
    say(f"bytes      {size_text(expected.nbytes)} in memory, {size_text(report.bytes)} stored")
    say(f"blocks     {report.blocks}, of which {report.nodes} of the tree")
    if packs is not None:
        say(f"packs      {packs} files in {url_of(target, cas)}")
    say(f"seconds    {stored:.1f} to store, cluster and all")
    say()
    say("Open it:")
    say()
    say(opening(root_text, url_of(target, cas)))
    print(root_text)


def sample() -> Path:
    """The file. Raises `InvalidInput` with the command that installs it."""
    if find_spec("iris_sample_data") is None or find_spec("netCDF4") is None:
        raise InvalidInput("the demo needs a climate file and a reader: pip install 'hamt-bulk[demo]'")
    return Path(import_module("iris_sample_data").path) / FILE

"""The code that people read first runs."""

import ast
import asyncio
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hamt_bulk import copy
from hamt_bulk.xarray import to_hamt

HERE = Path(__file__).parent.parent
NOTEBOOKS = sorted((HERE / "notebooks").glob("*.ipynb"))


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path, in_an_empty_folder):
    pytest.importorskip("iris_sample_data", reason="the demo extra is not installed")
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)


def hours_of(day: pd.Timestamp) -> xr.Dataset:
    hours = pd.date_range(day, periods=24, freq="h")
    values = np.random.default_rng(day.day).normal(size=(24, 4))
    return xr.Dataset({"t2m": (("time", "x"), values)}, coords={"time": hours})


def test_the_ipfs_of_the_readme_runs(in_an_empty_folder, kubo):
    """With a daemon of ours in the place of those that it names. No pinning service is called."""
    blocks = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    *_, stores, others, _ = blocks
    addresses = {
        "http://10.0.0.5:5001": kubo.rpc_url,
        "http://10.0.0.5:8080": kubo.gateway_url,
        "https://gateway.example": kubo.gateway_url,
    }
    for shown, real in addresses.items():
        stores, others = stores.replace(shown, real), others.replace(shown, real)
    ds, day = hours_of(pd.Timestamp("2020-01-01")), hours_of(pd.Timestamp("2020-01-02"))
    names = {"xr": xr, "to_hamt": to_hamt, "copy": copy, "ds": ds, "day": day}
    exec(stores, names)
    assert kubo.pins()[str(names["root"])] == "era5"
    published, _, service = others.partition("service = ")
    exec(published.replace("expected=before", "expected=None"), names)
    ast.parse(service)


def test_the_python_of_the_readme_runs(in_an_empty_folder):
    """All of it, in order, with the datasets that it speaks of."""
    Path("era5").mkdir()
    for day in pd.date_range("2020-01-01", periods=2):
        hours_of(day).to_netcdf(f"era5/{day:%d}.nc")
    blocks = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    first, changing, roots, handle, _, keys, encryption, *_ = blocks
    names: dict[str, Any] = {"day": hours_of(pd.Timestamp("2020-01-03"))}
    run(first, names)
    assert str(names["root"]).startswith("bafyr4i")
    opened = xr.open_dataset(names["root"], engine="hamt", cas="store")
    assert opened.sizes["time"] == 72

    names |= {
        "day": hours_of(pd.Timestamp("2020-01-04")),
        "fixed": (opened.isel(time=slice(24)) * 2).load(),
        "wind": opened.rename(t2m="wind").load(),
    }
    run(changing, names)

    cas, root = names["cas"], names["root"]
    names |= {"base": root, "before": root}
    names |= {"ours": names["to_hamt"](names["wind"], cas, base=root, mode="a"), "theirs": root}
    names |= {"after": names["ours"]}
    run(roots, names)
    assert Path("dataset.car").exists() and names["key"]

    names["ds"] = hours_of(pd.Timestamp("2020-01-03")).chunk(time=12)
    run(handle, names)
    assert xr.open_dataset(names["root"], engine="hamt", cas="store").load().equals(names["ds"].load())

    names |= {"pairs": [("key", b"value")], "dask": __import__("dask.bag")}
    in_process, on_dask = keys.split("\n\n")
    run(in_process, names)
    alone = names["root"]
    run(on_dask, names)
    assert names["root"] == alone

    Path("era5.key").write_bytes(os.urandom(32))
    run(encryption, names)
    opened = xr.open_dataset(names["root"], engine="hamt", cas="store", encryption=names["encryption"])
    assert opened.load().equals(names["ds"].load())

    run(blocks[-1], names)
    assert xr.open_dataset(names["root"], engine="hamt", cas="store").load().equals(names["ds"].load())


def run(code: str, names: dict[str, Any]) -> None:
    """As in a notebook, where `await` stands anywhere."""
    compiled = compile(code, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.iscoroutine(result := eval(compiled, names)):
        asyncio.run(result)

"""The code that people read first runs."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

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


def test_the_python_of_the_readme_runs(in_an_empty_folder):
    Path("era5").mkdir()
    for day in pd.date_range("2020-01-01", periods=2):
        hours = pd.date_range(day, periods=24, freq="h")
        values = np.random.default_rng(0).normal(size=(24, 4))
        xr.Dataset({"t2m": (("time", "x"), values)}, coords={"time": hours}).to_netcdf(f"era5/{day:%d}.nc")
    first, keys = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(first, names)
    assert str(names["root"]).startswith("bafyr4i")
    names |= {"pairs": [("key", b"value")], "dask": __import__("dask.bag")}
    in_process, on_dask = keys.split("\n\n")
    exec(in_process, names)
    alone = names["root"]
    exec(on_dask, names)
    assert names["root"] == alone

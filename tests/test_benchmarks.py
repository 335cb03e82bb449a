"""Each benchmark at a tiny size, to see that it works. What it measures there means nothing."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


@pytest.mark.parametrize(
    "name",
    [
        "index",
        "diff",
        "convert",
        "edits",
        "appends",
        "traffic",
        "disk",
        "check",
        "throughput",
        "memory",
        "scale",
        "kubo",
    ],
)
def test_a_benchmark_gives_a_figure_in_every_row(name, request):
    if name == "kubo":
        request.getfixturevalue("ipfs_binary")
    benchmark = __import__(f"benchmarks.{name}", fromlist=["rows"])
    rows = list(benchmark.rows(benchmark.SIZES["tiny"]))
    assert rows
    for row in rows:
        assert row.name and row.figure
        assert (row.met is None) == (not row.target)


def test_all_benchmarks_are_run_by_the_package():
    import benchmarks

    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert set(benchmarks.SUBJECTS) <= modules - {"report", "measure", "data"}


def test_a_table_shows_figures_beside_their_targets():
    from benchmarks.measure import Ratio
    from benchmarks.report import ratio_at_most, record, table

    ratio = Ratio([3.0, 2.0, 8.0], [2.0, 2.0, 2.0])
    lines = table("Speed", [ratio_at_most("us / them", ratio, 1.2), record("files", 3000)]).splitlines()
    assert lines[0] == "## Speed"
    assert [cell.strip() for cell in lines[4].split("|")[1:5]] == [
        "us / them",
        "1.500 ×",
        "≤ 1.2 ×",
        "MISSED",
    ]
    assert [cell.strip() for cell in lines[5].split("|")[1:5]] == ["files", "3,000", "", ""]


def test_a_figure_may_have_a_lower_limit():
    from benchmarks.measure import Ratio
    from benchmarks.report import ratio_at_least

    for times, met in (([300.0], True), ([299.0], False)):
        row = ratio_at_least("them / us", Ratio(times, [3.0]), 100)
        assert (row.target, row.met) == ("≥ 100 ×", met)

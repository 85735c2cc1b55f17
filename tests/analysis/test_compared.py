"""Figures of a comparison: what they show is known by hand."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_symcere.analysis import compared
from recbole_symcere.comparison.tables import Run, against_each_baseline, make_table

USERS = [f"u{number}" for number in range(6)]
LEVELS = {"a": {"Pop": 0.1, "LightGCN": 0.3, "SymCERE": 0.4}, "b": {"Pop": 0.3, "LightGCN": 0.2, "SymCERE": 0.4}}


def make_runs(datasets: str = "ab") -> list[Run]:
    return [
        Run(dataset, model, 1, {"ndcg@10": level}, pl.DataFrame({"user_id": USERS, "ndcg@10": [level] * 6}), level, 1.0)
        for dataset in datasets
        for model, level in LEVELS[dataset].items()
    ]


def test_our_best_is_compared_with_each_baseline_on_each_dataset() -> None:
    compared = against_each_baseline(make_runs(), {"SymCERE"})
    found = {dataset: {of.baseline: round(of.users.difference, 9) for of in each} for dataset, each in compared.items()}
    assert found == {"a": {"Pop": 0.3, "LightGCN": 0.1}, "b": {"Pop": 0.1, "LightGCN": 0.2}}
    assert against_each_baseline(make_runs(), ()) == against_each_baseline(make_runs(), set(LEVELS["a"])) == {}


def test_ranks_are_means_over_datasets_and_need_several() -> None:
    table = make_table(make_runs(), ("ndcg@10",), ())
    assert list(compared.ranks_of(table).items()) == [("SymCERE", 1.0), ("Pop", 2.5), ("LightGCN", 2.5)]
    assert compared.ranks_of(make_table(make_runs("a"), ("ndcg@10",), ())) == {}


def test_groups_are_the_largest_whose_ranks_are_near() -> None:
    assert compared.groups([1.0, 1.5, 2.5, 4.0], 1.25) == [(1.0, 1.5), (1.5, 2.5)]
    assert compared.groups([1.0, 1.5, 2.0], 5.0) == [(1.0, 2.0)]
    assert compared.groups([1.0, 3.0], 1.0) == []


@given(st.lists(st.floats(1, 9), min_size=1, max_size=9).map(sorted), st.floats(0.01, 9))
def test_two_models_are_in_one_group_where_and_only_where_they_are_near(ranks: list[float], critical: float) -> None:
    found = compared.groups(ranks, critical)
    for low in ranks:
        for high in (rank for rank in ranks if rank > low):
            assert any(start <= low and high <= end for start, end in found) == (high - low < critical)


@pytest.mark.parametrize(("datasets", "names"), [("ab", {"differences", "ranks"}), ("a", {"differences"})])
def test_figures_are_written_in_each_form(datasets: str, names: set[str], tmp_path: Path) -> None:
    compared.write_figures(tmp_path, make_runs(datasets), {"SymCERE"})
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{end}" for name in names for end in ("svg", "png", "pdf")
    }
    drawn = (tmp_path / "differences.svg").read_text(encoding="utf-8")
    assert "SymCERE on a" in drawn and "LightGCN" in drawn
    if "ranks" in names:
        drawn = (tmp_path / "ranks.svg").read_text(encoding="utf-8")
        assert "CD = 2.34" in drawn and "SymCERE" in drawn  # 2.343 sqrt(3 * 4 / (6 * 2))

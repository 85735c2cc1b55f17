"""The spread over orders of equal time, by hand."""

import polars as pl
import pytest

from recbole_symcere.comparison.tables import Run
from recbole_symcere.comparison.ties import ties_sheet


def run(model: str, seed: int, value: float) -> Run:
    return Run("toy", model, seed, {"ndcg@10": value}, pl.DataFrame(), 0.5, 1.0)


def test_the_first_order_counts_with_its_first_seed() -> None:
    seeds = [run("Pop", 2, 0.75), run("Pop", 1, 0.25)]
    sheet = ties_sheet(seeds, {("toy", "Pop"): [run("Pop, tie order 1", 1, 0.5), run("Pop, tie order 2", 1, 0.375)]})
    (row,) = sheet.numbers.rows(named=True)
    assert (row["mean"], row["low"], row["high"], row["n_orders"], row["n_seeds"]) == (0.375, 0.25, 0.5, 3, 2)
    assert row["sd"] == pytest.approx(0.125) and row["sd_seeds"] == pytest.approx(0.125**0.5)
    assert [cell.text for cell in sheet.grid.rows[0].cells] == ["0.3750", "0.2500", "0.5000", "0.1250", "0.3536"]
    assert "on 3 orders of the rows of equal time" in sheet.notes[0] and "the seed 1." in sheet.notes[0]


def test_one_seed_has_no_spread() -> None:
    sheet = ties_sheet([run("Pop", 1, 0.25)], {("toy", "Pop"): [run("Pop, tie order 1", 1, 0.5)]})
    assert sheet.grid.rows[0].cells[-1].text == "n/a"

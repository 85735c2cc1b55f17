"""What validation could tell: standard errors by hand, and the words of tables."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_symcere.comparison.tables import NEEDED, Run, make_tables
from recbole_symcere.comparison.validation import standings, validation_notes, validation_sheet
from recbole_symcere.errors import RunsError

FLAT, UP, FAR = [0.5, 0.5, 0.5, 0.5], [0.5, 0.75, 0.25, 0.75], [0.0, 0.0, 0.125, 0.0]


def run(model: str, values: list[float] | None, seed: int = 1, dataset: str = "toy", users: str = "abcd") -> Run:
    valid = None if values is None else pl.DataFrame({"user_id": list(users), "ndcg@10": values})
    tested = pl.DataFrame({"user_id": list("xy")} | {name: [0.5, 0.5] for name in NEEDED})
    return Run(dataset, model, seed, dict.fromkeys(NEEDED, 0.5), tested, 0.5, 1.0, valid_users=valid)


def test_each_model_stands_beside_the_best_with_paired_errors() -> None:
    flat, up, far = standings([run("Flat", FLAT), run("Up", UP), run("Far", FAR)])
    assert (up.best, up.mean, up.difference, up.difference_error) == ("Up", 0.5625, 0.0, 0.0)
    assert flat.difference == -0.0625
    # The differences from Up are 0, -.25, .25, -.25, with the mean -.0625.
    squares = [0.0625**2, 0.1875**2, 0.3125**2, 0.1875**2]
    assert flat.difference_error == pytest.approx(math.sqrt(sum(squares) / 3) / 2)
    assert flat.error == 0.0 and not flat.is_told_apart and far.is_told_apart


def test_values_are_averaged_over_seeds_and_users_are_matched_by_name() -> None:
    (one,) = standings([run("Up", UP), run("Up", UP[::-1], seed=2, users="dcba")])
    assert (one.mean, one.error) == (0.5625, pytest.approx(np.std(UP, ddof=1) / 2))
    with pytest.raises(RunsError, match="toy: Far, seed 1 was validated on other users"):
        standings([run("Up", UP), run("Far", FAR, users="abce")])


@given(st.lists(st.tuples(*[st.integers(0, 8)] * 2), min_size=2, max_size=12), st.integers(-4, 4))
def test_what_all_users_share_changes_no_paired_error(pairs: list[tuple[int, int]], shift: int) -> None:
    """Users who are hard for both models widen the error of each, but not that of the difference."""
    users = "".join(chr(97 + number) for number in range(len(pairs)))
    first, second = ([pair[place] / 8 for pair in pairs] for place in (0, 1))
    hard = [value + shift * number for number, value in enumerate(first)]
    hard_too = [value + shift * number for number, value in enumerate(second)]
    plain = standings([run("A", first, users=users), run("B", second, users=users)])
    shifted = standings([run("A", hard, users=users), run("B", hard_too, users=users)])
    errors = [max(standing.difference_error for standing in of) for of in (plain, shifted)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-9)


def test_tables_say_what_validation_cannot_tell() -> None:
    runs = [run("Flat", FLAT), run("Up", UP), run("Far", FAR)]
    told = "On toy, validation can't tell Flat from the best model there, Up."
    assert validation_notes(runs) == (told,)
    tables = make_tables(runs, ["Up"], {})
    assert tables["summary"].notes == tables["accuracy"].notes == (told,)
    sheet = validation_sheet(runs)
    assert sheet is not None
    rows = {row.head: [f"{cell.text} {cell.detail}".strip() for cell in row.cells] for row in sheet.grid.rows}
    assert rows["Up"] == ["0.5625 ± 0.1197", "", ""]
    assert rows["Flat"] == ["0.5000 ± 0.0000", "−0.0625 ± 0.1197", "no"] and rows["Far"][2] == "yes"
    assert "On toy, 1 of 3 pairs of models can't be told apart: Flat and Up." in sheet.notes
    assert sheet.numbers.filter(pl.col("model") == "Flat")["difference"].item() == -0.0625


def test_runs_of_older_versions_have_no_such_table() -> None:
    runs = [run("Up", UP), run("Far", None)]
    assert validation_sheet(runs) is None and validation_notes(runs) == ()

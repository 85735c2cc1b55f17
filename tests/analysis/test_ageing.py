"""What a model's age does to its ranking, against a slow loop over users and questions."""

import json
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_symcere.analysis.__main__ import main
from recbole_symcere.analysis.ageing import over_time, read_questions
from recbole_symcere.comparison.runs import QUESTIONS
from recbole_symcere.decay import DAY
from recbole_symcere.errors import AnalysisError

Asked = dict[tuple[str, int], float]  # by user and day
asked_questions = st.dictionaries(
    st.tuples(st.sampled_from(["u1", "u2", "u3"]), st.integers(100, 130)), st.floats(0, 1), min_size=1, max_size=30
)


def frame(asked: Asked, plus: float = 0.0) -> pl.DataFrame:
    rows = [{"user_id": user, "now": day * DAY - 1, "ndcg@10": value + plus} for (user, day), value in asked.items()]
    return pl.DataFrame(rows).sort("user_id", "now")


def write_runs(folder: Path, *seeds: Asked) -> Path:
    for seed, asked in enumerate(seeds):
        (folder / f"seed-{seed}").mkdir(parents=True)
        frame(asked).write_parquet(folder / f"seed-{seed}" / QUESTIONS)
    return folder


@settings(deadline=None, max_examples=40)
@given(asked=asked_questions, n_periods=st.integers(1, 5))
def test_periods_cut_the_days_and_each_user_counts_once_in_each(asked: Asked, n_periods: int) -> None:
    found = over_time({"one": frame(asked), "more": frame(asked, plus=1.0)}, n_periods, seed=0)
    first = min(day for _, day in asked)
    periods = found["periods"]
    assert 1 <= len(periods) <= n_periods
    assert sum(period["questions"] for period in periods) == len(asked)
    assert all(one["to_day"] < other["from_day"] for one, other in pairwise(periods))
    for period in periods:
        values: dict[str, list[float]] = {}
        for (user, day), value in asked.items():
            if period["from_day"] <= day - first <= period["to_day"]:
                values.setdefault(user, []).append(value)
        mean = sum(sum(own) / len(own) for own in values.values()) / len(values)
        one, more = period["runs"]["one"], period["runs"]["more"]
        assert one["mean"] == pytest.approx(mean) and more["mean"] == pytest.approx(mean + 1)
        assert one["users"] == len(values) and one["interval"][0] <= one["mean"] + 1e-9
        assert one["interval"][1] >= one["mean"] - 1e-9


def test_many_questions_are_dealt_out_evenly() -> None:
    asked = {(f"u{day % 7}", day): 0.5 for day in range(80)}
    assert [period["questions"] for period in over_time({"run": frame(asked)}, 4, 0)["periods"]] == [20] * 4


def test_the_command_means_over_seeds_and_writes_table_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one = write_runs(tmp_path / "one", {("u1", 3): 0.0, ("u2", 9): 0.5}, {("u1", 3): 1.0, ("u2", 9): 0.5})
    other = write_runs(tmp_path / "other", {("u1", 3): 0.25, ("u2", 9): 0.75})
    output = tmp_path / "out"
    arguments = ["ageing", "--runs", f"plain={one}", str(other), "--periods", "2", "--output", str(output)]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert table == (output / "ageing.md").read_text(encoding="utf-8")
    assert "| 0 to 0" in table and "| 6 to 6" in table and "plain" in table and "other" in table
    content = json.loads((output / "ageing.json").read_text(encoding="utf-8"))
    means = [[period["runs"][label]["mean"] for label in ("plain", "other")] for period in content["periods"]]
    assert means == [[0.5, 0.25], [0.5, 0.75]]
    assert all((output / f"ageing.{suffix}").stat().st_size > 0 for suffix in ("svg", "png", "pdf"))


def test_what_can_not_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"no seed-\*/questions\.parquet; name the folder of a model"):
        read_questions(tmp_path)
    with pytest.raises(AnalysisError, match="one and other were not asked the same questions"):
        over_time({"one": frame({("u1", 3): 0.5}), "other": frame({("u1", 4): 0.5})}, 2, 0)

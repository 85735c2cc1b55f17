"""Scorers that count interactions, against slow loops and in whole runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_symcere.errors import DatasetError
from recbole_symcere.model.baselines.popularity import LaterPopularity, RecentPop, Repurchase
from recbole_symcere.quick_start import load_data_and_model, recommend, run_recbole_symcere
from tests.conftest import for_model, tiny_rows, write_atomic_files
from tests.model.baselines.rows import (
    DAY,
    N_ITEMS,
    N_USERS,
    Row,
    Rows,
    few_settings,
    rows_of_three_users,
    scores_of_all,
)

quick = hypothesis_settings(deadline=None, max_examples=100)


def last_of(rows: list[Row], user: int) -> float:
    """The day of a user's last row, or of the last row of all."""
    return max((day for u, _, day in rows if u == user), default=max(day for _, _, day in rows))


def expected(score: Any) -> np.ndarray:
    """The scores that a function of a user and an item gives."""
    return np.array([[score(user, item) for item in range(N_ITEMS)] for user in range(N_USERS)])


# RecentPop


@quick
@given(rows=rows_of_three_users(), half_life=st.floats(0.05, 3650.0), group_by=st.sampled_from(["user", "none", None]))
def test_an_interaction_counts_half_after_each_half_life_up_to_the_users_last(
    rows: list[Row], half_life: float, group_by: str | None
) -> None:
    def score(user: int, item: int) -> float:
        now = last_of(rows, user) if group_by == "user" else last_of(rows, 0)
        return sum(2 ** (-(now - day) / half_life) for _, i, day in rows if i == item and day <= now)

    model = RecentPop(few_settings(half_life=half_life, eval_args={"group_by": group_by}), Rows(rows))
    np.testing.assert_allclose(scores_of_all(model), expected(score), rtol=1e-9, atol=1e-300)


@quick
@given(rows=rows_of_three_users(), days=st.lists(st.floats(0.0, 50.0), min_size=N_USERS, max_size=N_USERS))
def test_a_ranking_says_for_which_time_each_user_is_asked(rows: list[Row], days: list[float]) -> None:
    def score(user: int, item: int) -> float:
        return sum(2 ** (-(days[user] - day) / 7.0) for _, i, day in rows if i == item and day <= days[user])

    asked = torch.tensor(days, dtype=torch.float64) * DAY
    model = RecentPop(few_settings(half_life=7.0), Rows(rows))
    model.about_to_rank(SimpleNamespace(moments=asked, questions=None))
    np.testing.assert_allclose(scores_of_all(model), expected(score), rtol=1e-6, atol=1e-300)
    model.about_to_rank(SimpleNamespace(moments=None, questions=None))
    np.testing.assert_allclose(scores_of_all(model), expected(score), rtol=1e-6, atol=1e-300)


def test_the_test_part_and_recommendations_are_asked_for_at_the_last_interaction_of_validation(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(RecentPop, "about_to_rank", lambda model, known: asked.append(known.moments))
    own = for_model(settings | {"model": "RecentPop", "checkpoint_file": str(tmp_path / "run.pth")})
    run_recbole_symcere(config_dict=own)
    recommend(tmp_path / "run.pth", ["u3"])
    _, _, dataset, *loaders = load_data_and_model(tmp_path / "run.pth")
    user = dataset.token2id("user_id", "u3")
    times = [of._dataset.inter_feat["timestamp"][of._dataset.inter_feat["user_id"] == user] for of in loaders]
    assert [float(moments[user]) for moments in asked] == [times[0].max(), *[times[1].max()] * 4]
    assert times[0].max() < times[1].max()


def test_decades_of_short_half_lives_neither_overflow_nor_leave_anything_unranked() -> None:
    rows = [(1, 1, 0.0), (1, 2, 1.0), (2, 3, 900.0), (3, 4, 10_000.0)]
    scores = scores_of_all(RecentPop(few_settings(half_life=1.0), Rows(rows)))
    assert np.isfinite(scores).all()
    assert scores[1].tolist() == [0, 0.5, 1, 0, 0, 0], "what comes after the user's last is not known"
    assert 1 == scores[2][3] > scores[2][2] > scores[2][1] > 0


# LaterPopularity


@quick
@given(rows=rows_of_three_users())
def test_later_popularity_counts_what_others_did_strictly_after_the_users_last(rows: list[Row]) -> None:
    popularity = [sum(i == item for _, i, _ in rows) for item in range(N_ITEMS)]

    def later(user: int, item: int) -> int:
        return sum(i == item and day > last_of(rows, user) for _, i, day in rows)

    scores = scores_of_all(LaterPopularity(few_settings(), Rows(rows)))
    of_ties = [p / (1 + max(popularity)) for p in popularity]
    np.testing.assert_allclose(scores, expected(later) + np.array(of_ties), rtol=1e-12)
    assert (np.floor(scores) == expected(later)).all(), "popularity only breaks ties"
    assert LaterPopularity.is_probe and not RecentPop.is_probe


@pytest.mark.parametrize("model", [RecentPop, LaterPopularity])
def test_without_times_the_settings_that_load_them_are_named(model: Any) -> None:
    with pytest.raises(DatasetError, match=r"few: .*no times.*TIME_FIELD \(now 'timestamp'\).*load_col"):
        model(few_settings(half_life=1.0), Rows([(1, 1, 0.0)], timed=False))


# Repurchase


@quick
@given(rows=rows_of_three_users())
def test_what_was_met_more_often_is_first_and_popularity_breaks_ties(rows: list[Row]) -> None:
    pairs = [(user, item) for user, item, _ in rows]
    popularity = [sum(i == item for _, i in pairs) for item in range(N_ITEMS)]
    scores = scores_of_all(Repurchase(few_settings(), Rows(rows, timed=False)))
    for user in range(N_USERS):
        ranks = [(pairs.count((user, item)), popularity[item]) for item in range(N_ITEMS)]
        assert scores[user].tolist() == pytest.approx([met + p / (1 + max(popularity)) for met, p in ranks])
        found = sorted(range(N_ITEMS), key=scores[user].tolist().__getitem__)
        assert found == sorted(range(N_ITEMS), key=ranks.__getitem__)


def test_repeated_rows_are_found_where_the_protocol_leaves_them(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = tiny_rows()
    first = {user: (user, item, 4.0, 2e9, f"again {user}", "again") for user, item, *_ in reversed(rows)}
    folder = write_atomic_files(tmp_path / "own" / "own", [*rows, *first.values()])
    own = for_model(settings | {"model": "Repurchase", "dataset": "own", "data_path": str(folder.parent)})
    files = {"checkpoint_file": str(tmp_path / "run.pth"), "result_file": str(tmp_path / "run.json")}
    paper = run_recbole_symcere(config_dict=own | files | {"protocol": "keep-duplicates"})
    strict = run_recbole_symcere(config_dict=own)
    assert paper["test_result"]["mrr@10"] == 1 > 2 * strict["test_result"]["mrr@10"]
    assert json.loads((tmp_path / "run.json").read_text())["epochs"] == 1

    (found,) = recommend(tmp_path / "run.pth", ["u3"], k=30).values()
    _, _, _, train_data, _, _ = load_data_and_model(tmp_path / "run.pth")
    popularity = train_data._dataset.inter_feat["item_id"].bincount()
    counts = [int(popularity[train_data._dataset.token2id("item_id", item)]) for item, _ in found]
    assert counts == sorted(counts, reverse=True) and len(found) < 30, "the history is masked"

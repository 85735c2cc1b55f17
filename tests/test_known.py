"""Candidates, users without a history and items without training are ranked as ``known`` says, for every model."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.decay import DAY
from recbole_symcere.known import (
    STRANGER,
    TRAINED,
    VALIDATION_ONLY,
    asking_moments,
    decayed_counts,
    known_before,
    recent_popularity,
)
from recbole_symcere.quick_start import create_dataset, data_preparation, run_recbole_symcere
from tests.conftest import START, Row, write_atomic_files

MakeConfig = Callable[..., Config]
KNOWS_NOBODY: Any = SimpleNamespace(ranks_strangers=False, ranks_new_items=False)
RANKS_STRANGERS: Any = SimpleNamespace(ranks_strangers=True, ranks_new_items=False)
Drawn = Sequence[tuple[int, int, int]]  # user, item, day


def split(
    make_config: MakeConfig, folder: Path, drawn: Drawn, **changes: Any
) -> tuple[Config, ReviewDataset, ReviewDataset, ReviewDataset]:
    rows: list[Row] = [
        (f"u{user}", f"i{item}", 1.0, float(START + day * DAY), f"r{number}", "x")
        for number, (user, item, day) in enumerate(drawn)
    ]
    folder = write_atomic_files(folder / "drawn", rows)
    config = make_config(model="Pop", dataset="drawn", data_path=str(folder.parent), protocol="temporal", **changes)
    return config, *ReviewDataset(config).build()


def column(part: ReviewDataset, field: str) -> list[int]:
    return part.inter_feat[field].tolist()


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 30)), min_size=20, max_size=50),
    candidates=st.sampled_from(["all", "seen"]),
    cold_users=st.sampled_from(["recent_popularity", "model"]),
    refit=st.booleans(),
    on_test=st.booleans(),
    seed=st.integers(0, 99),
)
def test_scores_become_what_a_slow_loop_makes_of_them(
    make_config: MakeConfig,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: Drawn,
    candidates: str,
    cold_users: str,
    refit: bool,
    on_test: bool,
    seed: int,
) -> None:
    refit &= on_test
    changes = {"candidates": candidates, "cold_users": cold_users}
    config, train, valid, _ = split(make_config, tmp_path_factory.mktemp("drawn"), drawn, **changes)
    known = known_before(config, train, valid if on_test else None, refit)
    earlier = [train, valid] if on_test else [train]
    trained_on = [train, valid] if refit else [train]
    users, items = (
        {field: {number for part in parts for number in column(part, field)} for field in ("user_id", "item_id")}
        for parts in (trained_on, earlier)
    )
    met = {column(part, "user_id")[row]: None for part in earlier for row in range(len(part))}
    for user in range(train.user_num):
        in_training = user in column(train, "user_id")
        assert known.history[user] == (TRAINED if in_training else VALIDATION_ONLY if user in met else STRANGER)
    if known.cold[1:].any():
        popularity, half_life = recent_popularity(train.joined_with(valid) if on_test else train)
        assert torch.equal(known.recent, popularity) and known.half_life == half_life
    times = [pair for part in earlier for pair in zip(column(part, "user_id"), column(part, "timestamp"), strict=True)]
    assert (known.moments == max(time for _, time in times)).all(), "under one cut in time it is the same for all"
    assert known.validates != on_test
    by_user = config.with_settings(eval_args={"group_by": "user"})
    for user, moment in enumerate(asking_moments(by_user, train.joined_with(valid) if on_test else train)):
        assert moment == max([time for of, time in times if of == user] or [time for _, time in times])
    scores = torch.randn(train.user_num, train.item_num, generator=torch.Generator().manual_seed(seed))
    masked = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.2
    scores[masked] = -torch.inf
    found = known.ranked(scores.clone(), torch.arange(train.user_num), KNOWS_NOBODY)
    kept = known.ranked(scores.clone(), torch.arange(train.user_num), RANKS_STRANGERS)
    expected_of_strangers = scores.clone()
    expected_of_strangers[:, known.last] = scores[:, known.last].clamp(max=torch.finfo(scores.dtype).min)
    expected_of_strangers[masked] = -torch.inf
    expected_of_strangers[:, known.unranked] = -torch.inf
    assert torch.equal(kept[~known.cold], found[~known.cold])
    assert torch.equal(kept[known.cold], expected_of_strangers[known.cold]), "by the model's own scores"
    for user in range(train.user_num):
        for item in range(train.item_num):
            expected = float(scores[user, item])
            if candidates == "seen" and item not in items["item_id"]:
                expected = -math.inf
            elif expected != -math.inf and cold_users == "recent_popularity":
                if user not in users["user_id"]:
                    expected = float(known.recent[item])
                elif item not in users["item_id"]:
                    expected = torch.finfo(scores.dtype).min
            assert found[user, item] == expected


@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3000)), min_size=1, max_size=30),
    half_life=st.sampled_from([7.0, 365.0, math.inf]),
    now=st.lists(st.integers(-10, 3010), min_size=1, max_size=9, unique=True).map(sorted),
)
def test_decayed_counts_are_the_sums_of_their_definition(
    rows: list[tuple[int, int]], half_life: float, now: list[int]
) -> None:
    items, days = torch.tensor(rows).T
    seconds = (torch.as_tensor(moments) * DAY - 1e9 for moments in (days, now))
    times, moments = (values.double() for values in seconds)
    found = decayed_counts(items, times, half_life, 6, moments)
    assert found.shape == (len(now), 6)
    for row, moment in zip(found, now, strict=True):
        for item in range(6):
            expected = sum(2 ** (-(moment - day) / half_life) for of, day in rows if of == item and day <= moment)
            assert float(row[item]) == pytest.approx(expected, rel=1e-9)


def test_the_half_life_is_the_one_that_ranks_the_last_tenth_best(make_config: MakeConfig, tmp_path: Path) -> None:
    def half_life(item_of_day: Callable[[int], int]) -> float:
        drawn = [(day % 7, item_of_day(day), day) for day in range(2000)]
        _, train, _, _ = split(make_config, tmp_path / str(item_of_day(5)), drawn, rm_dup_inter=None, audit="warn")
        return recent_popularity(train)[1]

    draws = np.random.default_rng(0).zipf(1.3, 2000) % 60
    assert half_life(lambda day: day // 60 + int(draws[day]) % 12) <= 90  # what is popular changes all the time
    assert half_life(lambda day: 1000 + int(draws[day])) >= 365  # tastes never change


def test_without_times_popularity_is_plain(make_config: MakeConfig, tmp_path: Path) -> None:
    drawn = [(number % 7, number % 3 * (number % 2), number) for number in range(60)]
    changes = {"load_col": {"inter": ["user_id", "item_id", "review_id"]}, "rm_dup_inter": None, "audit": "warn"}
    config, train, valid, _ = split(make_config, tmp_path, drawn, eval_args={"order": "RO"}, **changes)
    popularity, half_life = recent_popularity(train.joined_with(valid))
    assert known_before(config, train, valid, False).moments is None
    counts = np.bincount(column(train, "item_id") + column(valid, "item_id"), minlength=train.item_num)
    assert half_life == math.inf
    assert popularity.argsort(stable=True).tolist() == counts.argsort(kind="stable").tolist()


def test_unseen_items_at_random_win_only_among_all_candidates(make_config: MakeConfig, tmp_path: Path) -> None:
    """Items appear and vanish, as films do: whoever is on the list and was never met belongs to the future."""
    rng = np.random.default_rng(0)
    drawn = [(int(rng.integers(60)), day // 5 + int(rng.integers(8)), day) for day in range(500)]
    results = {}
    for candidates in ("all", "seen"):
        config, train, valid, _ = split(make_config, tmp_path, drawn, candidates=candidates, cold_users="model")
        _, _, test_data = data_preparation(config, create_dataset(config))
        unseen = torch.ones(train.item_num)
        unseen[[*column(train, "item_id"), *column(valid, "item_id")]] = 0
        hits = []
        for interaction, history, row, item in test_data:
            scores = unseen.repeat(len(interaction), 1)
            scores[:, 0] = scores[history] = -torch.inf
            best = test_data.known.ranked(scores, interaction["user_id"], KNOWS_NOBODY).topk(10)
            listed = [set(items[values > -torch.inf].tolist()) for values, items in zip(*best, strict=True)]
            hits += [int(held) in listed[user] for user, held in zip(row.tolist(), item.tolist(), strict=True)]
        results[candidates] = np.mean(hits)
    assert results["all"] > 3 * results["seen"]


@pytest.mark.parametrize("mode", ["full", "uni5"])
def test_every_model_ranks_users_without_a_history_alike(make_config: MakeConfig, tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(1)
    users = [int(rng.integers(12)) if number % 2 else 20 + number // 8 for number in range(300)]
    drawn = [(user, int(rng.integers(25)), number) for number, user in enumerate(users)]
    changes = {"eval_args": {"mode": mode}, "refit": False, "topk": [3], "valid_metric": "NDCG@3", "epochs": 1}
    config, train, valid, test = split(make_config, tmp_path, drawn, **changes)
    metrics = ["NDCG", "StrangerNDCG", "TrainedNDCG"]
    found = [
        run_recbole_symcere(config_dict=config.settings | {"model": model, "metrics": metrics})
        for model in ("LightGCN", "BPR", "NeuMF")
    ]
    assert set(column(test, "user_id")) - set(column(train, "user_id")) - set(column(valid, "user_id"))
    of_strangers, of_known = (
        {result["test_result"][f"{kind}ndcg@3"] for result in found} for kind in ("stranger", "trained")
    )
    assert len(of_strangers) == 1 and max(of_strangers) > 0
    assert len(of_known) > 1

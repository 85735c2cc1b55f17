"""The audit finds what it looks for, and stops a run that leaks."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_symcere.config import Config
from recbole_symcere.data.audit import Audit, Strangers, audit
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import ConfigError, LeakError
from recbole_symcere.quick_start import create_dataset, data_preparation
from tests.conftest import START, Row, tiny_rows, write_atomic_files

MakeConfig = Callable[..., Config]


def doubled(rows: list[Row]) -> list[Row]:
    """Every purchase comes again at the end of time, with a review of its own."""
    again = [(u, i, r, time + 10_000, f"{review_id}again", text) for u, i, r, time, review_id, text in rows]
    return rows + again


def test_strict_and_temporal_splits_are_clean(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "twice" / "twice", doubled(tiny_rows()))
    for protocol in ("strict", "temporal"):
        config = make_config(dataset="twice", data_path=str(folder.parent), protocol=protocol)
        found = audit(*ReviewDataset(config).build())
        assert found.test_pairs > 0 and not found.leaks, protocol


def test_keeping_duplicates_shows_the_pairs_that_recur(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "twice" / "twice", doubled(tiny_rows()))
    config = make_config(dataset="twice", data_path=str(folder.parent), protocol="keep-duplicates")
    train, valid, test = ReviewDataset(config).build()
    earlier = {pair for part in (train, valid) for pair in _pairs(part)}
    found = audit(train, valid, test)
    assert found.recurring_pairs == len(set(_pairs(test)) & earlier) > 0
    data_preparation(config, create_dataset(config))  # audit: warn


def test_the_papers_protocol_chooses_on_the_part_that_it_reports_and_says_so(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(protocol="paper")
    train, valid, test = ReviewDataset(config).build()
    assert valid is test
    of_train = Counter(train.inter_feat["user_id"].tolist())
    of_test = Counter(test.inter_feat["user_id"].tolist())
    for user, n_test in of_test.items():
        assert n_test == max(1, int(0.2 * (n_test + of_train[user])))
    found = audit(train, valid, test)
    assert found.chosen_on_test and found.leaks and not found.recurring_pairs and not found.time_inversions
    assert "CHOSEN ON TEST: epochs and settings are chosen on the part that is reported" in str(found)
    with pytest.raises(LeakError, match=r"chosen on the part that is reported.*three shares in its split"):
        found.check()
    loaders = data_preparation(config, create_dataset(config))
    assert loaders[1]._dataset is loaders[2]._dataset
    before = [loader.known for loader in loaders[1:]]
    assert torch.equal(before[0].moments, before[1].moments), "nothing of the part is known before it is reported"


@pytest.mark.parametrize(("key", "value"), [("refit", True), ("questions", "strangers")])
def test_two_parts_are_refused_where_a_third_is_needed(make_config: MakeConfig, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{key} is .* has no part beside the one that is reported; give it three"):
        make_config(protocol="paper", model="SymCEREPlus", **{key: value})


def _pairs(part: ReviewDataset) -> list[tuple[int, int]]:
    return list(zip(part.inter_feat["user_id"].tolist(), part.inter_feat["item_id"].tolist(), strict=True))


@pytest.mark.parametrize("model", ["SymCERE", "LightGCN"])
def test_a_leak_stops_the_run_before_it_trains(make_config: MakeConfig, tmp_path: Path, model: str) -> None:
    folder = write_atomic_files(tmp_path / "twice" / "twice", doubled(tiny_rows()))
    config = make_config(model=model, dataset="twice", data_path=str(folder.parent), rm_dup_inter=None)
    with pytest.raises(LeakError, match=r"test pairs recur.*rm_dup_inter: first"):
        data_preparation(config, create_dataset(config))


def test_a_random_order_shows_as_time_inversions(make_config: MakeConfig) -> None:
    shuffled = audit(*ReviewDataset(make_config(eval_args={"order": "RO"})).build())
    assert shuffled.time_inversions > 0 and shuffled.recurring_pairs == 0
    for_all = {"order": "RO", "group_by": "none"}
    assert audit(*ReviewDataset(make_config(eval_args=for_all)).build()).time_inversions > 0


def test_an_encoder_that_reads_every_review_is_found_out(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, valid, test = ReviewDataset(make_config()).build()
    rows = train.review_rows().clamp(max=0)  # as if the held-out texts stood in the table too
    monkeypatch.setattr(ReviewDataset, "review_rows", lambda self: rows)
    assert audit(train, valid, test).reachable_texts == len(valid) + len(test)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 9)), min_size=20, max_size=60),
    group_by=st.sampled_from(["user", "none"]),
    candidates=st.sampled_from(["all", "seen"]),
    order=st.sampled_from(["TO", "RO"]),
)
def test_counts_agree_with_slow_loops(
    make_config: MakeConfig,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list,
    group_by: str,
    candidates: str,
    order: str,
) -> None:
    rows: list[Row] = [
        (f"u{user}", f"i{item}", 1.0, float(START + time), f"r{number}", "x")
        for number, (user, item, time) in enumerate(drawn)
    ]
    folder = write_atomic_files(tmp_path_factory.mktemp("drawn") / "drawn", rows)
    eval_args = {"group_by": group_by, "order": order}
    changes = {"rm_dup_inter": None, "eval_args": eval_args, "candidates": candidates}
    config = make_config(dataset="drawn", data_path=str(folder.parent), **changes)
    train, valid, test = parts = ReviewDataset(config).build()
    times = [
        list(zip(part.inter_feat["user_id"].tolist(), part.inter_feat["timestamp"].tolist(), strict=True))
        for part in parts
    ]
    held_out = times[1] + times[2]
    if group_by == "user":
        inverted = {user for user, time in times[0] for other, later in held_out if user == other and time > later}
    else:
        inverted = [time for _, time in held_out if time < max(time for _, time in times[0])]
    earlier = set(_pairs(train)) | set(_pairs(valid))
    repeated = len(set(_pairs(test)) & earlier)
    sides = [
        (times[0], held_out),
        (times[0] + times[1], times[2]),
    ]
    users = {user for before, after in sides for user, _ in before if user in dict(after)}
    tied = {
        user
        for before, after in sides
        for user in dict(before).keys() & dict(after).keys()
        if max(time for of, time in before if of == user) == min(time for of, time in after if of == user)
    }
    later = [
        sum(time > min(first for of, first in held_out if of == user) for _, time in times[0]) / len(times[0])
        for user in dict(held_out)
    ]
    items = [{item for part in some for _, item in _pairs(part)} for some in ((train, valid), (test,))]
    unseen = items[1] - items[0] if group_by == "none" and candidates == "all" else set()
    expected = Audit(
        test_pairs=len(set(_pairs(test))),
        recurring_pairs=repeated,
        reachable_texts=0,
        time_inversions=len(inverted),
        users=len(users),
        tied_cuts=len(tied),
        others_future=pytest.approx(sum(later) / len(later)),
        unseen_candidates=len(unseen),
        strangers={name: _strangers(train, part) for name, part in (("validation", valid), ("test", test))},
    )
    assert audit(*parts) == expected


def _strangers(train: ReviewDataset, part: ReviewDataset) -> Strangers:
    unmet = [
        [pair[end] for pair in _pairs(part) if pair[end] not in {of[end] for of in _pairs(train)}] for end in (0, 1)
    ]
    return Strangers(len(part), *(len(set(ids)) for ids in unmet), *map(len, unmet))


def test_the_log_says_what_decides_a_ranking_beside_the_models(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [(user, item, rating, time // 40 * 40, *rest) for user, item, rating, time, *rest in tiny_rows()]
    folder = write_atomic_files(tmp_path / "days" / "days", rows)
    told = {
        (protocol, candidates): str(
            audit(*ReviewDataset(make_config(dataset="days", data_path=str(folder.parent), **changes)).build())
        )
        for protocol in ("strict", "temporal")
        for candidates in ("all", "seen")
        for changes in ({"protocol": protocol, "candidates": candidates},)
    }
    strict, temporal = told["strict", "all"], told["temporal", "seen"]
    assert re.search(
        r"ties: the cuts of \d+ of 40 users \(\d+\.\d%\) fall between interactions of the same time", strict
    )
    assert re.search(r"time: \d+\.\d% of the training interactions .* --protocol=temporal has one cut", strict)
    assert "time: " not in temporal
    assert re.search(r"test: \d+ users \(\d+\.\d% of the rows\) .* have no training interaction", temporal)
    assert "candidates: " not in temporal + strict


def test_candidates_that_nobody_met_before_the_cut_are_told(make_config: MakeConfig, tmp_path: Path) -> None:
    rows: list[Row] = [
        (f"u{number % 5}", f"i{number // 4}", 1.0, float(START + number), f"r{number}", "x") for number in range(100)
    ]
    folder = write_atomic_files(tmp_path / "new" / "new", rows)
    changes = {"dataset": "new", "data_path": str(folder.parent), "protocol": "temporal"}
    told = [str(audit(*ReviewDataset(make_config(**changes, candidates=of)).build())) for of in ("all", "seen")]
    assert "candidates: 5 held-out items that nobody met before the cut are ranked" in told[0]
    assert "candidates: " not in told[1]


def test_without_times_nothing_is_said_of_time(make_config: MakeConfig) -> None:
    columns = {"inter": ["user_id", "item_id", "review_id"]}
    found = audit(*ReviewDataset(make_config(load_col=columns, eval_args={"order": "RO"})).build())
    assert found.tied_cuts is found.others_future is found.time_inversions is None
    assert "ties" not in str(found)

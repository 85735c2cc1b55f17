"""The audit finds what it looks for, and stops a run that leaks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_symcere.config import Config
from recbole_symcere.data.audit import Audit, audit
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import LeakError
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


def test_the_paper_protocol_shows_the_pairs_that_recur(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "twice" / "twice", doubled(tiny_rows()))
    config = make_config(dataset="twice", data_path=str(folder.parent), protocol="paper")
    train, valid, test = ReviewDataset(config).build()
    earlier = {pair for part in (train, valid) for pair in _pairs(part)}
    found = audit(train, valid, test)
    assert found.recurring_pairs == len(set(_pairs(test)) & earlier) > 0
    data_preparation(config, create_dataset(config))  # audit: warn


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
    order=st.sampled_from(["TO", "RO"]),
)
def test_counts_agree_with_slow_loops(
    make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory, drawn: list, group_by: str, order: str
) -> None:
    rows: list[Row] = [
        (f"u{user}", f"i{item}", 1.0, float(START + time), f"r{number}", "x")
        for number, (user, item, time) in enumerate(drawn)
    ]
    folder = write_atomic_files(tmp_path_factory.mktemp("drawn") / "drawn", rows)
    eval_args = {"group_by": group_by, "order": order}
    config = make_config(dataset="drawn", data_path=str(folder.parent), rm_dup_inter=None, eval_args=eval_args)
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
    strangers = [{pair[end] for pair in _pairs(test)} - {pair[end] for pair in _pairs(train)} for end in (0, 1)]
    repeated = len(set(_pairs(test)) & earlier)
    expected = Audit(len(set(_pairs(test))), repeated, 0, len(inverted), *map(len, strangers))
    assert audit(*parts) == expected

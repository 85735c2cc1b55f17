"""Neither the order of a file nor the numbers of items decide anything between interactions of the same time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.fingerprint import source_fingerprint
from recbole_symcere.data.ties import drawn_parts, hashed_order, token_hashes
from recbole_symcere.errors import ConfigError
from recbole_symcere.quick_start import run_recbole_symcere
from tests.conftest import START, Row, tiny_rows, write_atomic_files

MakeConfig = Callable[..., Config]
PROTOCOLS = ("strict", "keep-duplicates", "paper", "temporal")


def days(rows: Sequence[Row]) -> list[Row]:
    """The rows with times rounded to days of 40 rows each, so that most cuts fall inside a tie."""
    return [
        (user, item, rating, float(START + number // 40 * 86_400), *rest)
        for number, (user, item, rating, _, *rest) in enumerate(rows)
    ]


def parts_of(make_config: MakeConfig, folder: Path, **changes: Any) -> list[list[tuple[str, str, str]]]:
    """The (user, item, review) of each part's rows, in their order."""
    config = make_config(dataset=folder.name, data_path=str(folder.parent), **changes)
    return [
        list(zip(*(part.id2token(field, part.inter_feat[field].numpy()) for field in FIELDS), strict=True))
        for part in ReviewDataset(config).build()
    ]


FIELDS = ("user_id", "item_id", "review_id")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("tie_seed", [0, 3])
@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_order_of_the_file_changes_nothing_that_a_model_sees(
    make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory, protocol: str, tie_seed: int, data: st.DataObject
) -> None:
    drawn = data.draw(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)), min_size=20, max_size=40)
    )
    rows: list[Row] = [
        (f"u{user}", f"i{item}", 1.0, float(START + time), f"r{number}", "x")
        for number, (user, item, time) in enumerate(drawn)
    ]
    found = []
    for ordered in (rows, data.draw(st.permutations(rows))):
        folder = write_atomic_files(tmp_path_factory.mktemp("drawn") / "drawn", ordered)
        config = make_config(dataset="drawn", data_path=str(folder.parent), protocol=protocol, tie_seed=tie_seed)
        dataset = ReviewDataset(config)
        found.append((dataset, dataset.build()))
    (one, parts), (other, others) = found
    for field in FIELDS:
        assert one.field2id_token[field].tolist() == other.field2id_token[field].tolist()
    for part, again in zip(parts, others, strict=True):
        assert all(torch.equal(part.inter_feat[field], again.inter_feat[field]) for field in part.inter_feat.columns)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_order_of_the_file_changes_no_metric_of_a_trained_model(
    make_config: MakeConfig, tmp_path: Path, protocol: str
) -> None:
    rows = days(tiny_rows())
    results = []
    for number, order in enumerate((np.arange(len(rows)), np.random.default_rng(1).permutation(len(rows)))):
        folder = write_atomic_files(tmp_path / str(number) / "days", [rows[place] for place in order])
        config = make_config(model="LightGCN", dataset="days", data_path=str(folder.parent), protocol=protocol)
        results.append(run_recbole_symcere(config_dict=config.settings | {"embedding_size": 8}))
    assert results[0] == results[1]


def test_own_parts_are_ordered_within_themselves(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = days(tiny_rows())
    parts = {"train": rows[:200], "valid": rows[200:240], "test": rows[240:]}
    found = []
    for step in (1, -1):
        folder = write_atomic_files(tmp_path / str(step) / "own", rows)
        for part, of_part in parts.items():
            write_atomic_files(tmp_path / "part", of_part[::step])
            text = (tmp_path / "part" / "part.inter").read_text(encoding="utf-8")
            (folder / f"own.{part}.inter").write_text(text, encoding="utf-8")
        found.append(parts_of(make_config, folder, benchmark_filename=list(parts)))
    assert found[0] == found[1]
    expected = [sorted((user, item, review) for user, item, _, _, review, _ in rows) for rows in parts.values()]
    assert [sorted(part) for part in found[0]] == expected


def test_a_tie_seed_moves_only_what_happened_at_the_same_time(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "days", days(tiny_rows()))
    times = {row[4]: row[3] for row in days(tiny_rows())}
    orders = {seed: parts_of(make_config, folder, protocol="temporal", tie_seed=seed) for seed in (0, 1, 2)}
    rows = {seed: [row for part in parts for row in part] for seed, parts in orders.items()}
    assert rows[0] != rows[1] != rows[2] != rows[0]
    for ordered in rows.values():
        assert [times[review] for _, _, review in ordered] == sorted(times[review] for _, _, review in ordered)
    numbers = []
    for seed in (0, 1):
        config = make_config(dataset="days", data_path=str(folder.parent), tie_seed=seed)
        numbers.append(ReviewDataset(config).field2id_token["item_id"].tolist())
    assert numbers[0] == numbers[1], "items have other numbers, so that a model would begin with other vectors"


def test_ties_in_the_order_of_the_file_are_recboles(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "days", days(tiny_rows()))
    rows = [row for part in parts_of(make_config, folder, protocol="temporal", tie_break="file") for row in part]
    assert [int(review[1:]) for _, _, review in rows] == list(range(len(rows)))


def test_items_sorted_in_the_file_do_not_tell_which_is_held_out(make_config: MakeConfig, tmp_path: Path) -> None:
    rows: list[Row] = [
        (f"u{user}", f"i{item}", 1.0, float(START), f"r{10 * user + item}", "x")
        for user in range(200)
        for item in range(10)
    ]
    folder = write_atomic_files(tmp_path / "sorted", rows)
    in_file, hashed = (parts_of(make_config, folder, tie_break=tie_break)[2] for tie_break in ("file", "hash"))
    assert {item for _, item, _ in in_file} == {"i8", "i9"}
    counts = np.unique([item for _, item, _ in hashed], return_counts=True)[1]
    assert len(counts) == 10 and (abs(counts - 40) < 4 * np.sqrt(40 * 0.8)).all()


def test_hashes_are_the_same_everywhere() -> None:
    assert token_hashes(["", "u1", "ü"]).tolist() == HASHES
    columns = [token_hashes([f"u{number % 3}" for number in range(8)]), token_hashes([f"i{n}" for n in range(8)])]
    assert [hashed_order(columns, seed).tolist() for seed in (0, 1)] == ORDERS


HASHES = [1760245841805064774, 2984610181246591869, 6689755093696353227]
ORDERS = [[6, 2, 4, 5, 0, 1, 3, 7], [0, 3, 4, 1, 2, 5, 7, 6]]


def test_a_tie_seed_that_would_change_nothing_is_an_error(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="tie_seed is 1, but changes nothing"):
        make_config(tie_seed=1, tie_break="file")


def test_checkpoints_of_another_order_are_not_the_same_data(make_config: MakeConfig) -> None:
    prints = [source_fingerprint(make_config(**changes)) for changes in ({}, {"tie_seed": 1}, {"tie_break": "file"})]
    assert len(set(prints)) == 3


@given(
    n_users=st.integers(1, 60),
    shares=st.tuples(*[st.integers(1, 8)] * 3),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
)
def test_each_user_is_drawn_for_one_part_whatever_the_order_of_users(
    n_users: int, shares: tuple[int, int, int], seed: int, order: Any
) -> None:
    hashes = token_hashes(["[PAD]", *(f"u{number}" for number in range(n_users))])
    n_valid, n_test = (round(n_users * share / sum(shares)) for share in shares[1:])
    n_draws = max((n_users - n_valid) // max(n_test, 1), 1)
    moved = [0, *order.sample(range(1, n_users + 1), n_users)]
    draws = [drawn_parts(hashes, shares, seed, draw) for draw in range(n_draws + 1)]
    for draw, parts in enumerate(draws):
        assert len(parts) == n_users + 1 and parts[0] == -1 and set(parts[1:]) <= {0, 1, 2}
        assert [(parts == part).sum() for part in (1, 2)] == [n_valid, min(n_test, n_users - n_valid)]
        assert ((parts == 1) == (draws[0] == 1)).all(), "validation is the same for all draws"
        assert (drawn_parts(hashes[moved], shares, seed, draw) == parts[moved]).all()
    assert sum(parts == 2 for parts in draws[:-1]).max() <= 1, "no user is tested in two draws"
    assert (draws[-1] == draws[0]).all(), "the draws begin anew"


def test_another_seed_of_the_order_draws_other_users() -> None:
    hashes = token_hashes(["[PAD]", *(f"u{number}" for number in range(50))])
    draws = [drawn_parts(hashes, (8, 1, 1), seed, 0) for seed in range(5)]
    for part in (1, 2):
        assert len({tuple((parts == part).nonzero()[0]) for parts in draws}) == 5

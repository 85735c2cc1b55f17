"""Batches made on the device: every interaction once, the sizes and fields of RecBole's loader, unmet negatives."""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from recbole.data.dataloader import TrainDataLoader

from recbole_symcere.config import Config
from recbole_symcere.data.batches import DeviceTrainDataLoader, UnmetItems, can_make
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.run import build_trainer

MakeConfig = Callable[..., Config]


def train_loader(config: Config) -> TrainDataLoader:
    return data_preparation(config, create_dataset(config))[0]


@given(
    n_items=st.integers(2, 9),
    pairs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 8)), max_size=20),
)
@example(n_items=3, pairs=[(1, 1), (1, 1), (4, 2)])
def test_the_items_at_all_places_are_the_unmet_ones_in_order(n_items: int, pairs: list[tuple[int, int]]) -> None:
    met = {(user, item) for user, item in pairs if item < n_items}
    users, items = torch.tensor([pair for pair in pairs if pair in met]).long().reshape(-1, 2).T
    unmet = UnmetItems(users, items, 5, n_items)
    for user in range(5):
        expected = [item for item in range(1, n_items) if (user, item) not in met]
        assert int(unmet.n_unmet[user]) == len(expected)
        places = torch.arange(len(expected))
        assert unmet.at(torch.full_like(places, user), places).tolist() == expected


def test_unmet_items_are_drawn_equally_often() -> None:
    unmet = UnmetItems(torch.tensor([1, 1, 2]), torch.tensor([2, 4, 1]), 3, 6)
    users = torch.ones(30_000, dtype=torch.long)
    found = Counter(unmet.draw(users, torch.Generator().manual_seed(0)).tolist())
    assert found.keys() == {1, 3, 5}
    assert all(abs(n - 10_000) < 5 * (30_000 * 2 / 9) ** 0.5 for n in found.values())  # five standard deviations


@pytest.mark.parametrize("sample_num", [1, 3])
@pytest.mark.parametrize("model", ["LightGCN", "NeuMF"])
def test_an_epoch_has_recboles_fields_and_sizes_and_every_interaction_once(
    make_config: MakeConfig, model: str, sample_num: int
) -> None:
    own = {"model": model, "train_batch_size": 50, "train_neg_sample_args": {"sample_num": sample_num}}
    ours, theirs = (train_loader(make_config(**own, loader=loader)) for loader in ("device", "recbole"))
    assert type(ours) is DeviceTrainDataLoader and type(theirs) is TrainDataLoader and len(ours) == len(theirs)
    data = ours._dataset.inter_feat
    rows = list(zip(data["user_id"].tolist(), data["item_id"].tolist(), data["timestamp"].tolist(), strict=True))
    met, seen = {row[:2] for row in rows}, Counter[Any]()
    for batch, expected in zip(ours, theirs, strict=True):
        assert batch.interaction.keys() == expected.interaction.keys() and len(batch) == len(expected)
        assert all(batch[field].dtype == expected[field].dtype for field in batch.interaction)
        columns = [batch[field].tolist() for field in ("user_id", "item_id", "timestamp")]
        if model == "NeuMF":
            n = len(batch) // (1 + sample_num)
            assert batch["label"].tolist() == [1.0] * n + [0.0] * (n * sample_num)
            negatives = [column[n:] for column in columns]
            assert negatives[0] == columns[0][:n] * sample_num, "each negative is of the user of its row"
            drawn = set(zip(*negatives[:2], strict=True))
        else:
            n = len(batch) // sample_num
            assert columns[1] == columns[1][:n] * sample_num
            drawn = set(zip(columns[0], batch["neg_item_id"].tolist(), strict=True))
        seen.update(zip(*(column[:n] for column in columns), strict=True))
        assert not drawn & met and all(item > 0 for _, item in drawn)
    assert seen == Counter(rows)


def test_the_seed_alone_decides_the_batches_and_each_epoch_has_its_own(make_config: MakeConfig) -> None:
    def epochs(**changes: Any) -> list[list[int]]:
        loader = train_loader(make_config(model="LightGCN", **changes))
        found = []
        for _ in range(2):
            torch.rand(7)  # as a model might draw
            found.append([value for batch in loader for value in (*batch["item_id"], *batch["neg_item_id"])])
        return [[int(value) for value in epoch] for epoch in found]

    first, second = epochs()
    assert first != second
    assert epochs() == [first, second]
    assert epochs(seed=5)[0] != first


def test_each_epoch_and_each_seed_draw_their_own_negatives(make_config: MakeConfig) -> None:
    found = []
    for seed in (1, 2):
        loader = train_loader(make_config(model="LightGCN", shuffle=False, seed=seed))
        found += [torch.cat([batch["neg_item_id"] for batch in loader]).tolist() for _ in range(2)]
    assert all(one != other for place, one in enumerate(found) for other in found[:place])


def test_without_negatives_or_a_shuffle_the_rows_stand_as_they_are(make_config: MakeConfig) -> None:
    loader = train_loader(make_config(model="EASE", shuffle=False))
    data = loader._dataset.inter_feat
    assert type(loader) is DeviceTrainDataLoader
    assert torch.equal(torch.cat([batch["item_id"] for batch in loader]), data["item_id"])


@pytest.mark.parametrize(
    "changes",
    [
        {"loader": "recbole"},
        {"train_neg_sample_args": {"distribution": "popularity"}},
        {"train_neg_sample_args": {"candidate_num": 2, "dynamic": True}},
        {"worker": 1},
    ],
)
def test_what_only_recboles_loader_does_is_left_to_it(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    assert type(train_loader(make_config(model="LightGCN", **changes))) is TrainDataLoader


@pytest.mark.parametrize("joined", ["user_feat", "item_feat"])
def test_fields_of_users_or_items_are_joined_by_recboles_loader(make_config: MakeConfig, joined: str) -> None:
    config = make_config(model="LightGCN")
    nothing: dict[str, Any] = {"user_feat": None, "item_feat": None}
    assert can_make(config, cast(ReviewDataset, SimpleNamespace(**nothing)))
    assert not can_make(config, cast(ReviewDataset, SimpleNamespace(**nothing | {joined: "a table"})))


def test_training_makes_batches_for_its_model(make_config: MakeConfig) -> None:
    config = make_config(epochs=1)
    loader = train_loader(config)
    trainer = build_trainer(config, loader)
    assert isinstance(loader, DeviceTrainDataLoader) and not loader.host_fields
    trainer.fit(loader, saved=False)
    assert loader.host_fields == trainer.model.host_fields == ("review_id",)

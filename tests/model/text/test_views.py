"""The text side of a model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.model.text.views import (
    item_text_features,
    mean_by_group,
    review_views,
    text_rows,
    training_vectors,
)
from recbole_symcere.quick_start import create_dataset
from tests.conftest import FIRST_ROWS, tiny_rows, write_atomic_files

MakeConfig = Callable[..., Config]


@settings(deadline=None)
@given(groups=st.lists(st.integers(0, 5), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_a_group_without_members_gets_the_mean_of_the_others_means(groups: list[int], seed: int) -> None:
    vectors = torch.randn(len(groups), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = mean_by_group(vectors, torch.tensor(groups), 6)
    means = {group: vectors[[g == group for g in groups]].mean(0) for group in set(groups)}
    expected = [means.get(group, sum(means.values()) / len(means)) for group in range(6)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_item_features_are_the_mean_vectors_of_training_reviews(make_config: MakeConfig) -> None:
    config = make_config(model="SMORE", eval_args=FIRST_ROWS)
    part = create_dataset(config).build()[0]
    found = item_text_features(config, part)
    encoder = ReviewEncoder(config["text_encoder"], train="frozen", max_length=16, precision="fp32")
    vectors = encoder(part.tokenised_reviews(encoder), torch.arange(len(part)))
    means = {
        item: vectors[part.inter_feat["item_id"] == item].mean(0)
        for item in part.inter_feat["item_id"].unique().tolist()
    }
    cold = set(range(part.item_num)) - means.keys()
    assert 0 in cold and len(cold) > 1, "an item beside padding has no training review"
    assert found.dtype == torch.float32 and found.shape == (part.item_num, encoder.hidden_size)
    for item in range(part.item_num):
        expected = means.get(item, sum(means.values()) / len(means))
        torch.testing.assert_close(found[item], expected, atol=1e-6, rtol=1e-5)
    assert (found.norm(dim=1) > 0).all()


def test_no_held_out_review_is_read(make_config: MakeConfig, tmp_path: Path) -> None:
    """They are not even in the file."""
    folder = write_atomic_files(tmp_path / "own" / "own", tiny_rows())
    config = make_config(model="SMORE", dataset="own", data_path=str(folder.parent))
    part = create_dataset(config).build()[0]
    expected = item_text_features(config, part)
    training = set(part.id2token("review_id", part.inter_feat["review_id"].numpy()))
    lines = (folder / "own.review.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["review_id"] in training]
    assert 0 < len(kept) < len(lines)
    (folder / "own.review.jsonl").write_text("\n".join(kept) + "\n")
    again = make_config(
        model="SMORE", dataset="own", data_path=str(folder.parent), text_cache_dir=str(tmp_path / "new")
    )
    assert torch.equal(item_text_features(again, create_dataset(again).build()[0]), expected)
    assert (part.review_rows()[part.inter_feat["review_id"]] < len(part)).all()
    with pytest.raises(IndexError):
        held_out = set(range(1, part.num("review_id"))) - set(part.inter_feat["review_id"].tolist())
        part.review_texts()[part.review_rows()[min(held_out)]]


# What the reviews are replaced with


def test_shuffled_reviews_are_those_of_other_training_interactions(make_config: MakeConfig) -> None:
    config = make_config(text_source="shuffled")
    part = create_dataset(config).build()[0]
    rows = text_rows(config, part)
    training = part.inter_feat["review_id"]
    assert sorted(rows[training].tolist()) == list(range(len(part)))
    assert (rows[training] != part.review_rows()[training]).float().mean() > 0.9
    held_out = torch.tensor(sorted(set(range(1, part.num("review_id"))) - set(training.tolist())))
    assert len(held_out) and (rows[held_out] == len(part)).all(), "to look one up is an index error"
    assert torch.equal(rows, text_rows(config, part))
    assert not torch.equal(rows, text_rows(make_config(text_source="shuffled", seed=1), part))


@pytest.mark.parametrize("text_source", ["reviews", "shuffled", "random"])
def test_loss_and_profiles_know_an_interaction_by_the_same_text(make_config: MakeConfig, text_source: str) -> None:
    part, of_seeds = create_dataset(make_config()).build()[0], []
    for seed in (0, 1):
        config = make_config(text_source=text_source, seed=seed, text_train="frozen")
        rows = text_rows(config, part)[part.inter_feat["review_id"]]
        vectors, _ = review_views(config, part, masked=False)(rows, False)
        assert torch.equal(vectors, training_vectors(config.with_settings(text_adapter=None), part))
        of_seeds.append(vectors)
    assert torch.equal(*of_seeds) == (text_source == "reviews")


def test_random_vectors_need_neither_review_nor_encoder(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(text_source="random", text_encoder="gone", embedding_size=6)
    part = create_dataset(config).build()[0]
    monkeypatch.delattr(ReviewDataset, "review_texts")
    rows = torch.arange(len(part))
    clean, masked = review_views(config, part, masked=True)(rows, True)
    assert clean.shape == training_vectors(config, part).shape == (len(part), 6)
    assert torch.equal(clean, masked), "there is no word to mask"

"""The demo data hold what their docstring promises."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from dataset_prep import cli, demo, planted, write_demo
from dataset_prep.demo import Planted
from tests.dataset_prep.rows import Interaction, contents, read_dataset

K = 10


@pytest.fixture(scope="module")
def truth() -> Planted:
    return planted()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "demo"
    write_demo(folder)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Interaction]:
    return read_dataset(folder)


@pytest.fixture(scope="module")
def split(rows: list[Interaction], truth: Planted) -> dict[int, tuple[list[Interaction], list[Interaction]]]:
    """Per user, by time: the first 70% and the last 20% (at least one)."""
    histories = defaultdict(list)
    for row in rows:
        histories[truth.user_ids.index(row.user)].append(row)
    return {
        user: (history[: int(0.7 * len(history))], history[-max(1, int(0.2 * len(history))) :])
        for user, history in histories.items()
    }


def ndcg(scores: np.ndarray, split: dict, truth: Planted, users: list[int] | None = None) -> float:
    """NDCG@10 of full ranking, the training history masked, mean over users."""
    gains = []
    for user in split if users is None else users:
        train, test = ({truth.item_ids.index(row.item) for row in part} for part in split[user])
        ranked = np.argsort(
            -np.where(np.isin(np.arange(scores.shape[1]), list(train)), -np.inf, scores[user]), kind="stable"
        )
        discounts = 1 / np.log2(np.arange(2, K + 2))
        gains.append(discounts[np.isin(ranked[:K], list(test))].sum() / discounts[: len(test)].sum())
    return float(np.mean(gains))


def popularity_scores(split: dict, truth: Planted) -> np.ndarray:
    counts = np.zeros(len(truth.item_ids))
    for train, _ in split.values():
        for row in train:
            counts[truth.item_ids.index(row.item)] += 1
    return np.tile(counts, (len(truth.user_ids), 1))


def text_scores(split: dict, truth: Planted) -> np.ndarray:
    """From training reviews alone: what a user writes about, against what an item is said to have."""
    said_by = np.zeros((len(truth.user_ids), len(truth.attributes)))
    said_of = np.zeros((len(truth.item_ids), len(truth.attributes)))
    for user, (train, _) in split.items():
        for row in train:
            mentions = attributes_in(row.review, truth)
            said_by[user] += mentions
            said_of[truth.item_ids.index(row.item)] += mentions
    return said_by @ (said_of > 0).T


def attributes_in(review: str, truth: Planted) -> np.ndarray:
    return np.array([any(phrase in review for phrase in phrases) for phrases in truth.objective_words.values()])


def test_the_sizes_are_those_of_a_small_sparse_set(rows: list[Interaction]) -> None:
    counts = np.unique([row.user for row in rows], return_counts=True)[1]
    assert len(counts) == 300
    assert len({row.item for row in rows}) == 200
    assert 3800 <= len(rows) <= 4200
    assert counts.min() == 5
    assert ((counts == 5) | (counts == 6)).sum() == demo.COLD_USERS
    assert np.median(counts) > 10
    assert len({(row.user, row.item) for row in rows}) == len(rows)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["demo", "--output", str(tmp_path / "demo")]) == 0
    assert contents(tmp_path / "demo") == contents(folder)
    write_demo(tmp_path / "other" / "demo", seed=1)
    assert read_dataset(tmp_path / "other" / "demo") != read_dataset(folder)


def test_taste_beats_popularity_and_popularity_beats_chance(split: dict, truth: Planted) -> None:
    chance = ndcg(np.random.default_rng(0).random(truth.choice_scores.shape), split, truth)
    popularity = ndcg(popularity_scores(split, truth), split, truth)
    assert popularity > 2 * chance
    assert ndcg(truth.choice_scores, split, truth) > 4 * popularity


def test_training_reviews_alone_beat_popularity_for_cold_users_too(
    rows: list[Interaction], split: dict, truth: Planted
) -> None:
    histories = Counter(row.user for row in rows)
    cold = [user for user in split if histories[truth.user_ids[user]] <= 6]
    popularity, text = popularity_scores(split, truth), text_scores(split, truth)
    assert ndcg(text, split, truth) > 2 * ndcg(popularity, split, truth)
    assert ndcg(text, split, truth, cold) > 2 * ndcg(popularity, split, truth, cold)


def test_reviews_name_what_the_item_has_and_the_writer_cares_for(rows: list[Interaction], truth: Planted) -> None:
    for row in rows:
        mentioned = attributes_in(row.review, truth)
        tastes = truth.user_tastes[truth.user_ids.index(row.user)]
        has = truth.item_attributes[truth.item_ids.index(row.item)]
        assert mentioned.sum() == 1
        assert np.argmax(mentioned) == np.argmax(np.where(has, tastes, -1))


def test_sentiment_says_nothing_about_taste_or_attribute(rows: list[Interaction], truth: Planted) -> None:
    positive = np.array([bool(set(re.findall(r"\w+", row.review)) & set(demo.POSITIVE_WORDS)) for row in rows])
    topic = np.array([np.argmax(attributes_in(row.review, truth)) for row in rows])
    loved = (
        np.array(
            [truth.user_tastes[truth.user_ids.index(row.user), place] for row, place in zip(rows, topic, strict=True)]
        )
        == 1
    )
    assert np.array_equal(positive, [row.rating >= 4 for row in rows])
    for group in (loved, ~loved, *(topic == place for place in range(len(truth.attributes)))):
        share, n = positive[group].mean(), group.sum()
        assert abs(share - positive.mean()) < 4 * np.sqrt(0.21 / n)  # four standard errors


def test_words_of_preference_and_of_sentiment_are_apart(truth: Planted) -> None:
    phrases = [phrase for phrases in truth.objective_words.values() for phrase in phrases]
    assert len(set(phrases)) == len(phrases)
    assert not {word for phrase in phrases for word in phrase.split()} & set(truth.sentiment_words)
    assert all(len(phrases) > 1 for phrases in truth.objective_words.values())
    assert (truth.item_attributes.sum(axis=1) > 1).all()

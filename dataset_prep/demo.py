"""Generates a small dataset of café reviews whose truth is known.

Each café has a few attributes. Each guest has a taste for some attributes, and chooses cafés by taste and popularity. A
review names, in objective words, the attribute of the café that its writer likes best. Its sentiment words are drawn
without regard to tastes and attributes, so they say nothing about preference.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_prep.conversion import prepare
from dataset_prep.errors import PreparationError
from dataset_prep.pipeline import Filters
from dataset_prep.sources import table

SEED = 2020
USERS = 300
ITEMS = 200
COLD_USERS = 90  # they have 5 or 6 interactions each
WARM_MEAN = 18.0  # interactions of each other user, before they are bounded
ATTRIBUTES_PER_ITEM = (2, 3)
POPULARITY_WEIGHT = 1.0
TASTE_WEIGHT = 5.0
FIRST_TIME = 1_500_000_000  # July 2017
DAY = 86_400

OBJECTIVE_WORDS: dict[str, tuple[str, ...]] = {
    "spice": ("chili noodles", "red curry", "pepper sauce", "kimchi stew"),
    "pastry": ("cheesecake", "fruit tart", "cinnamon buns", "almond croissants"),
    "coffee": ("espresso", "pour-over coffee", "house roast", "flat white"),
    "tea": ("green tea", "oolong", "matcha", "loose-leaf tea"),
    "music": ("jazz trio", "piano evenings", "acoustic concerts", "vinyl records"),
    "books": ("bookshelves", "reading corner", "poetry nights", "secondhand novels"),
    "view": ("sea view", "harbour panorama", "rooftop seats", "sunset balcony"),
    "garden": ("herb garden", "flower beds", "shady trees", "courtyard fountain"),
    "vegan": ("tofu bowls", "lentil soup", "oat milk", "plant-based menu"),
    "seafood": ("oysters", "grilled mackerel", "clam chowder", "shrimp rolls"),
    "games": ("board games", "chess tables", "pinball machine", "trivia quiz"),
    "children": ("play area", "high chairs", "puppet shows", "crayons and paper"),
}
POSITIVE_WORDS = ("wonderful", "delightful", "excellent", "superb", "charming", "lovely", "fantastic", "pleasant")
NEGATIVE_WORDS = ("disappointing", "dreadful", "mediocre", "awful", "tiresome", "poor", "unpleasant", "forgettable")
OPENINGS = (
    "We found the place {sentiment}.",
    "The visit was {sentiment}, all in all.",
    "My afternoon here was {sentiment}.",
    "Friends had called it {sentiment}, and so did I.",
)
REASONS = (
    "I came for the {first} and noticed the {second} as well.",
    "The {first} and the {second} are what I will remember.",
    "They are known for the {first}, and I tried the {second} too.",
    "The {first} brought me here, and the {second} kept me for hours.",
)
CLOSINGS = (
    "The service was {sentiment}.",
    "Sunday with them is {sentiment}.",
    "Overall: {sentiment}.",
    "The mood was {sentiment} when we left.",
)


@dataclass(frozen=True)
class Planted:
    """The truth behind the demo data. Row i of an array belongs to the i-th user or item.

    Attributes:
        user_ids, item_ids: the ids in the .inter file.
        attributes: the names of the attributes, which are the columns of the next two arrays.
        item_attributes: bool [n_items, n_attributes].
        user_tastes: float64 [n_users, n_attributes], from 0 to 1.
        popularity: float64 [n_items], the share of choices that an item would get if there were no tastes.
        choice_scores: float64 [n_users, n_items]; a user chooses items with odds exp(score). No ranking is better than
            the ranking by these scores.
        objective_words: the phrases that name each attribute in reviews.
        sentiment_words: the words that say nothing about preference.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    attributes: tuple[str, ...]
    item_attributes: np.ndarray
    user_tastes: np.ndarray
    popularity: np.ndarray
    choice_scores: np.ndarray
    objective_words: dict[str, tuple[str, ...]]
    sentiment_words: tuple[str, ...]


def planted(seed: int = SEED) -> Planted:
    """Draws the attributes, the tastes and the popularity behind the demo data from a seed."""
    random = np.random.default_rng([seed, 0])
    n_attributes = len(OBJECTIVE_WORDS)
    many = random.integers(*ATTRIBUTES_PER_ITEM, endpoint=True, size=ITEMS)
    ranks = random.permuted(np.tile(np.arange(n_attributes), (ITEMS, 1)), axis=1)
    item_attributes = ranks < many[:, None]
    tastes = random.uniform(0.0, 0.1, (USERS, n_attributes))
    favourites = random.permuted(np.tile(np.arange(n_attributes), (USERS, 1)), axis=1)
    tastes[favourites == 0] = 1.0
    tastes[favourites == 1] = 0.6
    popularity = 1.0 / (random.permutation(ITEMS) + 5.0)
    popularity /= popularity.sum()
    affinity = tastes @ item_attributes.T
    return Planted(
        user_ids=tuple(f"u{number}" for number in range(USERS)),
        item_ids=tuple(f"i{number}" for number in range(ITEMS)),
        attributes=tuple(OBJECTIVE_WORDS),
        item_attributes=item_attributes,
        user_tastes=tastes,
        popularity=popularity,
        choice_scores=POPULARITY_WEIGHT * np.log(popularity) + TASTE_WEIGHT * affinity,
        objective_words=dict(OBJECTIVE_WORDS),
        sentiment_words=POSITIVE_WORDS + NEGATIVE_WORDS,
    )


def write_demo(folder: Path, seed: int = SEED) -> dict[str, Any]:
    """Writes the demo dataset to ``folder``, in the files that ``prepare`` writes. The same seed gives the same bytes.

    Returns:
        The content of the statistics file.

    Raises:
        PreparationError: ``folder`` can't be made.
    """
    columns = table.source(user="user", item="item", text="text", time="time", rating="rating")
    source = dataclasses.replace(columns, name="demo")
    everything = Filters(user_core=0, item_core=0)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / f"demo-seed-{seed}.jsonl"
            raw.write_text("".join(json.dumps(row) + "\n" for row in _rows(seed)), encoding="utf-8")
            return prepare(source, [raw], folder, filters=everything)
    except OSError as error:  # from the temporary folder; ``prepare`` raises only PreparationError
        raise PreparationError(f"{error.filename or 'temporary files'}: {error.strerror or error}") from error


def _rows(seed: int) -> list[dict[str, Any]]:
    truth = planted(seed)
    random = np.random.default_rng([seed, 1])
    users, items = _choices(truth, random)
    n = len(users)
    starts = FIRST_TIME + random.uniform(0, 300 * DAY, USERS)
    gaps = 60.0 + random.exponential(9 * DAY, n)
    waited = np.cumsum(gaps)
    first = np.searchsorted(users, users)  # the first row of the user of each row
    times = (starts[users] + waited - waited[first]).astype(np.int64)
    positive = random.random(n) < 0.7
    ratings = np.where(positive, random.integers(4, 5, n, endpoint=True), random.integers(1, 3, n, endpoint=True))
    texts = _texts(truth, users, items, positive, random)
    return [
        {
            "user": truth.user_ids[user],
            "item": truth.item_ids[item],
            "text": text,
            "time": int(time),
            "rating": int(rating),
        }
        for user, item, text, time, rating in zip(users, items, texts, times, ratings, strict=True)
    ]


def _choices(truth: Planted, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws the user and the item of each interaction, sorted by user and then by time. No pair occurs twice.

    The items of a user are drawn without replacement with odds exp(score) (Gumbel-top-k) and then shuffled, so that
    early and late choices follow the same taste.
    """
    counts = np.empty(USERS, dtype=np.int64)
    counts[:COLD_USERS] = random.integers(5, 6, COLD_USERS, endpoint=True)
    counts[COLD_USERS:] = np.clip(random.lognormal(np.log(WARM_MEAN) - 0.125, 0.5, USERS - COLD_USERS), 7, 60)
    counts = random.permutation(counts)
    drawn = np.argsort(-(truth.choice_scores + random.gumbel(size=truth.choice_scores.shape)), axis=1)
    chosen = [random.permutation(row[:count]) for row, count in zip(drawn, counts, strict=True)]
    return np.repeat(np.arange(USERS), counts), np.concatenate(chosen)


def _texts(
    truth: Planted, users: np.ndarray, items: np.ndarray, positive: np.ndarray, random: np.random.Generator
) -> list[str]:
    """Returns a review for each interaction. Two of its phrases name the attribute that its writer likes best."""
    n = len(users)
    topic = np.argmax(truth.user_tastes[users] * truth.item_attributes[items], axis=1)
    phrases = np.array(list(truth.objective_words.values()))[topic]  # [n, phrases per attribute]
    phrases = random.permuted(phrases, axis=1)
    feelings = np.where(positive[:, None], random.choice(POSITIVE_WORDS, (n, 2)), random.choice(NEGATIVE_WORDS, (n, 2)))
    opening, reason, closing = (random.choice(lines, n) for lines in (OPENINGS, REASONS, CLOSINGS))
    return [
        " ".join(
            (
                opening[row].format(sentiment=feelings[row, 0]),
                reason[row].format(first=phrases[row, 0], second=phrases[row, 1]),
                closing[row].format(sentiment=feelings[row, 1]),
            )
        )
        for row in range(n)
    ]

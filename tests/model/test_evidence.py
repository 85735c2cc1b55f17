"""Each piece of evidence, and the statistics that it reads, against slow loops written from its definition."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere.model import item_statistics
from recbole_symcere.model.evidence import EVIDENCE, FEW, HIGHEST, LOWEST, Evidence, Need, People, standardised
from recbole_symcere.model.item_statistics import ItemStatistics, ItemTexts, nearest_items
from tests.model.baselines.rows import DAY, N_ITEMS, N_USERS, Row, Rows, rows_of_three_users

WIDTH = 3
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
nows = st.lists(st.integers(-2, 12), min_size=N_USERS, max_size=N_USERS)


def world(rows: list[Row], now: list[int], seed: int) -> tuple[People, ItemStatistics, Tensor]:
    """People who did what the rows say, in any order; the statistics of their items; and the reviews' vectors."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(rows), WIDTH, generator=generator)
    items = ItemStatistics.of_training(Rows(rows), ItemTexts.of_reviews(Rows(rows), vectors))  # type: ignore[arg-type]
    items.take_graph(*(torch.randn(N_ITEMS, 2, generator=generator) for _ in range(2)))
    order = sorted(range(len(rows)), key=lambda n: rows[n][0])
    owner, item, day = (torch.tensor([rows[n][column] for n in order]) for column in range(3))
    asked = torch.tensor(now, dtype=torch.float64) * DAY
    n_written = torch.bincount(owner, minlength=N_USERS)
    return People(owner, item, day.double() * DAY, asked, items.texts.of_users, n_written), items, vectors


def usual_days(rows: list[Row]) -> float:
    """The median age of an item when it is met, in days; at least one."""
    first = {item: min(day for _, i, day in rows if i == item) for _, item, _ in rows}
    ages = sorted(day - first[item] for _, item, day in rows)
    return max(ages[(len(ages) - 1) // 2], 1.0)


def history(rows: list[Row], user: int) -> list[tuple[int, float]]:
    return [(item, day) for u, item, day in rows if u == user]


def unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-12)


def table(score: Any) -> Tensor:
    return torch.tensor([[score(user, item) for item in range(N_ITEMS)] for user in range(N_USERS)]).double()


@given(rows=rows_of_three_users(), now=nows, seed=seeds)
@quick
def test_trend_counts_what_was_met_up_to_the_moment(rows: list[Row], now: list[int], seed: int) -> None:
    people, items, _ = world(rows, now, seed)
    half_life = usual_days(rows) / 4

    def score(user: int, item: int) -> float:
        ages = [now[user] - day for _, i, day in rows if i == item and day <= now[user]]
        return math.log(FEW + sum(2 ** (-age / half_life) for age in ages))

    assert_close(EVIDENCE["trend"]().scores(people, items), table(score))


@pytest.mark.parametrize(("name", "part"), [("surge", 1 / 4), ("burst", 1 / 32)])
@given(rows=rows_of_three_users(), now=nows, seed=seeds)
@quick
def test_surge_and_burst_are_counts_that_decay(
    name: str, part: float, rows: list[Row], now: list[int], seed: int
) -> None:
    people, items, _ = world(rows, now, seed)
    half_life = usual_days(rows) * part

    def score(user: int, item: int) -> float:
        ages = [now[user] - day for _, i, day in rows if i == item and day <= now[user]]
        return math.fsum(2 ** (-age / half_life) for age in ages)

    assert_close(EVIDENCE[name]().scores(people, items), table(score))


@given(rows=rows_of_three_users(), now=nows, seed=seeds)
@quick
def test_newness_is_the_first_moment_and_the_future_is_as_old_as_can_be(
    rows: list[Row], now: list[int], seed: int
) -> None:
    people, items, _ = world(rows, now, seed)
    oldest = min(day for _, _, day in rows)

    def score(user: int, item: int) -> float:
        first = min((day for _, i, day in rows if i == item), default=math.inf)
        return (first if first <= now[user] else oldest) * DAY

    assert_close(EVIDENCE["newness"]().scores(people, items), table(score))


@given(rows=rows_of_three_users(unique=True), now=nows, seed=seeds)
@quick
def test_recent_goes_on_from_the_latest_items_most(rows: list[Row], now: list[int], seed: int) -> None:
    people, items, _ = world(rows, now, seed)
    half_life = usual_days(rows) / 2
    popularity = {item: sum(i == item for _, i, _ in rows) for item in range(N_ITEMS)}

    def walk(source: int, end: int) -> float:
        total = 0.0
        for user in range(N_USERS):
            days = dict(history(rows, user))
            if source != end and source in days and end in days and days[end] >= days[source]:
                total += len(days) ** -0.4
        return total * popularity[source] ** -0.4 * popularity[end] ** -0.3 if total else 0.0

    def score(user: int, item: int) -> float:
        met = history(rows, user)
        last = max((day for _, day in met), default=0.0)
        return sum(2 ** (-(last - day) / half_life) * walk(source, item) for source, day in met)

    assert_close(EVIDENCE["recent"]().scores(people, items).double(), table(score), atol=1e-5, rtol=1e-5)


@given(rows=rows_of_three_users(), now=nows, seed=seeds)
@quick
def test_graph_sums_over_the_history_and_own_words_and_nearby_texts_are_cosines(
    rows: list[Row], now: list[int], seed: int
) -> None:
    people, items, vectors = world(rows, now, seed)
    texts = items.texts

    def by_graph(user: int, item: int) -> float:
        return sum(float(items.folding[met] @ items.vectors[item]) for met, _ in history(rows, user))

    def by_texts(user: int, item: int) -> float:
        cosines = [float(texts.profiles[met] @ texts.profiles[item]) for met, _ in history(rows, user) if met != item]
        return sum(max(cosine, 0.0) for cosine in cosines)

    centred = (vectors - vectors.mean(0)).double().numpy()

    def mean_review(column: int, number: int) -> np.ndarray:
        own = [n for n, row in enumerate(rows) if row[column] == number]
        return centred[own].mean(0) if own else np.zeros(WIDTH)

    within = np.stack([centred[n] - mean_review(1, row[1]) for n, row in enumerate(rows)])
    variances, directions = np.linalg.eigh(within.T @ within / len(rows))
    to_words = directions / np.sqrt(variances.clip(0) + 0.2 * max(variances.mean(), 1e-12))

    def by_words(user: int, item: int) -> float:
        return float(unit(mean_review(0, user) @ to_words) @ unit(mean_review(1, item) @ to_words))

    close = {"atol": 1e-4, "rtol": 1e-4}
    assert_close(EVIDENCE["graph"]().scores(people, items).double(), table(by_graph), **close)
    assert_close(EVIDENCE["nearby_texts"]().scores(people, items).double(), table(by_texts), **close)
    found = EVIDENCE["own_words"]().scores(people, items).double()
    for user in range(N_USERS):
        for item in range(N_ITEMS):
            length = min(np.linalg.norm(mean_review(0, user)), np.linalg.norm(mean_review(1, item)))
            if variances.mean() > 1e-3 and length > 1e-2:  # else float32 divides by its own rounding
                assert float(found[user, item]) == pytest.approx(by_words(user, item), abs=2e-3)
            elif not any(user in row[:1] for row in rows):
                assert float(found[user, item]) == 0


class Given(Evidence):
    """Evidence with scores of its own."""

    def __init__(self, scores: Tensor, needs: Need) -> None:
        self.given, self.needs = scores, needs  # type: ignore[misc]

    def scores(self, people: People, items: ItemStatistics) -> Tensor:
        return self.given.clone()


@given(rows=rows_of_three_users(), seed=seeds, needs=st.sampled_from(Need), scale=st.sampled_from([0.0, 1.0, 1e6]))
@quick
def test_scores_are_standardised_over_known_items_and_trusted_as_the_history_is_long(
    rows: list[Row], seed: int, needs: Need, scale: float
) -> None:
    people, items, _ = world(rows, [20] * N_USERS, seed)
    people = replace(people, n_written=10 * torch.arange(N_USERS))
    scores = scale * torch.randn(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(seed)).exp()
    found = standardised(Given(scores, needs), people, items)
    known = sorted({item for _, item, _ in rows})
    for user in range(N_USERS):
        among = scores[user, known].double().numpy()
        n = {Need.NOTHING: math.inf, Need.HISTORY: len(history(rows, user)), Need.WORDS: 10 * user}[needs]
        for item in range(N_ITEMS):
            z = (float(scores[user, item]) - among.mean()) / max(among.std(), 1e-9)
            trust = 1 - 3 / (n + 3)
            if len(known) > 1 and scale:
                assert float(found[user, item]) == pytest.approx(min(max(z, LOWEST), HIGHEST) * trust, abs=1e-3)
    assert found.isfinite().all()
    if needs is Need.HISTORY:
        assert (found[[4, 0]] == 0).all(), "who has no history has no such evidence"


@given(seed=seeds, k=st.integers(1, 9), at_once=st.sampled_from([1, 16, 2**24]))
@quick
def test_the_nearest_items_are_the_nearest(seed: int, k: int, at_once: int) -> None:
    profiles = F.normalize(torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_statistics, "COSINES_AT_ONCE", at_once)
        found = nearest_items(profiles, k).to_dense()
    for item in range(7):
        cosines = {other: float(profiles[item] @ profiles[other]) for other in range(7) if other != item}
        nearest = sorted(cosines, key=cosines.__getitem__, reverse=True)[:k]
        for other in range(7):
            expected = max(cosines[other], 0.0) if other in nearest else 0.0
            assert float(found[item, other]) == pytest.approx(expected, abs=1e-6)


@given(rows=rows_of_three_users(), later=rows_of_three_users(), seed=seeds)
@quick
def test_what_needs_no_history_does_not_know_what_comes_after_the_moment(
    rows: list[Row], later: list[Row], seed: int
) -> None:
    """The usual age is a constant of all the interactions, so it is held fixed."""
    after = [(user, item, day + 20) for user, item, day in later]
    found = []
    for known in (rows, rows + after):
        people, items, _ = world(known, [15] * N_USERS, seed)
        items.usual_age = 5 * DAY
        found.append({name: EVIDENCE[name]().scores(people, items) for name in ("trend", "surge", "burst", "newness")})
    for name in found[0]:
        assert_close(found[1][name], found[0][name])

"""What comes after training: interactions that go on, and items that nobody has met."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere.errors import UserError
from recbole_symcere.model.item_statistics import nearest_items
from recbole_symcere.model.placing import _with_new
from recbole_symcere.serving import NewInteraction, Recommendation, Recommender
from recbole_symcere.serving.additions import _longer
from tests.conftest import START

NEW = START + 10_000.0  # after all interactions of the tiny dataset
quick = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
rows_of_anybody = st.lists(
    st.builds(
        NewInteraction,
        user=st.sampled_from(["u0", "u3", "new1", "new2"]),
        item=st.sampled_from(["i3", "i7", "fresh1", "fresh2"]),
        time=st.integers(1, 50).map(lambda second: NEW + second),
        text=st.sampled_from([None, "great gasket", "fine strap love"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: (row.user, row.item, row.time),
)


def why(found: list[Recommendation]) -> dict[str, dict[str, float]]:
    return {best.item: dict(best.why) for best in found}


def same(one: dict[str, dict[str, float]], other: dict[str, dict[str, float]], leaving_out: str = "") -> None:
    assert one.keys() == other.keys()
    for item, parts in one.items():
        kept = {name: value for name, value in parts.items() if name not in leaving_out.split()}
        assert kept == pytest.approx({name: other[item][name] for name in kept}, abs=2e-4), item


@given(rows=rows_of_anybody)
@quick
def test_one_by_one_or_all_at_once_gives_the_same(recommender: Recommender, rows: list[NewInteraction]) -> None:
    in_time = sorted(rows, key=lambda row: row.time)  # the first row of a new item decides when it came
    together, stepwise = recommender.with_interactions(in_time), recommender
    for row in in_time:
        stepwise = stepwise.with_interactions([row])
    assert sorted(together.users) == sorted(stepwise.users) and sorted(together.items) == sorted(stepwise.items)
    fresh = {row.item for row in rows if row.item.startswith("fresh")}
    # The text of a new item is that of the rows with which it came, so it differs where the rows come one by one.
    left_out = "recent graph nearby_texts own_words" if fresh else ""
    for user in {row.user for row in rows}:
        same(*(why(r.recommend(user, k=100, why=True)) for r in (together, stepwise)), left_out)


@given(rows=rows_of_anybody)
@quick
def test_new_interactions_are_a_history_as_if_it_were_given(
    recommender: Recommender, rows: list[NewInteraction]
) -> None:
    rows = [row for row in rows if row.item.startswith("i")]
    added = recommender.with_interactions(rows)
    for user in {row.user for row in rows}:
        own = sorted((row for row in rows if row.user == user), key=lambda row: row.time)
        request: dict[str, Any] = {
            "user": user if user in recommender.users else None,
            "history": [(row.item, row.time) for row in own],
            "reviews": [row.text for row in own if row.text],
        }
        found, expected = (
            why(r.recommend(**of_user, k=100, why=True))
            for r, of_user in ((added, {"user": user}), (recommender, request))
        )
        # Trends have gone on for everybody, and a known user's words weigh as many reviews as interactions.
        silent = request["user"] is not None or any(row.text is None for row in own)
        counts = "trend surge"
        same(found, expected, f"{counts} own_words" if silent else counts)


def test_a_row_is_counted_once_and_the_old_recommender_stays_as_it_was(recommender: Recommender) -> None:
    before = copy.deepcopy(recommender._record)
    row = NewInteraction("u0", "i3", NEW, "great")
    once = recommender.with_interactions([row])
    twice = once.with_interactions([row])
    assert twice is once and recommender.with_interactions([]) is recommender
    once.with_items({"fresh": ["love"]})
    for name, value in before.items():
        assert_close(recommender._record[name], value, rtol=0, atol=0) if isinstance(value, Tensor) else None
    assert recommender._record.keys() == before.keys() and recommender._record["users"] == before["users"]


def test_a_trend_goes_on(recommender: Recommender) -> None:
    crowd = recommender.with_interactions([NewInteraction(f"new{n}", "i3", NEW + n) for n in range(20)])
    unmet = next(
        user for user in recommender.users if "i3" in {best.item for best in recommender.recommend(user, k=100)}
    )
    for user in (None, unmet):
        trend = {best.item: best.why["trend"] for best in crowd.recommend(user, k=100, why=True)}
        assert trend["i3"] == max(trend.values())
    earlier = {best.item: best.why["trend"] for best in crowd.recommend(at=NEW - 1, k=100, why=True)}
    assert earlier["i3"] < trend["i3"], "nothing is read that happened after the moment"


@pytest.mark.parametrize("n_texts", [1, 3])
def test_a_new_item_is_placed_by_the_items_whose_texts_are_nearest(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, n_texts: int
) -> None:
    monkeypatch.setattr("recbole_symcere.model.placing.NEAREST", 5)
    texts = ["u1 i3 great gasket", "love it", "strap the pedal"][:n_texts]
    found = recommender.with_items({"fresh": texts, "other": ["tuner"]}, listed=NEW)
    before, after = (r._statistics for r in (recommender, found))
    n_old = before.n_items
    assert after.n_items == n_old + 2 and found.items[-2:] == ("fresh", "other")
    assert before.texts.mean is not None and before.texts.to_profiles is not None
    mean = torch.stack([recommender._texts.encode([text])[0] for text in texts]).mean(0) - before.texts.mean
    profile, words = (F.normalize(mean @ to, dim=0) for to in (before.texts.to_profiles, before.texts.to_words))
    assert_close(after.texts.words[n_old], words, atol=1e-5, rtol=1e-4)
    cosines = {item: max(float(before.texts.profiles[item] @ profile), 0.0) for item in range(n_old)}
    near = sorted(cosines, key=lambda item: -cosines[item])[:5]
    total = sum(cosines[item] for item in near)

    def placed(rows: Callable[[int], Tensor]) -> Tensor:
        return sum((cosines[item] / total * rows(item) for item in near), torch.zeros_like(rows(0)))

    walks, walks_before = after.walks.to_dense(), before.walks.to_dense()
    for table, old in ((after.vectors, before.vectors), (after.folding, before.folding)):
        assert_close(table[n_old], placed(old.__getitem__), atol=1e-5, rtol=1e-4)
        assert torch.equal(table[:n_old], old)
    assert_close(walks[n_old, :n_old], placed(walks_before.__getitem__), atol=1e-5, rtol=1e-4)
    assert_close(walks[:n_old, n_old], placed(walks_before.T.__getitem__), atol=1e-5, rtol=1e-4)
    assert torch.equal(walks[:n_old, :n_old], walks_before)
    nearest = after.nearest.to_dense()
    assert torch.equal(nearest[:n_old, :n_old], before.nearest.to_dense())
    for item in range(n_old):
        assert float(nearest[n_old, item]) == pytest.approx(cosines[item] if item in near else 0.0, abs=1e-5)


@given(seed=st.integers(0, 2**32 - 1), n_new=st.integers(1, 3), k=st.integers(1, 4))
@quick
def test_an_item_gets_a_new_one_among_its_nearest_if_none_of_these_is_nearer(seed: int, n_new: int, k: int) -> None:
    drawn = torch.randn(6 + n_new, 4, generator=torch.Generator().manual_seed(seed))
    old, new = F.normalize(drawn, dim=1).split([6, n_new])
    cosines = F.pad(new @ old.T, (0, n_new))
    longer = _longer(nearest_items(old, k), n_new)
    table = _with_new(longer, torch.arange(6, 6 + n_new), cosines, cosines.clamp(min=0)).to_dense()
    for item in range(6):
        among = sorted((float(old[item] @ old[other]) for other in range(6) if other != item), reverse=True)[:k]
        for number in range(n_new):
            cosine = float(cosines[number, item])
            expected = cosine if cosine > max(among[-1], 0.0) else 0.0
            assert float(table[item, 6 + number]) == pytest.approx(expected, abs=1e-5)
            assert float(table[6 + number, item]) == pytest.approx(max(cosine, 0.0), abs=1e-5)


def test_a_new_item_is_recommended_marked_and_new_until_somebody_meets_it(recommender: Recommender) -> None:
    found = recommender.with_items({"fresh": ["u1 i3 great gasket"]}, listed=NEW)
    for request in ({}, {"history": ["i3"]}, {"user": "u0"}, {"history": ["i3", "fresh"]}):
        best = {best.item: best for best in found.recommend(**request, k=100, why=True)}  # type: ignore[arg-type]
        assert ("fresh" in best) == ("fresh" not in request.get("history", ()))
        assert [item for item in best if best[item].is_new] == ["fresh"] * ("fresh" in best)
        if "fresh" in best:
            assert best["fresh"].why["newness"] == max(each.why["newness"] for each in best.values())
    early = {best.item: best for best in found.recommend(at=START + 50.0, k=100, why=True)}
    assert early["fresh"].why["newness"] == min(each.why["newness"] for each in early.values())
    met = found.with_interactions([NewInteraction("u0", "fresh", NEW + 1)])
    assert not any(best.is_new for best in met.recommend(k=100))
    assert "fresh" not in {best.item for best in met.recommend("u0", k=100)}


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda r: r.with_items({"i3": ["great"]}), "item 'i3' is not new: the data has it"),
        (lambda r: r.with_items({"fresh": []}), "item 'fresh' has no text"),
        (lambda r: r.with_items({"fresh": ["  "]}), "a text is empty"),
        (lambda r: r.with_items({"fresh": ["great"]}, listed=float("nan")), "listed is not a number"),
        (lambda r: r.with_interactions([NewInteraction("u0", "i3", float("inf"))]), "user 'u0' met 'i3' at no time"),
    ],
)
def test_what_can_not_be_added_is_refused(
    recommender: Recommender, add: Callable[[Recommender], Recommender], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        add(recommender)

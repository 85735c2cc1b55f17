"""The weights of evidence against a slow conditional logit and against choices whose weights are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_symcere.model.choice import (
    POOL,
    RIDGE,
    TOP,
    TRUST,
    Choices,
    Weights,
    draw_choices,
    fit_weights,
    most_likely,
)

quick = settings(deadline=None, max_examples=30)


@st.composite
def choices(draw: st.DrawFn) -> Choices:
    """A few choices; every user has an alternative."""
    n_users, n_items, n_pieces = draw(st.integers(1, 4)), draw(st.integers(2, 5)), draw(st.integers(1, 3))
    owner = draw(st.lists(st.integers(0, n_users - 1), min_size=1, max_size=6))
    rows = st.lists(st.booleans(), min_size=n_items, max_size=n_items).filter(any)
    opened = draw(st.lists(rows, min_size=n_users, max_size=n_users))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    chosen, offered = (
        torch.randn(*size, n_pieces, generator=generator, dtype=torch.float64)
        for size in ((len(owner),), (n_users, n_items))
    )
    return Choices(chosen, torch.tensor(owner), offered, torch.tensor(opened))


def slow_loss(found: Choices, weights: list[float]) -> float:
    def score(evidence: Tensor) -> float:
        return sum(w * float(z) for w, z in zip(weights, evidence, strict=True))

    losses = []
    for evidence, user in zip(found.chosen, found.owner.tolist(), strict=True):
        own = math.exp(score(evidence))
        others = sum(
            math.exp(score(item)) for item, free in zip(found.offered[user], found.open[user], strict=True) if free
        )
        losses.append(-math.log(own / (own + others)))
    return sum(losses) / len(losses)


@given(found=choices(), weights=st.lists(st.floats(-2, 2), min_size=3, max_size=3))
@quick
def test_the_loss_is_the_log_share_of_the_choice_among_itself_and_the_alternatives(
    found: Choices, weights: list[float]
) -> None:
    weights = weights[: found.chosen.shape[1]]
    expected = slow_loss(found, weights)
    assert float(found.loss(torch.tensor(weights, dtype=torch.float64))) == pytest.approx(expected)


@given(found=choices(), ridge=st.sampled_from([0.02, 1.0]), centre=st.sampled_from([0.0, 0.5]))
@quick
def test_no_other_weights_are_better(found: Choices, ridge: float, centre: float) -> None:
    def objective(weights: np.ndarray) -> float:
        return slow_loss(found, list(weights)) + ridge / 2 * float(((weights - centre) ** 2).sum())

    fitted = most_likely(found, ridge, found.chosen.new_full(found.chosen.shape[1:], centre) if centre else None)
    best = fitted.values.numpy()
    assert (best >= 0).all()
    for k in range(len(best)):
        for step in (-1e-2, 1e-2):
            other = best.copy()
            other[k] = max(0.0, other[k] + step)
            assert objective(best) <= objective(other) + 1e-9
    assert ((fitted.errors() == 0) == (fitted.values == 0)).all()


def drawn_choices(weights: Tensor, n_users: int, generator: torch.Generator, n_items: int = 20) -> Choices:
    """One choice of each user among some items, with the probabilities of the weights."""
    evidence = torch.randn(n_users, n_items, len(weights), generator=generator, dtype=torch.float64)
    item = torch.multinomial(torch.softmax(evidence @ weights, 1), 1, generator=generator).flatten()
    user = torch.arange(n_users)
    opened = torch.ones(n_users, n_items, dtype=torch.bool)
    opened[user, item] = False
    return Choices(evidence[user, item], user, evidence, opened)


@given(found=choices(), start=st.lists(st.floats(0, 3), min_size=3, max_size=3))
@quick
def test_where_the_search_begins_does_not_change_what_it_finds(found: Choices, start: list[float]) -> None:
    begin = found.chosen.new_tensor(start[: found.chosen.shape[1]])
    assert torch.allclose(most_likely(found, 0.02, start=begin).values, most_likely(found, 0.02).values, atol=1e-3)


def test_weights_come_back_with_errors_of_the_right_size() -> None:
    weights = torch.tensor([1.0, 0.4, 0.3], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    fits = [most_likely(drawn_choices(weights, 400, generator), ridge=1e-6) for _ in range(60)]
    found = torch.stack([fit.values for fit in fits])
    errors = torch.stack([fit.errors() for fit in fits])
    assert torch.allclose(found.mean(0), weights, atol=0.03)
    assert torch.allclose(errors.mean(0), found.std(0), rtol=0.3)


def fitted_to(found: Choices) -> Weights:
    return fit_weights(found, found)


def test_evidence_that_speaks_against_a_choice_gets_no_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    fitted = fitted_to(drawn_choices(torch.tensor([1.0, -1.0], dtype=torch.float64), 500, generator))
    assert fitted.values[0] > 0.5 and fitted.values[1] == fitted.errors()[1] == 0


ONE_USER = torch.tensor([[2.0], [-3.0]]), torch.tensor([0, 0]), torch.tensor([[[1.0], [-1.0]]]), torch.ones(1, 2).bool()


@given(found=choices(), n=st.integers(1, 4), weights=st.lists(st.floats(0, 2), min_size=3, max_size=3))
@example(found=Choices(*(x.double() if x.is_floating_point() else x for x in ONE_USER)), n=3, weights=[1.0, 0.0, 0.0])
@quick
def test_at_the_top_are_the_choices_and_the_open_items_that_a_list_of_the_best_shows(
    found: Choices, n: int, weights: list[float]
) -> None:
    used = torch.tensor(weights[: found.chosen.shape[1]], dtype=torch.float64)
    top = found.at_the_top(used, n)
    kept = []
    for user, (items, opened) in enumerate(zip(found.offered @ used, found.open, strict=True)):
        best = sorted((float(score) for score, free in zip(items, opened, strict=True) if free), reverse=True)[:n]
        last = best[-1] if len(best) == n else -math.inf
        assert top.open[user].tolist() == [
            bool(free and score >= last) for score, free in zip(items, opened, strict=True)
        ]
        own = (found.owner == user).nonzero().flatten().tolist()
        kept += [choice for choice in own if float(found.chosen[choice] @ used) >= last]
    assert top.chosen.tolist() == found.chosen[sorted(kept)].tolist()
    assert top.owner.tolist() == found.owner[sorted(kept)].tolist()
    assert top.offered is found.offered


def test_the_weights_are_those_of_the_top_of_the_list_and_near_to_those_of_all_choices() -> None:
    weights, generator = torch.tensor([1.0, 0.4], dtype=torch.float64), torch.Generator().manual_seed(0)
    found = drawn_choices(weights, 400, generator, n_items=2 * TOP)
    every = most_likely(found, RIDGE).values
    scores = found.offered @ every
    last = scores.masked_fill(~found.open, -math.inf).topk(TOP).values[:, -1:]
    kept = found.chosen @ every >= last[:, 0]
    assert 0 < kept.sum() < len(kept)
    top = Choices(found.chosen[kept], found.owner[kept], found.offered, found.open & (scores >= last))
    expected = most_likely(top, TRUST / int(kept.sum()), every)
    fitted = fitted_to(found)
    assert torch.equal(fitted.values, expected.values) and torch.equal(fitted.errors(), expected.errors())
    assert not torch.allclose(fitted.values, every, atol=1e-3)


@given(found=choices())
@quick
def test_without_a_choice_at_the_top_the_weights_are_those_of_all_choices(found: Choices) -> None:
    worst = Choices(found.offered.amin((0, 1)).expand_as(found.chosen) - 1, found.owner, found.offered, found.open)
    if not len(worst.at_the_top(most_likely(worst, RIDGE).values).owner):
        assert torch.equal(fitted_to(worst).values, most_likely(worst, RIDGE).values)


@given(found=choices(), data=st.data())
@quick
def test_the_choices_of_some_users_are_those(found: Choices, data: st.DataObject) -> None:
    n_users = len(found.offered)
    users = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n_users, max_size=n_users)))
    some = found.of_users(users)
    kept = [n for n, user in enumerate(found.owner.tolist()) if users[user]]
    assert some.chosen.tolist() == found.chosen[kept].tolist()
    for n, user in zip(kept, some.owner.tolist(), strict=True):
        before = int(found.owner[n])
        assert some.offered[user].tolist() == found.offered[before].tolist()
        assert some.open[user].tolist() == found.open[before].tolist()


class Crowd:
    """Random evidence of 60 users for 500 items, of which some are unknown and some are met."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.evidence = torch.randn(60, 500, 3, generator=random, dtype=torch.float64)
        self.known = torch.rand(500, generator=random) < 0.9
        self.unmet = self.known & (torch.rand(60, 500, generator=random) < 0.9)
        likely = (self.evidence.sum(2) * 2).masked_fill(~self.unmet, -torch.inf).softmax(1)
        self.user = torch.arange(60).repeat_interleave(3)
        self.item = torch.multinomial(likely, 3, generator=random).flatten()
        self.could_choose = self.unmet.clone()
        self.could_choose[self.user, self.item] = False

    def drawn(self, pieces: list[bool]) -> tuple[Tensor, Choices, Choices]:
        order = torch.randperm(len(self.user), generator=torch.Generator().manual_seed(1))
        return draw_choices(
            self.user[order],
            self.item[order],
            self.known,
            lambda users: self.evidence[users],
            lambda users: self.unmet[users].clone(),
            torch.tensor(pieces),
        )


@pytest.mark.parametrize("n_pairs", [2**20, 5_000])
def test_the_second_fit_is_to_the_best_of_all_items_however_many_are_drawn(
    n_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd()
    monkeypatch.setattr("recbole_symcere.model.choice.PAIRS_TO_FIT", n_pairs)
    monkeypatch.setattr("recbole_symcere.model.choice.SCORES_AT_ONCE", 3_500)  # seven users at a time
    users, choices, best = crowd.drawn([True, False, True])
    evidence = crowd.evidence[:, :, [0, 2]]
    assert choices.offered.shape[1] == (83 if n_pairs == 5_000 else crowd.known.sum())
    chosen = [evidence[u, i].tolist() for u, i in zip(crowd.user, crowd.item, strict=True)]
    assert sorted(choices.chosen.tolist()) == sorted(best.chosen.tolist()) == sorted(chosen)
    assert choices.owner.tolist() == best.owner.tolist() == crowd.user.tolist()

    weights = most_likely(choices, RIDGE).values
    top = best.at_the_top(weights)
    for row, user in enumerate(users.tolist()):
        scores = (evidence[user] @ weights).masked_fill(~crowd.could_choose[user], -torch.inf)
        expected = scores.topk(TOP).indices
        assert sorted(top.offered[row][top.open[row]].tolist()) == sorted(evidence[user, expected].tolist())
    assert 0 < len(top.owner) < len(choices.owner)


def test_of_many_users_some_are_drawn_with_all_their_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd()
    monkeypatch.setattr("recbole_symcere.model.choice.PAIRS_TO_FIT", 2_500)
    users, choices, best = crowd.drawn([True, True, True])
    assert len(users) == 50 and choices.offered.shape[1] == 50 and best.offered.shape[1] == POOL
    for found in (choices, best):
        assert found.owner.tolist() == [place for place in range(50) for _ in range(3)]
        owners = users[found.owner]
        assert all(
            any(torch.equal(evidence, crowd.evidence[user, item]) for item in crowd.item[crowd.user == user])
            for user, evidence in zip(owners, found.chosen, strict=True)
        )
    for row, user in enumerate(users.tolist()):
        possible = crowd.evidence[user, crowd.could_choose[user]].tolist()
        assert all(offer in possible for offer in choices.offered[row][choices.open[row]].tolist())

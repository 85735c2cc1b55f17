"""The losses against slow loops written from the paper's equations."""

import math
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import recbole_symcere.model.loss as loss_module
from recbole_symcere.model.loss import bpr, drawn_unmet_softmax, info_nce, sampled_softmax, sincere, unmet_softmax
from tests.dispatch import LargestTensor

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
both_precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
quick = settings(deadline=None, max_examples=50)
temperatures = st.sampled_from([0.05, 0.2, 1.0])


class Batch(NamedTuple):
    """B interactions (u_i, v_i) with their vectors, and the known pairs R."""

    users: list[int]
    items: list[int]
    known_pairs: set[tuple[int, int]]
    graph: Tensor
    text: Tensor

    def known(self) -> Tensor:
        return torch.tensor([[(u, v) in self.known_pairs for v in self.items] for u in self.users])


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Few users and items, so that users, items and pairs repeat; the batch's own pairs are known, as in training."""
    ids = st.integers(0, 3)
    pairs = draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=7))
    others = draw(st.sets(st.tuples(ids, ids)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    graph, text = (_unit_vectors(len(pairs), 3, generator) for _ in range(2))
    return Batch([u for u, _ in pairs], [v for _, v in pairs], others | set(pairs), graph, text)


def _unit_vectors(n: int, d: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def _symmetric(graph: Tensor, text: Tensor, known: Tensor | None, temperature: float) -> Tensor:
    """Eq. (5), as SymCERE adds the two directions up."""
    return (sincere(graph, text, temperature, known) + sincere(text, graph, temperature, known)) / 2


def _log_share(anchor: Tensor, others: Tensor, own: int, negatives: list[int], temperature: float) -> Tensor:
    """Eqs. (4) and (6), one anchor: the log of its own pair's share among itself and the negatives."""
    scores = others[[own, *negatives]] @ anchor / temperature
    return scores[0] - scores.exp().sum().log()


def _slow_symmetric(batch: Batch, graph: Tensor, text: Tensor, temperature: float) -> Tensor:
    size = len(batch.users)
    graph_to_text, text_to_graph = [], []
    for i in range(size):
        negatives = [j for j in range(size) if j != i and (batch.users[i], batch.items[j]) not in batch.known_pairs]
        graph_to_text.append(-_log_share(graph[i], text, i, negatives, temperature))
        text_to_graph.append(-_log_share(text[i], graph, i, negatives, temperature))
    return (sum(graph_to_text) / size + sum(text_to_graph) / size) / 2


def _slow_info_nce(view: Tensor, other_view: Tensor, temperature: float) -> Tensor:
    size = len(view)
    shares = [_log_share(view[i], other_view, i, [j for j in range(size) if j != i], temperature) for i in range(size)]
    return -sum(shares) / size


def _value_and_gradients(loss, dtype: torch.dtype, *inputs: Tensor) -> list[Tensor]:
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def _assert_same(fast, slow, dtype: torch.dtype, *inputs: Tensor) -> None:
    """The slow loss runs in float64 on the very numbers that the fast one gets."""
    inputs = tuple(x.detach().to(dtype) for x in inputs)
    bound = TOLERANCE[dtype]
    got = _value_and_gradients(fast, dtype, *inputs)
    assert all(x.dtype == dtype for x in got)
    expected = _value_and_gradients(slow, torch.float64, *inputs)
    assert_close([x.double() for x in got], expected, atol=bound, rtol=bound)


@both_precisions
@given(batch=batches(), temperature=temperatures, scores_per_tile=st.sampled_from([1, 10, 2**19]))
@quick
def test_sincere_both_ways_and_its_gradients_are_those_of_eqs_3_to_5(dtype, batch, temperature, scores_per_tile):
    with patch.dict(loss_module.SCORES_PER_TILE, cpu=scores_per_tile):
        _assert_same(
            lambda graph, text: _symmetric(graph, text, batch.known(), temperature),
            lambda graph, text: _slow_symmetric(batch, graph, text, temperature),
            dtype,
            batch.graph,
            batch.text,
        )


@both_precisions
@given(batch=batches(), temperature=temperatures)
@quick
def test_without_known_pairs_it_is_infonce_in_both_directions(dtype, batch, temperature):
    _assert_same(
        lambda graph, text: _symmetric(graph, text, None, temperature),
        lambda graph, text: (_slow_info_nce(graph, text, temperature) + _slow_info_nce(text, graph, temperature)) / 2,
        dtype,
        batch.graph,
        batch.text,
    )


@both_precisions
@given(batch=batches(), temperature=temperatures)
@quick
def test_info_nce_and_its_gradients_are_those_of_eq_6(dtype, batch, temperature):
    _assert_same(
        lambda view, other: info_nce(view, other, temperature),
        lambda view, other: _slow_info_nce(view, other, temperature),
        dtype,
        batch.graph,
        batch.text,
    )


@both_precisions
@given(scores=st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=8))
@example(scores=[(0.0, 20.5)])  # where softplus turns into a straight line, 1e-9 off
@quick
def test_bpr_and_its_gradients_are_those_of_eq_7_averaged(dtype, scores):
    def slow(positive: Tensor, negative: Tensor) -> Tensor:
        # -log sigmoid(x) = log(1 + e^-x)
        terms = [torch.log1p((n - p).exp()) for p, n in zip(positive, negative, strict=True)]
        return sum(terms) / len(terms)

    positive, negative = torch.tensor(scores, dtype=torch.float64).T
    _assert_same(bpr, slow, dtype, positive, negative)


def test_a_text_anchor_excludes_what_its_own_user_knows():
    """Of two samples only (u_0, v_1) is known besides the own pairs: anchor 0 has no negative in either direction."""
    generator = torch.Generator().manual_seed(0)
    graph, text = _unit_vectors(2, 3, generator), _unit_vectors(2, 3, generator)
    known = torch.tensor([[True, True], [False, True]])
    own, graph_1_text_0, text_1_graph_0 = graph[1] @ text[1], graph[1] @ text[0], text[1] @ graph[0]
    expected = (torch.log1p((graph_1_text_0 - own).exp()) + torch.log1p((text_1_graph_0 - own).exp())) / 4
    assert_close(_symmetric(graph, text, known, 1.0), expected)


@both_precisions
@given(batch=batches(), temperature=st.sampled_from([1e-4, 0.2, 1.0]))
@quick
def test_a_batch_where_everything_is_known_gives_exactly_no_loss_and_no_gradient(dtype, batch, temperature):
    known = torch.ones(len(batch.users), len(batch.users), dtype=torch.bool)
    outcome = _value_and_gradients(
        lambda graph, text: _symmetric(graph, text, known, temperature), dtype, batch.graph, batch.text
    )
    assert all((x == 0).all() for x in outcome)


@pytest.mark.parametrize("known", [None, torch.tensor([[True]]), torch.tensor([[False]])], ids=str)
def test_one_sample_has_nothing_to_be_told_from(known):
    graph, text = (_unit_vectors(1, 4, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    outcome = _value_and_gradients(lambda g, t: _symmetric(g, t, known, 0.1), torch.float32, graph, text)
    assert all((x == 0).all() for x in outcome)


@given(batch=batches())
@quick
def test_the_own_pair_stays_even_where_the_mask_does_not_know_it(batch):
    known = batch.known()
    assert_close(
        _symmetric(batch.graph, batch.text, known.clone().fill_diagonal_(False), 0.2),
        _symmetric(batch.graph, batch.text, known, 0.2),
    )


@given(batch=batches())
@quick
def test_the_mask_is_left_as_it_was(batch):
    known = torch.zeros(len(batch.users), len(batch.users), dtype=torch.bool).fill_diagonal_(True)
    before = known.clone()
    _symmetric(batch.graph, batch.text, known, 0.2)
    assert torch.equal(known, before)


@pytest.mark.parametrize("temperature", [1e-30, 1e-4, 1e30])
@pytest.mark.parametrize("length", [0.0, 1.0, 1e3])
@given(batch=batches())
@settings(quick, max_examples=15)
def test_no_temperature_and_no_length_gives_nan_or_infinity(temperature, length, batch):
    """Vectors of other lengths than 1 are the ablation without eq. (2)."""
    losses = [
        lambda graph, text: _symmetric(graph, text, batch.known(), temperature),
        lambda graph, text: _symmetric(graph, text, None, temperature),
        lambda graph, text: info_nce(graph, text, temperature),
    ]
    for loss in losses:
        outcome = _value_and_gradients(loss, torch.float32, batch.graph * length, batch.text * length)
        assert all(x.isfinite().all() for x in outcome)


def test_no_floats_of_batch_by_batch_are_ever_held():
    size, rows = 64, 8
    graph, text = (_unit_vectors(size, 4, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    known = torch.eye(size, dtype=torch.bool)
    with patch.dict(loss_module.SCORES_PER_TILE, cpu=rows * size), LargestTensor(floats_only=True) as largest:
        _value_and_gradients(lambda g, t: _symmetric(g, t, known, 0.2), torch.float32, graph, text)
    assert largest.elements == rows * size


@pytest.mark.parametrize("difference", [-1e30, 0.0, 1e30])
def test_bpr_is_finite_at_any_difference(difference):
    value, *gradients = _value_and_gradients(bpr, torch.float32, torch.tensor([difference]), torch.zeros(1))
    assert value.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    assert value == pytest.approx({-1e30: 1e30, 0.0: math.log(2), 1e30: 0.0}[difference])


def test_autocast_costs_the_losses_no_precision():
    generator = torch.Generator().manual_seed(0)
    graph, text = (_unit_vectors(64, 16, generator).float() for _ in range(2))

    def losses() -> list[Tensor]:
        return [
            _symmetric(graph, text, None, 0.05),
            info_nce(graph, text, 0.05),
            bpr(20 * graph[:, 0].bfloat16(), 20 * text[:, 0].bfloat16()),
            _unmet_softmax(20 * graph, 20 * text, [(0, 1), (5, 3)], torch.eye(64, dtype=torch.bool)),
        ]

    exact = losses()
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(losses(), exact, atol=0, rtol=0)
    assert {loss.dtype for loss in exact} == {torch.float32}


def test_vectors_of_a_half_precision_encoder_meet_full_precision_ones():
    generator = torch.Generator().manual_seed(0)
    graph, text = _unit_vectors(8, 4, generator).float(), _unit_vectors(8, 4, generator).bfloat16()
    assert_close(_symmetric(graph, text, None, 0.2), _symmetric(graph, text.float(), None, 0.2))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[tuple[int, int]], Tensor, Tensor]:
    """Vectors of users and items, observed pairs, the known pairs (the observed ones are among them), and weights."""
    n_users, n_items = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    ids = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    observed = draw(st.lists(ids, min_size=1, max_size=7))
    known = torch.zeros(n_users, n_items, dtype=torch.bool)
    for pair in {*observed, *draw(st.sets(ids))}:
        known[pair] = True
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    users, items = (2 * torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (n_users, n_items))
    return users, items, observed, known, torch.randn(n_items, generator=generator, dtype=torch.float64)


def _unmet_softmax(users: Tensor, items: Tensor, observed: list[tuple[int, int]], known: Tensor, *weights) -> Tensor:
    owner, item = torch.tensor(observed).T
    if not weights:
        return unmet_softmax(users, items, owner, item, lambda part: known[part])
    positive = (users[owner] * items[item]).sum(1)
    return drawn_unmet_softmax(positive, users, items, owner, lambda part: known[part], weights[0].to(users.dtype))


FAR_APART = torch.tensor([[5.0]]).double(), torch.tensor([[2.1], [-2.1]]).double()  # PyTorch's softplus is 1e-9 off


@both_precisions
@given(ranking=rankings(), weighted=st.booleans(), scores_per_tile=st.sampled_from([1, 10, 2**19]))
@example(
    ranking=(*FAR_APART, [(0, 1)], torch.tensor([[False, True]]), torch.zeros(2)), weighted=False, scores_per_tile=1
)
@quick
def test_unmet_softmax_is_the_log_share_of_the_observed_item_among_what_its_user_has_not_met(
    dtype, ranking, weighted, scores_per_tile
):
    users, items, observed, known, log_weight = ranking
    weights = (log_weight.to(dtype),) if weighted else ()

    def slow(users: Tensor, items: Tensor) -> Tensor:
        losses = []
        for u, i in observed:
            scores = items @ users[u]
            unmet = [j for j in range(len(items)) if not known[u, j]]
            others = sum(((scores[j] + weights[0][j].double() if weighted else scores[j]).exp() for j in unmet), 0.0)
            losses.append(torch.log1p(others / scores[i].exp()))
        return sum(losses) / len(losses)

    def fast(users: Tensor, items: Tensor) -> Tensor:
        return _unmet_softmax(users, items, observed, known, *weights)

    with patch.dict(loss_module.SCORES_PER_TILE, cpu=scores_per_tile):
        _assert_same(fast, slow, dtype, users, items)


@both_precisions
@pytest.mark.parametrize("length", [0.0, 1.0, 1e9])
@given(ranking=rankings())
@quick
def test_where_everything_is_met_unmet_softmax_is_exactly_0(dtype, length, ranking):
    users, items, observed, known, _ = ranking
    outcome = _value_and_gradients(
        lambda users, items: _unmet_softmax(users, items, observed, torch.ones_like(known)),
        dtype,
        users * length,
        items * length,
    )
    assert all((x == 0).all() for x in outcome)


def test_unmet_softmax_holds_no_table_of_users_and_items():
    n, rows = 64, 8
    users, items = (_unit_vectors(n, 4, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    known = torch.eye(n, dtype=torch.bool)
    observed = [(u, u) for u in range(n)]
    with patch.dict(loss_module.SCORES_PER_TILE, cpu=rows * n), LargestTensor(floats_only=True) as largest:
        _value_and_gradients(lambda u, i: _unmet_softmax(u, i, observed, known), torch.float32, users, items)
    assert largest.elements == rows * n


@quick
@given(
    rows=st.lists(st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=4, max_size=4), min_size=1, max_size=5),
    temperature=temperatures,
)
def test_sampled_softmax_is_the_log_share_of_the_observed_item_among_what_is_not_left_out(
    rows: list[list[tuple[float, bool]]], temperature: float
) -> None:
    scores = torch.tensor([[score for score, _ in row] for row in rows], dtype=torch.float64)
    excluded = torch.tensor([[left_out for _, left_out in row[1:]] for row in rows])
    losses = []
    for (positive, _), *negatives in rows:
        drawn = [math.exp(score / temperature) for score, left_out in negatives if not left_out]
        share = math.exp(positive / temperature) / (math.exp(positive / temperature) + sum(drawn))
        losses.append(-math.log(share))
    found = sampled_softmax(scores[:, 0], scores[:, 1:], temperature, excluded)
    assert float(found) == pytest.approx(sum(losses) / len(losses))

"""The item graph against dense matrices, written as SMORE's authors build them."""

import copy
import pickle
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import recbole_symcere.model.baselines.item_graph as module
from recbole_symcere.model.baselines.item_graph import ItemGraph, nearest_items
from tests.dispatch import LargestTensor

quick = settings(deadline=None, max_examples=50)


def features_of(n_items: int, seed: int, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(n_items, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_graph(features: Tensor, k: int) -> Tensor:
    """The authors' matrix over items 1 and up: the k largest cosines of each row over the roots of both row sums."""
    n_items = len(features)
    matrix = torch.zeros(n_items, n_items, dtype=torch.float64)
    for i in range(1, n_items):
        cosines = {j: float(torch.cosine_similarity(features[i], features[j], dim=0)) for j in range(1, n_items)}
        for j in sorted(cosines, key=cosines.__getitem__, reverse=True)[:k]:
            matrix[i, j] = cosines[j]
    degree = matrix.sum(1)
    for i, j in matrix.nonzero().tolist():
        isolated = degree[i] <= 0 or degree[j] <= 0
        matrix[i, j] = 0.0 if isolated else matrix[i, j] * degree[i] ** -0.5 * degree[j] ** -0.5
    return matrix


def as_dense(graph: ItemGraph) -> Tensor:
    n_items = len(graph.neighbours)
    return torch.zeros(n_items, n_items, dtype=torch.float64).scatter_add_(1, graph.neighbours, graph.weights)


@quick
@given(n_items=st.integers(2, 9), seed=st.integers(0, 99), shift=st.sampled_from([0.0, 0.5]), data=st.data())
def test_the_graph_is_the_authors_matrix(n_items: int, seed: int, shift: float, data: st.DataObject) -> None:
    features, k = features_of(n_items, seed, shift), data.draw(st.integers(1, n_items - 1))
    graph = ItemGraph.of_nearest(*nearest_items(features, k))
    expected = dense_graph(features, k)
    assert_close(as_dense(graph), expected)
    x = torch.rand(n_items, 3, dtype=torch.float64, requires_grad=True)
    assert_close(graph(x), expected @ x)
    assert torch.autograd.gradcheck(graph, x)


@quick
@given(n_items=st.integers(2, 9), seed=st.integers(0, 99), at_once=st.integers(1, 40), data=st.data())
def test_rows_at_a_time_are_all_rows_at_once(n_items: int, seed: int, at_once: int, data: st.DataObject) -> None:
    features, k = features_of(n_items, seed), data.draw(st.integers(1, n_items - 1))
    items, cosines = nearest_items(features, k)
    with patch.object(module, "COSINES_AT_ONCE", at_once):
        some_items, some_cosines = nearest_items(features, k)
    assert torch.equal(items, some_items)
    assert_close(cosines, some_cosines)


def test_no_items_by_items_table_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    n_items = 3000
    monkeypatch.setattr(module, "COSINES_AT_ONCE", 2**15)
    with LargestTensor() as largest:
        ItemGraph.of_nearest(*nearest_items(features_of(n_items, seed=0), 5))
    assert largest.elements <= 2**15


def test_an_item_is_its_own_first_neighbour_and_padding_is_nobodys() -> None:
    features = features_of(30, seed=0)
    features[0] = features[1:].mean(0)  # near to all
    items, cosines = nearest_items(features, 5)
    assert items[1:, 0].tolist() == list(range(1, 30)) and (items[1:] > 0).all()
    assert_close(cosines[1:, 0], torch.ones(29, dtype=torch.float64))
    graph = ItemGraph.of_nearest(items, cosines)
    assert (graph(torch.rand(30, 2, dtype=torch.float64))[0] == 0).all()
    assert (graph(torch.eye(30, 1, dtype=torch.float64)) == 0).all(), "padding's vector reaches somebody"


@quick
@given(seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 8), min_size=1, max_size=3))
def test_max_pooling_keeps_every_edge_with_its_largest_weight(seed: int, sizes: list[int]) -> None:
    items, cosines = nearest_items(features_of(9, seed), max(sizes))
    graphs = [ItemGraph.of_nearest(items[:, :k], cosines[:, :k]) for k in sizes]
    matrices = [as_dense(graph) for graph in graphs]
    edges = [torch.zeros(9, 9, dtype=torch.bool).scatter_(1, graph.neighbours, True) for graph in graphs]
    expected = torch.stack([m.where(e, -torch.inf) for m, e in zip(matrices, edges, strict=True)]).amax(0)
    assert_close(as_dense(ItemGraph.max_pooled(graphs)), expected.where(torch.stack(edges).any(0), 0.0))


def test_a_loaded_graph_propagates_and_its_gradient_too() -> None:
    graph = ItemGraph.of_nearest(*nearest_items(features_of(9, seed=0), 4))
    other = ItemGraph(torch.zeros(9, 4, dtype=torch.long), torch.zeros(9, 4, dtype=torch.float64))
    other.load_state_dict(graph.state_dict())
    x = torch.rand(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(other(x), graph(x))
    assert torch.autograd.gradcheck(other, x)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))],  # noqa: S301
    ids=["deepcopy", "pickle"],
)
def test_a_copy_is_the_same_graph(copied) -> None:
    graph = ItemGraph.of_nearest(*nearest_items(features_of(9, seed=0), 4))
    x = torch.rand(9, 2, dtype=torch.float64)
    assert torch.equal(copied(graph)(x), graph(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_finds_and_propagates_as_the_cpu_does() -> None:
    features = features_of(300, seed=0)
    items, cosines = nearest_items(features, 7)
    on_gpu = nearest_items(features.cuda(), 7)
    assert torch.equal(on_gpu[0].cpu(), items)
    results = []
    for graph, device in ((ItemGraph.of_nearest(items, cosines), "cpu"), (ItemGraph.of_nearest(*on_gpu), "cuda")):
        x = torch.linspace(0, 1, 600, dtype=torch.float64, device=device).view(300, 2).requires_grad_()
        y = graph(x)
        y.square().sum().backward()
        results.append((y.detach().cpu(), x.grad.cpu()))
    assert_close(*results)

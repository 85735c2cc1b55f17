"""The graph and its encoders against dense loops written from the papers, and against RecBole's own encoders."""

import copy
import pickle
import subprocess
import sys
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from recbole.model.general_recommender import NGCF as RecBoleNGCF
from recbole.model.general_recommender import LightGCN as RecBoleLightGCN
from scipy.sparse import coo_matrix
from torch import Tensor
from torch.testing import assert_close

import recbole_symcere.model.graph as graph_module
from recbole_symcere.model.graph import NGCF, BipartiteGraph, LightGCN, propagate
from tests.dispatch import LargestTensor

quick = settings(deadline=None, max_examples=50)


class Interactions(NamedTuple):
    """Training pairs; the same pair may come more than once, and some nodes may have none."""

    pairs: list[tuple[int, int]]
    n_users: int
    n_items: int

    def columns(self) -> tuple[Tensor, Tensor]:
        users, items = torch.tensor(self.pairs, dtype=torch.long).reshape(-1, 2).T
        return users, items

    def graph(self) -> BipartiteGraph:
        return BipartiteGraph(*self.columns(), self.n_users, self.n_items)

    def edges(self) -> set[tuple[int, int]]:
        """Pairs of nodes, users first."""
        return {(user, self.n_users + item) for user, item in self.pairs}

    # what a RecBole model asks its dataset for
    def num(self, field: str) -> int:
        return {"user_id": self.n_users, "item_id": self.n_items}[field]

    def inter_matrix(self, form: str) -> coo_matrix:
        assert form == "coo"
        users, items = zip(*set(self.pairs), strict=True)
        return coo_matrix((np.ones(len(users)), (users, items)), shape=(self.n_users, self.n_items))


@st.composite
def interactions(draw: st.DrawFn) -> Interactions:
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    pair = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    return Interactions(draw(st.lists(pair, max_size=20)), n_users, n_items)


FEW = Interactions([(1, 1), (1, 2), (2, 1), (2, 1), (3, 4), (2, 4)], 5, 6)


def _dense_normalised(edges: set[tuple[int, int]], n_nodes: int) -> Tensor:
    """D^-1/2 A D^-1/2, entry by entry, in float64."""
    degree = [sum(node in edge for edge in edges) for node in range(n_nodes)]
    matrix = torch.zeros(n_nodes, n_nodes, dtype=torch.float64)
    for one, other in edges:
        matrix[one, other] = matrix[other, one] = (degree[one] * degree[other]) ** -0.5
    return matrix


def _kept_edges(adjacency: Tensor, n_users: int) -> set[tuple[int, int]]:
    return {(row, column) for row, column in adjacency.nonzero().tolist() if row < n_users}


# Adjacency


@quick
@given(data=interactions())
def test_adjacency_is_symmetrically_normalised_with_a_repeated_pair_as_one_edge(data):
    graph = data.graph().double()
    assert graph.n_edges == len(data.edges())
    expected = _dense_normalised(data.edges(), graph.n_nodes)
    adjacency = graph.adjacency()
    # made in float32
    assert_close(adjacency.to_dense(), expected, atol=1e-6, rtol=1e-6)
    parts = adjacency.crow_indices(), adjacency.col_indices(), adjacency.values()
    torch.sparse_csr_tensor(*parts, adjacency.shape, check_invariants=True)


@quick
@given(data=interactions())
def test_the_users_rows_are_the_adjacencys_and_propagate_with_the_gradient_of_the_transpose(data):
    graph = data.graph().double()
    rows, transposed = graph.user_rows()
    block = graph.adjacency().to_dense()[: data.n_users, data.n_users :]
    assert torch.equal(rows.to_dense(), block) and torch.equal(transposed.to_dense(), block.T)
    for matrix in (rows, transposed):
        parts = matrix.crow_indices(), matrix.col_indices(), matrix.values()
        torch.sparse_csr_tensor(*parts, matrix.shape, check_invariants=True)
    x = torch.rand(data.n_items, 3, dtype=torch.float64, requires_grad=True)
    assert_close(propagate(rows, x, transposed), block @ x)
    assert torch.autograd.gradcheck(lambda x: propagate(rows, x, transposed), x)


@quick
@given(data=interactions(), ratio=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_a_dropped_view_is_the_normalised_adjacency_of_the_edges_it_keeps(data, ratio, seed):
    graph = data.graph().double()
    torch.manual_seed(seed)
    view = graph.dropped_adjacency(ratio).to_dense()
    assert torch.equal(view, view.T)
    kept = _kept_edges(view, data.n_users)
    assert kept <= data.edges()
    assert_close(view, _dense_normalised(kept, graph.n_nodes))


@quick
@given(data=interactions())
def test_ratio_0_drops_nothing_and_ratio_1_everything(data):
    graph = data.graph()
    assert torch.equal(graph.dropped_adjacency(0.0).to_dense(), graph.adjacency().to_dense())
    assert graph.dropped_adjacency(1.0).to_dense().count_nonzero() == 0


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_each_edge_is_dropped_with_the_given_probability(ratio):
    n = 100
    graph = BipartiteGraph(torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n), n, n)
    torch.manual_seed(0)
    first, second = (graph.dropped_adjacency(ratio).to_dense()[:n, n:] == 0 for _ in range(2))
    deviation = (ratio * (1 - ratio) / n**2) ** 0.5
    for dropped in (first, second):
        assert dropped.double().mean() == pytest.approx(ratio, abs=5 * deviation)
    # two views are drawn apart: what both lack is the product of the shares
    assert (first & second).double().mean() == pytest.approx(ratio**2, abs=5 * deviation)


def test_the_same_seed_draws_the_same_view():
    graph = BipartiteGraph(torch.arange(50).repeat_interleave(50), torch.arange(50).repeat(50), 50, 50)
    views = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        views.append(graph.dropped_adjacency(0.1).to_dense())
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


@pytest.mark.parametrize(
    ("users", "items", "named"),
    [([0, 3], [0, 0], "user ids .* 0 to 3"), ([0, 0], [4, 0], "item ids .* 0 to 4"), ([-1], [0], "user ids .* -1 to")],
)
def test_an_id_outside_its_space_is_refused(users, items, named):
    with pytest.raises(ValueError, match=named):
        BipartiteGraph(torch.tensor(users), torch.tensor(items), n_users=3, n_items=4)


# Known pairs


@quick
@given(data=interactions(), draw=st.data())
def test_known_pairs_are_those_that_a_set_look_up_finds(data, draw):
    batch = draw.draw(
        st.lists(st.tuples(st.integers(0, data.n_users - 1), st.integers(0, data.n_items - 1)), min_size=1, max_size=8)
    )
    users, items = torch.tensor(batch).T
    expected = [[(user, item) in set(data.pairs) for item in items.tolist()] for user in users.tolist()]
    graph = data.graph()
    with patch.object(graph_module, "PAIRS_PER_SEARCH", draw.draw(st.sampled_from([1, 20, 2**22]))):
        for known in (
            graph.known_pairs(users, items),
            graph._in_histories(users, items),
            graph._by_search(users, items),
        ):
            assert known.dtype == torch.bool
            assert known.tolist() == expected


def test_known_pairs_need_no_users_by_items_matrix():
    n, batch = 20_000, 32
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randint(n, (2, 5_000), generator=generator)
    for look_up in (BipartiteGraph._in_histories, BipartiteGraph._by_search):
        with LargestTensor() as largest:
            known = look_up(BipartiteGraph(users, items, n, n), users[:batch], items[:batch])
        assert known.diagonal().all()
        assert largest.elements <= 2 * n + 1


# A module like any other


def test_the_graph_moves_with_its_module():
    graph = FEW.graph()
    assert not any(isinstance(value, Tensor) for value in vars(graph).values())
    doubled = copy.deepcopy(graph).double()
    assert doubled.adjacency().dtype == doubled.dropped_adjacency(0.5).dtype == torch.float64
    assert {buffer.device.type for buffer in graph.to("meta").buffers()} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_graph_works_on_the_device_it_was_moved_to():
    users, items = FEW.columns()
    graph, moved = FEW.graph(), FEW.graph().cuda()
    assert_close(moved.adjacency().to_dense().cpu(), graph.adjacency().to_dense())
    assert_close(moved.dropped_adjacency(0.0).to_dense().cpu(), graph.adjacency().to_dense())
    assert torch.equal(moved.known_pairs(users.cuda(), items.cuda()).cpu(), graph.known_pairs(users, items))


def test_the_graph_is_not_part_of_a_checkpoint():
    assert not FEW.graph().state_dict()


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))],  # noqa: S301
    ids=["deepcopy", "pickle"],
)
def test_a_copy_is_the_same_graph(copied):
    graph, users, items = FEW.graph(), *FEW.columns()
    other = copied(graph)
    assert torch.equal(other.adjacency().to_dense(), graph.adjacency().to_dense())
    assert torch.equal(other.known_pairs(users, items), graph.known_pairs(users, items))


def test_a_user_is_not_told_that_csr_is_in_beta():
    script = (
        "import torch, recbole_symcere.quick_start; from recbole_symcere.model.graph import BipartiteGraph\n"
        "ids = torch.arange(3)\n"
        "adjacency = BipartiteGraph(ids, ids, 3, 3).adjacency(); adjacency @ torch.ones(6, 2)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "sparse" not in run.stderr.lower()


# Propagation


@pytest.fixture(params=["_bag_product", "_sparse_product"])
def product(request, monkeypatch):
    """What a CPU multiplies with, and what other devices do."""
    monkeypatch.setitem(graph_module._PRODUCTS, "cpu", getattr(graph_module, request.param))


@settings(quick, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=interactions(), ratio=st.sampled_from([0.0, 0.4]), seed=st.integers(0, 2**32 - 1))
def test_propagation_and_its_gradient_are_those_of_the_dense_product(product, data, ratio, seed):
    torch.manual_seed(seed)
    adjacency = data.graph().double().dropped_adjacency(ratio)
    x = torch.randn(adjacency.shape[0], 2, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    sparse, dense = propagate(adjacency, x), adjacency.to_dense() @ x
    assert_close(sparse, dense)
    assert_close(torch.autograd.grad(sparse, x, upstream), torch.autograd.grad(dense, x, upstream))


def test_propagation_passes_gradcheck_twice(product):
    torch.manual_seed(0)
    adjacency = FEW.graph().double().dropped_adjacency(0.2)
    x = torch.randn(adjacency.shape[0], 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: propagate(adjacency, y), x)
    assert torch.autograd.gradgradcheck(lambda y: propagate(adjacency, y).square(), x)


# Encoders


def _exact_adjacency(data: Interactions) -> Tensor:
    """All edges, normalised in float64: the graph's own full adjacency is made in float32."""
    return data.graph().double().dropped_adjacency(0.0)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
@settings(quick, max_examples=20)
@given(data=interactions(), seed=st.integers(0, 2**32 - 1))
def test_lightgcn_is_the_mean_over_layers_of_eq_1(n_layers, data, seed):
    torch.manual_seed(seed)
    encoder = LightGCN(data.n_users, data.n_items, 3, n_layers).double()
    dense = _dense_normalised(data.edges(), data.n_users + data.n_items)
    layer = encoder.embedding.weight
    expected = layer / (n_layers + 1)
    for _ in range(n_layers):
        layer = dense @ layer
        expected = expected + layer / (n_layers + 1)
    users, items = encoder(_exact_adjacency(data))
    assert users.shape == (data.n_users, encoder.width)
    assert items.shape == (data.n_items, encoder.width)
    assert_close(torch.cat([users, items]), expected)


@settings(quick, max_examples=20)
@given(data=interactions(), seed=st.integers(0, 2**32 - 1))
def test_ngcf_is_eq_7_of_its_paper(data, seed):
    torch.manual_seed(seed)
    encoder = NGCF(data.n_users, data.n_items, 3, n_layers=2).double().eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)  # biases too
    adjacency = _dense_normalised(data.edges(), data.n_users + data.n_items)
    identity = torch.eye(len(adjacency), dtype=torch.float64)
    layer = encoder.embedding.weight
    expected = [layer]
    for one, two in zip(encoder.neighbours, encoder.interactions, strict=True):
        message = (adjacency + identity) @ layer @ one.weight.T + one.bias
        message = message + (adjacency @ layer * layer) @ two.weight.T + two.bias
        message = torch.where(message > 0, message, 0.2 * message)
        layer = message / message.norm(dim=1, keepdim=True)
        expected.append(layer)
    assume(layer.isfinite().all())
    users, items = encoder(_exact_adjacency(data))
    assert users.shape == (data.n_users, encoder.width)
    assert_close(torch.cat([users, items]), torch.cat(expected, dim=1))


RECBOLE_CONFIG = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "NEG_PREFIX": "neg_",
    "device": "cpu",
    "embedding_size": 4,
    "n_layers": 2,
    "hidden_size_list": [4, 4],
    "node_dropout": 0.0,
    "message_dropout": 0.1,
    "reg_weight": 0.0,
    "require_pow": False,
}


def test_lightgcn_agrees_with_recboles():
    peer = RecBoleLightGCN(RECBOLE_CONFIG, FEW)
    encoder = LightGCN(FEW.n_users, FEW.n_items, 4, 2)
    _copy_embeddings(peer, encoder)
    assert_close(encoder(FEW.graph().adjacency()), peer(), atol=1e-6, rtol=1e-5)


def test_ngcf_agrees_with_recboles():
    peer = RecBoleNGCF(RECBOLE_CONFIG, FEW).eval()
    encoder = NGCF(FEW.n_users, FEW.n_items, 4, 2).eval()
    _copy_embeddings(peer, encoder)
    for layer, neighbour, interaction in zip(peer.GNNlayers, encoder.neighbours, encoder.interactions, strict=True):
        neighbour.load_state_dict(layer.linear.state_dict())
        interaction.load_state_dict(layer.interActTransform.state_dict())
    assert_close(encoder(FEW.graph().adjacency()), peer(), atol=1e-6, rtol=1e-5)


def _copy_embeddings(peer: torch.nn.Module, encoder: LightGCN | NGCF) -> None:
    encoder.embedding.weight.data = torch.cat([peer.user_embedding.weight.data, peer.item_embedding.weight.data])


def test_ngcf_drops_messages_only_while_it_trains():
    torch.manual_seed(0)
    adjacency = FEW.graph().adjacency()
    encoder = NGCF(FEW.n_users, FEW.n_items, 8, 1, message_dropout=0.5)
    assert not torch.equal(encoder(adjacency)[0], encoder(adjacency)[0])
    encoder.eval()
    assert torch.equal(encoder(adjacency)[0], encoder(adjacency)[0])


@pytest.mark.parametrize("encoder_class", [LightGCN, NGCF])
def test_users_and_items_start_as_xavier_matrices_of_their_own(encoder_class):
    torch.manual_seed(0)
    weight = encoder_class(30, 3_000, 16, 1).embedding.weight
    for part in (weight[:30], weight[30:]):
        bound = (6 / (len(part) + 16)) ** 0.5
        assert 0.95 * bound < part.abs().max() <= bound


def test_ngcf_starts_with_xavier_normal_weights_and_no_bias():
    torch.manual_seed(0)
    encoder = NGCF(2, 2, 64, 2)
    for linear in (*encoder.neighbours, *encoder.interactions):
        assert linear.weight.std().item() == pytest.approx((2 / (64 + 64)) ** 0.5, rel=0.05)
        assert not linear.bias.any()


@pytest.mark.parametrize("encoder_class", [LightGCN, NGCF])
def test_encoders_train_under_autocast(encoder_class):
    torch.manual_seed(0)
    encoder, adjacency = encoder_class(FEW.n_users, FEW.n_items, 4, 2).eval(), FEW.graph().adjacency()
    exact = encoder(adjacency)
    with torch.autocast("cpu", torch.bfloat16):
        users, items = encoder(adjacency)
    (users.float().sum() + items.float().sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    precision = 1e-6 if encoder_class is LightGCN else 0.05  # NGCF's dense layers may run in bfloat16
    assert_close((users.float(), items.float()), exact, atol=precision, rtol=precision)

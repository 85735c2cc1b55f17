"""XSimGCL against its definition written out, a node at a time, and in whole runs."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model import graph
from recbole_symcere.model.baselines.xsimgcl import XSimGCL
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.quick_start import recommend, run_recbole_symcere
from recbole_symcere.testing import HostWork
from tests.conftest import FewSettings, for_model, ranked_by_recbole

MakeConfig = Callable[..., Config]

# Few interactions, one of them twice, and nodes without any; users and items of BATCH repeat. Counts include padding.
N_USERS, N_ITEMS, WIDTH = 6, 8, 5
PAIRS = [(1, 1), (1, 2), (1, 2), (2, 2), (2, 3), (3, 1), (3, 4), (3, 6), (4, 6), (4, 2)]
BATCH = [(1, 1, 3), (1, 2, 5), (3, 1, 7), (3, 4, 2), (4, 6, 1), (2, 2, 1)]
SETTINGS = {
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "NEG_PREFIX": "neg_", "device": torch.device("cpu"),
    "embedding_size": WIDTH, "n_layers": 2, "contrast_layer": 1, "eps": 0.2, "cl_weight": 0.3, "temperature": 0.15,
    "reg_weight": 0.1,
}  # fmt: skip


class Few(NamedTuple):
    """What a RecBole model asks its dataset for."""

    inter_feat: Mapping[str, Tensor]

    def num(self, field: str) -> int:
        return {"user_id": N_USERS, "item_id": N_ITEMS}[field]


def few(**changes: Any) -> XSimGCL:
    """XSimGCL over PAIRS, in float64."""
    users, items = torch.tensor(PAIRS).T
    torch.manual_seed(1)
    return XSimGCL(FewSettings(SETTINGS | changes), Few({"user_id": users, "item_id": items})).double()


def few_batch() -> Interaction:
    return Interaction(dict(zip(("user_id", "item_id", "neg_item_id"), torch.tensor(BATCH).T, strict=True)))


def slow_layers(model: XSimGCL, n_layers: int, eps: float) -> list[list[Tensor]]:
    """The nodes' vectors in the layers from 1; noise is drawn a layer at a time."""
    edges = {(user, N_USERS + item) for user, item in PAIRS}
    nodes = range(N_USERS + N_ITEMS)
    neighbours = [[sum(edge) - node for edge in edges if node in edge] for node in nodes]
    layer, layers = list(model.encoder.embedding.weight), []
    for _ in nodes[:n_layers]:
        noise = torch.rand(len(nodes), WIDTH, dtype=torch.float64)
        layer = [
            sum((layer[m] / math.sqrt(len(neighbours[n]) * len(neighbours[m])) for m in neighbours[n]), 0 * layer[n])
            for n in nodes
        ]
        layer = [x + eps * x.sign() * r / r.square().sum().sqrt() for x, r in zip(layer, noise, strict=True)]
        layers.append(layer)
    return layers


def slow_info_nce(anchors: list[Tensor], others: list[Tensor], tau: float) -> float:
    similarity = [[float(torch.cosine_similarity(a, b, dim=0)) / tau for b in others] for a in anchors]
    losses = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(similarity)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("n_layers", "contrast_layer"), [(1, 1), (2, 1), (3, 2)])
@torch.no_grad()
def test_the_loss_is_the_definition_written_out(n_layers: int, contrast_layer: int) -> None:
    model = few(n_layers=n_layers, contrast_layer=contrast_layer)
    torch.manual_seed(2)
    terms = model.calculate_loss(few_batch())
    torch.manual_seed(2)
    layers = slow_layers(model, n_layers, eps=0.2)
    final, view = [sum(of_node) / n_layers for of_node in zip(*layers, strict=True)], layers[contrast_layer - 1]

    user, positive, negative = (
        [final[first + row[column]] for row in BATCH] for column, first in enumerate((0, N_USERS, N_USERS))
    )
    margins = [float(u @ p - u @ n) for u, p, n in zip(user, positive, negative, strict=True)]
    norms = [math.sqrt(sum(float(x.square().sum()) for x in vectors)) for vectors in (user, positive)]
    contrasts = [
        slow_info_nce([final[node] for node in nodes], [view[node] for node in nodes], tau=0.15)
        for nodes in ({u for u, _, _ in BATCH}, {N_USERS + p for _, p, _ in BATCH})
    ]
    expected = {
        "bpr": sum(math.log(1 + math.exp(-margin)) for margin in margins) / len(margins),
        "l2": 0.1 * sum(norm / len(BATCH) for norm in norms),
        "contrastive": 0.3 * sum(contrasts),
    }
    assert dict(zip(model.loss_names, map(float, terms), strict=True)) == pytest.approx(expected)


@settings(deadline=None)
@given(eps=st.floats(1e-3, 10.0), seed=st.integers(0, 99))
@torch.no_grad()
def test_noise_has_the_length_eps_and_the_signs_of_what_it_is_added_to(eps: float, seed: int) -> None:
    model = few(n_layers=1)
    torch.manual_seed(seed)
    clean, noisy = model()[0], model(eps)[0]
    noise = noisy - clean
    met = clean.any(1)
    assert met.sum() == len({user for user, _ in PAIRS}) + len({item for _, item in PAIRS})
    assert not noise[~met].any()
    assert_close(noise[met].norm(dim=1), torch.full_like(noise[met, 0], eps))
    assert (noise * clean >= 0).all()


@torch.no_grad()
def test_ranking_is_without_noise_by_the_mean_of_the_layers_from_1() -> None:
    model = few(n_layers=3)
    layers = torch.stack([torch.stack(layer) for layer in slow_layers(model, 3, eps=0)])
    users, items = layers.mean(0).tensor_split([N_USERS])
    for mode in (True, False):
        scores = model.train(mode).full_sort_predict(Interaction({"user_id": torch.arange(N_USERS)}))
        assert_close(scores.view(N_USERS, -1), users @ items.T)


@pytest.mark.parametrize(
    ("weights", "names"), [({"cl_weight": 0}, ("bpr", "l2")), ({"reg_weight": 0}, ("bpr", "contrastive"))]
)
def test_a_term_of_weight_0_is_left_out(weights: dict[str, float], names: tuple[str, ...]) -> None:
    model = few(**weights)
    assert len(model.calculate_loss(few_batch())) == 2
    assert model.loss_names == names


def test_a_step_brings_nothing_back_to_the_host_and_draws_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setitem(graph._PRODUCTS, "meta", lambda adjacency, x: x.new_empty(len(adjacency), x.shape[1]))
    model, batch = few().to("meta"), few_batch()
    batch = batch.to(torch.device("meta"), [field for field in batch.columns if field not in model.host_fields])
    with HostWork() as work:
        sum(model.calculate_loss(batch)).backward()
    assert work.named == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast_layer": 3}, "contrast_layer is 3, but n_layers is 2"),
        ({"contrast_layer": 0}, "contrast_layer is 0, but must be at least 1"),
        ({"n_layers": 0}, "n_layers is 0, but must be at least 1"),
        ({"temperature": 0}, "temperature is 0, but must be above 0"),
        ({"eps": -0.1}, "eps is -0.1, but must be at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        few(**Config("XSimGCL", "tiny", config_dict=changes).final_config_dict)


def what_training_leaves_of_the_last_term(model: Recommender, learning_rate: float) -> float:
    """The last term of the loss over BATCH after 60 steps, over what it was before them."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.calculate_loss(few_batch())
        terms = loss if isinstance(loss, tuple) else (loss,)
        sum(terms).backward()
        optimizer.step()
        losses.append(terms[-1].item())
    return losses[-1] / losses[0]


@pytest.mark.parametrize(
    "weights", [{"cl_weight": 0, "reg_weight": 0}, {"reg_weight": 0}, {"cl_weight": 0, "reg_weight": 10}]
)
def test_each_term_can_be_learnt(weights: dict[str, float]) -> None:
    assert what_training_leaves_of_the_last_term(few(**weights), learning_rate=0.05) < 0.7


def test_the_checkpoint_of_a_run_ranks_alike(settings: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.pth"
    own = for_model(settings | {"model": "XSimGCL", "learning_rate": 0.01, "checkpoint_file": str(file)})
    run_recbole_symcere(config_dict=own)
    assert recommend(file, ["u3", "u11"], k=5) == ranked_by_recbole(file, ["u3", "u11"], k=5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_loss_and_gradients_on_cuda_are_those_of_the_cpu() -> None:
    models = few(eps=0.0), few(eps=0.0).cuda()
    for model in models:
        sum(model.calculate_loss(few_batch().to(model.graph.crow.device, ["neg_item_id"]))).backward()
    assert_close(models[1].encoder.embedding.weight.grad.cpu(), models[0].encoder.embedding.weight.grad)

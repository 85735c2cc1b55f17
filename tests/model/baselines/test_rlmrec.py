"""RLMRec against its definition written out, a node and an interaction at a time."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere.config import Config
from recbole_symcere.model.baselines import rlmrec as module
from recbole_symcere.model.baselines.rlmrec import RLMRec
from recbole_symcere.quick_start import create_dataset
from tests.conftest import FewSettings
from tests.model.baselines.test_alpharec import slow_mean_of_layers
from tests.model.baselines.test_xsimgcl import (
    BATCH,
    N_ITEMS,
    N_USERS,
    PAIRS,
    SETTINGS,
    Few,
    few_batch,
    what_training_leaves_of_the_last_term,
)

MakeConfig = Callable[..., Config]

HIDDEN, TAU, WEIGHT, REG = 6, 0.2, 0.3, 0.01
OWN = {"edge_dropout": 0.0, "kd_weight": WEIGHT, "kd_temperature": TAU, "reg_weight": REG}
PROFILES = torch.randn(N_USERS + N_ITEMS, HIDDEN, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
PROFILES[[0, 5, N_USERS, N_USERS + 5]] = 0  # as where there is no review


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RLMRec]:
    """Makes RLMRec over PAIRS and PROFILES, in float64."""
    monkeypatch.setattr(module, "text_profiles", lambda config, dataset: PROFILES.tensor_split([N_USERS]))
    users, items = torch.tensor(PAIRS).T

    def make(**changes: Any) -> RLMRec:
        torch.manual_seed(1)
        settings = FewSettings(SETTINGS | OWN | changes)
        return RLMRec(settings, Few({"user_id": users, "item_id": items})).double()

    return make


def mapped_profiles(model: RLMRec) -> list[Tensor]:
    first, _, second = model.mlp
    mapped = []
    for x in PROFILES:
        hidden = [h if h > 0 else 0.01 * h for h in (first.weight @ x + first.bias).tolist()]
        mapped.append(second.weight @ torch.tensor(hidden, dtype=torch.float64) + second.bias)
    return mapped


def slow_alignment(nodes: list[int], candidates: list[int], graph: list[Tensor], text: list[Tensor]) -> float:
    """The authors' InfoNCE of graph vectors and mapped profiles, the mean over the nodes."""
    losses = []
    for node in nodes:
        similar = {c: math.exp(torch.cosine_similarity(graph[node], text[c], dim=0) / TAU) for c in candidates}
        losses.append(math.log(sum(similar[c] for c in candidates)) - math.log(similar[node]))
    return sum(losses) / len(losses)


@torch.no_grad()
def test_the_loss_is_the_definition_written_out(few: Callable[..., RLMRec]) -> None:
    model = few()
    model.mlp[0].bias.uniform_()  # else a profile of zeros would stay one
    model.mlp[2].bias.uniform_()
    graph = slow_mean_of_layers(list(model.encoder.embedding.weight), SETTINGS["n_layers"])
    text = mapped_profiles(model)
    users = [user for user, _, _ in BATCH]
    positives, negatives = ([N_USERS + row[column] for row in BATCH] for column in (1, 2))
    margins = [
        float(graph[u] @ graph[p] - graph[u] @ graph[n]) for u, p, n in zip(users, positives, negatives, strict=True)
    ]
    expected = {
        "bpr": sum(math.log(1 + math.exp(-margin)) for margin in margins) / len(margins),
        "l2": REG * sum(float(x) ** 2 for weight in model.parameters() for x in weight.flatten()),
        "alignment": WEIGHT
        * (
            slow_alignment(users, list(range(N_USERS)), graph, text)
            + slow_alignment(positives, positives, graph, text)
            + slow_alignment(negatives, negatives, graph, text)
        ),
    }
    terms = model.calculate_loss(few_batch())
    assert dict(zip(model.loss_names, map(float, terms), strict=True)) == pytest.approx(expected)


@torch.no_grad()
def test_only_training_drops_edges(few: Callable[..., RLMRec]) -> None:
    model = few(edge_dropout=1.0)
    alone = model.encoder.embedding.weight / (1 + SETTINGS["n_layers"])
    assert_close(torch.cat(model.train()()), alone)
    users, items = torch.stack(
        slow_mean_of_layers(list(model.encoder.embedding.weight), SETTINGS["n_layers"])
    ).tensor_split([N_USERS])
    scores = model.eval().full_sort_predict(Interaction({"user_id": torch.arange(N_USERS)}))
    assert_close(scores.view(N_USERS, -1), users @ items.T)


@pytest.mark.parametrize(
    ("weights", "names"), [({"kd_weight": 0}, ("bpr", "l2")), ({"reg_weight": 0}, ("bpr", "alignment"))]
)
def test_a_term_of_weight_0_is_left_out(
    few: Callable[..., RLMRec], weights: dict[str, float], names: tuple[str, ...]
) -> None:
    model = few(**weights)
    assert len(model.calculate_loss(few_batch())) == 2
    assert model.loss_names == names


def test_without_the_alignment_no_review_is_read(make_config: MakeConfig) -> None:
    config = make_config(model="RLMRec", kd_weight=0.0, text_encoder="gone")
    model = RLMRec(config, create_dataset(config).build()[0])
    assert not hasattr(model, "mlp")


@pytest.mark.parametrize(
    "weights", [{"kd_weight": 0, "reg_weight": 0}, {"reg_weight": 0}, {"kd_weight": 0, "reg_weight": 10}]
)
def test_each_term_can_be_learnt(few: Callable[..., RLMRec], weights: dict[str, float]) -> None:
    assert what_training_leaves_of_the_last_term(few(**weights), learning_rate=0.05) < 0.7

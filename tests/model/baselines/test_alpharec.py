"""AlphaRec against its definition written out, a node and an interaction at a time."""

import math
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.baselines import alpharec as module
from recbole_symcere.model.baselines.alpharec import AlphaRec
from tests.conftest import FewSettings
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

HIDDEN, N_NEGATIVES, TAU = 6, 9, 0.15
OWN = {"hidden_size": 7, "n_negatives": N_NEGATIVES, "temperature": TAU}
FEATURES = torch.randn(N_ITEMS, HIDDEN, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> AlphaRec:
    """AlphaRec over PAIRS and FEATURES, in float64."""
    monkeypatch.setattr(module, "item_text_features", lambda config, dataset: FEATURES)
    users, items = torch.tensor(PAIRS).T
    torch.manual_seed(1)
    return AlphaRec(FewSettings(SETTINGS | OWN), Few({"user_id": users, "item_id": items})).double()


def items_of(user: int) -> set[int]:
    return {item for u, item in PAIRS if u == user}


def slow_features() -> list[Tensor]:
    """Of users, then of items; a user without an item has the mean of the items of all edges."""
    means = {user: sum(FEATURES[item] for item in items_of(user)) / len(items_of(user)) for user, _ in PAIRS}
    rest = sum(means.values()) / len(means)
    return [means.get(user, rest) for user in range(N_USERS)] + list(FEATURES)


def slow_mean_of_layers(layer: list[Tensor], n_layers: int) -> list[Tensor]:
    """LightGCN's vectors of all nodes, users first."""
    edges = {(user, N_USERS + item) for user, item in PAIRS}
    neighbours = [[sum(edge) - node for edge in edges if node in edge] for node in range(N_USERS + N_ITEMS)]
    layers = [layer]
    for _ in range(n_layers):
        layer = [
            sum((layer[m] / math.sqrt(len(of_n) * len(neighbours[m])) for m in of_n), 0 * layer[n])
            for n, of_n in enumerate(neighbours)
        ]
        layers.append(layer)
    return [sum(of_node) / len(layers) for of_node in zip(*layers, strict=True)]


def slow_vectors(model: AlphaRec) -> list[Tensor]:
    first, _, second = model.mlp
    mapped = []
    for x in slow_features():
        hidden = [h if h > 0 else 0.01 * h for h in (first.weight @ x + first.bias).tolist()]
        mapped.append(second.weight @ torch.tensor(hidden, dtype=torch.float64) + second.bias)
    return [x / x.norm() for x in slow_mean_of_layers(mapped, SETTINGS["n_layers"])]


@torch.no_grad()
def test_the_loss_is_the_definition_written_out(few: AlphaRec) -> None:
    vectors = slow_vectors(few)
    torch.manual_seed(2)
    drawn = torch.randint(1, N_ITEMS, (len(BATCH), N_NEGATIVES)).tolist()
    losses = []
    for (user, positive, _), items in zip(BATCH, drawn, strict=True):
        own = math.exp(vectors[user] @ vectors[N_USERS + positive] / TAU)
        others = [
            math.exp(vectors[user] @ vectors[N_USERS + item] / TAU) for item in items if item not in items_of(user)
        ]
        assert 0 < len(others) < N_NEGATIVES
        losses.append(-math.log(own / (own + sum(others))))
    torch.manual_seed(2)
    assert float(few.calculate_loss(few_batch())) == pytest.approx(sum(losses) / len(losses))


@torch.no_grad()
def test_scores_are_cosines_also_of_users_and_items_without_a_history(few: AlphaRec) -> None:
    users, items = torch.stack(slow_vectors(few)).tensor_split([N_USERS])
    scores = few.full_sort_predict(Interaction({"user_id": torch.arange(N_USERS)}))
    assert_close(scores.view(N_USERS, -1), users @ items.T)


def test_padding_is_never_drawn(few: AlphaRec, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(few.graph, "contains", lambda users, items: drawn.append(items) or items < 0)
    for _ in range(20):
        few.calculate_loss(few_batch())
    assert set(torch.cat(drawn).flatten().tolist()) == set(range(1, N_ITEMS))


def test_the_loss_can_be_learnt(few: AlphaRec) -> None:
    assert what_training_leaves_of_the_last_term(few, learning_rate=0.01) < 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature is 0, but must be above 0"),
        ({"n_negatives": 0}, "n_negatives is 0, but must be at least 1"),
        ({"hidden_size": 0}, "hidden_size is 0, but must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config("AlphaRec", "tiny", config_dict=changes)

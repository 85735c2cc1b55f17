"""SymCEREPlus against slow loops written from its definition, and in whole runs."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.graph import propagate
from recbole_symcere.model.symcere_plus import SymCEREPlus, add_main_directions, whitened_profiles
from recbole_symcere.model.text.views import training_vectors
from recbole_symcere.quick_start import create_dataset, recommend, run_recbole_symcere
from tests.conftest import FIRST_ROWS, ranked_by_recbole
from tests.model.test_symcere import build, loss_of, slow_contrast

MakeConfig = Callable[..., Config]
NO_TEXT = {"cross_weight": 0.0, "alpha_text": 0.0, "text_init": 0.0, "profile_weight": 0.0}
quick = hypothesis_settings(deadline=None, max_examples=50)


@pytest.fixture
def plus_config(make_config: MakeConfig) -> MakeConfig:
    return lambda **changes: make_config(model="SymCEREPlus", **changes)


def slow_layers(model: SymCEREPlus, pairs: set[tuple[int, int]], n_layers: int) -> list[Tensor]:
    """The nodes' vectors in the layers from 1, an edge at a time."""
    layers = [model.graph_encoder.embedding.weight.detach()]
    degree = [sum(u == user for u, _ in pairs) for user in range(model.n_users)]
    degree += [sum(v == item for _, v in pairs) for item in range(model.n_items)]
    for _ in range(n_layers):
        layer = torch.zeros_like(layers[-1])
        for a, b in [(user, model.n_users + item) for user, item in pairs]:
            for node, neighbour in ((a, b), (b, a)):
                layer[node] += layers[-1][neighbour] / math.sqrt(degree[a] * degree[b])
        layers.append(layer)
    return layers[1:]


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


# Objective


@pytest.mark.parametrize(("n_layers", "contrast_layer"), [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("alpha_text", [0.0, 0.3])
def test_the_objective_is_equation_8_with_a_layer_for_the_other_view(
    plus_config: MakeConfig, n_layers: int, contrast_layer: int, alpha_text: float
) -> None:
    config = plus_config(
        n_layers=n_layers, contrast_layer=contrast_layer, eps=0.0, text_views=1, tau_cross=0.3, tau_intra=0.4,
        cross_weight=0.9, alpha=0.7, alpha_text=alpha_text, beta=0.2, reg_weight=0.01,
    )  # fmt: skip
    model, batch, _ = build(config)
    feat = create_dataset(config).build()[0].inter_feat
    train = set(zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True))
    found = loss_of(model, batch)

    with torch.no_grad():
        layers = slow_layers(model, train, n_layers)
        final, layer = sum(layers) / n_layers, layers[contrast_layer - 1]
        u, v, n = (batch[key].tolist() for key in ("user_id", "item_id", "neg_item_id"))
        users, positives, negatives = (
            [final[first + i] for i in ids] for ids, first in ((u, 0), (v, model.n_users), (n, model.n_users))
        )
        g, g_layer = (
            torch.stack([unit((x[a] + x[model.n_users + b]) / 2) for a, b in zip(u, v, strict=True)])
            for x in (final, layer)
        )
        rows = model.review_rows[batch["review_id"]].tolist()
        t, *t_masked = (
            torch.stack([unit(model.projection(view[row])) for row in rows]) for view in model.text_encoder.buffers()
        )
        margins = [float(x @ p - x @ m) for x, p, m in zip(users, positives, negatives, strict=True)]

        def true_negative(i: int, k: int) -> bool:
            return (u[i], v[k]) not in train

        def everything(i: int, k: int) -> bool:
            return True

        cross = (slow_contrast(g, t, true_negative, 0.3) + slow_contrast(t, g, true_negative, 0.3)) / 2
        expected = {
            "cross_modal": 0.9 * float(cross),
            "intra_graph": 0.7 * float(slow_contrast(g, g_layer, everything, 0.4)),
            "bpr": 0.2 * sum(math.log(1 + math.exp(-margin)) for margin in margins) / len(margins),
            "l2": 0.01 * sum(float((p**2).sum()) for p in model.parameters()),
        }
        if alpha_text:
            expected["intra_text"] = alpha_text * float(slow_contrast(t, *t_masked, everything, 0.4))
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(expected, rel=1e-5)
    assert len(t_masked) == bool(alpha_text), "a masked view is kept for intra_text alone"


@pytest.mark.parametrize("profile_weight", [0.0, 0.2])
def test_without_text_in_the_loss_it_reads_no_review(plus_config: MakeConfig, profile_weight: float) -> None:
    model, batch, _ = build(plus_config(**NO_TEXT | {"profile_weight": profile_weight}))
    del batch.interaction["review_id"]
    assert tuple(loss_of(model, batch)) == ("intra_graph", "bpr", "l2")
    assert model.text_encoder is None
    assert ("user_profiles" in model.state_dict()) == bool(profile_weight)


@pytest.mark.parametrize("changes", [NO_TEXT, {"text_source": "random"}])
def test_without_text_anywhere_no_review_is_read_at_all(
    plus_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.delattr(ReviewDataset, "review_texts")
    model, batch, _ = build(plus_config(text_encoder="gone", **changes))
    assert all(value.isfinite() for value in loss_of(model, batch).values())


def test_alpha_0_contrasts_no_layers(plus_config: MakeConfig) -> None:
    model, batch, _ = build(plus_config(alpha=0.0))
    assert tuple(loss_of(model, batch)) == ("cross_modal", "bpr", "l2")


@torch.no_grad()
def test_both_views_come_from_one_noisy_pass(plus_config: MakeConfig) -> None:
    model, _, _ = build(plus_config(n_layers=2, contrast_layer=1, eps=0.3))
    adjacency, embedding = model.graph.adjacency(), model.graph_encoder.embedding.weight
    final, first = (torch.cat(nodes) for nodes in model.graph_views())
    second = 2 * final - first
    for before, after in ((embedding, first), (first, second)):
        clean = propagate(adjacency, before)
        length = (after - clean).norm(dim=1)
        assert_close(length, 0.3 * clean.any(1).float(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_ranking_is_without_noise(plus_config: MakeConfig) -> None:
    noisy, still = (build(plus_config(eps=eps))[0] for eps in (0.3, 0.0))
    for mode in (True, False):
        for found, expected in zip(noisy.train(mode).ranking_vectors(), still.ranking_vectors(), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast_layer": 3}, "contrast_layer is 3, but n_layers is 2"),
        ({"n_layers": 0}, "n_layers is 0, but must be at least 1"),
        ({"eps": -0.1}, "eps is -0.1, but must be at least 0"),
        ({"profile_weight": -0.1}, "profile_weight is -0.1, but must be at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(plus_config: MakeConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(plus_config(**changes))


# Text profiles


def orthonormal(n: int, k: int, random: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(random.normal(size=(n, k)))[0]


@quick
@given(
    n=st.integers(2, 30), hidden=st.integers(1, 8), rank=st.integers(0, 8), width=st.integers(1, 6),
    scale=st.sampled_from([0.0, 0.5, 2.0]), dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)  # fmt: skip
@example(n=30, hidden=8, rank=3, width=6, scale=0.5, dtype=torch.float32, seed=0)  # columns for which there is none
def test_the_strongest_directions_of_profiles_are_added(
    n: int, hidden: int, rank: int, width: int, scale: float, dtype: torch.dtype, seed: int
) -> None:
    random, rank = np.random.default_rng(seed), min(rank, n, hidden)
    left = orthonormal(n, rank, random)
    profiles = torch.from_numpy(left * np.linspace(3, 1, rank) @ orthonormal(hidden, rank, random).T).to(dtype)
    embedding = torch.from_numpy(random.normal(size=(n, width))).to(dtype)
    before = embedding.clone()
    add_main_directions(embedding, profiles, scale)
    k, deviation = min(rank, width), float(before.std())
    assert torch.equal(embedding[:, k:], before[:, k:]), "there are no more directions"
    added = (embedding - before)[:, :k].numpy()
    assert added.T @ added / n == pytest.approx((scale * deviation) ** 2 * np.eye(k), abs=1e-4)
    assert added @ added.T / n == pytest.approx((scale * deviation) ** 2 * left[:, :k] @ left[:, :k].T, abs=1e-4)


def slow_profiles(vectors: np.ndarray, users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> np.ndarray:
    """Users' and items' profiles, [n_users + n_items, hidden], in some rotation."""
    left, singular, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    white = left * singular / (singular + 0.05 * singular[0])
    profiles = np.zeros((n_users + n_items, white.shape[1]))
    for item in set(items):
        mean = white[items == item].mean(0)
        profiles[n_users + item] = mean / np.linalg.norm(mean)
    of_items = profiles[n_users + items]
    for user in set(users):
        written, met = white[users == user].mean(0), of_items[users == user].mean(0) - of_items.mean(0)
        both = written / np.linalg.norm(written) + met / np.linalg.norm(met)
        profiles[user] = both / np.linalg.norm(both)
    return profiles


@pytest.mark.parametrize("text_source", ["reviews", "random"])
def test_profiles_are_directions_of_whitened_training_reviews(plus_config: MakeConfig, text_source: str) -> None:
    config = plus_config(text_source=text_source, eval_args=FIRST_ROWS)
    part = create_dataset(config).build()[0]
    vectors = training_vectors(config, part).double().numpy()
    users, items = (part.inter_feat[field].numpy() for field in ("user_id", "item_id"))
    expected = slow_profiles(vectors, users, items, part.user_num, part.item_num)
    assert len(set(items)) < part.item_num - 1, "an item beside padding has no training review"
    found = torch.cat(whitened_profiles(config, part)).numpy()
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-5), "the cosines of all with all"


def test_embeddings_begin_with_the_main_directions_of_users_and_items_profiles(plus_config: MakeConfig) -> None:
    config = plus_config(text_init=0.5)
    begun, random = (build(c)[0].graph_encoder.embedding.weight.data for c in (config, plus_config(text_init=0.0)))
    left, _, _ = np.linalg.svd(torch.cat(whitened_profiles(config, create_dataset(config).build()[0])).numpy())
    added, d = (begun - random).numpy() / float(0.5 * random.std()), random.shape[1]
    assert added @ added.T / len(added) == pytest.approx(left[:, :d] @ left[:, :d].T, abs=1e-3)


@torch.no_grad()
def test_profiles_vary_over_the_items_as_much_as_their_weight_says(plus_config: MakeConfig) -> None:
    graph, model = (build(plus_config(profile_weight=weight))[0] for weight in (0.0, 0.4))
    model.user_profiles[3] = 0  # as for whom there is no review
    everyone = Interaction({"user_id": torch.arange(model.n_users)})
    shape = model.n_users, model.n_items
    found, of_graph = (x.full_sort_predict(everyone).view(shape).double().numpy() for x in (model, graph))
    users, items = (vectors.double().numpy() for vectors in graph(graph.graph.adjacency()))
    for user in range(model.n_users):
        assert of_graph[user] == pytest.approx([users[user] @ item for item in items], abs=1e-6)
        cosines = np.array([float(model.user_profiles[user] @ profile) for profile in model.item_profiles])
        part = 0.4 * of_graph[user].std() / cosines.std() * cosines if cosines.any() else cosines
        assert found[user] == pytest.approx(of_graph[user] + part, rel=1e-4, abs=1e-6)


# Runs


@pytest.mark.parametrize(("text_train", "profile_weight"), [("frozen", 0.0), ("frozen", 0.5), ("lora", 0.5)])
def test_a_checkpoint_recommends_without_reviews_as_the_whole_model_ranks(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_train: str, profile_weight: float
) -> None:
    file = tmp_path / "run.pth"
    own = {"model": "SymCEREPlus", "text_train": text_train, "profile_weight": profile_weight, "learning_rate": 0.01}
    run_recbole_symcere(config_dict=settings | own | {"checkpoint_file": str(file)})
    expected = ranked_by_recbole(file, ["u3", "u11"], k=5)
    shutil.rmtree(tmp_path / "text")
    monkeypatch.delattr(ReviewDataset, "review_texts")
    assert recommend(file, ["u3", "u11"], k=5, config_dict={"text_encoder": "gone"}) == expected

"""SymCERE against slow loops written from section 3 of the paper."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.utils.case_study import full_sort_scores
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model import symcere as module
from recbole_symcere.model.graph import GRAPH_ENCODERS
from recbole_symcere.model.loss import CONTRASTS
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.model.text import encoder as encoder_module
from recbole_symcere.model.text.views import KeptVectors
from recbole_symcere.quick_start import create_dataset, data_preparation

MakeConfig = Callable[..., Config]


def build(config: Config) -> tuple[SymCERE, Interaction, Any]:
    """A model, a training batch, and the test dataloader."""
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    model = config.model_class(config, train_data._dataset)
    return model, next(iter(train_data)), test_data


def loss_of(model: SymCERE, batch: Interaction, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    terms = model.calculate_loss(batch)
    return dict(zip(model.loss_names, terms, strict=True))


def slow_contrast(anchors: Tensor, others: Tensor, keeps: Callable[[int, int], bool], tau: float) -> Tensor:
    """The mean over i of -[a_i b_i / tau - log sum_k exp(a_i b_k / tau)], k in {i} and where ``keeps(i, k)``."""
    total = torch.zeros((), dtype=anchors.dtype)
    for i in range(len(anchors)):
        kept = [k for k in range(len(anchors)) if k == i or keeps(i, k)]
        scores = [float(anchors[i] @ others[k]) / tau for k in kept]
        highest = max(scores)
        log_sum = highest + math.log(sum(math.exp(score - highest) for score in scores))
        total += log_sum - float(anchors[i] @ others[i]) / tau
    return total / len(anchors)


@pytest.mark.parametrize("graph_encoder", ["LightGCN", "NGCF"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("contrast", ["sincere", "infonce"])
def test_the_objective_is_equation_8(
    make_config: MakeConfig, graph_encoder: str, normalize: bool, contrast: str
) -> None:
    config = make_config(
        graph_encoder=graph_encoder, normalize=normalize, contrast=contrast, text_views=1, edge_dropout=0.0,
        message_dropout=0.0, tau_cross=0.3, tau_intra=0.4, alpha=0.7, beta=0.2, cross_weight=0.9, reg_weight=0.01,
    )  # fmt: skip
    model, batch, _ = build(config)
    part = create_dataset(config).build()[0]
    found = loss_of(model, batch)

    with torch.no_grad():
        unit = (lambda x: x / x.norm()) if normalize else (lambda x: x)
        users, items = model.graph_encoder(model.graph.adjacency())
        u, v, n, r = (batch[key].tolist() for key in ("user_id", "item_id", "neg_item_id", "review_id"))
        g = torch.stack([unit((users[a] + items[b]) / 2) for a, b in zip(u, v, strict=True)])
        clean, masked = model.text_encoder.get_buffer("view0"), model.text_encoder.get_buffer("view1")
        rows = [int(model.review_rows[review]) for review in r]
        t = torch.stack([unit(model.projection(clean[row])) for row in rows])
        t_masked = torch.stack([unit(model.projection(masked[row])) for row in rows])
        feat = part.inter_feat
        train = set(zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True))

        def true_negative(i: int, k: int) -> bool:
            return contrast == "infonce" or (u[i], v[k]) not in train

        everything = lambda i, k: True  # noqa: E731
        cross = (slow_contrast(g, t, true_negative, 0.3) + slow_contrast(t, g, true_negative, 0.3)) / 2
        margins = [
            float(unit(users[a]) @ unit(items[b]) - unit(users[a]) @ unit(items[c]))
            for a, b, c in zip(u, v, n, strict=True)
        ]
        expected = {
            "cross_modal": 0.9 * cross,
            "intra_graph": 0.7 * slow_contrast(g, g, everything, 0.4),  # no edge is dropped: both views are one
            "intra_text": 0.7 * slow_contrast(t, t_masked, everything, 0.4),
            "bpr": 0.2 * sum(-math.log(1 / (1 + math.exp(-margin))) for margin in margins) / len(margins),
            "l2": 0.01 * sum(float((p**2).sum()) for p in model.parameters()),
        }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize(("bpr_norm", "normalize"), [(0.0, False), (0.5, True), (1.0, True), (None, False)])
def test_bpr_scores_lie_between_cosine_and_dot_product(
    make_config: MakeConfig, bpr_norm: float | None, normalize: bool
) -> None:
    model, batch, _ = build(make_config(bpr_norm=bpr_norm, normalize=normalize, alpha=0, cross_weight=0, beta=1))
    found = loss_of(model, batch)["bpr"]
    power = 1.0 if bpr_norm is None else bpr_norm
    with torch.no_grad():
        users, items = model.graph_encoder(model.graph.adjacency())
    losses = []
    for u, v, n in zip(*(batch[key].tolist() for key in ("user_id", "item_id", "neg_item_id")), strict=True):
        score = [float(users[u] @ items[w] / (users[u].norm() * items[w].norm()) ** (1 - power)) for w in (v, n)]
        losses.append(math.log(1 + math.exp(score[1] - score[0])))
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


SOFTMAX = {"ranking_loss": "softmax", "alpha": 0, "cross_weight": 0, "beta": 1}


@pytest.mark.parametrize("train_batch_size", [7, 100_000], ids=["a small batch", "all interactions"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_softmax_leaves_out_what_a_user_has_met(
    make_config: MakeConfig, train_batch_size: int, normalize: bool
) -> None:
    model, batch, _ = build(make_config(**SOFTMAX, train_batch_size=train_batch_size, normalize=normalize))
    assert (len(batch) >= model.n_users) == (train_batch_size > 7)
    with torch.no_grad():
        users, items = model.graph_encoder(model.graph.adjacency())
        if normalize:
            users, items = (F.normalize(vectors, dim=1) for vectors in (users, items))
        scores = (users @ items.T).double()
    known = model_pairs(model)
    losses = []
    for u, v in zip(batch["user_id"].tolist(), batch["item_id"].tolist(), strict=True):
        unmet = [j for j in range(1, model.n_items) if (u, j) not in known]
        losses.append(math.log1p(sum(math.exp(scores[u, j] - scores[u, v]) for j in unmet)))
    assert float(loss_of(model, batch)["softmax"]) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_drawn_items_give_the_denominators_of_all_items_in_expectation(make_config: MakeConfig) -> None:
    model, batch, _ = build(make_config(**SOFTMAX, softmax_items=3, normalize=False))
    every_item = torch.rand(model.n_items, dtype=torch.float64)
    torch.manual_seed(0)
    sums = []
    for _ in range(4000):
        drawn, log_weight = model.candidates()
        assert len(drawn) == 3
        sums.append(float((every_item[drawn] * log_weight.exp()).sum()))
    error = np.std(sums) / len(sums) ** 0.5
    assert np.mean(sums) == pytest.approx(float(every_item[1:].sum()), abs=4 * error)
    assert 0 not in torch.cat([model.candidates()[0] for _ in range(500)])
    # The loss takes the drawn items: it differs from draw to draw, and its denominators leave out what is known.
    assert loss_of(model, batch, seed=1)["softmax"] != loss_of(model, batch, seed=2)["softmax"]
    everything_met = torch.ones(1, 1, dtype=torch.bool)
    model.graph.known_pairs = lambda users, items: everything_met.expand(len(users), len(items))  # type: ignore[method-assign]
    assert float(loss_of(model, batch)["softmax"]) == 0


def test_with_few_items_none_is_drawn(make_config: MakeConfig) -> None:
    model, _, _ = build(make_config(**SOFTMAX))
    candidates, log_weight = model.candidates()
    assert candidates.tolist() == list(range(1, model.n_items)) and log_weight is None


@pytest.mark.parametrize(("key", "value"), [("graph_encoder", "XSimGCL"), ("contrast", "infonec")])
def test_a_part_that_symcere_does_not_have_is_refused_with_those_it_has(
    make_config: MakeConfig, key: str, value: str
) -> None:
    registry = {"graph_encoder": GRAPH_ENCODERS, "contrast": CONTRASTS}[key]
    names = ", ".join(map(repr, registry))
    with pytest.raises(ConfigError, match=f"{key} is {value!r}, but must be one of {names}"):
        make_config(**{key: value})


def test_the_registries_hold_only_what_symcere_can_use() -> None:
    assert list(GRAPH_ENCODERS) == ["LightGCN", "FoldingLightGCN", "NGCF"]
    assert list(CONTRASTS) == ["sincere", "infonce"]


def model_pairs(model: SymCERE) -> set[tuple[int, int]]:
    """Every pair that the mask of eq. (3) would drop."""
    known = model.graph.known_pairs(torch.arange(model.n_users), torch.arange(model.n_items))
    return {(user, item) for user, item in known.nonzero().tolist()}


def test_known_pairs_are_those_that_train_and_no_others(make_config: MakeConfig) -> None:
    config = make_config()
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    model = SymCERE(config, train_data._dataset)
    pairs = [
        set(
            zip(data._dataset.inter_feat["user_id"].tolist(), data._dataset.inter_feat["item_id"].tolist(), strict=True)
        )
        for data in (train_data, valid_data, test_data)
    ]
    assert model_pairs(model) == pairs[0]
    assert pairs[1] and pairs[2] and not model_pairs(model) & (pairs[1] | pairs[2])


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ({"alpha": 0}, ("cross_modal", "bpr", "l2")),
        ({"cross_weight": 0}, ("intra_text", "intra_graph", "bpr", "l2")),
        ({"beta": 0}, ("cross_modal", "intra_text", "intra_graph", "l2")),
        ({"reg_weight": 0}, ("cross_modal", "intra_text", "intra_graph", "bpr")),
        ({"alpha": 0, "cross_weight": 0}, ("bpr", "l2")),
        ({"alpha_text": 0}, ("cross_modal", "intra_graph", "bpr", "l2")),
        ({"alpha_text": 0.5, "alpha": 0}, ("cross_modal", "intra_text", "bpr", "l2")),
        ({"alpha_text": 0, "cross_weight": 0}, ("intra_graph", "bpr", "l2")),
    ],
)
def test_a_term_of_weight_0_costs_nothing(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, weights: dict[str, float], names: tuple[str, ...]
) -> None:
    """What a term needs is not called when its weight is 0."""
    calls: list[str] = []

    def counted(name: str, function: Callable) -> Callable:
        return lambda *args, **kwargs: calls.append(name) or function(*args, **kwargs)

    monkeypatch.setitem(CONTRASTS, "sincere", counted("sincere", CONTRASTS["sincere"]))
    for name in ("info_nce", "bpr", "review_views"):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    monkeypatch.setattr(
        module.BipartiteGraph, "dropped_adjacency", counted("dropped", module.BipartiteGraph.dropped_adjacency)
    )
    model, batch, _ = build(make_config(**weights))
    assert tuple(loss_of(model, batch)) == names
    assert ("sincere" in calls) == ("cross_modal" in names)
    assert ("dropped" in calls) == ("intra_graph" in names)
    assert ("info_nce" in calls) == ("intra_graph" in names or "intra_text" in names)
    assert ("bpr" in calls) == ("bpr" in names)
    needs_text = "cross_modal" in names or "intra_text" in names
    assert ("review_views" in calls) == (model.text_encoder is not None) == needs_text


@pytest.mark.parametrize("alpha_text", [0.0, 0.2])
@pytest.mark.parametrize("text_train", ["frozen", "lora"])
def test_words_are_masked_only_for_the_contrast_of_texts(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, text_train: str, alpha_text: float
) -> None:
    mask_words, ratios = encoder_module.mask_words, []
    monkeypatch.setattr(encoder_module, "mask_words", lambda *args: ratios.append(args[3]) or mask_words(*args))
    model, batch, _ = build(make_config(text_train=text_train, alpha_text=alpha_text, word_masking=0.5))
    assert ("intra_text" in loss_of(model, batch)) == bool(alpha_text)
    assert set(ratios) - {0.0} == ({0.5} if alpha_text else set())


def test_alpha_text_weighs_the_text_alone(make_config: MakeConfig) -> None:
    (model, batch, _), (other, _, _) = (build(make_config(alpha=0.7, alpha_text=weight)) for weight in (None, 0.2))
    found, apart = loss_of(model, batch), loss_of(other, batch)
    for name, value in found.items():
        weight = 0.2 / 0.7 if name == "intra_text" else 1.0
        assert float(apart[name].detach()) == pytest.approx(weight * float(value.detach())), name


@pytest.mark.parametrize("text_train", ["frozen", "lora", "full"])
def test_one_step_trains_what_it_should(make_config: MakeConfig, text_train: str) -> None:
    model, batch, _ = build(make_config(text_train=text_train))
    sum(loss_of(model, batch).values()).backward()
    assert model.graph_encoder.embedding.weight.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.projection.parameters() if parameter.ndim > 1)
    language_model = dict(model.text_encoder.named_parameters())
    trained = {name for name, parameter in language_model.items() if parameter.requires_grad}
    assert {"frozen": not language_model, "lora": all("lora_" in name for name in trained), "full": True}[text_train]
    groups = model.parameter_groups()
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert len(groups) == (1 if text_train == "frozen" else 2)
    if trained:
        assert sum(float(language_model[name].grad.abs().sum()) for name in trained) > 0


@pytest.mark.parametrize("changes", [{}, {"score_norm": 0.5}, {"score_norm": 1.0}, {"normalize": False}])
def test_predict_and_full_ranking_agree(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    model, _, _ = build(make_config(**changes))
    model.eval()
    with torch.no_grad():
        users = torch.arange(1, model.n_users)
        full = model.full_sort_predict(Interaction({"user_id": users})).view(len(users), model.n_items)
        pairs = {
            "user_id": users.repeat_interleave(model.n_items),
            "item_id": torch.arange(model.n_items).repeat(len(users)),
        }
        single = model.predict(Interaction(pairs)).view_as(full)
        torch.testing.assert_close(full, single)
        graph_users, graph_items = model(model.graph.adjacency())
        power = changes.get("score_norm", 0.0 if changes.get("normalize", True) else 1.0)
        cosine = F.normalize(graph_users[users], dim=1) @ F.normalize(graph_items, dim=1).T
        lengths = graph_users[users].norm(dim=1)[:, None] * graph_items.norm(dim=1)
        torch.testing.assert_close(full, cosine * lengths**power)


def test_score_norm_1_ranks_as_the_dot_product(make_config: MakeConfig) -> None:
    model, _, _ = build(make_config(score_norm=1))
    model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(Interaction({"user_id": torch.tensor([3])}))
        users, items = model(model.graph.adjacency())
    assert torch.equal(scores.argsort(), (items @ users[3]).argsort())


def test_ranking_follows_the_weights(make_config: MakeConfig) -> None:
    """The cached vectors are dropped when training goes on."""
    model, batch, test_data = build(make_config())

    def scores() -> Tensor:
        model.eval()
        return full_sort_scores(torch.tensor([1, 2]), model, test_data).clone()

    before = scores()
    assert torch.equal(before, scores())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()
    sum(model.calculate_loss(batch)).backward()
    optimizer.step()
    assert not torch.allclose(before, scores())


def test_ranking_needs_no_text(make_config: MakeConfig) -> None:
    model, _, test_data = build(make_config(text_train="lora"))
    model.text_encoder = None
    model.eval()
    assert torch.isfinite(full_sort_scores(torch.tensor([1]), model, test_data)[:, 1:]).any()


def test_edge_dropout_and_word_masking_make_views(make_config: MakeConfig) -> None:
    model, batch, _ = build(make_config(edge_dropout=0.5, text_views=2, word_masking=0.5))
    first, again, other = loss_of(model, batch, seed=1), loss_of(model, batch, seed=1), loss_of(model, batch, seed=2)
    for name in ("intra_graph", "intra_text"):
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first["intra_graph"], other["intra_graph"])
    view0, view1, view2 = (model.text_encoder.get_buffer(f"view{number}") for number in range(3))
    assert not torch.equal(view0, view1) and not torch.equal(view1, view2)


def test_each_review_draws_its_masked_view() -> None:
    views = [np.full((50, 3), number, np.float32) for number in range(4)]
    torch.manual_seed(0)
    clean, masked = KeptVectors(views)(torch.arange(50).repeat(20), masked=True)
    assert (clean == 0).all()
    assert (masked == masked[:, :1]).all()
    assert torch.bincount(masked[:, 0].long(), minlength=4).tolist() == pytest.approx([0, 333, 333, 333], abs=60)
    assert KeptVectors(views)(torch.arange(50), masked=False)[1] is None


@pytest.mark.parametrize("contrast", ["sincere", "infonce"])
def test_negatives_come_from_so_many_interactions_of_a_batch(make_config: MakeConfig, contrast: str) -> None:
    """A batch of two groups and a rest is the mean of three batches."""
    still = {"text_views": 1, "edge_dropout": 0.0, "contrast": contrast}
    model, batch, _ = build(make_config(contrast_batch_size=25, **still))
    alone, _, _ = build(make_config(**still))
    alone.load_state_dict(model.state_dict())
    parts = [batch[start : start + 25] for start in range(0, len(batch), 25)]
    assert [len(part) for part in parts] == [25, 25, 14]
    losses = [loss_of(alone, part) for part in parts]
    found, undivided = loss_of(model, batch), loss_of(alone, batch)
    for name in ("cross_modal", "intra_text", "intra_graph", "bpr"):
        mean = sum(len(part) * float(loss[name]) for part, loss in zip(parts, losses, strict=True)) / len(batch)
        assert float(found[name]) == pytest.approx(mean, rel=1e-5)
        assert (float(undivided[name]) == pytest.approx(mean, rel=1e-3)) == (name == "bpr")


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_projections_reach_the_graphs_width(make_config: MakeConfig, projection: str) -> None:
    model, _, _ = build(make_config(projection=projection, graph_encoder="NGCF"))
    out = model.projection(torch.randn(3, model.text_encoder.width))
    assert out.shape == (3, model.graph_encoder.width) == (3, 8 * 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_loss_on_cuda_is_that_of_the_cpu(make_config: MakeConfig) -> None:
    model, batch, _ = build(make_config(edge_dropout=0.0, text_views=1))
    on_cpu = loss_of(model, batch)
    on_cuda = loss_of(model.cuda(), batch.to(torch.device("cuda")))
    for name, value in on_cpu.items():
        assert float(on_cuda[name]) == pytest.approx(float(value), rel=1e-4), name

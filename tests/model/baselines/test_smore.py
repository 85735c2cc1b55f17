"""SMORE against the authors' own code and against slow loops written from it."""

import cmath
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils.case_study import full_sort_scores
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.baselines import smore as module
from recbole_symcere.model.baselines.item_graph import nearest_items
from recbole_symcere.model.baselines.smore import SMORE, ItemText
from recbole_symcere.model.text.views import item_text_features
from recbole_symcere.properties import load_yaml, properties_folder
from recbole_symcere.quick_start import create_dataset, data_preparation, load_data_and_model, run_recbole_symcere
from tests.conftest import FewSettings

MakeConfig = Callable[..., Config]
MODES = ("single", "dup")

# Few interactions, whose model and numbers anybody can make again; the counts include padding.
N_USERS, N_ITEMS, HIDDEN = 8, 10, 12
PAIRS = [(user, item) for user in range(1, N_USERS) for item in range(1, N_ITEMS) if (3 * user + 5 * item) % 7 < 2]
BATCH = [(user, item, 1 + (user + 2 * item) % (N_ITEMS - 1)) for user, item in PAIRS[::2]]
SETTINGS = {
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "NEG_PREFIX": "neg_", "device": torch.device("cpu"),
    "embedding_size": 6, "n_ui_layers": 3, "n_layers": 2, "text_knn_k": 3, "image_knn_k": 4, "dropout_rate": 0.0,
    "reg_weight": 0.1, "cl_loss": 0.5, "temperature": 0.2, "train_batch_size": 16,
    "learning_rate_decay": 0.96, "learning_rate_decay_epochs": 50,
}  # fmt: skip
# The first 4 users' scores of the first 6 items and the loss over BATCH by https://github.com/kennethorq/SMORE, commit
# 0148d92, in float64: v_feat and t_feat are FEATURES without padding, its weights those of ``few("dup")``.
AUTHORS_SCORES = [
    [0.365754464911, 0.099368341384, 0.090241850979, -0.215436023911, 0.499195499028, 0.171165106961],
    [0.017144174334, -0.034135487385, 0.133389669601, -0.020239220889, 0.037642014872, 0.156888723285],
    [0.100491805067, -0.199280419623, 0.060755607126, 0.317464793363, -0.210185910892, -0.087028380935],
    [0.007652694987, 0.417596991700, -0.017117799749, -0.133583134469, 0.303544183714, 0.131182225628],
]
AUTHORS_LOSS = 3.956916767119


def uniform(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator, dtype=torch.float64)


FEATURES = uniform((N_ITEMS, HIDDEN), torch.Generator().manual_seed(1))


class Few(NamedTuple):
    """What a RecBole model asks its dataset for."""

    inter_feat: Mapping[str, Tensor]

    def num(self, field: str) -> int:
        return {"user_id": N_USERS, "item_id": N_ITEMS}[field]


def few(mode: str, **changes: Any) -> SMORE:
    """SMORE over PAIRS and FEATURES, in float64; every weight is drawn from a seed, in the order of their names."""
    settings = SETTINGS | {"smore_mode": mode} | ({"image_knn_k": None} if mode == "single" else {}) | changes
    users, items = torch.tensor(PAIRS).T
    text = ItemText(FEATURES, *nearest_items(FEATURES, 4))
    torch.set_default_dtype(torch.float64)
    try:
        model = SMORE(FewSettings(settings), Few({"user_id": users, "item_id": items}), text)
    finally:
        torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            weight.copy_(2 * uniform(weight.shape, generator) - 1)
    return model


def few_batch() -> Interaction:
    return Interaction(dict(zip(("user_id", "item_id", "neg_item_id"), torch.tensor(BATCH).T, strict=True)))


def scores_of(model: SMORE) -> Tensor:
    """[users, items] without padding."""
    users = torch.arange(1, model.n_users)
    return model.full_sort_predict(Interaction({"user_id": users})).view(len(users), -1)[:, 1:]


def build(config: Config) -> tuple[SMORE, Interaction, Any]:
    """A model, a training batch, and the test dataloader."""
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    return SMORE(config, train_data._dataset), next(iter(train_data)), test_data


def test_scores_and_loss_are_those_of_the_authors_code() -> None:
    model = few("dup")
    assert_close(scores_of(model)[:4, :6].tolist(), AUTHORS_SCORES, rtol=0, atol=1e-11)
    assert float(sum(model.calculate_loss(few_batch()))) == pytest.approx(AUTHORS_LOSS, abs=1e-11)


# The formulas once more, an item, a frequency and a node at a time


def spectrum(x: Tensor) -> list[complex]:
    d = len(x)
    return [
        sum(float(x[t]) * cmath.exp(-2j * math.pi * f * t / d) for t in range(d)) / math.sqrt(d)
        for f in range(d // 2 + 1)
    ]


def signal(frequencies: list[complex], d: int) -> Tensor:
    """Of a real signal of even length d: the frequencies left out mirror those given."""
    whole = [*frequencies, *(f.conjugate() for f in frequencies[-2:0:-1])]
    values = [
        sum(
            (whole[f] if f not in (0, d // 2) else whole[f].real) * cmath.exp(2j * math.pi * f * t / d)
            for f in range(d)
        )
        for t in range(d)
    ]
    return torch.tensor([value.real / math.sqrt(d) for value in values], dtype=torch.float64)


def linear(model: SMORE, name: str, x: Tensor) -> Tensor:
    weights = dict(model.named_parameters())
    return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)


def slow_adjacency() -> Tensor:
    """R over the square roots of its degrees, [users, items]."""
    pairs = set(PAIRS)
    matrix = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    for user, item in pairs:
        n_items, n_users = sum(u == user for u, _ in pairs), sum(i == item for _, i in pairs)
        matrix[user, item] = (n_items * n_users) ** -0.5
    return matrix


def slow_item_graph(k: int) -> Tensor:
    matrix = torch.zeros(N_ITEMS, N_ITEMS, dtype=torch.float64)
    for i in range(1, N_ITEMS):
        cosine = {j: float(torch.cosine_similarity(FEATURES[i], FEATURES[j], dim=0)) for j in range(1, N_ITEMS)}
        for j in sorted(cosine, key=cosine.__getitem__)[-k:]:
            matrix[i, j] = cosine[j]
    degree = matrix.sum(1)
    for i, j in matrix.nonzero().tolist():
        matrix[i, j] /= math.sqrt(degree[i] * degree[j])
    return matrix


def slow_vectors(model: SMORE, neighbours: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Behavioural and side vectors of users, then items."""
    weights = dict(model.named_parameters())
    embedding = weights["behaviour.embedding.weight"]
    users, items = embedding[:N_USERS], embedding[N_USERS:]
    d = embedding.shape[1]
    adjacency = slow_adjacency()

    layers = [(users, items)]
    for _ in range(SETTINGS["n_ui_layers"]):
        layers.append((adjacency @ layers[-1][1], adjacency.T @ layers[-1][0]))
    behaviour = torch.cat([sum(part) / len(layers) for part in zip(*layers, strict=True)])

    spectra = {
        name: [spectrum(linear(model, f"spectra.{name}.projection", x)) for x in weights[f"spectra.{name}.features"]]
        for name in neighbours
    }
    spectra["fusion"] = [[math.prod(f) for f in zip(*of_item, strict=True)] for of_item in zip(*spectra.values())]  # noqa: B905
    graphs = {name: slow_item_graph(k) for name, k in neighbours.items()}
    graphs["fusion"] = torch.stack(list(graphs.values())).amax(0)  # no cosine here is negative
    views = {}
    for name, graph in graphs.items():
        weight = [complex(*pair) for pair in weights[f"views.{name}.filter"].tolist()]
        filtered = [signal([f * w for f, w in zip(of_item, weight, strict=True)], d) for of_item in spectra[name]]
        gated = [items[i] * linear(model, f"views.{name}.gate.0", x).sigmoid() for i, x in enumerate(filtered)]
        vectors = torch.stack(gated)
        for _ in range(SETTINGS["n_layers"]):
            vectors = graph @ vectors
        views[name] = torch.cat([adjacency @ vectors, vectors])

    side = torch.zeros_like(behaviour)
    for node in range(len(side)):
        fused = views["fusion"][node]
        parts = [linear(model, "preferences.fusion.0", behaviour[node]).sigmoid() * fused]
        for name in neighbours:
            attention = linear(model, f"queries.{name}.2", linear(model, f"queries.{name}.0", fused).tanh()).softmax(0)
            preference = linear(model, f"preferences.{name}.0", behaviour[node]).sigmoid()
            parts.append(preference * attention * views[name][node])
        side[node] = sum(parts) / len(parts)
    return behaviour, side


def slow_info_nce(anchors: Tensor, others: Tensor, tau: float) -> float:
    similarity = [[float(torch.cosine_similarity(a, b, dim=0)) / tau for b in others] for a in anchors]
    losses = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(similarity)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_model_and_loss_are_the_formulas_written_out(mode: str) -> None:
    model = few(mode)
    behaviour, side = slow_vectors(model, {"text": 3} if mode == "single" else {"image": 4, "text": 3})
    for found, expected in zip(model(), (behaviour, side), strict=True):
        assert_close(found, expected)
    users, items = (behaviour + side).tensor_split([N_USERS])
    assert_close(scores_of(model), (users @ items.T)[1:, 1:])

    margins = [float(users[u] @ items[p] - users[u] @ items[n]) for u, p, n in BATCH]
    squares = [float(users[u].square().sum() + items[p].square().sum() + items[n].square().sum()) for u, p, n in BATCH]
    contrasts = [
        slow_info_nce(side[nodes], behaviour[nodes], tau=0.2)
        for nodes in ([u for u, _, _ in BATCH], [N_USERS + p for _, p, _ in BATCH])
    ]
    expected = {
        "bpr": sum(math.log(1 + math.exp(-margin)) for margin in margins) / len(margins),
        "l2": 0.1 * sum(squares) / 2 / 16,  # the configured batch size; this batch is smaller
        "contrastive": 0.5 * sum(contrasts),
    }
    terms = model.calculate_loss(few_batch())
    assert dict(zip(model.loss_names, map(float, terms), strict=True)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "names"), [({"cl_loss": 0}, ("bpr", "l2")), ({"reg_weight": 0}, ("bpr", "contrastive"))]
)
def test_a_term_of_weight_0_is_left_out(weights: dict[str, float], names: tuple[str, ...]) -> None:
    model = few("single", **weights)
    assert len(model.calculate_loss(few_batch())) == 2
    assert model.loss_names == names


@pytest.mark.parametrize("mode", MODES)
def test_one_step_trains_everything(make_config: MakeConfig, mode: str) -> None:
    model, batch, _ = build(make_config(model="SMORE", smore_mode=mode, dropout_rate=0.1))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    assert {name.split(".")[1] for name in before if name.startswith("spectra")} == set(module.MODALITIES[mode])
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    sum(model.calculate_loss(batch)).backward()
    optimizer.step()
    for name, weight in model.named_parameters():
        assert not torch.equal(weight, before[name]), name


def test_preferences_are_dropped_in_training_only(make_config: MakeConfig) -> None:
    model, _, _ = build(make_config(model="SMORE", dropout_rate=0.5))
    assert not torch.equal(model()[1], model()[1])
    model.eval()
    assert torch.equal(model()[1], model()[1])


def test_features_are_the_items_reviews_in_both_places(make_config: MakeConfig) -> None:
    config = make_config(model="SMORE", smore_mode="dup", text_knn_k=4, image_knn_k=7)
    model, _, _ = build(config)
    features = item_text_features(config, create_dataset(config).build()[0])
    for name, k in (("text", 4), ("image", 7)):
        assert torch.equal(model.spectra[name].features, features)
        neighbours, _ = nearest_items(features, 7)
        assert torch.equal(model.views[name].graph.neighbours, neighbours[:, :k])
    assert (features.norm(dim=1) > 0).all()


def test_the_graph_stays_while_the_features_train(make_config: MakeConfig) -> None:
    model, batch, _ = build(make_config(model="SMORE"))
    graph, features = model.views["text"].graph.weights.clone(), model.spectra["text"].features.detach().clone()
    sum(model.calculate_loss(batch)).backward()
    torch.optim.SGD(model.parameters(), lr=1e3).step()
    assert not torch.allclose(model.spectra["text"].features, features)
    assert torch.equal(model.views["text"].graph.weights, graph)


def test_predict_and_full_ranking_agree_and_follow_the_weights(make_config: MakeConfig) -> None:
    model, _, test_data = build(make_config(model="SMORE"))
    model.eval()
    users = torch.arange(1, model.n_users)
    pairs = {
        "user_id": users.repeat_interleave(model.n_items),
        "item_id": torch.arange(model.n_items).repeat(len(users)),
    }
    with torch.no_grad():
        full = model.full_sort_predict(Interaction({"user_id": users}))
        assert_close(full, model.predict(Interaction(pairs)))
        before = full_sort_scores(users, model, test_data).clone()
        model.train()
        model.behaviour.embedding.weight.add_(1.0)
        model.eval()
        assert not torch.allclose(before, full_sort_scores(users, model, test_data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_knn_k": 5}, "image_knn_k is 5, but smore_mode single"),
        ({"text_knn_k": 31}, "text_knn_k is 31, but there are 30 items"),
        ({"smore_mode": "dup", "image_knn_k": 99}, "image_knn_k is 99, but there are 30 items"),
        ({"smore_mode": "duo"}, "smore_mode is 'duo', but must be one of 'single', 'dup'"),
        ({"temperature": 0}, "temperature is 0, but must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    own = {key: value for key, value in settings.items() if key != "text_train"}
    with pytest.raises(ConfigError, match=message):
        build(Config(config_dict=own | {"model": "SMORE"} | changes))


@pytest.mark.parametrize(
    ("model", "own", "other"),
    [
        ("SMORE", {"text_knn_k"}, set()),
        ("AlphaRec", set(), set()),
        ("RLMRec", set(), set()),
        ("CEASE", {"text_weight", "text_ridge"}, {"text_source"}),
        ("TextProfile", set(), {"text_source"}),
    ],
)
def test_the_encoders_keys_and_their_defaults_are_symceres(model: str, own: set[str], other: set[str]) -> None:
    baseline, symcere = (load_yaml(properties_folder() / "model" / f"{name}.yaml") for name in (model, "SymCERE"))
    shared = {key for key in baseline if key.startswith("text_") or key in ("trust_remote_code", "embedding_size")}
    assert shared - symcere.keys() == {"text_adapter"} | own
    assert {key for key in shared & symcere.keys() if baseline[key] != symcere[key]} == other


def test_features_of_the_encoder_after_symceres_training(
    settings: dict[str, Any], make_config: MakeConfig, tmp_path: Path
) -> None:
    trained = {"text_train": "lora", "text_learning_rate": 0.01, "checkpoint_file": str(tmp_path / "symcere.pth")}
    run_recbole_symcere(config_dict=settings | trained)
    adapted = make_config(model="SMORE", text_adapter=str(tmp_path / "symcere.adapter"))
    _, symcere, _, train_data, _, _ = load_data_and_model(tmp_path / "symcere.pth")
    part = train_data._dataset
    with torch.no_grad():
        vectors = symcere.text_encoder.encoder(symcere.text_encoder.reviews, torch.arange(len(part)))
    of_item = part.inter_feat["item_id"] == 7
    found, pretrained = (item_text_features(config, part)[7] for config in (adapted, make_config(model="SMORE")))
    assert_close(found, vectors[of_item].mean(0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, pretrained, atol=1e-3), "the cache of the encoder as it was before training"
    assert run_recbole_symcere(config_dict=adapted.settings | {"epochs": 1})["test_result"]


def test_autocast_changes_the_loss_little(make_config: MakeConfig) -> None:
    model, batch, _ = build(make_config(model="SMORE", smore_mode="dup"))
    exact = model.calculate_loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        for rounded, term in zip(model.calculate_loss(batch), exact, strict=True):
            assert rounded.item() == pytest.approx(term.item(), rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("mode", MODES)
def test_loss_and_gradients_on_cuda_are_those_of_the_cpu(mode: str) -> None:
    models = few(mode), few(mode).cuda()
    for model in models:
        sum(model.calculate_loss(few_batch().to(model.graph.crow.device))).backward()
    on_cuda = dict(models[1].named_parameters())
    for name, weight in models[0].named_parameters():
        assert_close(on_cuda[name].grad.cpu(), weight.grad, msg=name)

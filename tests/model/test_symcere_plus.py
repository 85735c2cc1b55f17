"""SymCEREPlus against slow loops written from its definition, and in whole runs."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere.checkpoint import load_checkpoint, validation_path
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.choice import OTHERS, STRANGERS, Choices, draw_choices, fit_weights
from recbole_symcere.model.evidence import EVIDENCE, evidence_names, standardised
from recbole_symcere.model.symcere_plus import FOLDS, SymCEREPlus
from recbole_symcere.model.text.views import training_vectors
from recbole_symcere.quick_start import (
    create_dataset,
    data_preparation,
    load_data_and_model,
    recommend,
    run_recbole_symcere,
)
from recbole_symcere.ranking import RankingTrainer
from recbole_symcere.trainer import Trainer
from tests.conftest import FIRST_ROWS, ranked_by_recbole, tiny_rows, write_atomic_files
from tests.model.test_symcere import build, loss_of, model_pairs, slow_contrast

MakeConfig = Callable[..., Config]
EVERYTHING = ["trend", "surge", "newness", "recent", "graph", "own_words", "nearby_texts"]
NEED_NOTHING = EVERYTHING[:3]
TEMPORAL = {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "none", "mode": "full"}}


@pytest.fixture
def plus_config(make_config: MakeConfig) -> MakeConfig:
    return lambda **changes: make_config(**{"model": "SymCEREPlus", "eval_step": 2} | changes)


def slow_layers(model: SymCEREPlus, n_layers: int) -> list[Tensor]:
    """The nodes' vectors in the layers from 0, an edge at a time."""
    pairs = model_pairs(model)
    layers = [model.graph_encoder.embedding.weight.detach()]
    degree = [sum(u == user for u, _ in pairs) for user in range(model.n_users)]
    degree += [sum(v == item for _, v in pairs) for item in range(model.n_items)]
    for _ in range(n_layers):
        layer = torch.zeros_like(layers[-1])
        for a, b in [(user, model.n_users + item) for user, item in pairs]:
            for node, neighbour in ((a, b), (b, a)):
                layer[node] += layers[-1][neighbour] / math.sqrt(degree[a] * degree[b])
        layers.append(layer)
    return layers


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


# The graph model


@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_objective_is_a_contrast_with_the_reviews_beside_a_softmax_over_unmet_items(
    plus_config: MakeConfig, n_layers: int
) -> None:
    settings = {"tau_cross": 0.3, "tau_intra": 0.4, "cross_weight": 0.9, "alpha": 0.7, "beta": 0.2, "reg_weight": 0.01}
    model, batch, _ = build(plus_config(n_layers=n_layers, edge_dropout=0.0, **settings))
    found = loss_of(model, batch)
    with torch.no_grad():
        final = sum(slow_layers(model, n_layers)[1:]) / n_layers
        users, items = batch["user_id"].tolist(), batch["item_id"].tolist()
        g = torch.stack([unit(final[u] + final[model.n_users + v]) for u, v in zip(users, items, strict=True)])
        rows = model.review_rows[batch["review_id"]]
        t = torch.stack([unit(model.projection(model.features[row])) for row in rows])
        softmax = []
        for u, v in zip(users, items, strict=True):
            scores = (final[model.n_users :] @ final[u]).tolist()
            unmet = [j for j in range(1, model.n_items) if (u, j) not in model_pairs(model)]
            softmax.append(math.log1p(sum(math.exp(scores[j] - scores[v]) for j in unmet)))

        def everything(i: int, k: int) -> bool:
            return True

        expected = {
            "cross_modal": 0.9 * float(slow_contrast(g, t, everything, 0.3) + slow_contrast(t, g, everything, 0.3)) / 2,
            "intra_graph": 0.7 * float(slow_contrast(g, g, everything, 0.4)),
            "softmax": 0.2 * sum(softmax) / len(softmax),
            "l2": 0.01 * sum(float((p**2).sum()) for p in model.parameters()),
        }
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(expected, rel=1e-5)


def test_so_many_interactions_of_a_batch_are_contrasted_and_all_are_ranked(
    plus_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, _ = build(plus_config(contrasted=10))
    read: list[list[int]] = []
    vectors = model.review_vectors
    monkeypatch.setattr(model, "review_vectors", lambda ids, masked: read.append(ids.tolist()) or vectors(ids, masked))
    first, second = (loss_of(model, batch, seed) for seed in (1, 2))
    assert [len(set(ids)) for ids in read] == [10, 10] and read[0] != read[1]
    assert set(read[0] + read[1]) <= set(batch["review_id"].tolist())
    assert float(first["softmax"]) != float(first["cross_modal"]) != float(second["cross_modal"])


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [1, 3])
def test_a_person_is_placed_by_the_history_alone_and_a_user_where_the_model_has_the_user(
    plus_config: MakeConfig, n_layers: int
) -> None:
    model, _, _ = build(plus_config(n_layers=n_layers))
    users, items = model.ranking_vectors()
    layers = slow_layers(model, n_layers)
    expected = sum(layers[1:]) / n_layers
    assert_close(torch.cat([users, items]), expected, atol=1e-5, rtol=1e-4)
    for user in range(1, model.n_users):
        history = [item for u, item in model_pairs(model) if u == user]
        folded = model.statistics.folding[history].sum(0) / math.sqrt(len(history))
        assert_close(folded, users[user], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("text_source", ["reviews", "shuffled", "random"])
def test_the_contrast_and_the_evidence_know_an_interaction_by_the_same_text(
    plus_config: MakeConfig, text_source: str
) -> None:
    config = plus_config(text_source=text_source, eval_args=FIRST_ROWS)
    part = create_dataset(config).build()[0]
    model, vectors = SymCEREPlus(config, part), training_vectors(config, part)
    mean = vectors.mean(0)
    assert_close(model.features[:, : vectors.shape[1]], F.normalize(vectors - mean, dim=1))
    assert (model.features.shape[1] > vectors.shape[1]) == (text_source != "random")
    for user in range(1, part.user_num):
        own = vectors[part.inter_feat["user_id"] == user]
        expected = own.mean(0) - mean if len(own) else torch.zeros_like(mean)
        assert_close(model.statistics.texts.of_users[user], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph_encoder": "NGCF"}, "graph_encoder is 'NGCF', but must be one of 'FoldingLightGCN'"),
        ({"n_layers": 0}, "n_layers is 0, but must be at least 1"),
        ({"alpha": -0.1}, "alpha is -0.1, but must be at least 0"),
        ({"evidence": ["trend", "grahp"]}, "evidence is 'grahp', but must be one of .*; did you mean 'graph'?"),
        ({"text_train": "lora"}, "text_train is 'lora'"),
    ],
)
def test_settings_that_cannot_work_are_refused(plus_config: MakeConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plus_config(**changes)


# The weights


def parts(config: Config) -> tuple[SymCEREPlus, Any, Any]:
    """A model in eval mode, and the dataloaders of validation and test."""
    train, valid, test = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    return SymCEREPlus(config, train._dataset).eval(), valid, test


def choices_of(model: SymCEREPlus, valid: ReviewDataset, row: int) -> tuple[Tensor, Choices]:
    """The users of one kind, and what they chose in validation among all items."""
    pieces = torch.ones(len(model.evidence), dtype=torch.bool)
    chosen = model._chosen(valid, row)
    return draw_choices(*chosen, model._items.known, model._table, model._alternatives, pieces)[:2]


@torch.no_grad()
@pytest.mark.parametrize("row", [STRANGERS, OTHERS])
def test_a_choice_of_validation_competes_with_what_the_user_neither_met_nor_chose(
    plus_config: MakeConfig, row: int
) -> None:
    few_items = {"eval_args": TEMPORAL["eval_args"] | {"split": {"RS": [0.2, 0.5, 0.3]}}}
    model, valid, _ = parts(plus_config(**few_items))
    known, dataset = valid.known, valid._dataset
    model.about_to_rank(known)
    users, choices = choices_of(model, dataset, row)
    met = model_pairs(model)
    candidates = sorted({item for _, item in met})
    pairs = list(zip(dataset.inter_feat["user_id"].tolist(), dataset.inter_feat["item_id"].tolist(), strict=True))
    has_history = {user for user, _ in met}
    kept = [(u, i) for u, i in pairs if i in candidates and (u in has_history) == (row == OTHERS)]
    assert any(item not in candidates for _, item in pairs)
    assert kept and users.tolist() == sorted({u for u, _ in kept})
    everybody = model.standardised(torch.arange(model.n_users))
    evidence = torch.stack([everybody[name] for name in EVERYTHING], 2)
    found = sorted(
        (int(users[owner]), chosen.tolist()) for owner, chosen in zip(choices.owner, choices.chosen, strict=True)
    )
    expected = sorted((u, evidence[u, i].tolist()) for u, i in kept)
    assert [u for u, _ in found] == [u for u, _ in expected]
    assert_close(torch.tensor([z for _, z in found]), torch.tensor([z for _, z in expected]), atol=1e-5, rtol=1e-4)
    for place, user in enumerate(users.tolist()):
        for column, item in enumerate(candidates):
            assert bool(choices.open[place, column]) == ((user, item) not in met and (user, item) not in pairs)
            assert_close(choices.offered[place, column], evidence[user, item], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_each_fold_is_ranked_by_weights_of_the_others_and_the_test_part_by_those_of_all(
    plus_config: MakeConfig,
) -> None:
    model, valid, test = parts(plus_config())
    everyone = Interaction({"user_id": torch.arange(1, model.n_users)})
    by_graph = model.full_sort_predict(everyone)
    assert not model.ranks_strangers
    users, items = model.ranking_vectors()
    assert_close(by_graph.view(model.n_users - 1, -1), users[1:] @ items.T)

    model.learn_from_validation(valid._dataset, valid.known)
    assert model.ranks_strangers
    chosen_by, choices = choices_of(model, valid._dataset, OTHERS)
    assert_close(model.weights[0, OTHERS], fit_weights(choices, choices).values)
    for fold in range(FOLDS):
        rest = choices.of_users(chosen_by % FOLDS != fold)
        assert len(rest.owner) < len(choices.owner)
        assert_close(model.weights[1 + fold, OTHERS], fit_weights(rest, rest, model.weights[0, OTHERS]).values)
    assert len({tuple(weights.tolist()) for weights in model.weights[:, OTHERS]}) == 1 + FOLDS
    for loader, cross_fitted in ((valid, True), (test, False)):
        model.about_to_rank(loader.known)
        scores = model.full_sort_predict(everyone).view(model.n_users - 1, -1)
        people = model.people(everyone["user_id"])
        assert torch.equal(people.now, loader.known.moments[1:])
        for user in range(1, model.n_users):
            weights = model.weights[1 + user % FOLDS if cross_fitted else 0, OTHERS]
            expected = sum(
                weight * standardised(EVIDENCE[name](), people, model.statistics)[user - 1]
                for weight, name in zip(weights, EVERYTHING, strict=True)
            )
            assert_close(scores[user - 1], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_strangers_are_ranked_by_what_needs_no_history(plus_config: MakeConfig) -> None:
    model, valid, test = parts(plus_config(**TEMPORAL))
    model.learn_from_validation(valid._dataset, valid.known)
    n_needless = len(NEED_NOTHING)
    assert (model.weights[:, STRANGERS, n_needless:] == 0).all()
    model.weights[:, STRANGERS, :n_needless] = torch.tensor([0.5, 1.0, 2.0])  # in random data the fit finds nothing
    model.about_to_rank(test.known)
    strangers = (~model.graph.has_edge).nonzero().flatten()[1:]
    found = model.contributions(strangers)
    assert len(strangers) > 1 and all((found[name] == 0).all() for name in EVERYTHING[n_needless:])
    scores = model.full_sort_predict(Interaction({"user_id": strangers})).view(len(strangers), -1)
    assert_close(scores, sum(found[name] for name in NEED_NOTHING))
    assert_close(scores, scores[:1].expand_as(scores))


def test_where_no_stranger_is_in_validation_strangers_have_the_weights_of_the_others(plus_config: MakeConfig) -> None:
    model, valid, _ = parts(plus_config())
    model.learn_from_validation(valid._dataset, valid.known)
    n_needless = len(NEED_NOTHING)
    assert torch.equal(model.weights[:, STRANGERS, :n_needless], model.weights[:, OTHERS, :n_needless])
    assert (model.weights[:, STRANGERS, n_needless:] == 0).all(), "strangers have no history"


@pytest.mark.parametrize("evidence", [["trend"], ["graph", "own_words"], EVERYTHING[::-1]])
def test_the_evidence_is_that_of_the_settings(plus_config: MakeConfig, evidence: list[str]) -> None:
    model, valid, _ = parts(plus_config(evidence=evidence))
    model.learn_from_validation(valid._dataset, valid.known)
    assert list(model.contributions(torch.tensor([1, 2]))) == evidence
    assert list(model.learned()["weights of users with a history"]) == evidence


def test_no_held_out_review_bears_on_a_score(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own" / "own", tiny_rows())
    own = {"model": "SymCEREPlus", "dataset": "own", "data_path": str(folder.parent)}
    config = Config(config_dict=settings | own)
    part = create_dataset(config).build()[0]
    training = set(part.id2token("review_id", part.inter_feat["review_id"].numpy()))
    file = folder / "own.review.jsonl"

    def scores() -> Tensor:
        model, valid, test = parts(config)
        model.learn_from_validation(valid._dataset, valid.known)
        model.about_to_rank(test.known)
        return model.full_sort_predict(Interaction({"user_id": torch.arange(1, model.n_users)}))

    def change(of: Callable[[str], bool]) -> None:
        lines = map(json.loads, file.read_text().splitlines())
        changed = [line | {"review": "love the cable"} if of(line["review_id"]) else line for line in lines]
        file.write_text("".join(json.dumps(line) + "\n" for line in changed))

    before = scores()
    change(lambda review: review not in training)
    assert torch.equal(scores(), before)
    change(lambda review: review == min(training))
    assert not torch.equal(scores(), before)


# Runs


def test_a_checkpoint_recommends_without_reviews_as_the_whole_model_ranks(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.pth"
    run_recbole_symcere(config_dict=settings | {"model": "SymCEREPlus", "checkpoint_file": str(file)})
    expected = ranked_by_recbole(file, ["u3", "u11"], k=5)
    shutil.rmtree(tmp_path / "text")
    monkeypatch.delattr(ReviewDataset, "review_texts")
    assert recommend(file, ["u3", "u11"], k=5, config_dict={"text_encoder": "gone"}) == expected


def test_a_stranger_gets_what_the_model_ranks_first_and_not_what_was_popular_recently(
    settings: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.pth"
    own = {"model": "SymCEREPlus", "checkpoint_file": str(file), "protocol": "temporal", "state": "WARNING"}
    weights = {"evidence": ["newness", "graph"], "evidence_weights": {"newness": 1.0, "graph": 1.0}}
    run_recbole_symcere(config_dict=settings | own | weights)
    _, model, dataset, *_ = load_data_and_model(file)
    stranger = int((~model.graph.has_edge).nonzero()[1])
    token = str(dataset.id2token("user_id", stranger))
    capfd.readouterr()
    (best,) = recommend(file, [token], k=5).values()
    told = "".join(capfd.readouterr())
    with torch.no_grad():
        scores = model.full_sort_predict(Interaction({"user_id": torch.tensor([stranger])}))
    items = dataset.token2id("item_id", [item for item, _ in best])
    assert [score for _, score in best] == pytest.approx(scores[torch.from_numpy(items)].tolist(), rel=1e-5)
    assert best[0][1] == pytest.approx(float(scores[1:].max()), rel=1e-5)
    assert "1 of 1 users have no training interaction, so the model ranks for them by what needs no history" in told


def test_a_second_fit_has_the_weights_of_the_first_and_the_result_file_shows_them(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    file, result_file = tmp_path / "run.pth", tmp_path / "run.json"
    own = {"model": "SymCEREPlus", "checkpoint_file": str(file), "result_file": str(result_file), "refit": True}
    result = run_recbole_symcere(config_dict=settings | own)
    first, second = (load_checkpoint(path)["state_dict"] for path in (validation_path(file), file))
    assert torch.equal(first["weights"], second["weights"]) and first["weights"].isfinite().all()
    assert not torch.equal(first["graph_encoder.embedding.weight"], second["graph_encoder.embedding.weight"])
    record = json.loads(result_file.read_text())
    shown = record["learned"]["weights of users with a history"]
    assert [shown[name]["weight"] for name in EVERYTHING] == first["weights"][0, OTHERS].tolist()
    assert [shown[name]["error"] for name in EVERYTHING] == first["weight_errors"][OTHERS].tolist()
    assert result["best_valid_score"] == record["best_valid_result"]["ndcg@10"]


def test_a_run_tells_the_weights(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    model, valid, _ = parts(Config(config_dict=settings | {"model": "SymCEREPlus", **TEMPORAL}))
    with caplog.at_level("INFO"):
        model.learn_from_validation(valid._dataset, valid.known)
    told = caplog.messages[-1].splitlines()
    assert [line.partition(":")[0] for line in told] == ["weights of users with a history", "weights of strangers"]
    for k, name in enumerate(EVERYTHING):
        weight, error = float(model.weights[0, OTHERS, k]), float(model.weight_errors[OTHERS, k])
        assert (f"{name} {weight:.2f} ± {error:.2f}" in told[0]) == (weight > 0)


@pytest.mark.parametrize(
    ("protocol", "added"), [("strict", []), ("temporal", []), ("strangers", ["burst"]), ("rolling", ["burst"])]
)
def test_short_lived_evidence_is_used_where_validation_asks_as_the_test_part_does(
    plus_config: MakeConfig, protocol: str, added: list[str]
) -> None:
    assert evidence_names(plus_config(protocol=protocol)) == EVERYTHING + added
    assert evidence_names(plus_config(protocol=protocol, short_lived=[])) == EVERYTHING
    assert evidence_names(plus_config(protocol=protocol, evidence=["burst"])) == ["burst"], "once"


def test_weights_that_are_given_are_not_fitted(plus_config: MakeConfig) -> None:
    given = {name: 0.25 * number for number, name in enumerate(EVERYTHING, start=1)}
    model, valid, _ = parts(plus_config(evidence_weights=given, **TEMPORAL))
    model.learn_from_validation(valid._dataset, valid.known)
    no_history = [weight if name in NEED_NOTHING else 0 for name, weight in given.items()]
    assert model.weights[:, OTHERS].tolist() == [list(given.values())] * (1 + FOLDS)
    assert model.weights[:, STRANGERS].tolist() == [no_history] * (1 + FOLDS)
    assert not model.weight_errors.any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("trend", "is 'trend', but must be such as"),
        ({"trend": 1, "graf": 1}, "names graf, which is not in evidence; did you mean 'graph'?"),
        ({"trend": 1}, "has no weight for graph: give one for each piece, or leave evidence_weights empty"),
        ({"trend": -1, "graph": 1}, "gives trend the weight -1, but it must be a number from 0"),
        ({"trend": 1, "graph": True}, "gives graph the weight True"),
        ({"trend": 0, "graph": 0.0}, "gives every piece the weight 0"),
    ],
)
def test_weights_that_cannot_be_used_are_told(plus_config: MakeConfig, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"evidence_weights {message}")):
        SymCEREPlus.check_settings(plus_config(evidence=["trend", "graph"], evidence_weights=given))


def test_without_word_statistics_the_target_is_the_encoders_vector(plus_config: MakeConfig) -> None:
    (with_words, *_), (alone, *_) = (build(plus_config(word_directions=n)) for n in (5, 0))
    assert with_words.features.shape[1] == alone.features.shape[1] + 5
    width = alone.features.shape[1]
    assert_close(F.normalize(with_words.features[:, :width], dim=1), F.normalize(alone.features, dim=1))


def test_a_finished_run_that_is_given_again_has_the_same_result(settings: dict[str, Any], tmp_path: Path) -> None:
    own = settings | {"model": "SymCEREPlus", "checkpoint_file": str(tmp_path / "run.pth")}
    assert run_recbole_symcere(config_dict=own) == run_recbole_symcere(config_dict=own)


def test_the_weights_are_fitted_at_the_best_epoch_and_validation_is_ranked_again(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings: list[Tensor] = []
    learned_at: list[Tensor] = []
    scores = iter([0.9, 0.5, 0.4, 0.3])
    learn = SymCEREPlus.learn_from_validation

    def embedding_of(model: SymCEREPlus) -> Tensor:
        return model.graph_encoder.embedding.weight.detach().clone()

    def validate(trainer: Trainer, *_: Any, **__: Any) -> tuple[float, dict[str, float]]:
        embeddings.append(embedding_of(trainer.model))
        return next(scores), {"ndcg@10": 0.0}

    def spy(model: SymCEREPlus, *given: Any) -> None:
        learned_at.append(embedding_of(model))
        learn(model, *given)

    monkeypatch.setattr(RankingTrainer, "_valid_epoch", validate)
    monkeypatch.setattr(SymCEREPlus, "learn_from_validation", spy)
    own = {"model": "SymCEREPlus", "checkpoint_file": str(tmp_path / "run.pth"), "eval_step": 1, "valid_window": 1}
    result = run_recbole_symcere(config_dict=settings | own)
    assert torch.equal(learned_at[0], embeddings[0]) and not torch.equal(learned_at[0], embeddings[-1])
    config, model, _, train_data, valid_data, _ = load_data_and_model(tmp_path / "run.pth")
    trainer = Trainer(config, model)
    trainer.eval_collector.data_collect(train_data)
    again = trainer.evaluate(valid_data, load_best_model=False)
    assert result["best_valid_result"] == again and result["best_valid_score"] == again["ndcg@10"] > 0


@torch.no_grad()
def test_a_ranking_keeps_the_scores_of_strangers(plus_config: MakeConfig) -> None:
    config = plus_config(**TEMPORAL)
    model, valid, test = parts(config)
    model.learn_from_validation(valid._dataset, valid.known)
    model.about_to_rank(test.known)
    strangers = (~model.graph.has_edge).nonzero().flatten()[1:]
    scores = model.full_sort_predict(Interaction({"user_id": strangers})).view(len(strangers), -1)
    trainer = Trainer(config, model)
    trainer.eval_collector.known = test.known
    nothing = torch.zeros(0)
    _, ranked, _, _ = trainer._ranked(Interaction({"user_id": strangers}), scores.clone(), nothing, nothing)
    known = model.statistics.known
    assert test.known.cold[strangers].all() and torch.equal(ranked[:, known], scores[:, known])

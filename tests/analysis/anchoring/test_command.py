"""The anchoring index by hand, its interval's promise, and the command on reviews whose truth is planted."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F

from recbole_symcere.analysis.__main__ import main
from recbole_symcere.analysis.anchoring.attribution import text_references
from recbole_symcere.analysis.anchoring.corpus import PRETRAINED
from recbole_symcere.analysis.anchoring.index import (
    Estimate,
    anchoring,
    by_word,
    contribution,
    index_difference,
    resampled_sums,
)
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.analysis.words import GROUPS
from recbole_symcere.quick_start import run_recbole_symcere
from tests.conftest import START, Row, write_atomic_files

OBJECTIVE, SENTIMENT, STOP, _, OTHER = range(len(GROUPS))
TOPICS = ("gasket", "string", "tuner", "cable", "strap", "pedal")
FEELINGS = ("great", "good", "love")


# The index


def test_the_index_by_hand() -> None:
    attribution = np.array([0.4, 0.2, 0.1, -0.1, 0.0, 0.2])
    group = np.array([OBJECTIVE, OBJECTIVE, SENTIMENT, SENTIMENT, STOP, OTHER])
    found = anchoring(attribution, group, np.array([0, 0, 1, 2, 3, 4]), np.array([0, 1, 0, 1, 0, 1]), draws=50)
    assert found.mean_absolute == pytest.approx(1.0 / 6)
    assert found.index.value == pytest.approx((0.3 - 0.0) / (1 / 6))
    objective = found.groups["objective"]
    assert (objective.words, objective.mean.value) == (1, pytest.approx(0.3))
    assert objective.share_of_words == pytest.approx(2 / 6)
    assert objective.share_of_mass == pytest.approx(0.6 / 0.8)
    assert found.groups["sentiment"].share_of_mass == pytest.approx(0)
    assert sum(one.share_of_words for one in found.groups.values()) == pytest.approx(1)
    assert sum(one.share_of_mass for one in found.groups.values()) == pytest.approx(1)
    assert found.groups["other language"].contribution == "none"


@pytest.mark.parametrize("missing", [OBJECTIVE, SENTIMENT])
def test_without_one_of_the_two_groups_there_is_no_index(missing: int) -> None:
    group = np.full(6, OBJECTIVE if missing == SENTIMENT else SENTIMENT)
    found = anchoring(np.ones(6), group, np.arange(6), np.arange(6), draws=20)
    assert np.isnan([found.index.value, found.index.low, found.index.high]).all()
    nothing = np.zeros(0, int)
    assert np.isnan(anchoring(np.zeros(0), nothing, nothing, nothing, draws=20).index.value)


def test_contributions_are_the_papers_words_for_what_the_interval_allows() -> None:
    estimates = [(0.3, 0.1, 0.5), (0.07, 0.01, 0.2), (0.04, 0.01, 0.2), (0.3, -0.1, 0.5), (-0.3, -0.4, -0.1)]
    assert [contribution(Estimate(*one), mean_absolute=0.1) for one in estimates] == [
        "strong",
        "supporting",
        "weak",
        "noise",
        "detrimental",
    ]


def test_reviews_and_words_are_resampled_each_on_its_own() -> None:
    word, review = np.array([3, 3, 8, 8]), np.array([5, 9, 5, 9])
    drawn = resampled_sums(np.eye(4), word, review, draws=4000, seed=0)  # how often each of four occurrences is drawn
    by_word, by_review = drawn[:, :2].sum(1) / 2, drawn[:, [0, 2]].sum(1) / 2  # of the first word, of the first review
    times = [w * r for w in (by_word, 2 - by_word) for r in (by_review, 2 - by_review)]
    np.testing.assert_array_equal(drawn, np.column_stack(times))
    for side in (by_word, by_review):  # two draws of two
        np.testing.assert_allclose(np.bincount(side.astype(int)) / 4000, [0.25, 0.5, 0.25], atol=0.03)
    assert abs(np.corrcoef(by_word, by_review)[0, 1]) < 0.05
    few = resampled_sums(np.eye(4), word, review, draws=7, seed=3)
    np.testing.assert_array_equal(few, resampled_sums(np.eye(4), word, review, draws=7, seed=3))


def planted_attributions(seed: int, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """100 reviews of 8 of 24 words, half objective; each word has a pull of its own, by chance."""
    random = np.random.default_rng(seed)
    review = np.repeat(np.arange(100), 8)
    word = random.integers(24, size=800)
    group = np.where(word % 2 == 0, OBJECTIVE, SENTIMENT)
    own = random.normal(0, 1, 24)[word]
    return own + random.normal(0, 1, 800) + effect * (group == OBJECTIVE), group, word, review


def test_the_interval_holds_0_where_words_pull_by_chance_and_not_where_a_group_does() -> None:
    held = [found.index.low <= 0 <= found.index.high for found in (covered(seed, 0.0) for seed in range(60))]
    assert np.mean(held) > 0.85  # 0.95 of very many
    assert all(covered(seed, 3.0).index.low > 0 for seed in range(10))


def covered(seed: int, effect: float) -> Any:
    return anchoring(*planted_attributions(seed, effect), draws=300, seed=seed)


def test_a_difference_of_indices_is_that_of_each_resample() -> None:
    attribution, group, word, review = planted_attributions(0, 1.0)
    other = 3 * planted_attributions(1, 0.2)[0]
    found = index_difference(attribution, other, group, word, review, draws=40, seed=2)
    sizes = 24, 100
    random, drawn = np.random.default_rng(2), []
    word_draws, review_draws = (random.multinomial(n, np.full(n, 1 / n), 40) for n in sizes)
    for by_words, by_reviews in zip(word_draws, review_draws, strict=True):
        times = by_words[word] * by_reviews[review]
        one, two = (index_of(np.repeat(each, times), np.repeat(group, times)) for each in (attribution, other))
        drawn.append(one - two)
    assert found.value == pytest.approx(index_of(attribution, group) - index_of(other, group))
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist())


def index_of(attribution: np.ndarray, group: np.ndarray) -> float:
    objective, sentiment = (attribution[group == one].mean() for one in (OBJECTIVE, SENTIMENT))
    return float((objective - sentiment) / np.abs(attribution).mean())


def test_models_that_move_together_differ_by_less_than_their_intervals_say() -> None:
    attribution, group, word, review = planted_attributions(0, 1.0)
    same = index_difference(attribution, attribution, group, word, review, draws=50)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    other = attribution + 0.5 * (group == OBJECTIVE)
    difference = index_difference(other, attribution, group, word, review, draws=300)
    first, second = (anchoring(one, group, word, review, draws=300).index for one in (attribution, other))
    assert first.high > second.low and difference.low > 0
    assert np.isnan(index_difference(other, attribution, np.full(len(group), OTHER), word, review, draws=5).value)


def test_words_have_the_mean_of_their_occurrences_and_an_interval_over_reviews() -> None:
    word = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    review = np.array([0, 0, 1, 2, 3, 4, 0, 1, 2, 3])
    attribution = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0])
    found = by_word(attribution, word, review, draws=2000)
    assert found["word"].tolist() == [1]  # 0 is in four reviews only
    assert (found["reviews"].tolist(), found["occurrences"].tolist()) == ([5], [6])
    assert found["mean"].tolist() == [0.5]
    random = np.random.default_rng(1)
    sums, counts = np.array([1.0, 0, 1, 0, 1]), np.array([2, 1, 1, 1, 1])
    means = [sums[drawn].sum() / counts[drawn].sum() for drawn in random.integers(5, size=(2000, 5))]
    np.testing.assert_allclose([found["low"][0], found["high"][0]], np.percentile(means, [2.5, 97.5]), atol=0.05)


# The command

Train = Callable[..., Path]


def planted_rows(seed: int = 0) -> list[Row]:
    """Users who like two of six topics; each review names its item's, amid feelings drawn at random."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for user in range(120):
        liked = np.isin(np.arange(36) % 6, random.choice(6, 2, replace=False))
        for item in random.choice(36, 11, replace=False, p=np.where(liked, 9.0, 0.5) / np.where(liked, 9, 0.5).sum()):
            feeling, other = random.choice(FEELINGS, 2)
            text = f"{feeling} the {TOPICS[item % 6]} a {other} it {TOPICS[item % 6]}"
            n = len(rows)
            rows.append((f"user{user}", f"item{item}", 4.0, float(START + 100 * n), f"{n}-of-user{user}", text))
    return rows


@pytest.fixture(scope="module")
def planted_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_atomic_files(tmp_path_factory.mktemp("dataset") / "planted", planted_rows())


@pytest.fixture
def train(settings: dict[str, Any], planted_dataset: Path, tmp_path: Path) -> Train:
    """Trains a small model on the planted reviews under changed settings; returns its checkpoint."""

    def run(name: str, **changes: Any) -> Path:
        file = tmp_path / f"{name}.pth"
        given = {"dataset": "planted", "data_path": str(planted_dataset.parent), "checkpoint_file": str(file)}
        run_recbole_symcere(config_dict=settings | given | {"epochs": 1} | changes)
        return file

    return run


@pytest.fixture
def _few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures in one format: they take longer than all the rest."""
    monkeypatch.setattr("recbole_symcere.analysis.figures.FORMATS", ("svg",))


def command(*arguments: str | Path) -> int:
    return main(["anchoring", *map(str, arguments)])


def models_of(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "anchoring.json").read_text(encoding="utf-8"))
    return {model["label"]: model for model in content["models"]}


@pytest.mark.usefixtures("_few_files")
def test_the_index_finds_the_planted_truth_and_vanishes_with_shuffled_texts(train: Train, tmp_path: Path) -> None:
    longer = {"epochs": 15, "learning_rate": 0.02, "text_pooling": "mean", "eval_step": 5}
    checkpoints = train("true", **longer), train("shuffled", text_source="shuffled", **longer)
    assert command("--checkpoint", *checkpoints, "--output", tmp_path / "out", "--lime", "0") == 0
    models = models_of(tmp_path / "out")
    assert models["true"]["index"]["low"] > 0.5
    assert models["shuffled"]["index"]["low"] <= 0 <= models["shuffled"]["index"]["high"]
    assert models["true"]["groups"]["objective"]["contribution"] == "strong"
    assert set(models["true"]["groups"]["objective"]["examples"]) <= set(TOPICS)
    assert models["true"]["groups"]["sentiment"]["words"] == 3
    assert models[PRETRAINED]["index"]["low"] > 0
    assert models["true"]["less_first"] == {"value": 0, "low": 0, "high": 0}
    assert models["shuffled"]["less_first"]["high"] < 0
    difference = models["shuffled"]["index"]["value"] - models["true"]["index"]["value"]
    assert models["shuffled"]["less_first"]["value"] == pytest.approx(difference)


def test_the_command_writes_the_same_files_twice_without_texts_or_users(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = [f"a|b={train('a')}", train("no norm", normalize=False)]
    for folder in ("first", "second"):
        given = ["--output", tmp_path / folder, "--reviews", "50", "--lime", "2", "--perturbations", "30"]
        assert command("--checkpoint", *checkpoints, *given) == 0
    printed = capsys.readouterr().out
    names = {file.name for file in (tmp_path / "first").iterdir()}
    assert names == {"anchoring.json", "anchoring.md", "anchoring-words.csv"} | {
        f"{figure}.{suffix}" for figure in ("anchoring-index", "anchoring-words") for suffix in ("svg", "png", "pdf")
    }
    texts = [row[5] for row in planted_rows()]
    for name in names:
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second"))
        assert first == second, name
        assert not any(text.encode() in first for text in texts), name
        assert b"user4" not in first and str(tmp_path).encode() not in first, name
    markdown = (tmp_path / "first" / "anchoring.md").read_text()
    assert printed == f"{markdown}\n" * 2
    assert r"a\|b" in markdown and "planted: en" in markdown
    models = models_of(tmp_path / "first")
    assert list(models) == ["a|b", "no norm", PRETRAINED]
    for model in models.values():
        assert model["reviews"] == 50 and len(model["lime"]) == 2
        for explained in model["lime"]:
            assert set(explained) == {"item", "cosine", "signal", "towards", "away"}
            assert all(word["weight"] > 0 for word in explained["towards"])
            assert all(word["weight"] < 0 for word in explained["away"])
    with (tmp_path / "first" / "anchoring-words.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows if row["word"] in TOPICS} == {"objective"}
    assert {row["group"] for row in rows if row["word"] in FEELINGS} == {"sentiment"}
    assert {row["model"] for row in rows} == set(models)
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows)


@pytest.mark.usefixtures("_few_files")
def test_chosen_reviews_are_explained_and_shown_only_when_asked(train: Train, tmp_path: Path) -> None:
    checkpoint, out = train("a"), tmp_path / "out"
    given = ["--checkpoint", checkpoint, "--output", out, "--perturbations", "30"]
    assert command(*given, "--reviews", "20", "--show-text") == 0
    wanted = [explained["review"] for explained in models_of(out)["a"]["lime"]]
    assert len(wanted) == 3
    text = {row[4]: row[5] for row in planted_rows()}
    assert command(*given, "--reviews", "5", "--review", *wanted[:2]) == 0
    assert [explained["review"] for explained in models_of(out)["a"]["lime"]] == wanted[:2]
    assert not any(text[review] in (out / "anchoring.md").read_text() for review in wanted)
    assert command(*given, "--reviews", "5", "--review", *wanted[:2], "--show-text") == 0
    shown = {explained["review"]: explained for explained in models_of(out)["a"]["lime"]}
    assert set(shown) == set(wanted[:2])
    for review, explained in shown.items():
        assert explained["text"] == text[review]
        assert [word for word, _ in explained["words"]] == text[review].split()
        assert max(weight for _, weight in explained["words"]) == pytest.approx(explained["towards"][0]["weight"])
        assert text[review] in (out / "anchoring.md").read_text()


@pytest.mark.usefixtures("_few_files")
def test_parts_and_encoders_may_differ_and_every_dataset_has_its_pre_trained_row(
    train: Train, tiny_dataset: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "tiny.pth"
    run_recbole_symcere(config_dict=settings | {"checkpoint_file": str(other), "epochs": 1})
    lora = train("lora", text_train="lora")
    given = ["--part", "train", "--reviews", "10", "--lime", "1", "--perturbations", "20", "--output", tmp_path / "out"]
    frozen = train("frozen")
    assert command("--checkpoint", frozen, lora, other, *given) == 0
    content = json.loads((tmp_path / "out" / "anchoring.json").read_text())
    rows = [(model["dataset"], model["label"]) for model in content["models"]]
    planted = [("planted", "frozen"), ("planted", "lora"), ("planted", PRETRAINED)]
    assert rows == [*planted, ("tiny", "tiny"), ("tiny", PRETRAINED)]
    assert content["part"] == "train"
    assert content["models"][2]["cosine"] == pytest.approx(pretrained_cosine(TrainedModel(frozen), n=10), abs=1e-5)
    assert {"anchoring-words-1.svg", "anchoring-words-2.svg"} <= {file.name for file in (tmp_path / "out").iterdir()}


def pretrained_cosine(trained: TrainedModel, n: int) -> float:
    """The mean over n training reviews: each with what the others of its user and its item say."""
    vectors = trained.encoder_vectors("train")
    references = text_references(vectors, list(zip(trained.pairs(), trained.pairs(), strict=True)), vectors)
    rows = np.random.default_rng(0).choice(len(vectors), n, replace=False)
    return float(F.cosine_similarity(vectors - vectors.mean(0), references)[rows].mean())


def test_what_cannot_be_used_is_told_at_once(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = train("a")
    (tmp_path / "file").touch()
    no_text = train("graph", cross_weight=0, alpha_text=0)
    for arguments, message in [
        (["--checkpoint", checkpoint, checkpoint], "labels must differ"),
        (["--checkpoint", f"{PRETRAINED}={checkpoint}"], "labels must differ"),
        (["--checkpoint", no_text], "without reviews"),
        (["--checkpoint", checkpoint, "--review", "nowhere"], "--review nowhere"),
        (["--checkpoint", checkpoint, "--lime", "-1"], "--lime"),
        (["--checkpoint", checkpoint, "--seed", "-1"], "--seed"),
        (["--checkpoint", checkpoint, "--output", tmp_path / "file"], "--output: the folder"),
    ]:
        assert command(*arguments) == 2
        assert message in capsys.readouterr().err
    assert not any(Path("analysis").iterdir())

"""The command ``geometry`` on tiny models: its numbers against slow loops over the model's own vectors, its files."""

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex

from recbole_symcere.analysis.__main__ import main
from recbole_symcere.analysis.figures import COLOURS
from recbole_symcere.analysis.geometry import figures
from recbole_symcere.analysis.geometry import measuring as geometry
from recbole_symcere.analysis.geometry.figures import GREY, draw_maps, project
from recbole_symcere.analysis.geometry.measuring import Geometry, measure, views_after, views_before
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.run import build_model

Train = Callable[..., Path]


@pytest.fixture
def train(settings: dict[str, Any], tmp_path: Path) -> Train:
    """Trains a tiny model under changed settings; returns its checkpoint."""

    def run(name: str, **changes: Any) -> Path:
        file = tmp_path / f"{name}.pth"
        run_recbole_symcere(config_dict=settings | {"checkpoint_file": str(file), "epochs": 2} | changes)
        return file

    return run


def geometry_of(checkpoint: Path, part: str = "train") -> tuple[TrainedModel, Geometry]:
    trained = TrainedModel(checkpoint)
    return trained, measure(trained, part, views_before(trained, part), views_after(trained, part))


def command(*arguments: str | Path) -> int:
    return main(["geometry", *map(str, arguments)])


def test_the_command_writes_the_same_files_twice_for_models_with_and_without_normalisation(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = [f"with=1={train('a')}", train("without", normalize=False)]
    for folder in ("first", "second"):
        assert command("--checkpoint", *checkpoints, "--output", tmp_path / folder, "--points", 20) == 0
    printed = capsys.readouterr().out
    names = {file.name for file in (tmp_path / "first").iterdir()}
    figures = ("figure-4", "figure-cosines", "figure-1-with-1", "figure-1-without")
    assert names == {f"geometry.{suffix}" for suffix in ("json", "md", "csv", "tex")} | {
        f"{figure}.{suffix}" for figure in figures for suffix in ("svg", "png", "pdf")
    }
    for name in names:
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second"))
        assert first == second, name
    markdown = (tmp_path / "first" / "geometry.md").read_text()
    assert printed == markdown * 2
    rows = {row[0]: row[1:] for row in re.findall(r"^\| *(.*?) *\| *(.*?) *\| *(.*?) *\|$", markdown, re.MULTILINE)}
    assert rows["measure"] == ("with=1", "without")
    assert rows["normalize"] == ("True", "False")
    assert rows["users"] == ("40", "40") and rows["items"] == ("30", "30")
    assert "n/a" not in "".join(itertools.chain(*rows.values()))
    content = json.loads((tmp_path / "first" / "geometry.json").read_text())
    assert content["part"] == "train" and "torch" in content["versions"]
    for column, found in enumerate(content["checkpoints"]):
        assert found["label"] == rows["measure"][column]
        for name, value in found["values"].items():
            assert rows[name][column] == (f"{value:.4g}" if isinstance(value, float) else str(value))
        assert len(found["variance_by_dimension"]["users"]) == 8
    assert str(tmp_path) not in (tmp_path / "first" / "geometry.json").read_text()


def test_cosines_variances_and_norms_are_of_all_users_and_items_but_the_padding(train: Train) -> None:
    trained, found = geometry_of(train("a"), part="test")
    users, items = (vectors[1:].double().numpy() for vectors in trained.nodes)
    table = np.array([[u @ v / np.linalg.norm(u) / np.linalg.norm(v) for v in items] for u in users])
    expected = {"mean": table.mean(), "standard deviation": table.std(), "min": table.min(), "max": table.max()}
    expected |= {f"{q}%": np.quantile(table, q / 100) for q in (25, 50, 75)}
    for name, value in expected.items():
        assert found.values[f"cosine of user and item, {name}"] == pytest.approx(value, abs=1e-9)
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    assert found.values["variance by dimension, items, max"] == pytest.approx(unit.var(0).max())
    pairs, held_out = (list(zip(*(x.tolist() for x in trained.pairs(part)), strict=True)) for part in ("train", "test"))
    popularity = [sum(item == other for _, other in pairs) for item in range(1, 31)]
    activity = [sum(user == other for other, _ in pairs) for user in range(1, 41)]
    for name, vectors, counts in (
        ("item norm and popularity", items, popularity), ("user norm and activity", users, activity)
    ):  # fmt: skip
        pearson = np.corrcoef(np.linalg.norm(vectors, axis=1), counts)[0, 1]
        assert found.values[f"{name}, Pearson"] == pytest.approx(pearson, abs=1e-9)
    distances = [2 - 2 * table[user - 1, item - 1] for user, item in held_out]
    assert found.values["alignment, user and item"] == pytest.approx(np.mean(distances))


def test_a_vector_of_zeros_has_no_direction_and_is_left_out(train: Train) -> None:
    trained = TrainedModel(train("a"))
    users, items = (vectors.clone() for vectors in trained.nodes)
    items[5] = 0
    trained.nodes = users, items
    found = measure(trained, "train", views_before(trained, "train"), views_after(trained, "train"))
    kept = F.normalize(torch.cat([items[1:5], items[6:]]), dim=1)
    assert (found.values["users"], found.values["items"]) == (40, 29)
    expected = float((F.normalize(users[1:], dim=1) @ kept.T).mean())
    assert found.values["cosine of user and item, mean"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("changes", [{"text_train": "lora"}, {"normalize": False}])
def test_before_is_the_model_at_its_first_step_and_after_is_the_checkpoint(
    train: Train, part: str, changes: dict[str, Any]
) -> None:
    trained, found = geometry_of(train("a", text_learning_rate=0.01, **changes), part)
    data = trained.parts[part]
    users, items = trained.pairs(part)
    untrained = build_model(trained.config, trained.train).eval()
    pretrained = ReviewEncoder.from_config(trained.config).eval()
    for when, model, encoder in (("before", untrained, pretrained), ("after", trained.model, trained.encoder)):
        with torch.no_grad():
            user_vectors, item_vectors = model(model.graph.adjacency())
            rows = np.arange(len(users))
            text = model.projection(encoder(data.tokenised_reviews(encoder), torch.from_numpy(rows)))
            graph = F.normalize(user_vectors[users] + item_vectors[items], dim=1)
        text = F.normalize(text, dim=1)
        cosines = (graph @ text.T).numpy()
        expected = {
            "modality gap": math.dist(graph.mean(0).tolist(), text.mean(0).tolist()),
            "cosine with the own review": cosines.diagonal().mean(),
            "cosine with other reviews": cosines[~np.eye(len(rows), dtype=bool)].mean(),
        }
        for name, value in expected.items():
            assert found.values[f"{name}, {when} training"] == pytest.approx(value, abs=1e-5), (name, when)
    assert found.values["alignment, graph and review"] == pytest.approx(2 - 2 * cosines.diagonal().mean(), abs=1e-5)
    assert found.values["interactions"] == len(data)


def test_a_model_without_reviews_has_the_graphs_rows_and_a_map(train: Train, tmp_path: Path) -> None:
    output = tmp_path / "out"
    checkpoints = train("none", cross_weight=0, alpha=0), train("random", text_source="random")
    assert command("--checkpoint", *checkpoints, "--output", output, "--points", 20) == 0
    for checkpoint in json.loads((output / "geometry.json").read_text())["checkpoints"]:
        missing = {name for name, value in checkpoint["values"].items() if value is None}
        assert missing == {name for name in checkpoint["values"] if re.search("review|modality", name)}
        assert missing >= {"uniformity, reviews", "modality gap, after training"}
        assert (output / f"figure-1-{checkpoint['label']}.svg").exists()
    table = " ".join((output / "geometry.md").read_text().split())
    assert all(f"| {name} | n/a | n/a |" in table for name in missing)


def test_what_cannot_be_analysed_is_said_before_anything_is_written(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, output = train("a"), tmp_path / "out"
    file = tmp_path / "file"
    file.touch()
    for arguments, message in (
        (["--checkpoint", checkpoint, checkpoint], "name them apart"),
        (["--checkpoint", f"a b={checkpoint}", f"a/b={checkpoint}"], "name them apart"),
        (["--checkpoint", checkpoint, "--points", "9"], "--points 9"),
        (["--checkpoint", checkpoint, "--output", file], "--output: the folder"),
        (["--checkpoint", checkpoint, tmp_path / "none.pth"], "none.pth"),
    ):
        assert command("--output", output, *arguments) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(geometry, "LEAST_POINTS", 200)
    assert command("--output", output, "--checkpoint", checkpoint, "--points", 200, "--part", "test") == 2
    n_test = len(TrainedModel(checkpoint).parts["test"])
    assert f"its part test has {n_test} interactions" in capsys.readouterr().err
    assert not any(output.iterdir())


def draw(folder: Path, n: int = 12) -> str:
    """The SVG of maps of ``n`` interactions."""
    rng = np.random.default_rng(0)
    moments = {when: [rng.normal(size=(n, 3)) for _ in range(2)] for when in ("before", "after")}
    tokens = np.array(["$a$", "b_1", "_c", "an item of a very long name"])
    given = {"moments": moments, "items": np.arange(n) % 4, "popularity": np.arange(4), "tokens": tokens}
    draw_maps(**given, seed=0, folder=folder, name="map")
    return (folder / "map.svg").read_text()


def test_a_map_names_modalities_items_and_units_and_reads_no_formula_in_a_token(tmp_path: Path) -> None:
    text = draw(tmp_path)
    for word in ("graph", "review", "before", "after", "training interactions", "t-SNE 1", "$a$", "b_1", "_c"):
        assert f"{word}</text>" in text, word
    assert "very long name" not in text


def test_a_dot_has_the_colours_of_its_own_modality_popularity_and_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels: list[dict[tuple[float, ...], Any]] = []

    def record(axis: Axes, places: np.ndarray, c: np.ndarray, norm: LogNorm | None = None) -> None:
        colours = list(map(float, c)) if norm else list(map(to_hex, c))
        panels.append(dict(zip(map(tuple, places.tolist()), colours, strict=True)))

    monkeypatch.setattr(figures, "project", lambda vectors, seed: vectors)
    monkeypatch.setattr(figures, "_dots", record)
    items = np.repeat(np.arange(8), [9, 2, 3, 4, 5, 6, 7, 8])  # the most frequent six: 0, 7, 6, 5, 4, 3
    sides = [[(float(side), float(row)) for row in range(len(items))] for side in range(2)]
    popularity, tokens = np.array([0, 1, 20, 3, 4, 5, 6, 7]), np.arange(8).astype(str)
    moments = {when: list(map(np.array, sides)) for when in ("before", "after")}
    draw_maps(moments, items, popularity, tokens, seed=0, folder=tmp_path, name="map")
    by_item = dict(zip((0, 7, 6, 5, 4, 3), COLOURS, strict=True))
    for modality, popular, item in (panels[:3], panels[3:]):
        for side in range(2):
            for row, place in enumerate(sides[side]):
                assert modality[place] == COLOURS[side]
                assert popular[place] == max(1, popularity[items[row]])
                assert item[place] == by_item.get(items[row], GREY)


def test_a_map_of_thousands_of_dots_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "project", lambda vectors, seed: vectors[:, :2])
    draw(tmp_path, n=2000)
    assert (tmp_path / "map.svg").stat().st_size < 300_000


def test_a_map_keeps_clusters_apart_and_is_the_same_for_the_same_seed(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    cluster = np.arange(60) % 2
    vectors = rng.normal(size=(60, 4)) * 0.1 + 5 * cluster[:, None]
    found = project(vectors, seed=1)
    assert found.shape == (60, 2)
    assert (found == project(vectors, seed=1)).all()
    distance = np.linalg.norm(found[:, None] - found, axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (cluster[distance.argmin(1)] == cluster).all()
    assert not caplog.records  # openTSNE logs that a perplexity is too high


def test_a_validation_part_that_trained_the_model_is_not_held_out(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = train("refitted", refit=True)
    output = ("--output", tmp_path / "geometry", "--points", 20)
    assert command("--checkpoint", file, "--part", "valid", *output) == 2
    told = capsys.readouterr().err
    assert "refitted.pth: the model was trained on the validation part, too (refit)" in told
    assert f"take {tmp_path / 'refitted.validation.pth'}, or --part=test" in told
    assert command("--checkpoint", tmp_path / "refitted.validation.pth", "--part", "valid", *output) == 0
    assert command("--checkpoint", file, "--part", "test", *output) == 0

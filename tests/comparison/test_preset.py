"""The tables of the paper: which models they have, their layout, and that every model is tuned for itself."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recbole_symcere.comparison.__main__ import main
from recbole_symcere.comparison.preset import METRICS, Preset, paper_texts, read_preset
from recbole_symcere.comparison.search import search_space
from recbole_symcere.comparison.tables import Run
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.registry import get_model

COLUMNS = ["NeuMF", "SGL", "NGCF", "LightGCN", "SMORE", "SymCERE-NGCF", "SymCERE"]


def run(model: str, mean: float, dataset: str = "toys", valid: float = 0.0) -> Run:
    users = [f"u{n}" for n in range(8)]
    values = np.linspace(mean - 0.05, mean + 0.05, len(users))
    per_user = pl.DataFrame({"user_id": users} | dict.fromkeys(METRICS, values))
    return Run(dataset, model, 2020, dict.fromkeys(METRICS, mean), per_user, valid, 1.0)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_table_2_has_the_papers_columns_and_the_best_of_ours_against_the_best_baseline() -> None:
    means = dict(zip(COLUMNS, [0.10, 0.20, 0.30, 0.40, 0.15, 0.50, 0.44], strict=True))
    preset = read_preset("paper")
    runs = [run(model, mean, dataset, valid=mean) for dataset in ("toys", "yelp") for model, mean in means.items()]
    text = paper_texts(preset, runs)
    head, _, *lines = text["md"].splitlines()
    grouped = [f"{group}: {model}" for group, models in preset.groups.items() for model in models]
    assert cells(head) == ["dataset", "metric", *grouped, "max. improv."]
    assert [cell.split(": ")[1] for cell in grouped] == COLUMNS
    rows = [cells(line) for line in lines[:4]]
    assert [row[:2] for row in rows] == [[name, metric] for name in ("toys", "yelp") for metric in ("HR@10", "NDCG@10")]
    assert rows[0][2:] == ["0.1000", "0.2000", "0.3000", "0.4000", "0.1500", "**0.5000**", "<u>0.4400</u>", "+25.0%"]
    assert "SymCERE-NGCF vs LightGCN" in text["md"], "the comparison with intervals and tests stands beneath"
    assert text["tex"].count(r"\begin{tabular}") == 2 and r"\textbf{0.5000}" in text["tex"]
    assert pl.read_csv(text["csv"].encode()).height == 2 * 2 * len(COLUMNS)


def test_the_improvement_is_negative_where_a_baseline_is_the_best() -> None:
    runs = [run(model, 0.5 if model == "SGL" else 0.4) for model in COLUMNS]
    assert cells(paper_texts(read_preset("paper"), runs)["md"].splitlines()[2])[-1] == "-20.0%"


def test_table_3_has_the_smallest_drop_from_the_whole_model_under_each_backbone() -> None:
    preset = read_preset("paper-ablation")
    means = dict(zip(preset.models, [0.01, 0.45, 0.50, 0.39, 0.41, 0.40], strict=True))
    text = paper_texts(preset, [run(model, mean) for model, mean in means.items()])
    row = cells(text["md"].splitlines()[2])
    assert row[2:] == ["0.0100", "<u>0.4500</u>", "**0.5000**", "+10.0%", "0.3900", "0.4100", "0.4000", "-2.5%"]
    beneath = text["md"].split("\n\n", 2)[2]
    for models in preset.groups.values():
        assert all(re.search(rf"^\| {model} ", beneath, re.MULTILINE) for model in models)
    assert "The interval" not in beneath and beneath.count("the change against") == 2


@pytest.mark.parametrize("name", ["paper", "paper-ablation", "paper-geometry"])
def test_each_model_of_a_preset_is_a_model_with_a_search_of_its_own(name: str) -> None:
    for model in read_preset(name).models:
        space = search_space(model, get_model(model))
        assert space.keys() <= Config(model, "tiny").known_keys and "learning_rate" in space
        assert ("message_dropout" in space) == ("NGCF" in model), model


def test_the_variants_differ_from_symcere_in_what_they_are_called_for() -> None:
    changes = {
        "SymCERE-NGCF": {"graph_encoder": "NGCF"},
        "SymCERE-InfoNCE": {"contrast": "infonce"},
        "SymCERE-unnormalised": {"normalize": False},
        "SymCERE-NGCF-InfoNCE": {"graph_encoder": "NGCF", "contrast": "infonce"},
        "SymCERE-NGCF-unnormalised": {"graph_encoder": "NGCF", "normalize": False},
    }
    whole = Config("SymCERE", "tiny").settings
    for model, change in changes.items():
        assert Config(model, "tiny").settings == whole | change | {"model": model}


def test_a_typo_in_a_presets_name_is_suggested() -> None:
    with pytest.raises(ConfigError, match="no preset 'papr'; did you mean 'paper'"):
        read_preset("papr")


@pytest.fixture
def arguments(settings: dict[str, Any]) -> Callable[[str], list[str]]:
    """The command line of a preset on the tiny dataset."""
    left_out = ("model", "dataset", "state", "show_progress", "checkpoint_file", "n_layers", "embedding_size")
    given = {key: value for key, value in settings.items() if key not in left_out} | {"epochs": 1}

    def make(preset: str) -> list[str]:
        own = ["--preset", preset, "--datasets", "tiny", "--trials", "0", "--seeds", "1", "--output", "out"]
        return [*own, *(f"--{key}={value}" for key, value in given.items())]

    return make


def test_the_command_prints_and_writes_the_table(
    arguments: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("paper-ablation")) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == Path("out/strict/table-3.md").read_text(encoding="utf-8").strip()
    assert all(Path(f"out/strict/table-3.{suffix}").is_file() for suffix in ("tex", "csv"))


def test_geometry_measures_a_checkpoint_of_each_model_and_keeps_it(
    arguments: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments("paper-geometry"), "--protocol", "paper"]) == 0
    assert "SymCERE-unnormalised" in capsys.readouterr().out
    folder = Path("out/paper/geometry/tiny")
    checkpoints = [folder / f"{model}.pth" for model in ("SymCERE", "SymCERE-unnormalised")]
    written = [path.stat().st_mtime_ns for path in checkpoints]
    assert (folder / "geometry.csv").is_file()
    assert main([*arguments("paper-geometry"), "--protocol", "paper"]) == 0
    assert [path.stat().st_mtime_ns for path in checkpoints] == written, "what is trained is not trained again"


def test_a_preset_and_models_do_not_go_together(
    arguments: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments("paper"), "--models", "Pop"])
    assert "not allowed with argument --preset" in capsys.readouterr().err


def test_a_preset_without_baselines_has_all_models_in_its_table() -> None:
    preset = Preset("own", "table", {"one": ["A", "B"]}, None, [])
    assert preset.models == ["A", "B"]

"""The command on the tiny dataset: budgets, kills, and what the search may see."""

import json
import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from dataset_prep.command import INTERRUPTED
from recbole_symcere import properties
from recbole_symcere.comparison import runs, work
from recbole_symcere.comparison.__main__ import main
from recbole_symcere.comparison.comparison import Comparison, Plan
from recbole_symcere.comparison.entry import ablations_of, is_ours
from recbole_symcere.comparison.results import read_results
from recbole_symcere.comparison.search import search_space
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import ConfigError, TrainingError, UserError
from recbole_symcere.model.registry import get_model
from recbole_symcere.properties import load_yaml, parse_value, properties_folder
from recbole_symcere.ranking import RankingDataLoader
from recbole_symcere.trainer import Trainer

MODELS = ["Pop", "LightGCN", "SymCERE"]


@pytest.fixture
def arguments(settings: dict[str, Any]) -> Callable[..., list[str]]:
    """The command line of a short comparison on the tiny dataset."""
    given = {key: value for key, value in settings.items() if key not in ("model", "dataset", "state", "show_progress")}
    given |= {"epochs": 2}
    given.pop("embedding_size"), given.pop("n_layers")  # searched, or not every model's

    def make(*changes: str, models: list[str] = MODELS) -> list[str]:
        own = ["--models", *models, "--datasets", "tiny", "--trials", "3", "--seeds", "2"]
        return [*own, *(f"--{key}={value}" for key, value in given.items()), *changes]

    return make


def _counted(function: Callable[..., Any], models: list[str]) -> Callable[..., Any]:
    def counting(settings: dict[str, Any], *args: Any) -> Any:
        models.append(settings["model"])
        return function(settings, *args)

    return counting


def never(epoch: int, score: float) -> bool:
    return False


def numbers(output: Path) -> pl.DataFrame:
    """The table without what a clock decides."""
    return pl.read_csv(output / "strict" / "accuracy.csv").drop("seconds")


def test_every_model_gets_the_same_budget_and_the_test_part_once(
    arguments: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: dict[str, list[str]] = {"validation_score": [], "run_on_test": []}
    for name, models in done.items():
        original = getattr(runs, name)
        monkeypatch.setattr(runs, name, _counted(original, models))
    assert main(arguments()) == 0
    table = capsys.readouterr().out
    assert [done["validation_score"].count(model) for model in MODELS] == [1, 3, 3]  # Pop has nothing to search
    assert [done["run_on_test"].count(model) for model in MODELS] == [2, 2, 2]
    assert all(re.search(rf"\| {model} +\|", table) for model in MODELS) and "SymCERE vs" in table
    assert main(arguments()) == 0
    assert [len(models) for models in done.values()] == [7, 6]
    assert capsys.readouterr().out == table
    for name in ("summary", "accuracy", "popularity"):
        assert all((Path("comparison/strict") / f"{name}.{suffix}").read_text() for suffix in ("md", "csv", "tex"))
    assert set(numbers(Path("comparison"))["model"]) == set(MODELS)
    tuned = yaml.safe_load((Path("comparison/strict") / "tuned" / "tiny" / "LightGCN.yaml").read_text())
    assert tuned.keys() == search_space("LightGCN", get_model("LightGCN")).keys() | {"train_batch_size", "epochs"}
    for record in Path("comparison").glob("runs/strict/tiny/LightGCN/*/run.json"):
        settings = json.loads(record.read_text())["settings"]
        assert {key: settings[key] for key in tuned} == tuned
        assert any(Config("LightGCN", "tiny").settings[key] != value for key, value in tuned.items())
    assert not list(Path("comparison").rglob("*.pth"))


@pytest.mark.parametrize("kills", [{0}, {2, 3}, {4, 6}, {8, 10}])
def test_a_killed_comparison_ends_with_the_table_of_an_unbroken_one(
    arguments: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, kills: set[int]
) -> None:
    models = ["LightGCN", "SymCERE"]
    assert main(arguments("--output=unbroken", models=models)) == 0
    fit, calls = runs._fit, []

    def killed_fit(*args: Any) -> Any:
        calls.append(args)
        fitted = fit(*args)
        if len(calls) - 1 in kills:
            raise KeyboardInterrupt
        return fitted

    monkeypatch.setattr(runs, "_fit", killed_fit)
    for _ in kills:
        assert main(arguments("--output=killed", models=models)) == INTERRUPTED
    assert main(arguments("--output=killed", models=models)) == 0
    assert len(calls) == 10 + len(kills)
    assert numbers(Path("killed")).equals(numbers(Path("unbroken")))
    assert not list(Path("killed").rglob("*.pth"))  # each was gone on with


def test_a_search_ranks_for_no_test_user(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a test part that can't be ranked a trial ends, and a run on test does not."""
    config = make_config(model="LightGCN", epochs=2)

    test_parts: list[ReviewDataset] = []
    build, collate = ReviewDataset.build, RankingDataLoader.collate_fn

    def build_and_note(self: ReviewDataset) -> list[ReviewDataset]:
        parts = build(self)
        test_parts.append(parts[2])
        return parts

    def collate_unless_test(self: RankingDataLoader, index: Any) -> Any:
        assert self._dataset not in test_parts, "the test part is read"
        return collate(self, index)

    monkeypatch.setattr(ReviewDataset, "build", build_and_note)
    monkeypatch.setattr(RankingDataLoader, "collate_fn", collate_unless_test)
    score, details = runs.validation_score(config.settings, tmp_path / "trial.pth", never)
    assert score > 0 and details["epochs"] == 2
    with pytest.raises(AssertionError, match="test part is read"):
        runs.run_on_test(config.settings, tmp_path / "run")


def test_users_metrics_have_the_tables_means(make_config: Callable[..., Any], tmp_path: Path) -> None:
    runs.run_on_test(make_config(model="LightGCN", epochs=2).settings, tmp_path)
    run = runs.read_run("LightGCN", tmp_path)
    assert (run.dataset, run.seed, run.per_user["user_id"].n_unique()) == ("tiny", 2020, len(run.per_user))
    for metric in ("hit@10", "ndcg@10", "recall@20", "mrr@20"):
        assert run.per_user[metric].mean() == pytest.approx(run.metrics[metric], abs=1e-6)


def test_a_metric_of_nobody_is_written_as_json_knows_it(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Trainer.evaluate
    monkeypatch.setattr(Trainer, "evaluate", lambda *args, **kwargs: evaluate(*args, **kwargs) | {"hit@10": math.nan})
    runs.run_on_test(make_config(model="Pop").settings, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert record["metrics"]["hit@10"] is None and record["metrics"]["ndcg@10"] > 0
    assert math.isnan(runs.read_run("Pop", tmp_path).metrics["hit@10"])


def test_a_loss_that_is_not_finite_counts_as_nothing(
    arguments: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "recbole.model.general_recommender.lightgcn.LightGCN.calculate_loss",
        lambda self, batch: self.user_embedding.weight.sum() * float("nan"),
    )
    data_path = dict(argument.removeprefix("--").split("=") for argument in arguments() if "=" in argument)["data_path"]
    plan = Plan(["LightGCN"], ["tiny"], [], 2, 1, {"data_path": data_path}, Path("nan"))
    (entry,) = Comparison(plan, ["strict"]).entries
    for _ in range(2):
        with entry.search.claim() as trial:
            work._try(entry, trial)
    assert entry.search.scores == [0.0, 0.0]


def test_the_display_says_what_runs_and_what_is_left(
    arguments: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    while_working: list[tuple[str, str]] = []

    class Bar(work.tqdm):  # type: ignore[misc]
        def set_postfix_str(self, text: str, refresh: bool = True) -> None:
            shown.append(f"{self.n}/{self.total} {text}")

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def working(settings: dict[str, Any], *args: Any) -> Any:
            while_working.append((settings["model"], shown[-1]))
            return function(settings, *args)

        return working

    monkeypatch.setattr(work, "tqdm", Bar)
    monkeypatch.setattr(runs, "validation_score", watched(runs.validation_score))
    monkeypatch.setattr(runs, "run_on_test", watched(runs.run_on_test))
    assert main(arguments(models=["Pop", "SymCERE"])) == 0
    assert [(model, text.partition(";")[0]) for model, text in while_working] == [
        ("Pop", "0/8 tiny, Pop: trial 1 of 1"),
        *(("Pop", f"{number}/8 tiny, Pop: seed {2019 + number}") for number in (1, 2)),
        ("SymCERE", "3/8 tiny, SymCERE: trial 1 of 3"),
        *(("SymCERE", text.partition(";")[0]) for _, text in while_working[4:6]),
        *(("SymCERE", f"{number}/8 tiny, SymCERE: seed {2014 + number}") for number in (6, 7)),
    ]
    assert re.match(r"5/8 tiny, SymCERE: trial 3 of 3, best so far 0\.\d{4}; about .* left", while_working[5][1])


@pytest.mark.parametrize("kind", [TrainingError, ConfigError])
def test_a_run_that_cannot_be_trained_is_told_when_all_else_is_done(
    kind: type[UserError],
    arguments: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def diverging(settings: dict[str, Any], folder: Path) -> None:
        if (settings["model"], settings["seed"]) == ("LightGCN", 2020):
            raise kind("the loss is not finite in epoch 1.")
        run_on_test(settings, folder)

    run_on_test = runs.run_on_test
    models = ["LightGCN", "SymCERE"]
    with monkeypatch.context() as patched:
        patched.setattr(runs, "run_on_test", diverging)
        assert main(arguments(models=models)) == 2
    error = capsys.readouterr().err
    assert "runs that can't be trained: 1; all others are done." in error
    assert "tiny, LightGCN, seed 2020: the loss is not finite in epoch 1." in error
    done = {path.parent.relative_to("comparison/runs/strict/tiny").as_posix() for path in Path().rglob("run.json")}
    assert done == {"LightGCN/seed-2021", "SymCERE/seed-2020", "SymCERE/seed-2021"}
    assert not Path("comparison/strict").exists()
    assert main(arguments(models=models)) == 0


def test_a_trial_ends_where_the_rule_says(make_config: Callable[..., Any], tmp_path: Path) -> None:
    seen = []

    def rule(epoch: int, score: float) -> bool:
        seen.append((epoch, score))
        return epoch == 2

    score, details = runs.validation_score(make_config(model="LightGCN", epochs=9).settings, tmp_path / "a.pth", rule)
    assert [epoch for epoch, _ in seen] == [0, 1, 2] and details["epochs"] == 3
    assert score == max(score for _, score in seen)


def test_runs_of_other_settings_are_made_anew(arguments: Callable[..., list[str]]) -> None:
    record = Path("comparison/runs/strict/tiny/LightGCN/seed-2020/run.json")

    def rate() -> float:
        return json.loads(record.read_text())["settings"]["learning_rate"]

    models = ["LightGCN", "SymCERE"]
    assert main(arguments("--trials=1", models=models)) == 0
    default = rate()
    assert main(arguments("--trials=8", models=models)) == 0
    assert rate() == yaml.safe_load(Path("comparison/strict/tuned/tiny/LightGCN.yaml").read_text())["learning_rate"]
    assert rate() != default, "another seed may find nothing better: try more trials"
    assert main(arguments("--trials=1", models=models)) == 0
    assert rate() == default


def test_symceres_kin_are_ours_and_the_others_baselines(
    arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [is_ours(model) for model in ("SymCERE", "SymCEREPlus", "SMORE", "LightGCN")] == [True, True, False, False]
    assert main(arguments("--ours=BPR", models=["LightGCN", "SymCERE"])) == 2
    assert "--ours names BPR, which --models does not" in capsys.readouterr().err
    assert main(arguments("--metrics=[NDCG, Hit]", "--topk=[10]", models=["LightGCN", "SymCERE"])) == 2
    assert "the tables need hit@20, ndcg@20" in capsys.readouterr().err
    assert not Path("comparison").exists()


def test_ours_are_run_without_each_of_their_parts(
    arguments: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    monkeypatch.setattr(runs, "validation_score", _counted(runs.validation_score, trained))
    assert main(arguments("--ablation", models=["LightGCN", "SymCERE"])) == 0
    assert [trained.count(model) for model in ("LightGCN", "SymCERE")] == [3, 3]  # ablations share the model's search
    changes = ablations_of("SymCERE")
    assert {"normalize": False} in changes.values()
    table = pl.read_csv("comparison/strict/ablation-SymCERE.csv")
    assert set(table["model"]) == {"SymCERE", *(f"SymCERE, {name}" for name in changes)}
    assert set(table.filter(pl.col("p").is_not_null())["model"]) == {f"SymCERE, {name}" for name in changes}
    assert not any(", " in model for model in numbers(Path("comparison"))["model"])
    tuned = yaml.safe_load(Path("comparison/strict/tuned/tiny/SymCERE.yaml").read_text())
    for name, change in changes.items():
        record = Path("comparison") / "runs" / "strict" / "tiny" / f"SymCERE, {name}" / "seed-2021" / "run.json"
        settings = json.loads(record.read_text())["settings"]
        assert {key: settings[key] for key in tuned | change} == tuned | change


def test_an_ablation_is_named_so_that_a_folder_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "FOLDER", tmp_path)
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "SymCERE.yaml").write_text("w/o text: {cross_weight: 0.0}\n")
    with pytest.raises(ConfigError, match=r"SymCERE\.yaml: 'w/o text' would name a folder"):
        ablations_of("SymCERE")


def test_without_trials_the_given_settings_are_run(arguments: Callable[..., list[str]]) -> None:
    assert main(arguments("--trials=0", "--learning_rate=0.01", models=["LightGCN", "SymCERE"])) == 0
    records = list(Path("comparison").glob("runs/strict/tiny/*/*/run.json"))
    assert len(records) == 4
    defaults = Config("LightGCN", "tiny").settings
    for record in records:
        settings = json.loads(record.read_text())["settings"]
        assert settings["learning_rate"] == 0.01
        if settings["model"] == "LightGCN":
            assert settings["n_layers"] == defaults["n_layers"]


def test_tables_stand_under_their_protocol_without_metrics_that_a_run_lacks(
    arguments: Callable[..., list[str]],
) -> None:
    command = arguments("--protocol=paper", "--trials=0", models=["Pop", "SymCERE"])
    assert main(command) == 0
    assert {path.name for path in Path("comparison").iterdir()} == {"search", "runs", "paper"}
    assert "seconds" not in Path("comparison/paper/summary.md").read_text().splitlines()[0]
    assert "seconds" in Path("comparison/paper/accuracy.md").read_text().splitlines()[0]
    file = next(Path("comparison").glob("runs/paper/tiny/Pop/seed-*/run.json"))
    record = json.loads(file.read_text())
    record["metrics"]["tailndcg@10"] = None  # nobody has such an item held out
    file.write_text(json.dumps(record))
    assert main(command) == 0
    metrics = set(pl.read_csv("comparison/paper/popularity.csv")["metric"])
    assert "headndcg@10" in metrics and "tailndcg@10" not in metrics


def test_what_is_tuned_again_keeps_the_settings_it_started_from(
    arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copytree(properties_folder(), tmp_path / "properties")
    (folder / "tuned" / "tiny").mkdir(parents=True)
    (folder / "tuned" / "tiny" / "SymCERE.yaml").write_text("alpha: 0.1\ntau_cross: 0.3\n")
    monkeypatch.setattr(properties, "FOLDER", folder)
    assert main(arguments("--tuned", "--trials=0", models=["SymCERE"])) == 0
    tuned = load_yaml(Path("comparison/strict/tuned/tiny/SymCERE.yaml"))
    assert (tuned["alpha"], tuned["tau_cross"]) == (0.1, 0.3)


def test_a_setting_that_no_model_reads_is_refused(
    arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("--text_trian=lora")) == 2
    assert "text_trian" in capsys.readouterr().err
    assert not Path("comparison").exists()


def test_a_variant_is_searched_in_its_models_space(arguments: Callable[..., list[str]]) -> None:
    given = [argument.removeprefix("--").split("=", 1) for argument in arguments() if "=" in argument]
    settings = {key: parse_value(value) for key, value in given if key != "text_train"}
    plan = Plan(["SMORE-dup"], ["tiny"], [], 2, 1, settings, Path("variant"))
    (entry,) = Comparison(plan, ["strict"]).entries
    assert entry.search.space == search_space("SMORE", get_model("SMORE")) and entry.settings["model"] == "SMORE-dup"


def test_a_setting_for_one_model_takes_precedence_over_that_for_all() -> None:
    settings = {"epochs": 7, "BPR.epochs": 3, "BPR.embedding_size": 8}
    plan = Plan(["BPR", "NeuMF"], ["demo"], [], 0, 1, settings, Path("one"))
    of_one, of_other = (entry.settings for entry in Comparison(plan, ["strict"]).entries)
    assert (of_one["epochs"], of_one["embedding_size"]) == (3, 8)
    assert of_other["epochs"] == 7 and "embedding_size" not in of_other


@pytest.mark.parametrize("option", ["--models", "--datasets", "--ours"])
def test_a_name_given_twice_is_refused_before_any_work(
    option: str, arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"--models": ["Pop", "BPR"], "--datasets": ["tiny"], "--ours": ["BPR"]}
    names[option].append(names[option][0])
    given = [argument for argument in arguments() if argument.startswith("--") and "=" in argument]
    for name, values in names.items():
        given += [name, *values]
    assert main(given) == 2
    assert f"error: {option} names {names[option][0]} twice: name it once" in capsys.readouterr().err
    assert not Path("comparison").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--metric_decimal_place=2"], "metric_decimal_place is 2, but the tables need 4"),
        (
            ["--valid_metric=GiniIndex@10"],
            "valid_metric is GiniIndex@10, but the search needs a metric whose higher",
        ),
        (["--model=BPR"], "model can't be set here: the comparison sets it for each run"),
        (["--result_file=a.json"], "result_file can't be set here"),
        (["--seed=1"], "seed can't be set here: the comparison sets it for each run; leave it out"),
        (["--ablation"], "--ablation: no model of ours has changes"),
        (["--models", "Repurchase"], "--models names only probes (Repurchase): name a model to compare as well"),
        (["--models", "Pop", "Repurchase", "--ours", "Repurchase"], "--ours names Repurchase, which is a probe"),
        (["--tie-seeds=2", "--tie_seed=1"], "tie_seed can't be set beside --tie-seeds"),
        (["--BRP.epochs=2"], "--BRP.epochs: --models does not name BRP"),
        (["--Pop.epoch=2"], "--Pop.epoch: Pop does not read epoch; did you mean 'epochs'?"),
        (["--Pop.model=BPR"], "model can't be set here: the comparison sets it for each run"),
        (["--protocol", "strict", "strict"], "--protocol names strict twice: name it once"),
        (["--protocol", "strict", "sloppy"], "there is no protocol 'sloppy'"),
    ],
)
def test_what_would_fail_at_the_table_or_be_ignored_is_refused_before_any_work(
    changes: list[str], message: str, arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument for argument in arguments(models=["Pop"]) if not argument.startswith("--text")]
    assert main([*given, *changes]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not Path("comparison").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(
    arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert main(arguments("--output=file/folder")) == 2
    assert "error: --output: the folder file/folder can't be made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--datasets", "tiny", "absent"], "absent.inter: no such file"),
        (["--text_encoder=no/such/encoder"], "text_encoder 'no/such/encoder'"),  # whether or not the hub answers
        (["--models", "SymCERE", "SMORE", "--text_adapter=nowhere"], "text_adapter: there is no nowhere/"),
    ],
)
def test_a_missing_dataset_encoder_or_adapter_is_told_before_any_training(
    changes: list[str],
    message: str,
    arguments: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument for argument in arguments() if not argument.startswith("--text_encoder=")]
    monkeypatch.setattr(runs, "validation_score", lambda *_: pytest.fail("a trial began"))
    assert main([*given, *changes]) == 2
    assert message in capsys.readouterr().err


def test_broken_reviews_of_a_later_model_are_told_before_any_training(
    settings: dict[str, Any],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = shutil.copytree(settings["data_path"], tmp_path / "broken")
    (data / "tiny" / "tiny.review.jsonl").write_text('{"review_id": "r0"', encoding="utf-8")
    monkeypatch.setattr(runs, "validation_score", lambda *_: pytest.fail("a trial began"))
    given = [argument for argument in arguments(models=["Pop", "SymCERE"]) if not argument.startswith("--data_path=")]
    assert main([*given, f"--data_path={data}"]) == 2
    assert "tiny.review.jsonl, line 1" in capsys.readouterr().err


def test_the_encoder_is_not_looked_for_where_no_model_reads_text(arguments: Callable[..., list[str]]) -> None:
    given = [argument for argument in arguments(models=["SymCERE"]) if not argument.startswith("--text_encoder")]
    without_text = ["--text_encoder=no/such/encoder", "--cross_weight=0.0", "--alpha_text=0.0"]
    assert main([*given, *without_text, "--trials=1", "--seeds=1"]) == 0


def test_a_change_of_an_ablation_is_a_block_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "FOLDER", tmp_path)
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "SymCERE.yaml").write_text("normalize: false\n")
    with pytest.raises(ConfigError, match=r"SymCERE\.yaml: 'normalize' must be a block of settings"):
        ablations_of("SymCERE")


def test_a_trial_is_fitted_once(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_symcere.run._refit", lambda *_: pytest.fail("a trial was fitted again"))
    settings = make_config(model="LightGCN", protocol="temporal", epochs=2).settings
    assert settings["refit"]
    score, details = runs.validation_score(settings, tmp_path / "trial.pth", lambda epoch, score: False)
    assert score > 0 and details["epochs"] == 2


@pytest.mark.parametrize("refit", [False, True])
def test_a_run_keeps_the_values_of_each_user_of_both_parts(
    make_config: Callable[..., Any], tmp_path: Path, refit: bool
) -> None:
    config = make_config(model="LightGCN", protocol="temporal", refit=refit)
    runs.run_on_test(config.settings, tmp_path / "run")
    run, (_, valid, test) = runs.read_run("LightGCN", tmp_path / "run"), ReviewDataset(config).build()
    for users, part, mean in (
        (run.per_user, test, run.metrics["ndcg@10"]),
        (run.valid_users, valid, run.valid_score),
    ):
        assert set(users["user_id"]) == set(part.id2token("user_id", part.inter_feat["user_id"].unique()))
        assert users["ndcg@10"].mean() == pytest.approx(mean, abs=1e-6)
    assert [path.name for path in (tmp_path / "run").iterdir() if ".pth" in path.name] == []


def test_protocols_share_a_command_and_stand_side_by_side_without_probes(
    arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["Pop", "LightGCN", "Repurchase"]
    given = [argument for argument in arguments("--seeds=1", models=models) if not argument.startswith("--text")]
    command = [*given, "--ours", "LightGCN", "--trials=0", "--tie-seeds=2", "--protocol", "paper", "strict"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == Path("comparison/protocols.md").read_text().strip()
    side_by_side = pl.read_csv("comparison/protocols.csv")
    assert set(side_by_side["dataset"]) == {"paper, tiny", "strict, tiny"}
    for protocol in ("paper", "strict"):
        tables = Path("comparison") / protocol
        values = dict(pl.read_csv(tables / "summary.csv").select("model", "mean").rows())
        of_protocol = side_by_side.filter(pl.col("dataset") == f"{protocol}, tiny")
        assert dict(of_protocol.select("model", "mean").rows()) == values and set(values) == {"Pop", "LightGCN"}
        assert set(pl.read_csv(tables / "probes.csv")["model"]) == {"Repurchase"}
        assert "Probes show what the protocol lets through." in (tables / "probes.md").read_text()
        assert set(pl.read_csv(tables / "validation.csv")["model"]) == {"Pop", "LightGCN"}
        assert (tables / "figures" / "differences.svg").is_file()
        ties = pl.read_csv(tables / "ties.csv")
        assert set(ties["model"]) == set(models) and set(ties["n_orders"]) == {2}
        for model in models:
            of_order = json.loads(
                next((Path("comparison/ties") / protocol / "tiny" / model).rglob("run.json")).read_text()
            )
            assert of_order["settings"]["tie_seed"] == 1
    records = [json.loads(path.read_text()) for path in Path("comparison/runs").rglob("run.json")]
    assert len(records) == 6 and {record["settings"]["tie_seed"] for record in records} == {0}
    results = read_results(Path("comparison"), "strict", ours=["LightGCN"])
    assert results.probes == ("Repurchase",) and set(results.models) == {"Pop", "LightGCN"}
    assert set(results.tables()["probes"].models) == {"Repurchase"}


def test_each_trial_is_trained_with_each_seed_of_the_search(
    make_config: Callable[..., Any], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, float]] = []

    def score(settings: dict[str, Any], checkpoint: Path, is_hopeless: Any) -> tuple[float, dict[str, float]]:
        tried.append((settings["seed"], settings["learning_rate"]))
        return settings["seed"] / 10_000, {"seconds": 2.0}

    monkeypatch.setattr(runs, "validation_score", score)
    plan = Plan(["LightGCN"], ["tiny"], [], 2, 1, {"data_path": settings["data_path"]}, Path("many"), n_search_seeds=3)
    (entry,) = Comparison(plan, ["strict"]).entries
    for _ in range(2):
        with entry.search.claim() as trial:
            work._try(entry, trial)
    assert [seed for seed, _ in tried] == [2020, 2021, 2022] * 2 and len({rate for _, rate in tried}) == 2
    assert entry.search.scores == pytest.approx([0.2021] * 2) and entry.search.seconds == [6.0] * 2
    assert "about 00:02 left for one process" in work.time_left([entry])  # one run on test, and no trial
    assert "about 00:01 left for 2 jobs" in work.time_left([entry], 2)


def test_a_run_does_not_depend_on_what_ran_before_it_in_the_process(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    """Metrics, curves and every generator's state afterwards, in either order; the first run also fills the caches."""

    def run(model: str, order: str) -> tuple[Any, ...]:
        folder = tmp_path / order / model
        changes = {"text_cache_dir": str(tmp_path / order / "text"), "text_train": text_train.get(model, "frozen")}
        runs.run_on_test(make_config(model=model, epochs=2, **changes).settings, folder)
        record = json.loads((folder / "run.json").read_text())
        numpy = np.random.get_state()
        after = (random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist())
        return record["metrics"], record["curves"], record["best_valid_score"], after

    text_train = {"SymCERE": "lora"}
    models = ["BPR", "SGL", "SymCEREPlus", "SymCERE"]
    forwards = {model: run(model, "forwards") for model in models}
    backwards = {model: run(model, "backwards") for model in reversed(models)}
    assert forwards == backwards

"""The command says what is wrong, before the long work, and evaluates nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_symcere import quick_start
from recbole_symcere.cli import train
from recbole_symcere.errors import ConfigError
from tests.conftest import parse_settings


def arguments(settings: dict[str, Any], **changes: Any) -> list[str]:
    return [f"--{key}={value}" for key, value in (settings | changes).items()]


def test_a_run_from_the_command_line_prints_its_results(
    settings: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = settings | {"state": "INFO", "show_progress": True}
    assert train(arguments(shown, result_file=str(tmp_path / "run.json"))) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    out, err = capfd.readouterr()
    assert "ndcg@10" in out + err and f"{record['test_result']['ndcg@10']:.4f}" in out + err
    assert "audit: 0 of" in out + err
    assert "4/4" in err, "no progress bar"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--learning_rat=0.1", "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ("--text_encodr=x", "unknown key 'text_encodr'; did you mean 'text_encoder'?"),
        ("--model=SymCere", "there is no model 'SymCere'; did you mean 'SymCERE'?"),
        ("--model=LightGNC", "did you mean 'LightGCN'?"),
        ("--model=SASRec", "SASRec is a sequential recommender"),
        ("--audit=eror", "audit is 'eror', but must be one of 'error', 'warn'; did you mean 'error'?"),
        ("--epochs=0", "epochs is 0, but must be at least 1"),
        ("--epochs=1.5", "epochs is 1.5, but must be a whole number"),
        ("--eval_step=0", "eval_step is 0, but must be at least 1"),
        ("--learning_rate=~", "learning_rate is None, but must be like its default, 0.001"),
        ("--learning_rate=-1", "learning_rate is -1, but must be above 0"),
        ("--score_norm=abc", "score_norm is 'abc', but must be a number"),
        ("--rm_dup_inter=frist", "rm_dup_inter is 'frist', but must be one of None, 'first', 'last'; did you mean"),
        ("--eval_args={order: TX}", "order in eval_args is 'TX', but must be one of 'TO', 'RO'"),
        ("--eval_args={mode: fulll}", "mode in eval_args is 'fulll', but must be full, or uniN"),
        ("--eval_args={split: {RS: [0.8, 0, 0.2]}}", "tiny: the validation part is empty"),
        ("--topk=[10, 31]", "topk is [10, 31], but tiny has 30 items"),
        ("--user_inter_num_interval=[99,inf)", "tiny.inter: no interaction is left after filtering"),
        ("--load_col={inter: [user_id, item_id, review_id]}", "timestamp is not loaded"),
        ("--load_col={inter: [user_id, item_id, timestamp]}", "tiny.inter: no column review_id"),
        ("--train_neg_sample_args={sample_num: 2}", "sample_num must be 1"),
        ("--config_file=x.yaml", "unknown key 'config_file'"),
        ("--result_file=.", "result_file is '.', which is a folder"),
        ("--checkpoint_file=/dev/null/run.pth", "checkpoint_file: the folder /dev/null can't be made"),
        ("--dataset_save_path=nothing.pth", "dataset_save_path: there is no file nothing.pth"),
        ("--dataset_save_path=/dev/null", "dataset_save_path: there is no file /dev/null"),
        ("--dataloaders_save_path=nothing.pth", "dataloaders_save_path: there is no file nothing.pth"),
        ("--model=NCL", "NCL is trained by RecBole's NCLTrainer"),
        ("--protocol=strikt", "there is no protocol 'strikt'; did you mean 'strict'?"),
        (
            "--graph_encoder=LightGNC",
            "graph_encoder is 'LightGNC', but must be one of 'LightGCN', 'FoldingLightGCN', 'NGCF'",
        ),
        ("--epochs=many", "epochs is 'many', but must be like its default"),
        ("--tau_cross=0", "tau_cross is 0, but must be above 0"),
        ("--word_masking=1.5", "word_masking is 1.5, but must be between 0 and 1"),
        ("--metrics=[Hit, NDGC]", "there is no metric 'NDGC'; did you mean 'ndcg'?"),
        ("--valid_metric=NDCG@5", "valid_metric is 'NDCG@5', but topk is [10, 20]"),
        ("--valid_metric=MAP@10", "valid_metric is 'MAP@10', but metrics are"),
        ("--eval_args={splt: {RS: [0.8, 0.1, 0.1]}}", "unknown key 'splt' in eval_args; did you mean 'split'?"),
        ("--eval_args={split: {RS: [0.8]}}", "three parts"),
        ("--seed=[1", "cannot read the value '[1' as YAML"),
        ("--dataset=nowhere", "nowhere.inter: no such file"),
        ("--text_encoder=/nowhere/at/all", "/nowhere/at/all"),
        ("--config_files=nothing.yaml", "nothing.yaml: no such property file"),
        ("epochs=3", "cannot read the argument 'epochs=3': it is no option of this command"),
        ("--epochs", "cannot read the argument '--epochs': it is no option of this command"),
    ],
)
def test_mistakes_end_in_one_clear_line(
    settings: dict[str, Any], capfd: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    key = argument.removeprefix("--").partition("=")[0]
    rest = {name: value for name, value in settings.items() if name != key}
    assert train([*arguments(rest), argument]) == 2
    err = capfd.readouterr().err.strip().splitlines()
    assert err[-1].startswith("error: ") and message in err[-1]
    assert not any("Traceback" in line for line in err)


def test_a_key_in_a_file_is_named_with_its_file(
    settings: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("epochs: 1\nlearning_rte: 0.1\n")
    assert train([*arguments(settings), f"--config_files={tmp_path / 'mine.yaml'}"]) == 2
    assert "mine.yaml: unknown key 'learning_rte'; did you mean 'learning_rate'?" in capfd.readouterr().err


def test_a_model_says_that_a_key_is_another_models(settings: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    plain = {key: settings[key] for key in ("dataset", "data_path", "state")}
    assert train(arguments(plain | {"state": "WARNING"}, model="LightGCN", tau_cross=0.2, contrasted=9, epochs=1)) == 0
    output = capfd.readouterr()
    said = (
        "LightGCN does not read these settings, so they change nothing: tau_cross (SymCERE's), contrasted "
        "(SymCEREPlus's)"
    )
    assert (output.out + output.err).count(said) == 1
    assert train(arguments(plain, model="LightGCN", tau_cros=0.2)) == 2
    assert "unknown key 'tau_cros'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("model", "changes", "times"), [("LightGCN", {}, 1), ("LightGCN", {"refit_every": 9999}, 0), ("ItemKNN", {}, 0)]
)
def test_a_model_that_can_not_rank_by_a_history_says_so_where_days_are_asked(
    model: str, changes: dict[str, Any], times: int, settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    plain = {key: settings[key] for key in ("dataset", "data_path")} | {"state": "WARNING", "epochs": 1}
    assert train(arguments(plain, model=model, protocol="rolling", **changes)) == 0
    output = capfd.readouterr()
    assert (output.out + output.err).count(f"{model} can't rank by a history, so it ranks by what it knew") == times


def test_later_files_win_and_the_command_line_over_them(tmp_path: Path) -> None:
    files, settings = parse_settings(["--config_files", "a.yaml", "b.yaml", "--model=BPR", "--epochs=3"])
    assert files == ["a.yaml", "b.yaml"]
    assert settings == {"model": "BPR", "epochs": 3}
    assert parse_settings(["--config_files=a.yaml,b.yaml,"])[0] == ["a.yaml", "b.yaml"]
    assert parse_settings(["--config_files=a.yaml", "--config_files=b.yaml"])[0] == ["a.yaml", "b.yaml"]


def test_a_key_given_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--epochs is given twice"):
        parse_settings(["--epochs=3", "--epochs=4"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E4", 1e4), ("0.5", 0.5), ("7", 7), ("True", True), ("no", False), ("None", None),
        ("[64, 64]", [64, 64]), ("{RS: [0.8, 0.1, 0.1]}", {"RS": [0.8, 0.1, 0.1]}), ("cpu", "cpu"), ("a=b", "a=b"),
        ("[5,inf)", "[5,inf)"), ("(0,3]", "(0,3]"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"), ("1+1", "1+1"), ("~", None),
    ],
)  # fmt: skip
def test_values_are_yaml(text: str, value: Any) -> None:
    assert parse_settings([f"--key={text}"])[1] == {"key": value}


@given(st.text())
def test_no_value_is_ever_evaluated(text: str) -> None:
    """Any text is a plain value or a ConfigError."""
    try:
        value = parse_settings([f"--key={text}"])[1]["key"]
    except ConfigError:
        return
    json.dumps(value, default=str)


def test_python_objects_in_yaml_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made"
    (tmp_path / "evil.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{made}']\n")
    assert train([f"--config_files={tmp_path / 'evil.yaml'}"]) == 2
    assert "evil.yaml: line 1: could not determine a constructor" in capfd.readouterr().err
    assert not made.exists()


def test_faults_of_our_own_are_not_hidden(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(quick_start, "run_recbole_symcere", broken)
    with pytest.raises(ValueError, match="a bug"):
        train(arguments(settings))


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_shows_how_to_run_it(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train([argument])
    assert end.value.code == 0
    assert "--model=SymCERE --dataset=demo" in capsys.readouterr().out

"""A module of a user's, which the setting ``imports`` names, can bring models and metrics to every command."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recbole.evaluator.register import metric_information, metric_types, metrics_dict

from recbole_symcere import cli
from recbole_symcere.checkpoint import load_checkpoint, stored_config
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.metrics import METRICS
from recbole_symcere.model.registry import MODELS
from recbole_symcere.recommend import recommend

MODULE = """
from recbole.evaluator.metrics import TopkMetric
from recbole.model.general_recommender import BPR

from recbole_symcere.metrics import Metric, register
from recbole_symcere.model.registry import MODELS


class Luck(TopkMetric):
    def calculate_metric(self, dataobject):
        return self.topk_result("luck", self.metric_info(*self.used_info(dataobject)))

    def metric_info(self, pos_index, pos_len):
        return pos_index[:, :1].repeat(pos_index.shape[1], axis=1).astype(float)


register(Metric("luck", "Luck", function=Luck, table="accuracy"))


@MODELS.register("Narrow")
class Narrow(BPR):
    defaults = {"width": {"default": 4, "at_least": 1}}
    search_space = {"width": [4, 8]}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the working directory that nothing has imported yet."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("users_module.py").write_text(MODULE, encoding="utf-8")
    yield "users_module"
    forget()


def forget() -> None:
    """Makes this process as if it had never imported the module."""
    sys.modules.pop("users_module", None)
    MODELS.pop("Narrow", None)
    for known in (METRICS, metric_information, metric_types, metrics_dict):
        known.pop("luck", None)


@pytest.fixture
def given(settings: dict[str, Any]) -> dict[str, Any]:
    kept = ("dataset", "data_path", "show_progress", "state")
    return {key: settings[key] for key in kept} | {"metrics": ["Hit", "NDCG", "Luck"], "epochs": 1}


def arguments(given: dict[str, Any]) -> list[str]:
    return [f"--{key}={value}" for key, value in given.items()]


def test_training_and_recommending_know_the_model_and_the_metric(
    module: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    imports = f"--imports=[{module}]"
    assert cli.main(["train", "--model=Narrow", "--checkpoint_file=x.pth", *arguments(given), imports]) == 0
    assert stored_config(load_checkpoint("x.pth"), {"imports": [module]})["width"] == 4
    forget()
    assert cli.main(["recommend", "--checkpoint", "x.pth", "--users", "u1"]) == 0, "vectors need no class"
    assert cli.main(["recommend", "--checkpoint", "x.pth", "--users", "u1", "--candidates=all"]) == 2
    error = capsys.readouterr().err
    assert "there is no model 'Narrow'" in error and "if you trust them, give --imports=['users_module']" in error
    assert module not in sys.modules, "a checkpoint alone imports nothing"
    assert len(recommend("x.pth", "u1", 3, {"imports": [module]})["u1"]) == 3


def test_a_comparison_searches_what_the_class_says_and_tests_it_where_it_is_ours(
    module: str, given: dict[str, Any]
) -> None:
    kept = {key: value for key, value in given.items() if key in ("data_path", "metrics", "epochs")}
    command = ["compare", "--models", "Narrow", "Pop", "--ours", "Narrow", "--datasets", "tiny"]
    assert cli.main([*command, "--trials=2", "--seeds=1", f"--imports=[{module}]", *arguments(kept)]) == 0
    table = Path("comparison/strict/accuracy.md").read_text(encoding="utf-8")
    assert "Luck@10" in table and "Narrow vs Pop" in table
    assert "width: " in Path("comparison/strict/tuned/tiny/Narrow.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        (["no_such_module"], "imports: the module 'no_such_module' can't be imported"),
        ("users_module", r"imports is 'users_module', but must be a list .* such as \[my_models\]"),
        ([1], r"imports is \[1\], but must be a list"),
        ([""], "imports: the module '' can't be imported"),
    ],
)
def test_what_is_no_module_is_told(imports: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config("Pop", "demo", config_dict={"imports": imports})


def test_what_serves_loads_no_recbole_and_no_library_of_tables() -> None:
    """They take seconds to import, and a command that answers for one person would wait for them."""
    heavy = ("recbole", "pandas", "polars", "sklearn", "transformers")
    script = "import sys, recbole_symcere.serving; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "recbole_symcere" in loaded and not set(heavy) & set(loaded)

"""Variants of a model, and tuned settings, from property files."""

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from recbole_symcere import properties as module
from recbole_symcere.cli import train
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.registry import get_model
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.properties import load_yaml, properties_folder
from recbole_symcere.quick_start import load_data_and_model, run_recbole_symcere
from tests.conftest import parse_settings


@pytest.fixture
def properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the property files with a variant, and with tuned settings of the variant on one dataset."""
    folder = copytree(properties_folder(), tmp_path / "properties")
    (folder / "model" / "Mine.yaml").write_text("variant_of: SymCERE\nalpha: 0.25\nbeta: 0.75\n")
    (folder / "dataset" / "toys.yaml").write_text("SymCERE: {alpha: 0.1}\nMine: {beta: 0.5}\nepochs: 7\n")
    (folder / "tuned" / "toys").mkdir(parents=True)
    (folder / "tuned" / "toys" / "Mine.yaml").write_text("beta: 0.125\ntau_cross: 0.3\n")
    monkeypatch.setattr(module, "FOLDER", folder)
    yield folder


def test_a_variant_is_its_model_with_other_settings(properties: Path) -> None:
    base, variant = Config("SymCERE", "other"), Config("Mine", "other")
    assert get_model("Mine") is SymCERE is variant.model_class
    changed = {key for key, value in variant.settings.items() if base.settings.get(key) != value}
    assert changed == {"model", "alpha", "beta"}
    assert (variant["model"], variant["alpha"], variant["beta"]) == ("Mine", 0.25, 0.75)
    assert Config(config_dict=variant.settings).settings == variant.settings
    assert Config("Mine", "other", config_dict={"alpha": 0.5})["alpha"] == 0.5


def test_a_variant_of_a_variant_has_the_settings_of_both(properties: Path) -> None:
    (properties / "model" / "Second.yaml").write_text("variant_of: Mine\nbeta: 0.5\n")
    second = Config("Second", "other")
    assert get_model("Second") is SymCERE
    assert (second["alpha"], second["beta"]) == (0.25, 0.5)
    (properties / "model" / "Mine.yaml").write_text("variant_of: Second\n")
    with pytest.raises(ConfigError, match=r"Second\.yaml: Second is a variant of itself"):
        get_model("Second")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("width: 3", "the file has neither implementation nor variant_of"),
        ("implementation: no_such_module.Odd", "implementation: the module 'no_such_module' can't be imported"),
        ("implementation: Odd", "implementation: the module '' can't be imported"),
        ("implementation: recbole_symcere.metrics.Odd", "implementation: recbole_symcere.metrics has no Odd"),
    ],
)
def test_a_file_that_names_no_class_says_what_it_lacks(properties: Path, content: str, message: str) -> None:
    (properties / "model" / "Odd.yaml").write_text(content)
    with pytest.raises(ConfigError, match=rf"Odd\.yaml: {message}"):
        get_model("Odd")


@pytest.mark.parametrize("file", ["model/Mine.yaml", "tuned/toys/Mine.yaml"])
def test_a_typo_in_a_variants_or_a_tuned_file_is_caught(properties: Path, file: str) -> None:
    with (properties / file).open("a") as lines:
        lines.write("tau_cros: 0.3\n")
    with pytest.raises(ConfigError, match=rf"{file}: unknown key 'tau_cros'; did you mean 'tau_cross'"):
        Config("Mine", "toys", config_dict={"tuned": True})


def test_a_datasets_block_for_the_model_is_not_the_variants(properties: Path) -> None:
    variant = Config("Mine", "toys")
    assert (variant["alpha"], variant["beta"], variant["epochs"]) == (0.25, 0.5, 7)
    assert Config("SymCERE", "toys")["alpha"] == 0.1


def test_a_variant_is_suggested_for_a_typo(properties: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'Mime'; did you mean 'Mine'"):
        Config("Mime", "toys")


def test_tuned_settings_lie_between_the_files_and_the_users(properties: Path) -> None:
    tuned = Config("Mine", "toys", config_dict={"tuned": True, "tau_cross": 0.4})
    assert (tuned["alpha"], tuned["beta"], tuned["tau_cross"]) == (0.25, 0.125, 0.4)
    assert Config("Mine", "toys")["beta"] == 0.5
    with pytest.raises(ConfigError, match=r"tuned.*other.*Mine\.yaml: no tuned settings; Mine has some on toys\."):
        Config("Mine", "other", config_dict={"tuned": True})
    with pytest.raises(ConfigError, match=r"DMF has none\. Search them: symcere compare --models DMF --datasets toys"):
        Config("DMF", "toys", config_dict={"tuned": True})


def test_the_command_takes_tuned_settings() -> None:
    assert parse_settings(["--model=SymCERE", "--tuned"]) == ([], {"model": "SymCERE", "tuned": True})
    assert parse_settings(["--tuned=False", "--model=SymCERE"])[1]["tuned"] is False
    assert "tuned" not in parse_settings(["--model=SymCERE"])[1]


def test_tuned_settings_are_kept_without_their_file(properties: Path) -> None:
    tuned = Config("Mine", "toys", config_dict={"tuned": True})
    (properties / "tuned" / "toys" / "Mine.yaml").unlink()
    assert Config(config_dict=tuned.settings).settings == tuned.settings


def test_a_setting_that_a_model_inherits_and_does_not_read_is_ignored_and_named() -> None:
    config = Config("SymCEREPlus", "toys", config_dict={"lora_r": 4})
    assert config.ignored == {"lora_r": "SymCERE"} and "lora_r" not in config.settings


def test_a_variant_trains_and_loads_under_its_name(
    properties: Path, settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    given = settings | {"model": "Mine", "epochs": 1, "checkpoint_file": "run.pth"}
    run_recbole_symcere(config_dict=given)
    config, model, *_ = load_data_and_model("run.pth")
    assert config["model"] == "Mine" and model.settings.alpha == 0.25
    assert train([f"--{key}={value}" for key, value in given.items() if key != "checkpoint_file"]) == 0


@pytest.mark.parametrize("path", sorted(properties_folder().glob("tuned/*/*.yaml")), ids=lambda path: path.stem)
def test_tuned_settings_in_the_package_can_be_used(path: Path) -> None:
    config = Config(path.stem, path.parent.name, config_dict={"tuned": True})
    assert {key: config.settings[key] for key in load_yaml(path)} == load_yaml(path)


@pytest.mark.parametrize("path", sorted(properties_folder().glob("ablation/*.yaml")), ids=lambda path: path.stem)
def test_each_ablation_changes_settings_of_its_model(path: Path) -> None:
    complete = Config(path.stem, "other").settings
    for changes in load_yaml(path).values():
        ablated = Config(path.stem, "other", config_dict=changes).settings
        assert set() < {key for key in complete if complete[key] != ablated[key]} <= changes.keys()

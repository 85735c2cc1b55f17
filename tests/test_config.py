"""What a configuration promises: its protocols, the paper's weights, checked keys and typed views."""

import re
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from recbole_symcere import properties
from recbole_symcere.config import OPTIONAL_IN_RECBOLE, Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.registry import RECBOLE_PROPERTIES
from recbole_symcere.properties import Setting, load_yaml, parse_assignments, properties_folder
from recbole_symcere.quick_start import create_dataset, data_preparation
from tests.conftest import Row, write_atomic_files

SPLIT = {"split": {"RS": [0.7, 0.1, 0.2]}, "order": "TO", "mode": "full"}
RANKING: dict[str, Any] = {"candidates": "all", "cold_users": "recent_popularity", "refit": False}
METRICS = ["Hit", "NDCG", "Recall", "MRR", "HeadNDCG", "MiddleNDCG", "TailNDCG"]
METRICS += ["ItemCoverage", "AveragePopularity", "GiniIndex"]
BY_HISTORY = [f"{users}{metric}" for users in ("Trained", "ValidOnly", "Stranger") for metric in ("NDCG", "Hit")]
PROTOCOLS: dict[str, dict[str, Any]] = {
    "strict": {"rm_dup_inter": "first", "eval_args": SPLIT | {"group_by": "user"}, "audit": "error"} | RANKING,
    "temporal": {"rm_dup_inter": "first", "eval_args": SPLIT | {"group_by": "none"}, "audit": "error"}
    | RANKING
    | {"candidates": "seen", "refit": True}
    | {"metrics": [*METRICS, *BY_HISTORY, "ReachableNDCG", "CeilingNDCG", "UnseenRows"]},
    "keep-duplicates": {"rm_dup_inter": None, "eval_args": SPLIT | {"group_by": "user"}, "audit": "warn"} | RANKING,
    "paper": {"rm_dup_inter": None, "audit": "warn"}
    | {"eval_args": SPLIT | {"split": {"RS": [0.8, 0.2]}, "group_by": "user"}}
    | RANKING,
    "strangers": {
        "rm_dup_inter": "first",
        "audit": "error",
        "questions": "strangers",
        "given": 1,
        "given_reviews": True,
    }
    | {"eval_args": SPLIT | {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user"}}
    | RANKING
    | {"candidates": "seen", "refit": True},
    "rolling": {"rm_dup_inter": "first", "eval_args": SPLIT | {"group_by": "none"}, "audit": "error"}
    | RANKING
    | {"questions": "days", "candidates": "seen", "refit": True, "metrics": [*METRICS, *BY_HISTORY]},
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_protocol_is_what_it_is_called(name: str) -> None:
    assert load_yaml(properties_folder() / "protocol" / f"{name}.yaml") == PROTOCOLS[name]
    config = Config("ItemKNN", "tiny", config_dict={"protocol": name})
    assert {key: config.settings[key] for key in PROTOCOLS[name]} == PROTOCOLS[name]


def test_there_are_no_other_protocols() -> None:
    assert {path.stem for path in (properties_folder() / "protocol").glob("*.yaml")} == set(PROTOCOLS)


def test_the_defaults_of_symcere_are_the_papers_weights() -> None:
    """Section 4.1.4 of the paper; the learning rate and the batch are those of overall.yaml."""
    settings = Config("SymCERE", "tiny").settings
    weights = {"alpha": 0.5, "beta": 0.05, "cross_weight": 1.0, "normalize": True, "contrast": "sincere"}
    assert {key: settings[key] for key in weights} == weights
    assert (settings["alpha_text"], settings["bpr_norm"], settings["score_norm"]) == (None, None, None)


def interleaved_rows() -> list[Row]:
    """Ten events of each of four users, whose times overlap, so that a cut for each is no cut for all."""
    events = [(user, event, float(1000 + 40 * event + 150 * user)) for event in range(10) for user in range(4)]
    return [(f"u{u}", f"i{(7 * e + 3 * u) % 23}", 4.0, time, f"r{u}-{e}", "x") for u, e, time in events]


@pytest.mark.parametrize("name", ["strict", "temporal"])
def test_protocols_cut_the_time_of_interleaved_users_where_they_say(
    name: str, make_config: Any, tmp_path: Path
) -> None:
    write_atomic_files(tmp_path / "woven", interleaved_rows())
    own = {"dataset": "woven", "data_path": str(tmp_path), "protocol": name, "topk": [3], "valid_metric": "NDCG@3"}
    config = make_config(model="LightGCN", **own)
    parts = [loader._dataset.inter_feat for loader in data_preparation(config, create_dataset(config))]
    times = [part["timestamp"].numpy() for part in parts]
    if name == "temporal":
        assert [len(time) for time in times] == [28, 4, 8]
        assert times[0].max() < times[1].min() and times[1].max() < times[2].min()
        return
    assert times[0].max() > times[2].min(), "the users' cuts differ"
    for user in np.unique(parts[0]["user_id"]):
        train, valid, test = (time[part["user_id"].numpy() == user] for part, time in zip(parts, times, strict=True))
        assert (len(train), len(valid), len(test)) == (7, 1, 2)
        assert train.max() < valid.min() and valid.max() < test.min()


def test_a_key_that_nobody_set_fails_where_it_is_read() -> None:
    config = Config("SymCERE", "tiny")
    with pytest.raises(KeyError, match="no setting is called 'tau_crss'; did you mean 'tau_cross'"):
        config["tau_crss"]
    assert config["user_inter_num_interval"] is None or isinstance(config["user_inter_num_interval"], str)


def test_a_view_has_the_settings_of_its_fields_and_no_others() -> None:
    @dataclass(frozen=True)
    class Good:
        tau_cross: float
        epochs: int

    @dataclass(frozen=True)
    class Mistyped:
        tau_crss: float

    config = Config("SymCERE", "tiny", config_dict={"tau_cross": 0.3})
    assert config.view(Good) == Good(0.3, config["epochs"])
    with pytest.raises(KeyError, match="tau_crss"):
        config.view(Mistyped)


def test_changed_settings_leave_the_callers_configuration_alone() -> None:
    config = Config("SymCERE", "tiny")
    assert config.with_settings(alpha=0.0)["alpha"] == 0.0
    assert config["alpha"] == 0.5


def test_every_setting_that_recbole_reads_is_known_or_listed() -> None:
    """A key that RecBole's data, training and evaluation read, and that no file sets, must not stop a run."""
    root, known = RECBOLE_PROPERTIES.parent, Config("BPR", "tiny").known_keys
    of_other_tasks = {
        "data/transform.py", "data/dataset/decisiontree_dataset.py", "trainer/trainer.py", "trainer/hyper_tuning.py",
        "data/dataset/kg_dataset.py", "data/dataset/sequential_dataset.py", "data/dataset/kg_seq_dataset.py",
    }  # fmt: skip
    read: set[str] = set()
    for folder in ("data", "evaluator", "sampler", "utils"):
        for path in (root / folder).rglob("*.py"):
            if path.relative_to(root).as_posix() not in of_other_tasks:
                read |= set(re.findall(r"config\[[\"'](\w+)[\"']\]", path.read_text(encoding="utf-8")))
    trainer = (root / "trainer" / "trainer.py").read_text(encoding="utf-8")
    plain = trainer[trainer.index("class Trainer(") : trainer.index("class KGTrainer(")]
    read |= set(re.findall(r"config\[[\"'](\w+)[\"']\]", plain))
    derived = {"device", "MODEL_TYPE", "MODEL_INPUT_TYPE"}
    assert read - known - OPTIONAL_IN_RECBOLE - derived == set()


@pytest.mark.parametrize("text", ["alpha: 0.1\nbeta: 1\nalpha: 0.2\n", "eval_args: {order: TO, order: RO}\n"])
def test_a_key_that_stands_twice_in_a_file_is_refused_with_its_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    line = len(text.splitlines())
    with pytest.raises(ConfigError, match=rf"mine.yaml: line {line}: the key '(alpha|order)' stands in line 1 already"):
        Config("SymCERE", "tiny", [tmp_path / "mine.yaml"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"default": 1, "at_lest": 0}, "unknown entry 'at_lest'; did you mean 'at_least'"),
        ({"default": None, "type": "integer"}, "type is 'integer', but must be one of int, float, str"),
        ({"default": 2, "at_most": 1}, "must be at most 1"),
        ({"default": "c", "choices": ["a", "b"]}, "must be one of 'a', 'b'"),
    ],
)
def test_a_property_file_that_contradicts_itself_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Setting.read("file.yaml: key", entry)


@pytest.mark.parametrize("model", ["SymCERE", "SMORE", "AlphaRec", "RLMRec", "CEASE", "TextProfile"])
@pytest.mark.parametrize(
    ("written", "prompt"), [("query: ", "query: "), ("'a: b: '", "a: b: "), ("text: x", "text: x"), ("", None)]
)
def test_a_prompt_is_given_on_the_command_line_as_it_stands_and_can_be_empty(
    model: str, written: str, prompt: str | None
) -> None:
    config = Config(model, "tiny", config_dict=parse_assignments([f"--text_prompt={written}"]))
    assert config["text_prompt"] == prompt


def test_a_mapping_on_the_command_line_stands_in_braces() -> None:
    assert parse_assignments(["--load_col={inter: [a, b]}"]) == {"load_col": {"inter": ["a", "b"]}}


@pytest.mark.parametrize("path", sorted((properties_folder() / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_defaults_in_every_property_file_can_be_used(path: Path) -> None:
    config = Config(path.stem, "tiny")
    assert Config(config_dict=config.settings).settings == config.settings


def test_a_model_with_nothing_to_search_needs_no_tuned_settings() -> None:
    tuned, plain = (Config("SymCEREPlus", "demo", config_dict={"tuned": choice}) for choice in (True, False))
    assert tuned.settings == plain.settings
    for model in ("LightGCN", "SMORE-dup"):
        with pytest.raises(ConfigError, match="no tuned settings"):
            Config(model, "demo", config_dict={"tuned": True})


@pytest.fixture
def of_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The property file of a dataset ``mine``, among those of this package."""
    folder = copytree(properties_folder(), tmp_path / "properties")
    monkeypatch.setattr(properties, "FOLDER", folder)
    return folder / "dataset" / "mine.yaml"


def test_settings_of_a_dataset_go_to_the_models_that_read_them_and_others_leave_them_out(of_dataset: Path) -> None:
    of_dataset.write_text(
        "text_max_length: 7\nlearning_rate: 0.5\nprepare: {source: yelp, epochs: 3}\nSymCERE: {alpha: 0.25}\n"
    )
    settings = {model: Config(model, "mine").settings for model in ("SymCERE", "SMORE", "LightGCN", "Pop")}
    assert {model: own.get("text_max_length") for model, own in settings.items()} == {
        "SymCERE": 7, "SMORE": 7, "LightGCN": None, "Pop": None,
    }  # fmt: skip
    assert {own["learning_rate"] for own in settings.values()} == {0.5}
    assert settings["SymCERE"]["alpha"] == 0.25
    for own in settings.values():
        assert not own.keys() & {"prepare", "source", "SymCERE"} and own["epochs"] == 500
    assert Config("SymCERE", "mine", config_dict={"text_max_length": 9})["text_max_length"] == 9


@pytest.mark.parametrize("model", ["SymCERE", "LightGCN"])
def test_a_misspelled_setting_of_a_dataset_stops_every_model(model: str, of_dataset: Path) -> None:
    of_dataset.write_text("prepare: {source: yelp}\nlearning_rte: 0.5\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'learning_rte'; did you mean 'learning_rate'\?"):
        Config(model, "mine")
    of_dataset.write_text("text_max_lenght: 7\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'text_max_lenght'"):
        Config(model, "mine")


def test_a_block_for_a_model_has_only_settings_that_it_reads(of_dataset: Path) -> None:
    of_dataset.write_text("LightGCN: {text_max_length: 7}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'text_max_length': it is \w+'s, and LightGCN does"):
        Config("LightGCN", "mine")
    assert Config("SymCERE", "mine")["text_max_length"] == 128


def test_a_block_for_a_model_can_be_empty(of_dataset: Path) -> None:
    of_dataset.write_text("learning_rate: 0.5\nSymCERE:\n")
    assert Config("SymCERE", "mine")["learning_rate"] == 0.5

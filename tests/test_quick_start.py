"""A run from configuration to result can be repeated, resumed and reloaded, for every model."""

import contextlib
import json
import logging
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel
from recbole.data.interaction import Interaction
from recbole.utils.case_study import full_sort_topk
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModel

from recbole_symcere.checkpoint import load_checkpoint, resume_path
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import CheckpointError, ConfigError, TrainingError
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.model.text import encoder
from recbole_symcere.quick_start import (
    create_dataset,
    data_preparation,
    load_data_and_model,
    objective_function,
    recommend,
    run_recbole_symcere,
)
from recbole_symcere.trainer import Trainer
from tests.conftest import for_model, ranked_by_recbole, tiny_rows, write_atomic_files

MODELS = (
    "SymCERE", "SymCEREPlus", "XSimGCL", "SMORE", "AlphaRec", "RLMRec", "CEASE",
    "NeuMF", "NGCF", "LightGCN", "SGL", "BPR", "Pop", "ItemKNN", "EASE", "SLIMElastic",
)  # fmt: skip
METRICS = {
    f"{metric}@{k}"
    for metric in (
        *("hit", "ndcg", "recall", "mrr", "headndcg", "middlendcg", "tailndcg"),
        *("itemcoverage", "averagepopularity", "giniindex"),
    )
    for k in (10, 20)
}
Settings = dict[str, Any]


def run(settings: Settings, **changes: Any) -> dict[str, Any]:
    return run_recbole_symcere(config_dict=for_model(settings | changes))


class Killed(Exception):
    """Stands for the signal that ends a run."""


def run_killed_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, settings: Settings, **changes: Any) -> None:
    """A run that ends in the middle of an epoch."""
    original = Trainer._train_epoch

    def train_epoch(self: Trainer, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        result = original(self, train_data, epoch_idx, *args, **kwargs)
        if epoch_idx == epoch:
            raise Killed
        return result

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "_train_epoch", train_epoch)
        run(settings, **changes)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_saves_reloads_and_ranks_alike(settings: Settings, tmp_path: Path, model: str) -> None:
    file = tmp_path / "run.pth"
    result = run(settings, model=model, checkpoint_file=str(file), epochs=2)
    assert result["test_result"].keys() == result["best_valid_result"].keys() == METRICS
    config, reloaded, _, _, _, test_data = load_data_and_model(file)
    assert not reloaded.training
    again = Trainer(config, reloaded)
    again.eval_collector.data_collect(load_data_and_model(file)[3])
    assert again.evaluate(test_data, load_best_model=False) == result["test_result"]


@pytest.mark.parametrize("text_train", ["frozen", "lora"])
def test_the_same_seed_gives_the_same_result_to_the_last_digit(settings: Settings, text_train: str) -> None:
    first, again = run(settings, text_train=text_train), run(settings, text_train=text_train)
    assert first == again
    assert run(settings, text_train=text_train, seed=1) != first


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("SymCERE", {}),
        ("SymCERE", {"text_train": "lora", "text_warmup_steps": 12}),
        ("SymCERE", {"text_train": "full"}),
        ("SymCERE", {"graph_encoder": "NGCF"}),
        ("SymCEREPlus", {}),
        ("SMORE", {"smore_mode": "single", "dropout_rate": 0.1}),
        ("SMORE", {"smore_mode": "dup", "image_knn_k": 5, "learning_rate_decay": 0.1, "learning_rate_decay_epochs": 2}),
        ("AlphaRec", {}),
        ("RLMRec", {}),
        ("NeuMF", {}),
        ("NGCF", {}),
        ("LightGCN", {}),
        ("SGL", {}),
        ("XSimGCL", {}),
    ],
)
def test_a_killed_run_resumes_to_the_result_it_would_have_had(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, changes: Settings
) -> None:
    changes = changes | {"model": model, "epochs": 5}
    unbroken = run(settings, checkpoint_file=str(tmp_path / "unbroken.pth"), **changes)
    file = tmp_path / "killed.pth"
    run_killed_in_epoch(monkeypatch, 3, settings, checkpoint_file=str(file), **changes)
    assert run(settings, checkpoint_file=str(file), **changes) == unbroken
    weights, expected = (load_checkpoint(path)["state_dict"] for path in (file, tmp_path / "unbroken.pth"))
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def test_a_run_that_is_killed_before_it_is_validated_resumes(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"epochs": 4, "eval_step": 4}
    unbroken = run(settings, checkpoint_file=str(tmp_path / "unbroken.pth"), **changes)
    file = tmp_path / "killed.pth"
    run_killed_in_epoch(monkeypatch, 2, settings, checkpoint_file=str(file), **changes)
    assert resume_path(file).is_file() and not file.exists()
    assert run(settings, checkpoint_file=str(file), **changes) == unbroken


def test_early_stopping_goes_on_where_it_was(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"epochs": 60, "stopping_step": 2, "learning_rate": 0.05, "beta": 1.0}
    results = [tmp_path / f"{name}.json" for name in ("unbroken", "killed")]
    run(settings, checkpoint_file=str(tmp_path / "unbroken.pth"), result_file=str(results[0]), **changes)
    unbroken = json.loads(results[0].read_text())
    assert 2 < unbroken["epochs"] < 60
    assert len(unbroken["curves"]) == unbroken["epochs"]
    best = unbroken["curves"][unbroken["best_epoch"]]
    assert best.keys() == {"cross_modal", "intra_text", "intra_graph", "bpr", "l2", "valid_score"}
    assert best["valid_score"] == max(epoch["valid_score"] for epoch in unbroken["curves"])
    file = tmp_path / "killed.pth"
    run_killed_in_epoch(monkeypatch, unbroken["epochs"] - 1, settings, checkpoint_file=str(file), **changes)
    for _ in range(2):  # the second time the run is over, and only the test is made again
        run(settings, checkpoint_file=str(file), result_file=str(results[1]), **changes)
        killed = json.loads(results[1].read_text())
        for key in ("epochs", "best_epoch", "curves", "best_valid_result", "test_result"):
            assert killed[key] == unbroken[key], key


def test_a_process_that_is_killed_twice_resumes_by_the_same_command(settings: Settings, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        files = {"checkpoint_file": str(tmp_path / f"{name}.pth"), "result_file": str(tmp_path / f"{name}.json")}
        arguments = settings | files | {"epochs": 60}
        return [
            sys.executable,
            "-m",
            "recbole_symcere.cli",
            "train",
            *(f"--{key}={value}" for key, value in arguments.items()),
        ]

    run(settings, epochs=60, checkpoint_file=str(tmp_path / "whole.pth"), result_file=str(tmp_path / "whole.json"))
    state = resume_path(tmp_path / "killed.pth")
    for signal_number in (signal.SIGKILL, signal.SIGTERM):
        before = state.stat().st_mtime_ns if state.exists() else None
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not state.exists() or state.stat().st_mtime_ns == before:  # until it has finished an epoch
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal_number)
        assert process.wait() == -signal_number
    subprocess.run(command("killed"), check=True, capture_output=True)
    whole, killed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "killed"))
    for key in ("epochs", "best_epoch", "best_valid_result", "test_result"):
        assert killed[key] == whole[key], key


def test_a_run_leaves_the_streams_of_the_process_as_they_were(settings: Settings) -> None:
    before = sys.stdout, sys.stderr
    run(settings, epochs=1)
    assert sys.stdout is before[0] and sys.stderr is before[1]


def test_other_settings_do_not_continue_a_run(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "run.pth")
    run(settings, checkpoint_file=file, epochs=1)
    with monkeypatch.context() as unread, pytest.raises(CheckpointError, match=r"run\.pth.*seed was 2020, now 3"):
        unread.setattr("recbole_symcere.run.create_dataset", lambda _: pytest.fail("the dataset was read"))
        run(settings, checkpoint_file=file, seed=3)
    with pytest.raises(CheckpointError, match=r"run\.pth.*learning_rate was 0\.001, now 0\.1"):
        run(settings, checkpoint_file=file, learning_rate=0.1)
    run(settings, checkpoint_file=file, epochs=2)  # how long it goes on may change


def test_a_changed_dataset_does_not_meet_an_old_checkpoint(settings: Settings, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own" / "own", tiny_rows())
    changes = {"dataset": "own", "data_path": str(folder.parent), "checkpoint_file": str(tmp_path / "run.pth")}
    run(settings, epochs=1, **changes)
    write_atomic_files(folder, tiny_rows()[::-1])
    again = {"data_path": changes["data_path"]}
    for use in (lambda: run(settings, **changes), lambda: recommend(tmp_path / "run.pth", ["u1"], config_dict=again)):
        with pytest.raises(CheckpointError, match=r"run\.pth: the dataset own is not the one"):
            use()


def test_a_trained_checkpoint_is_not_overwritten(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "run.pth"
    run(settings, checkpoint_file=str(file), epochs=1)
    state = resume_path(file).read_bytes()
    resume_path(file).unlink()
    torch.save(load_checkpoint(file) | {"epoch": 7}, file)
    with pytest.raises(CheckpointError, match=r"run\.pth exists, but not .*run\.resume\.pth"):
        run(settings, checkpoint_file=str(file), epochs=1)
    resume_path(file).write_bytes(state)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"run\.pth: no such checkpoint"):
        run(settings, checkpoint_file=str(file), epochs=2)


def test_a_run_killed_between_its_first_two_files_starts_anew(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "run.pth"
    run(settings, checkpoint_file=str(file), epochs=1)
    resume_path(file).unlink()
    assert run(settings, checkpoint_file=str(file)) == run(settings)


class Breaks(SymCERE):
    """A model whose loss is NaN at one step, and which remembers its weights before that step."""

    at_call = 11
    weights: ClassVar[dict[str, Tensor]] = {}

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        self.calls = getattr(self, "calls", 0) + 1
        first, *others = super().calculate_loss(interaction)
        if self.calls != self.at_call:
            return first, *others
        Breaks.weights = {name: weight.clone() for name, weight in self.state_dict().items()}
        return first * torch.nan, *others


@pytest.mark.parametrize(("epoch", "step", "save_every"), [(0, 3, 0.0), (1, 0, 0.0), (1, 2, 0.0), (2, 1, 1e9)])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_explains_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, step: int, save_every: float
) -> None:
    monkeypatch.setattr("recbole_symcere.trainer.SAVE_EVERY", save_every)
    n_steps = len(data_preparation(config := Config(config_dict=settings), create_dataset(config))[0])
    monkeypatch.setattr(Breaks, "at_call", epoch * n_steps + step + 1)
    settings |= {"checkpoint_file": str(tmp_path / "run.pth"), "edge_dropout": 0.5}
    with pytest.raises(TrainingError) as error:
        run_recbole_symcere(Breaks, config_dict=settings)
    message = str(error.value)
    assert f"epoch {epoch}, step {step} of {n_steps} (from 0): cross_modal is nan; " in message
    assert "lower learning_rate, now 0.001" in message
    assert ("the largest gradient before it was that of graph_encoder.embedding.weight" in message) == (step > 0)
    kept = load_checkpoint(tmp_path / "run.failed.pth")["state_dict"]
    assert str(tmp_path / "run.failed.pth") in message
    assert_close(kept, Breaks.weights, rtol=0, atol=0)


def test_a_rate_at_which_the_weights_overflow_is_told(settings: Settings) -> None:
    with pytest.raises(
        TrainingError, match=r"epoch 0, step \d+ of \d+ \(from 0\): .*; lower learning_rate, now 1e\+30"
    ):
        run(settings, learning_rate=1e30, bpr_norm=1.0)


def test_saved_dataloaders_are_used_while_they_fit(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def prepare(**changes: Any) -> Any:
        caplog.clear()
        config = Config(config_dict=settings | {"trust_pickles": True} | changes)
        with caplog.at_level(logging.INFO):
            return data_preparation(config, create_dataset(config))[0]

    made = prepare(save_dataloaders=True)
    path = str(tmp_path / "saved" / "tiny-for-SymCERE-dataloader.pth")
    loaded = prepare(dataloaders_save_path=path)
    assert "audit" not in caplog.text, "split anew"
    for ours, theirs in zip(made, loaded, strict=True):
        assert torch.equal(ours["review_id"], theirs["review_id"])
    prepare(dataloaders_save_path=path, user_inter_num_interval="[6,inf)")
    assert "the dataset is split again" in caplog.text and "audit" in caplog.text


class RunsCode:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("code-has-run"),)


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
def test_a_pickle_is_loaded_only_where_it_is_trusted(settings: Settings, key: str) -> None:
    Path("foreign.pth").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(ConfigError, match=rf"{key}: foreign.pth is a pickle.*--trust-pickles"):
        run(settings, **{key: "foreign.pth"})
    assert not Path("code-has-run").exists()


@pytest.mark.parametrize(
    "load",
    [load_data_and_model, lambda file: recommend(file, ["u0"], config_dict={"candidates": "seen"})],
    ids=["load", "recommend"],
)
def test_a_checkpoint_cannot_say_that_code_may_run(settings: Settings, load: Any, monkeypatch: Any) -> None:
    run(settings, checkpoint_file="run.pth", epochs=1, trust_remote_code=True)
    Path("foreign.pth").write_bytes(pickle.dumps(RunsCode()))
    state = load_checkpoint("run.pth")
    state["config"] |= {"trust_pickles": True, "dataset_save_path": "foreign.pth"}
    torch.save(state, "sent.pth")
    with pytest.raises(ConfigError, match="--trust-pickles"):
        load("sent.pth")
    assert not Path("code-has-run").exists()
    encoders = []
    monkeypatch.setattr(encoder.ReviewEncoder, "from_config", lambda config: encoders.append(config))
    with contextlib.suppress(AttributeError):  # of the encoder that is none
        load("run.pth")
    assert not any(config["trust_remote_code"] for config in encoders)
    assert bool(encoders) == (load is load_data_and_model)


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_an_unreadable_checkpoint_is_one_clear_error(settings: Settings, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "run.pth"
    run(settings, checkpoint_file=str(file), epochs=1)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        torch.save({"config": Path("a pickled object")}, file)
    with pytest.raises(CheckpointError, match=r"run\.pth: not a readable checkpoint"):
        load_data_and_model(file)
    with pytest.raises(CheckpointError, match=r"nothing\.pth: no such checkpoint"):
        load_data_and_model(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match=": a folder; name a checkpoint in it"):
        load_data_and_model(tmp_path)


def test_a_checkpoint_from_before_there_were_choices_ranks_as_it_did(settings: Settings, tmp_path: Path) -> None:
    before = {"tie_break": "file", "candidates": "all", "cold_users": "model", "refit": False}
    file = str(tmp_path / "run.pth")
    run_recbole_symcere(config_dict=settings | before | {"checkpoint_file": file})
    expected = recommend(file, k=5)
    checkpoint = torch.load(file, weights_only=True)
    kept = {key: value for key, value in checkpoint["config"].items() if key not in {*before, "tie_seed"}}
    del checkpoint["refit"]
    torch.save(checkpoint | {"format": 3, "config": kept}, file)
    assert recommend(file, k=5) == expected


def test_a_checkpoint_holds_no_code(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "run.pth"
    run(settings, checkpoint_file=str(file), epochs=1)
    for path in (file, resume_path(file)):
        torch.load(path, weights_only=True)


def test_the_adapter_beside_the_checkpoint_is_a_peft_adapter(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "run.pth"
    run(settings, checkpoint_file=str(file), text_train="lora", text_learning_rate=0.01)
    _, model, _, train_data, _, _ = load_data_and_model(file)
    encoder = model.text_encoder.encoder
    adapted = PeftModel.from_pretrained(
        AutoModel.from_pretrained(settings["text_encoder"]), file.with_suffix(".adapter")
    )
    reviews = train_data._dataset.tokenised_reviews(encoder)
    token_ids = torch.from_numpy(reviews.token_ids[: reviews.offsets[1]].astype("int64"))[None]
    expected = adapted.eval()(input_ids=token_ids).last_hidden_state[:, 0]
    found = encoder(reviews, torch.tensor([0]))
    torch.testing.assert_close(found, expected)
    plain = AutoModel.from_pretrained(settings["text_encoder"]).eval()(input_ids=token_ids).last_hidden_state[:, 0]
    assert not torch.allclose(found, plain), "the adapter does nothing"


def history_of(dataset: Any, user: str, *loaders: Any) -> set[str]:
    met: set[str] = set()
    for loader in loaders:
        feat = loader._dataset.inter_feat
        items = feat["item_id"][feat["user_id"] == dataset.token2id("user_id", user)]
        met |= {str(dataset.id2token("item_id", int(item))) for item in items}
    return met


def test_recommendations_are_full_rankings_tokens_without_history(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "run.pth"
    run(settings, checkpoint_file=str(file), epochs=2)
    config, model, dataset, train_data, valid_data, test_data = load_data_and_model(file)
    users = ["u3", "u11"]
    found = recommend(file, users, k=5)
    _, items = full_sort_topk(dataset.token2id("user_id", users), model, test_data, 5, config["device"])
    assert [[token for token, _ in found[user]] for user in users] == dataset.id2token("item_id", items).tolist()
    for user in users:
        scores = [score for _, score in found[user]]
        assert scores == sorted(scores, reverse=True)
        assert not {token for token, _ in found[user]} & history_of(dataset, user, train_data, valid_data)
    with pytest.raises(ValueError, match="nobody"):
        recommend(file, ["nobody"])
    (every,) = recommend(file, ["u3"], k=1000).values()
    assert len(every) == dataset.item_num - 1 - len(history_of(dataset, "u3", train_data, valid_data))


@pytest.mark.parametrize("changes", [{"smore_mode": "single"}, {"smore_mode": "dup", "image_knn_k": 4}])
def test_recommendations_of_smore_are_those_of_the_whole_model(
    settings: Settings, tmp_path: Path, changes: Settings
) -> None:
    file = tmp_path / "run.pth"
    run(settings, model="SMORE", checkpoint_file=str(file), epochs=2, learning_rate=0.1, **changes)
    assert recommend(file, ["u3", "u11"], k=5) == ranked_by_recbole(file, ["u3", "u11"], k=5)


@pytest.mark.parametrize("model", ["SymCERE", "SymCEREPlus", "SMORE", "AlphaRec", "RLMRec", "CEASE", "NeuMF"])
def test_recommendations_need_no_review_and_no_test_row(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    folder = write_atomic_files(tmp_path / "own" / "own", tiny_rows())
    own = {"dataset": "own", "data_path": str(folder.parent), "checkpoint_file": str(tmp_path / "run.pth")}
    text_train = "frozen" if model == "SymCEREPlus" else "lora"
    run(settings, model=model, protocol="temporal", text_train=text_train, epochs=1, **own)
    shutil.rmtree(tmp_path / "text", ignore_errors=True)
    monkeypatch.delattr(ReviewDataset, "review_texts")
    changes = {"text_encoder": "gone"} if model != "NeuMF" else {}
    found = recommend(tmp_path / "run.pth", [f"u{number}" for number in range(40)], config_dict=changes)
    assert all(len(items) == 10 for items in found.values())


def test_the_result_file_names_all_that_decides_a_result(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "results" / "run.json"
    result = run(settings, result_file=str(path))
    record = json.loads(path.read_text())
    assert (record["model"], record["dataset"], record["protocol"], record["seed"]) == (
        "SymCERE",
        "tiny",
        "strict",
        2020,
    )
    assert record["test_result"] == result["test_result"]
    assert record["best_valid_result"] == result["best_valid_result"]
    assert 0 <= record["best_epoch"] < record["epochs"] <= 4
    assert record["seconds"]["fit"] > 0
    assert {"torch", "recbole", "recbole_symcere", "python", "peft", "transformers"} <= record["versions"].keys()
    assert "commit" in record and record["config"]["tau_cross"] == 0.1
    assert run_recbole_symcere(config_dict=record["config"] | {"result_file": None}) == result, "it can be run again"


def test_the_objective_function_is_a_silent_run(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    quiet = {key: value for key, value in settings.items() if key not in ("show_progress", "state")}
    result = objective_function(quiet)
    assert result["model"] == "SymCERE" and result["valid_score_bigger"] is True
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"]
    assert capfd.readouterr().out == ""


def test_a_model_of_ones_own_runs_with_its_parents_settings(settings: Settings) -> None:
    class Mine(SymCERE):
        defaults: ClassVar = {"beta": 1.0, "my_key": 3}

        def calculate_loss(self, interaction: Any) -> Any:
            assert self.settings.beta == 1.0
            return super().calculate_loss(interaction)

    own = {key: value for key, value in settings.items() if key != "model"}
    assert run_recbole_symcere(Mine, config_dict=own | {"my_key": 4})["test_result"]


def test_each_loss_term_is_logged_by_name(settings: Settings, tmp_path: Path) -> None:
    run(settings, state="INFO", epochs=1, show_progress=True)
    (log,) = (tmp_path / "log" / "SymCERE").iterdir()
    assert all(f"{term}: " in log.read_text() for term in ("cross_modal", "intra_graph", "intra_text", "bpr", "l2"))
    (events,) = (tmp_path / "log_tensorboard").glob("*/events*")
    assert b"Loss/Train/cross_modal" in events.read_bytes()


def test_a_silent_run_writes_no_events(settings: Settings, tmp_path: Path) -> None:
    run(settings, state="ERROR", epochs=1)
    assert not (tmp_path / "log_tensorboard").exists()

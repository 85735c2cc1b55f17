"""With ``refit`` the model that ranks the test part is trained on training and validation together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_symcere import trainer as trainer_module
from recbole_symcere.checkpoint import load_checkpoint, resume_path, validation_path
from recbole_symcere.config import Config
from recbole_symcere.data.loaders import refit_preparation
from recbole_symcere.errors import CheckpointError, LeakError
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.quick_start import (
    create_dataset,
    data_preparation,
    load_data_and_model,
    recommend,
    run_recbole_symcere,
)
from recbole_symcere.run import fit
from recbole_symcere.trainer import Trainer
from tests.conftest import START, Row, tiny_rows, write_atomic_files

MakeConfig = Callable[..., Config]


@pytest.fixture
def refitted(make_config: MakeConfig, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a run with a second fit and named files."""

    def make(**changes: Any) -> dict[str, Any]:
        files = {"checkpoint_file": str(tmp_path / "run.pth"), "result_file": str(tmp_path / "run.json")}
        usual = {"model": "LightGCN", "protocol": "temporal", "refit": True} | files
        return make_config(**usual | changes).settings | files

    return make


def test_the_second_fit_has_the_interactions_of_both_parts_and_the_steps_that_validation_chose(
    refitted: Callable[..., dict[str, Any]],
) -> None:
    config = Config(config_dict=refitted(train_batch_size=32, learning_rate=0.05, epochs=6))
    fitted = fit(config)
    train, valid, _ = create_dataset(config).build()
    steps = {name: state["optimizer"]["state"][0]["step"] for name, state in _states(config).items()}
    batches = -(-len(train) // 32)
    assert fitted.seconds == fitted.trainer.seconds + fitted.ranker.seconds > fitted.ranker.seconds > 0
    assert steps["validation"] == steps["test"] == (fitted.trainer.best_epoch + 1) * batches > 0
    assert -(-(len(train) + len(valid)) // 32) > batches, "the second fit has as many steps in an epoch"
    graph = fitted.ranker.model.interaction_matrix
    pairs = {pair for part in (train, valid) for pair in _pairs(part)}
    assert set(zip(graph.row.tolist(), graph.col.tolist(), strict=True)) == pairs


def _states(config: Config) -> dict[str, dict[str, Any]]:
    path = config["checkpoint_file"]
    return {"validation": load_checkpoint(validation_path(path)), "test": load_checkpoint(path)}


def _pairs(part: Any) -> set[tuple[int, int]]:
    return set(zip(part.inter_feat["user_id"].tolist(), part.inter_feat["item_id"].tolist(), strict=True))


def test_closed_forms_are_made_of_both_parts(refitted: Callable[..., dict[str, Any]]) -> None:
    config = Config(config_dict=refitted(model="Pop"))
    fitted = fit(config)
    train, valid, _ = create_dataset(config).build()
    counts = torch.cat([part.inter_feat["item_id"] for part in (train, valid)]).bincount(minlength=train.item_num)
    assert torch.equal(fitted.ranker.model.item_cnt.flatten(), counts)


def test_the_validation_part_does_not_change_with_it(refitted: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    results = []
    for refit in (True, False):
        given = refitted(refit=refit, checkpoint_file=str(tmp_path / f"{refit}.pth"))
        results.append(run_recbole_symcere(config_dict=given | {"checkpoint_file": str(tmp_path / f"{refit}.pth")}))
    assert repr(results[0]["best_valid_result"]) == repr(results[1]["best_valid_result"])
    assert results[0]["test_result"] != results[1]["test_result"]


def test_a_loaded_checkpoint_ranks_as_the_run_did(refitted: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    given = refitted()
    result = run_recbole_symcere(config_dict=given)
    config, model, dataset, train_data, _, test_data = load_data_and_model(given["checkpoint_file"])
    assert len(train_data._dataset) == sum(len(part) for part in create_dataset(config).build()[:2])
    trainer = Trainer(config, model)
    trainer.eval_collector.data_collect(train_data)
    again = trainer.evaluate(test_data, load_best_model=False)
    assert repr(dict(again)) == repr(dict(result["test_result"]))
    ranked = recommend(given["checkpoint_file"], k=3)
    users, items = (dataset.id2token(f"{kind}_id", np.arange(dataset.num(f"{kind}_id"))) for kind in ("user", "item"))
    met = {(users[user], items[item]) for part in (train_data._dataset,) for user, item in _pairs(part)}
    assert all((user, item) not in met for user, best in ranked.items() for item, _ in best)


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_an_interrupted_second_fit_goes_on_and_ends_the_same(
    refitted: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: float
) -> None:
    monkeypatch.setattr(trainer_module, "SAVE_EVERY", save_every)
    given = refitted(learning_rate=0.05)
    whole = run_recbole_symcere(config_dict=given | {"checkpoint_file": str(tmp_path / "whole.pth")})
    train_epoch = Trainer._train_epoch

    def die(trainer: Trainer, data: Any, epoch: int, *args: Any, **kwargs: Any) -> Any:
        if trainer.is_refit and epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(trainer, data, epoch, *args, **kwargs)

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(Trainer, "_train_epoch", die)
        run_recbole_symcere(config_dict=given)
    assert not Path(given["checkpoint_file"]).exists() and resume_path(given["checkpoint_file"]).exists()
    epochs = []

    def note(trainer: Trainer, data: Any, epoch: int, *args: Any, **kwargs: Any) -> Any:
        epochs.append(epoch)
        return train_epoch(trainer, data, epoch, *args, **kwargs)

    monkeypatch.setattr(Trainer, "_train_epoch", note)
    np.testing.assert_equal(run_recbole_symcere(config_dict=given), whole)
    assert epochs[0] == (0 if save_every else 1), "saved at the start, and then when the time has come"


def test_a_checkpoint_of_another_run_is_told_before_any_training(
    refitted: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recbole_symcere(config_dict=refitted(refit=False))
    monkeypatch.setattr("recbole_symcere.trainer.Trainer._train_epoch", lambda *_: pytest.fail("trained"))
    with pytest.raises(CheckpointError, match="refit was False, now True"):
        run_recbole_symcere(config_dict=refitted())
    resume_path(refitted()["checkpoint_file"]).unlink()
    with pytest.raises(CheckpointError, match="could be continued"):
        run_recbole_symcere(config_dict=refitted())


def test_the_record_holds_the_metrics_by_history(refitted: Callable[..., dict[str, Any]]) -> None:
    given = refitted()
    run_recbole_symcere(config_dict=given)
    record = json.loads(Path(given["result_file"]).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    for kind in ("trained", "validonly", "stranger"):
        assert {f"{kind}ndcg@10", f"{kind}hit@10"} <= record["test_result"].keys()


def test_a_pair_of_validation_that_recurs_in_the_test_part_stops_the_second_fit(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    rows: list[Row] = [(u, i, r, time, review, text) for u, i, r, time, review, text in tiny_rows()]
    last = rows[-1]
    rows.append((last[0], last[1], 1.0, float(START + 10_000), "again", "x"))
    folder = write_atomic_files(tmp_path / "again" / "again", rows)
    changes = {"rm_dup_inter": None, "protocol": "temporal", "dataset": "again", "data_path": str(folder.parent)}
    moved = {"eval_args": {"split": {"RS": [0.5, 0.4999, 0.0001]}}}
    config = make_config(model="Pop", audit="warn", **changes, **moved)
    loaders = data_preparation(config, create_dataset(config))
    with pytest.raises(LeakError, match="1 of 1 test pairs recur"):
        refit_preparation(config.with_settings(audit="error"), loaders)


def test_the_second_fit_encodes_only_what_the_first_has_not(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    embed = ReviewEncoder.embed

    def count(encoder: ReviewEncoder, reviews: Any, rows: Any, **rest: Any) -> Any:
        encoded.append(len(rows))
        return embed(encoder, reviews, rows, **rest)

    monkeypatch.setattr(ReviewEncoder, "embed", count)
    config = make_config(model="TextProfile", protocol="temporal")
    fitted = fit(config, saved=False)
    train, valid, _ = create_dataset(config).build()
    assert encoded == [len(train), len(valid)]
    encoder = ReviewEncoder(config["text_encoder"], train="frozen", max_length=16, precision="fp32")
    whole = train.joined_with(valid)
    (vectors,) = whole.embedded_reviews(encoder, 0, 0.0)
    expected = encoder(whole.tokenised_reviews(encoder), torch.arange(len(whole)))
    torch.testing.assert_close(torch.from_numpy(vectors), expected.detach())
    assert fitted.ranker.is_refit

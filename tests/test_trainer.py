"""Learning rates are what the settings say, and a training step never waits for its device.

The latter is tested on PyTorch's ``meta`` device, which has no values to wait for.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_symcere.config import Config
from recbole_symcere.model import graph
from recbole_symcere.model.text import views
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.ranking import RankingTrainer
from recbole_symcere.run import build_trainer
from recbole_symcere.testing import host_work_of_a_step
from recbole_symcere.trainer import Trainer

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("graph_encoder", ["LightGCN", "NGCF"])
@pytest.mark.parametrize("text_train", ["frozen", "lora", "full"])
def test_a_step_brings_nothing_back_to_the_host_and_draws_on_the_device(
    make_config: MakeConfig, text_train: str, graph_encoder: str
) -> None:
    config = make_config(
        text_train=text_train, graph_encoder=graph_encoder, text_tokens_per_batch=100, text_memory=1e-4,
        clip_grad_norm={"max_norm": 1.0},
    )  # fmt: skip
    assert host_work_of_a_step(config) == []


@pytest.mark.parametrize("smore_mode", ["single", "dup"])
def test_a_step_of_smore_does_neither(make_config: MakeConfig, smore_mode: str) -> None:
    assert host_work_of_a_step(make_config(model="SMORE", smore_mode=smore_mode, dropout_rate=0.1)) == []


@pytest.mark.parametrize("changes", [{}, {"contrasted": 10}, {"softmax_items": 3}])
def test_a_step_of_symcere_plus_does_neither(make_config: MakeConfig, changes: dict[str, int]) -> None:
    assert host_work_of_a_step(make_config(model="SymCEREPlus", **changes)) == []


def rates_of_each_step(trainer: Trainer, train_data: Any, epochs: Iterable[int]) -> list[list[float]]:
    """Returns the learning rates of the optimiser's groups at each step; nothing is trained."""
    rates: list[list[float]] = []

    def train_step(*_: Any) -> Tensor:
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        return torch.zeros(())

    trainer._train_step = train_step
    for epoch in epochs:
        trainer._train_epoch(train_data, epoch)
    return rates


def test_warm_up_raises_the_rate_of_the_text_alone(make_config: MakeConfig) -> None:
    config = make_config(text_train="lora", text_learning_rate=0.5, text_warmup_steps=5, learning_rate=0.01)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    trainer = build_trainer(config, train_data)
    assert len(train_data) == 4
    graph, text = zip(*rates_of_each_step(trainer, train_data, [0, 1]), strict=True)
    assert set(graph) == {0.01}
    assert text == pytest.approx([0.5 * step / 6 for step in (1, 2, 3, 4, 5, 6, 6, 6)])


def test_a_models_factor_holds_for_an_epoch_on_top_of_warm_up(make_config: MakeConfig) -> None:
    config = make_config(text_train="lora", text_learning_rate=0.5, text_warmup_steps=5, learning_rate=0.01)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    trainer = build_trainer(config, train_data)
    trainer.model.learning_rate_factor = lambda epoch: 0.5**epoch
    graph, text = zip(*rates_of_each_step(trainer, train_data, [0, 1, 2]), strict=True)
    assert graph == pytest.approx([0.01] * 4 + [0.005] * 4 + [0.0025] * 4)
    assert text == pytest.approx([0.5 * step / 6 for step in (1, 2, 3, 4)] + [0.25 * 5 / 6] + [0.25] * 3 + [0.125] * 4)


def test_smores_rate_decays_from_epoch_to_epoch(make_config: MakeConfig) -> None:
    config = make_config(model="SMORE", learning_rate=0.01, learning_rate_decay=0.5, learning_rate_decay_epochs=2)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    trainer = build_trainer(config, train_data)
    rates = [rate for (rate,) in rates_of_each_step(trainer, train_data, [0, 1, 2, 4])]
    assert rates == pytest.approx(
        [0.01] * 4 + [0.01 * 0.5**0.5] * 4 + [0.005] * 4 + [0.0025] * 4  # 0.5 ** (epoch / 2)
    )


def test_a_draw_on_the_host_a_waiting_copy_and_a_value_that_is_read_are_noticed(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    look_up = graph.BipartiteGraph._by_search
    monkeypatch.setattr(graph.BipartiteGraph, "_by_search", lambda *args: torch.rand(1) and look_up(*args))
    assert host_work_of_a_step(config) == ["aten.rand.default on the host"]
    monkeypatch.setattr(views, "upload", lambda tensor, device: tensor.to(device))
    monkeypatch.setattr(graph.BipartiteGraph, "_by_search", look_up)
    assert host_work_of_a_step(config) == ["aten._to_copy.default on both"] * 3  # the three views' rows
    monkeypatch.setattr(graph.BipartiteGraph, "_by_search", graph.BipartiteGraph._in_histories)
    with pytest.raises((RuntimeError, NotImplementedError)):
        host_work_of_a_step(config)


@pytest.mark.parametrize(("valid_window", "best_epoch"), [(1, 1), (3, 5)])
def test_the_best_epoch_is_that_of_the_best_mean_of_the_last_validations(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, valid_window: int, best_epoch: int
) -> None:
    scores = iter([0.1, 0.9, 0.2, 0.5, 0.6, 0.6, 0.3, 0.1])
    result = {"ndcg@10": 0.0}
    monkeypatch.setattr(RankingTrainer, "_valid_epoch", lambda *_, **__: (next(scores), result))
    config = make_config(model="LightGCN", epochs=8, valid_window=valid_window, stopping_step=10)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    trainer = build_trainer(config, train_data)
    score, _ = trainer.fit(train_data, valid_data, saved=False, verbose=False)
    assert trainer.best_epoch == best_epoch
    assert score == pytest.approx({1: 0.9, 3: (0.5 + 0.6 + 0.6) / 3}[valid_window])
    assert [epoch["valid_score"] for epoch in trainer.curves] == [0.1, 0.9, 0.2, 0.5, 0.6, 0.6, 0.3, 0.1]

"""A training step runs ahead of its device: shown on PyTorch's ``meta`` device, which has no values to wait for."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from recbole_symcere.config import Config
from recbole_symcere.model import graph
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.trainer import Trainer
from tests.dispatch import HostDraws

MakeConfig = Callable[..., Config]
META = torch.device("meta")


def step_on_meta(config: Config) -> list[str]:
    """One training step with the model on the meta device: the draws on the host. It fails where a value is read."""
    train_data, _, _ = data_preparation(config, create_dataset(config))
    model = SymCERE(config, train_data._dataset).to(META)
    trainer = Trainer(config, model)
    trainer.device = META
    batch = next(iter(train_data))
    model.train()
    with HostDraws() as draws:
        trainer._train_step(batch, model.calculate_loss, torch.amp.GradScaler(enabled=False))
    return draws.drawn


@pytest.fixture(autouse=True)
def _what_meta_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has neither autocast nor sparse products."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setitem(graph._PRODUCTS, "meta", lambda adjacency, x: torch.empty_like(x))


@pytest.mark.parametrize("graph_encoder", ["LightGCN", "NGCF"])
@pytest.mark.parametrize("text_train", ["frozen", "lora", "full"])
def test_a_step_brings_nothing_back_to_the_host_and_draws_on_the_device(
    make_config: MakeConfig, text_train: str, graph_encoder: str
) -> None:
    config = make_config(
        text_train=text_train, graph_encoder=graph_encoder, text_tokens_per_batch=100, text_memory=1e-4,
        clip_grad_norm={"max_norm": 1.0},
    )  # fmt: skip
    assert step_on_meta(config) == []


def test_a_value_that_is_read_and_a_draw_on_the_host_are_noticed(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    look_up = graph.BipartiteGraph._by_search
    monkeypatch.setattr(graph.BipartiteGraph, "_by_search", lambda *args: torch.rand(1) and look_up(*args))
    assert step_on_meta(config) == ["aten.rand.default"]
    monkeypatch.setattr(graph.BipartiteGraph, "_by_search", graph.BipartiteGraph._in_histories)
    with pytest.raises((RuntimeError, NotImplementedError)):
        step_on_meta(config)

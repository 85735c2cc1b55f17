"""Several processes do what one does: the same loss, gradients, weights, vectors and metrics."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from recbole_symcere import distributed
from recbole_symcere.config import Config
from recbole_symcere.data import embeddings as embeddings_module
from recbole_symcere.data.embeddings import cached_embeddings
from recbole_symcere.data.tokens import TokenisedReviews
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.loss import info_nce, sincere
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.quick_start import create_dataset, data_preparation, load_data_and_model, run_recbole_symcere
from recbole_symcere.run import build_model
from recbole_symcere.trainer import Trainer
from tests.conftest import for_model, tiny_rows, write_atomic_files
from tests.processes import in_processes, kill_this_process
from tests.tiny_encoders import wordpiece

Settings = dict[str, Any]
STEPS = 20  # of several epochs


@given(lengths=st.lists(st.integers(0, 50)), parts=st.integers(1, 7))
def test_texts_are_dealt_out_evenly_by_tokens_and_by_number(lengths: list[int], parts: int) -> None:
    sizes = np.array(lengths, int)
    shares = distributed.shares_by_length(sizes, parts)
    assert sorted(np.concatenate(shares)) == list(range(len(lengths)))
    tokens, numbers = [sizes[share].sum() for share in shares], [len(share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths, default=0)
    assert max(numbers) - min(numbers) <= 1


@given(n=st.integers(1, 40), size=st.integers(1, 9))
def test_the_mean_over_processes_of_weighted_means_over_their_rows_is_the_mean(n: int, size: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: size)
        means = []
        for rank in range(size):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            share = distributed.share(n)
            means.append(share.weight * values[share.rows].mean())
    assert np.mean(means) == pytest.approx(values.mean())


@hypothesis_settings(deadline=None)
@given(size=st.integers(1, 9), cuts=st.sets(st.integers(1, 8)), seed=st.integers(0, 9))
def test_losses_over_some_anchors_at_a_time_add_up_to_the_loss_over_all(size: int, cuts: set[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    graph, text = (torch.randn(size, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    known = torch.rand(size, size, generator=generator) < 0.4
    ends = [0, *sorted(cut for cut in cuts if cut < size), size]
    shares = [distributed.Share(slice(start, end), 1.0) for start, end in pairwise(ends)]

    def known_of(own: distributed.Share) -> Tensor:
        return own.first(own.of(known).T).T

    for loss in (
        lambda own: sincere(own.of(graph), own.first(text), 0.3, known_of(own)),
        lambda own: sincere(own.of(text), own.first(graph), 0.3, known_of(own)),
        lambda own: info_nce(own.of(graph), own.first(text), 0.3),
    ):
        whole = loss(distributed.Share(slice(0, size), 1.0))
        summed = sum((own.rows.stop - own.rows.start) / size * loss(own) for own in shares)
        assert_close(summed, whole)
        assert_close(torch.autograd.grad(summed, (graph, text)), torch.autograd.grad(whole, (graph, text)))


Trained = tuple[list[list[float]], dict[str, Tensor], dict[str, Tensor]]


def _train(settings: Settings, steps: int = STEPS, without_dropout: bool = True) -> Trained:
    """Returns the losses of each step, the first gradients and the last weights; our models compute in float64."""
    config = Config(config_dict=settings)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    model = build_model(config, train_data._dataset)
    for module in model.modules() if without_dropout else ():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    trainer = Trainer(config, model.double() if isinstance(model, SymCERE) else model)
    model.train()
    losses: list[list[float]] = []
    gradients: dict[str, Tensor] = {}
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    while len(losses) < steps:
        for batch in train_data:
            terms = trainer._train_step(batch, model.calculate_loss, scaler)
            terms = terms if isinstance(terms, tuple) else (terms,)
            losses.append([float(distributed.mean(term.detach())) for term in terms])
            weights = model.named_parameters()
            gradients = gradients or {name: weight.grad.clone() for name, weight in weights if weight.grad is not None}
    return losses, gradients, {name: weight.detach() for name, weight in model.named_parameters()}


ALL_TERMS = {"cross_weight": 1.0, "alpha": 0.5, "beta": 0.3, "reg_weight": 1e-3, "edge_dropout": 0.2}
MODELS: dict[str, Settings] = {
    "frozen": {"text_train": "frozen", **ALL_TERMS},
    "LoRA beyond memory": {
        "text_train": "lora",
        "lora_dropout": 0.0,
        "text_tokens_per_batch": 60,
        "text_memory": 1e-4,
        **ALL_TERMS,
    },
    "NGCF, small contrasts": {"graph_encoder": "NGCF", "contrast_batch_size": 7, **ALL_TERMS},
    "no masking, clipped": {"alpha": 0.0, "contrast": "infonce", "clip_grad_norm": {"max_norm": 0.1}},
    "SymCEREPlus": {"model": "SymCEREPlus"},
    "SGL": {"model": "SGL"},
}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_two_processes_train_as_one_does(settings: Settings, changes: Settings) -> None:
    # 23 rows a batch: the halves are uneven, and so is the last batch.
    settings = for_model(settings | {"train_batch_size": 23, "learning_rate": 0.01} | changes)
    losses, gradients, weights = _train(settings)
    for of_two in in_processes(2, _train, settings):
        assert_close(of_two[0], losses, rtol=0, atol=1e-8)
        assert_close(of_two[1], gradients, rtol=0, atol=1e-8)
        assert_close(of_two[2], weights, rtol=0, atol=1e-8)


def test_more_processes_than_a_batch_has_rows_train_as_one_does(settings: Settings) -> None:
    settings |= MODELS["LoRA beyond memory"] | {"train_batch_size": 2, "learning_rate": 0.01}
    losses, _, weights = _train(settings, steps=3)
    for of_three in in_processes(3, _train, settings, 3):
        assert_close(of_three[0], losses, rtol=0, atol=1e-8)
        assert_close(of_three[2], weights, rtol=0, atol=1e-8)


def _drawn_after_training(settings: Settings) -> tuple[list[float], float]:
    losses, _, _ = _train(settings, steps=2, without_dropout=False)
    return [sum(step) for step in losses], float(torch.rand(()))


def test_dropout_differs_between_processes_whose_generators_stay_in_step(settings: Settings) -> None:
    first, second = in_processes(2, _drawn_after_training, settings | {"text_train": "lora", "lora_dropout": 0.5})
    assert first == second
    draws = in_processes(2, _draw_alone)
    assert draws[0][0] != draws[1][0] and draws[0][1] == draws[1][1]


def _draw_alone() -> tuple[float, float]:
    torch.manual_seed(0)
    with distributed.own_randomness(torch.device("cpu")):
        alone = float(torch.rand(()))
    return alone, float(torch.rand(()))


@pytest.mark.parametrize("model", ["NeuMF", "Pop"])
def test_several_processes_reach_the_metrics_of_one(settings: Settings, model: str, tmp_path: Path) -> None:
    settings = for_model(settings | {"model": model, "eval_batch_size": 200})
    alone = run_recbole_symcere(config_dict=settings)
    shared = settings | {"checkpoint_dir": str(tmp_path / "shared")}
    assert in_processes(3, _run_settings, shared) == [alone] * 3
    assert len(list((tmp_path / "shared").glob("*.resume.pth"))) == 1  # one process writes


def _run_settings(settings: Settings) -> dict[str, Any]:
    return run_recbole_symcere(config_dict=settings)


def test_several_processes_go_on_with_a_run_as_one_does(settings: Settings, tmp_path: Path) -> None:
    settings = for_model(settings | {"model": "LightGCN"})
    alone = run_recbole_symcere(config_dict=settings)
    settings |= {"checkpoint_file": str(tmp_path / "run.pth")}
    in_processes(2, _run_settings, settings | {"epochs": 2})
    assert in_processes(2, _run_settings, settings) == [alone] * 2


def test_several_processes_rank_as_one_does(settings: Settings, tmp_path: Path) -> None:
    settings |= {"checkpoint_file": str(tmp_path / "run.pth"), "eval_batch_size": 200, "metric_decimal_place": 12}
    alone = run_recbole_symcere(config_dict=settings)["test_result"]
    for size in (2, 3):
        assert in_processes(size, _rank, settings["checkpoint_file"]) == [alone] * size


def _rank(model_file: str) -> Any:
    config, model, _, train_data, _, test_data = load_data_and_model(model_file)
    trainer = Trainer(config, model)
    trainer.eval_collector.data_collect(train_data)
    return trainer.evaluate(test_data, load_best_model=False)


def _refusal(settings: Settings) -> str:
    with pytest.raises(ConfigError) as error:
        run_recbole_symcere(config_dict=settings)
    return str(error.value)


def test_more_processes_than_users_to_rank_are_refused(settings: Settings, tmp_path: Path) -> None:
    write_atomic_files(tmp_path / "dataset" / "two", [row for row in tiny_rows() if row[0] in ("u0", "u1")])
    settings |= {
        "dataset": "two",
        "data_path": str(tmp_path / "dataset"),
        "text_train": "frozen",
        "topk": [3],
        "valid_metric": "NDCG@3",
    }
    assert "3 processes can't share 2 users" in in_processes(3, _refusal, settings)[0]


class _Counting:
    """Embeds a review as the sum of its ids; counts the shards of this process, and kills it at one if told."""

    max_length = 8
    fast_tokenizer = wordpiece()
    prompt = ""

    def __init__(self, dies_at: int | None = None) -> None:
        self.starts: list[int] = []
        self.dies_at = dies_at

    def fingerprint(self) -> str:
        return "counting"

    def embed(self, reviews: TokenisedReviews, rows: np.ndarray, mask_ratio: float, seed: int) -> np.ndarray:
        if self.dies_at == rows[0]:
            kill_this_process()
        self.starts.append(int(rows[0]))
        sums = [reviews.gather(rows[place : place + 1])[0].sum() for place in range(len(rows))]
        return np.array(sums, np.float32)[:, None] + np.float32(mask_ratio)


TEXTS = ["good " * (number % 5 + 1) + "x" * (number % 3) for number in range(22)]


def _embed(folder: Path, views: int = 1, dies_at: int | None = None) -> tuple[list[int], list[np.ndarray]]:
    encoder = _Counting(dies_at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings_module, "TEXTS_PER_SHARD", 4)
        arrays = [np.array(view) for view in cached_embeddings(TEXTS, encoder, views, 0.2, 0, folder, False)]
    return encoder.starts, arrays


def test_each_process_embeds_shards_of_its_own(tmp_path: Path) -> None:
    _, alone = _embed(tmp_path / "alone")
    (first, of_first), (second, of_second) = in_processes(2, _embed, tmp_path / "of two")
    assert (first, second) == ([0, 8, 16] * 2, [4, 12, 20] * 2)
    for views in (of_first, of_second):
        assert_close(views, alone, rtol=0, atol=0)


def test_a_process_that_finds_a_view_takes_part_in_making_the_others(tmp_path: Path) -> None:
    _embed(tmp_path, views=1)
    (first, _), (second, _) = in_processes(2, _embed, tmp_path, 2)
    assert (first, second) == ([0, 8, 16], [4, 12, 20])


def test_the_shards_of_a_killed_process_and_of_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.processes.SECONDS", 20)
    with pytest.raises(AssertionError, match=r"[Cc]onnection"):  # of the other, which waits for the killed one
        in_processes(2, _embed_until_killed, tmp_path)
    again, views = _embed(tmp_path, views=0)
    assert again == [20]
    assert_close(views, _embed(tmp_path / "alone", views=0)[1], rtol=0, atol=0)


def _embed_until_killed(folder: Path) -> None:
    _embed(folder, 0, dies_at=20)


def _torchrun(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "recbole_symcere.cli", "train", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_torchrun_trains_one_model_and_writes_once(settings: Settings, tmp_path: Path) -> None:
    settings |= {"result_file": "result.json", "checkpoint_file": "run.pth", "state": "INFO"}
    run = _torchrun([f"--{key}={value}" for key, value in settings.items()], tmp_path)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    alone = run_recbole_symcere(config_dict=settings | {"checkpoint_file": "alone.pth", "result_file": None})
    assert result["test_result"] == pytest.approx(alone["test_result"], abs=1e-3)
    assert len(list((tmp_path / "log").glob("*/*.log"))) == 2  # and the one of ``alone``
    assert run.stderr.count("INFO  results") == 1

"""Benchmarks whole runs, their start, and how the time of an epoch grows with the data."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer as RecBoleTrainer
from recbole.utils import init_seed

from benchmarks.generated import real_dataset, write_interactions
from benchmarks.measure import REPEATS, Options, Row, alternate, in_new_process, with_threads
from benchmarks.ranking import RECBOLE_EVAL_BATCH_SIZE, RECBOLE_METRICS, recboles_loader
from recbole_symcere.config import Config
from recbole_symcere.model import symcere
from recbole_symcere.model.text.loading import MINILM
from recbole_symcere.model.text.views import KeptVectors
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.trainer import Trainer

IMDB = "imdb-2000-2001"
FROZEN = {"text_encoder": MINILM, "text_train": "frozen"}
SILENT = {"state": "ERROR", "show_progress": False}
# The paper's weights, and those where BPR on dot products outweighs the rest.
RECIPES: dict[str, dict[str, Any]] = {
    "the paper's weights": {},
    "BPR in the lead": {
        "cross_weight": 0.02, "alpha": 0.0, "beta": 1.0, "tau_cross": 0.2, "bpr_norm": 1.0, "score_norm": 1.0,
    },
}  # fmt: skip


def frozen_run(options: Options) -> Iterator[Row]:
    """Measures the seconds of training and validation up to the best epoch, as a median over several seeds.

    The vectors of the reviews are cached. The peer is RecBole's LightGCN in RecBole's trainer with its default
    ``eval_batch_size``.
    """
    with real_dataset(IMDB, options) as folder:
        shared = {"data_path": str(folder)} | SILENT | ({"epochs": 3} if options.small else {})
        shared |= {"metrics": RECBOLE_METRICS}
        for recipe, weights in RECIPES.items():
            ours, theirs = [], []
            for seed in range(1 if options.small else REPEATS):
                config = Config("SymCERE", IMDB, config_dict=shared | FROZEN | weights | {"seed": seed})
                ours.append(_to_best_epoch(config, Trainer))
                changes = {"seed": seed, "eval_batch_size": RECBOLE_EVAL_BATCH_SIZE}
                config = Config("LightGCN", IMDB, config_dict=shared | changes)
                theirs.append(_to_best_epoch(config, RecBoleTrainer))
            ours_s, theirs_s = (statistics.median(seconds for seconds, _ in runs) for runs in (ours, theirs))
            epochs = [", ".join(str(epoch) for _, epoch in runs) for runs in (ours, theirs)]
            case = f"{recipe}, {torch.get_num_threads()} threads"
            note = f"best epochs: ours {epochs[0]}; theirs {epochs[1]}"
            yield Row(
                "frozen-run", case, "RecBole's LightGCN and trainer", ours_s, theirs_s, 1 / 3, unit="s", note=note
            )


def _to_best_epoch(config: Config, trainer_class: type[RecBoleTrainer]) -> tuple[float, int]:
    """Returns the seconds to the best epoch, and its number."""
    init_seed(config["seed"], True)
    train_data, valid_data, _ = loaders = data_preparation(config, create_dataset(config))
    if trainer_class is RecBoleTrainer:
        valid_data = recboles_loader(config, loaders, 1)
        model = LightGCN(config, train_data._dataset)
    else:
        model = symcere.SymCERE(config, train_data._dataset)
    trainer = trainer_class(config, model.to(config["device"]))
    epochs: list[tuple[float, float]] = []
    started = perf_counter()
    trainer.fit(
        train_data, valid_data, saved=False, callback_fn=lambda _, score: epochs.append((score, perf_counter()))
    )
    best = max(range(len(epochs)), key=lambda epoch: epochs[epoch][0])
    return epochs[best][1] - started, best


LOOPS = {"LightGCN": 1.5, "NeuMF": 2.0, "SGL": 2.0}  # the ratios to reach on a CPU


def loops(options: Options) -> Iterator[Row]:
    """Measures an epoch of RecBole's models in our loop, whose batches are made on the device, and in RecBole's own.

    Each model has its default settings, apart from the batch of 2,048 interactions that all have here.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_interactions(Path(folder) / "generated", 1_000 if options.small else 50_000)
        shared = {"data_path": folder, "checkpoint_dir": folder, "train_batch_size": 2_048} | SILENT
        for model, target in LOOPS.items():
            epochs = []
            for trainer_class, loader in ((Trainer, "device"), (RecBoleTrainer, "recbole")):
                config = Config(model, "generated", config_dict=shared | {"loader": loader})
                train_data, _, _ = data_preparation(config, create_dataset(config))
                init_seed(config["seed"], True)
                trainer = trainer_class(config, config.model_class(config, train_data._dataset).to(config["device"]))
                epochs.append(partial(trainer._train_epoch, train_data, 0))
            for threads in with_threads():
                ours, theirs = alternate(*epochs, repeats=REPEATS)
                case = f"{model}, {len(train_data._dataset):,} interactions, {threads}"
                yield Row("loops", case, "RecBole's loop and loader", ours, theirs, target)


def second_start(options: Options) -> Iterator[Row]:
    """Measures the seconds from the configuration to the end of the first training step, without imports.

    The first run encodes the reviews; later runs read their vectors from the cache.
    """
    dataset = "musical-instruments"
    with real_dataset(dataset, options) as folder, tempfile.TemporaryDirectory() as cache:
        first, *others = (
            in_new_process(_start, dataset, folder, cache)[0] for _ in range(1 + (1 if options.small else REPEATS))
        )
    case = f"{dataset}, frozen MiniLM, {torch.get_num_threads()} threads"
    yield Row("second-start", case, "the first run", statistics.median(others), first, unit="s")


def _start(dataset: str, folder: Path, cache: str) -> float:
    started = perf_counter()
    config = Config(
        "SymCERE", dataset, config_dict={"data_path": str(folder), "text_cache_dir": cache} | FROZEN | SILENT
    )
    train_data, _, _ = data_preparation(config, create_dataset(config))
    model = symcere.SymCERE(config, train_data._dataset)
    trainer = Trainer(config, model.to(config["device"]))
    trainer._train_step(
        next(iter(train_data)), model.calculate_loss, torch.amp.GradScaler(trainer.device.type, enabled=False)
    )
    return perf_counter() - started


STEPS = 20  # the number of steps of an epoch, each of which propagates over the whole graph
CONTRAST = 2_048
TEXT_WIDTH = 64


def scaling(options: Options) -> Iterator[Row]:
    """Measures an epoch over generated interactions with random text vectors, each size in a new process.

    The batch grows with the data, so that an epoch has the same number of propagations at every size. The negatives of
    an interaction come from 2,048 interactions. The last two rows have the exponents with which time and memory grow.
    """
    sizes = (1_000, 4_000) if options.small else (100_000, 500_000, 1_000_000, 5_000_000)
    seconds, memory = [], []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_interactions(Path(folder) / "generated", n)
            (epoch, before), peak = in_new_process(_epoch, Path(folder), n)
        seconds.append(epoch)
        memory.append(peak - before)
        case = f"{n:,} interactions, {torch.get_num_threads()} threads"
        yield Row("scaling", case, "", epoch, unit="s", note=f"peak {peak:.0f} MiB, {before:.0f} of it imports")
    for name, values, unit in (("time", seconds, "s"), ("memory", memory, "MiB")):
        exponent = math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])
        case = f"{name}, {sizes[0]:,} to {sizes[-1]:,}: exponent {exponent:.2f}"
        yield Row("scaling", case, "", values[-1], unit=unit)


def _epoch(folder: Path, n: int) -> tuple[float, float]:
    """Returns the seconds of an epoch, and the MiB that the process held before it read the data."""
    before = _resident()
    settings = {"data_path": str(folder), "train_batch_size": max(1, n // STEPS), "contrast_batch_size": CONTRAST}
    config = Config("SymCERE", "generated", config_dict=settings | FROZEN | SILENT)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    with patch.object(symcere, "review_views", lambda config, dataset, masked: _random_views(len(dataset))):
        model = symcere.SymCERE(config, train_data._dataset)
    trainer = Trainer(config, model.to(config["device"]))
    started = perf_counter()
    trainer._train_epoch(train_data, 0)
    return perf_counter() - started, before


def _random_views(n: int) -> KeptVectors:
    rng = np.random.default_rng(0)
    return KeptVectors([rng.standard_normal((n, TEXT_WIDTH), np.float32) for _ in range(2)])


def _resident() -> float:
    """Returns the MiB that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4 / 2**10

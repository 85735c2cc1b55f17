"""Benchmarks the full ranking of all users."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer as RecBoleTrainer

from benchmarks.generated import write_dataset
from benchmarks.measure import DEVICE, Options, Row, alternate, with_threads
from recbole_symcere.config import Config
from recbole_symcere.model.registry import with_hooks
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.trainer import Trainer

RECBOLE_EVAL_BATCH_SIZE = 4096  # RecBole's default number of scores in a step, which are those of one or a few users
RECBOLE_METRICS = ["Hit", "NDCG", "Recall", "MRR", "ItemCoverage", "AveragePopularity", "GiniIndex"]


def full_ranking(options: Options) -> Iterator[Row]:
    """Measures ranking the test part, with the ``eval_batch_size`` of our protocols and by RecBole with its default."""
    n = 2_000 if options.small else 50_000
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "generated", n)
        evaluations = []
        for trainer_class, changes in ((Trainer, {}), (RecBoleTrainer, {"eval_batch_size": RECBOLE_EVAL_BATCH_SIZE})):
            settings = {"data_path": folder, "checkpoint_dir": folder, "state": "ERROR", "show_progress": False}
            settings |= {"metrics": RECBOLE_METRICS, "cold_users": "model"}  # RecBole knows no other way
            config = Config("LightGCN", "generated", config_dict=settings | changes)
            train_data, _, test_data = data_preparation(config, create_dataset(config))
            if trainer_class is RecBoleTrainer:
                test_data = FullSortEvalDataLoader(config, test_data._dataset, test_data._sampler)
            torch.manual_seed(0)
            trainer = trainer_class(config, with_hooks(LightGCN)(config, train_data._dataset).to(config["device"]))
            trainer.eval_collector.data_collect(train_data)
            evaluations.append(partial(trainer.evaluate, test_data, load_best_model=False))
        ours_result, their_result = (evaluate() for evaluate in evaluations)
        # On a GPU, the rounding of a score depends on how many scores are computed at once.
        if any(abs(value - their_result[name]) > 1e-4 * (DEVICE.type == "cuda") for name, value in ours_result.items()):
            raise AssertionError(f"the metrics differ: {ours_result}, {their_result}")
        sizes = f"{len(test_data.uid_list):,} users, {test_data._dataset.item_num - 1:,} items"
        for threads in with_threads():
            ours, theirs = alternate(*evaluations)
            case = f"{sizes}, {threads}"
            yield Row("full-ranking", case, "RecBole, eval_batch_size 4096", ours, theirs, 10.0)

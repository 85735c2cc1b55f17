"""Benchmarks the full ranking of all users, and the lists of a trained model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.utils import create_dataset as recboles_dataset
from recbole.data.utils import create_samplers
from recbole.data.utils import data_preparation as recboles_preparation
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer as RecBoleTrainer
from recbole.utils import init_seed
from recbole.utils.case_study import full_sort_topk

from benchmarks.generated import write_dataset
from benchmarks.measure import DEVICE, REPEATS, Options, Row, alternate, with_threads
from recbole_symcere.checkpoint import load_checkpoint, stored_config
from recbole_symcere.config import Config
from recbole_symcere.data.loaders import DataLoaders
from recbole_symcere.model.registry import with_hooks
from recbole_symcere.quick_start import create_dataset, data_preparation, load_data_and_model, run_recbole_symcere
from recbole_symcere.recommend import recommend
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
            train_data, _, test_data = loaders = data_preparation(config, create_dataset(config))
            if trainer_class is RecBoleTrainer:
                test_data = recboles_loader(config, loaders, 2)
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


def recboles_loader(config: Config, loaders: DataLoaders, number: int) -> FullSortEvalDataLoader:
    """Returns RecBole's dataloader of the part with a number, 1 for validation or 2 for test."""
    parts = [loader._dataset for loader in loaders]
    return FullSortEvalDataLoader(config, parts[number], create_samplers(config, parts[0], parts)[number])


def lists(options: Options) -> Iterator[Row]:
    """Measures the ten best items for one user and for all users, from a checkpoint of LightGCN on disk.

    The peer does what RecBole's ``load_data_and_model`` and ``full_sort_topk`` do.
    """
    n = 2_000 if options.small else 50_000
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "generated", n)
        path = Path(folder) / "run.pth"
        settings = {"data_path": folder, "checkpoint_dir": folder, "state": "ERROR", "show_progress": False}
        # RecBole orders interactions of the same time otherwise, and ranks for all users by the model.
        settings |= {"epochs": 1, "tie_break": "file", "cold_users": "model", "checkpoint_file": str(path)}
        run_recbole_symcere("LightGCN", "generated", config_dict=settings)
        _, _, dataset, _, _, test_data = load_data_and_model(path)
        # RecBole's function fails for users without an interaction in the test part.
        everybody = dataset.id2token(dataset.uid_field, test_data.uid_list.numpy()).tolist()
        for users in (everybody[:1], everybody):
            ours, theirs = partial(recommend, path, users), partial(_recboles_lists, path, users)
            expected, found = theirs(), ours()
            same = sum([item for item, _ in found[user]] == expected[user] for user in users)
            if same < 0.999 * len(users):  # scores that are equal up to rounding may change places
                raise AssertionError(f"the lists of {len(users) - same} of {len(users)} users differ")
            for threads in with_threads((1,)):
                case = f"LightGCN, {len(users):,} users, {threads}"
                ours_ms, theirs_ms = alternate(ours, theirs, repeats=REPEATS)
                yield Row("lists", case, "RecBole's load_data_and_model and full_sort_topk", ours_ms, theirs_ms, 5.0)


def _recboles_lists(path: Path, users: list[str]) -> dict[str, list[str]]:
    checkpoint = load_checkpoint(path)
    config = stored_config(checkpoint)
    init_seed(config["seed"], config["reproducibility"])
    dataset = recboles_dataset(config)
    train_data, _, test_data = recboles_preparation(config, dataset)
    model = LightGCN(config, train_data._dataset).to(config["device"])
    model.load_state_dict(checkpoint["state_dict"])
    _, items = full_sort_topk(dataset.token2id(dataset.uid_field, users), model, test_data, 10, config["device"])
    return dict(zip(users, dataset.id2token(dataset.iid_field, items.cpu()).tolist(), strict=True))

"""Benchmarks the whole way: from raw reviews to the metrics of the test part, and a comparison of several models."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import polars as pl
import torch
from recbole.data.utils import create_dataset, data_preparation
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer as RecBoleTrainer
from recbole.utils import init_seed

from benchmarks.conversion import AMAZON, COLUMNS, write_dump
from benchmarks.generated import write_dataset
from benchmarks.measure import ROOT, Options, Row
from benchmarks.ranking import RECBOLE_EVAL_BATCH_SIZE
from recbole_symcere.config import Config
from recbole_symcere.model.text.loading import MINILM, find_encoder

RAW = "reviews_Musical_Instruments_5.json.gz"
NAME = "musical-instruments"
PEER = "RecBole's LightGCN"
SILENT = {"state": "ERROR", "show_progress": False}


def whole(options: Options) -> Iterator[Row]:
    """Measures all from the raw file to the test metrics of SymCEREPlus, in new processes, with and without caches.

    The peer converts the ratings of the same file with RecSysDatasets, trains RecBole's LightGCN with RecBole's default
    settings, and encodes the same reviews with ``SentenceTransformer.encode``. Without ``--recsysdatasets`` the time of
    the peer lacks the conversion.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, source = (options.raw / RAW).absolute(), ["--dataset", NAME]
        if options.small:
            raw, source = folder / AMAZON.file, ["amazon", "--user-core=0", "--item-core=0"]
            write_dump(AMAZON, raw, 500)
        if not raw.is_file():
            raise SystemExit(f"{raw}: no such file; name the folder that holds it with --raw")
        prepare = _symcere("prep", *source, "--input", str(raw), "--output", f"dataset/{NAME}")
        epochs = ["--epochs=2"] if options.small else []
        train = _symcere("train", "--model=SymCEREPlus", f"--dataset={NAME}", f"--text_encoder={MINILM}", *epochs)
        first = _seconds(prepare, folder) + _seconds([*train, "--checkpoint_file=saved/first.pth"], folder)
        again = _seconds([*train, "--checkpoint_file=saved/again.pth"], folder)
        theirs = _seconds([sys.executable, "-m", "benchmarks.whole", "train", *epochs], folder)
        encoding = _seconds([sys.executable, "-m", "benchmarks.whole", "encode"], folder)
        converting = _conversion(options.recsysdatasets, folder) if options.recsysdatasets else 0.0
        case = f"{NAME}, {os.cpu_count()} cores"
        yield Row(
            "whole",
            f"{case}, from the raw file, nothing cached",
            f"RecSysDatasets, {PEER}, SentenceTransformer.encode",
            first,
            theirs + encoding + converting,
            2.0,
            unit="s",
            note=f"theirs: {converting:.1f} s converting, {theirs:.1f} s LightGCN, {encoding:.1f} s encoding",
        )
        yield Row("whole", f"{case}, caches warm", PEER, again, theirs, 1 / 0.3, unit="s")


def comparison(options: Options) -> Iterator[Row]:
    """Measures a comparison of five models with five trials, three seeds and two jobs, here and at an older commit.

    ``--older`` names a checkout of the older commit. The vectors of the reviews are cached before. Training is
    validated and ends as for the tables in ``results``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, dataset, data_path = Path(name), "gift-cards", options.data_path.absolute()
        models, size = ["LightGCN", "SGL", "SMORE", "XSimGCL", "SymCEREPlus"], ["--trials", "5", "--seeds", "3"]
        reads = [
            f"--text_encoder={MINILM}",
            f"--text_cache_dir={folder / 'text'}",
            "--eval_step=5",
            "--stopping_step=20",
        ]
        if options.small:
            dataset, data_path = "generated", folder
            models, size, reads = ["LightGCN", "BPR"], ["--trials", "1", "--seeds", "1", "--epochs=2"], []
            write_dataset(folder / dataset, 1_000)
        shared = ["--datasets", dataset, f"--data_path={data_path}", "--jobs", "2", "--ours", models[-1], *reads]
        if reads:
            _seconds(_symcere("compare", "--models", models[-1], *shared, "--trials=1", "--seeds=1"), folder)
        command = _symcere("compare", "--models", *models, *shared, *size, "--output")
        ours = _seconds([*command, "ours"], folder)
        theirs = _seconds([*command, "older"], folder, options.older) if options.older else None
        case = f"{dataset}, {', '.join(models)}, 2 jobs, {os.cpu_count()} cores"
        yield Row("comparison", case, "an older commit", ours, theirs, 3.0, unit="s")


def _symcere(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "recbole_symcere.cli", *arguments]


def _seconds(command: Sequence[str], folder: Path, checkout: Path = ROOT) -> float:
    """Returns the seconds that a command takes in a folder with the code of a checkout, from start to end."""
    environment = os.environ | {"PYTHONPATH": str(checkout.absolute())}
    started = perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return perf_counter() - started


def _conversion(checkout: Path, folder: Path) -> float:
    """Returns the seconds that the peer takes to convert the ratings of the dataset, from the file that it reads."""
    interactions = pl.read_csv(folder / "dataset" / NAME / f"{NAME}.inter", separator="\t", quote_char=None)
    interactions.select(COLUMNS).write_csv(folder / "ratings_Musical_Instruments.csv", include_header=False)
    tools = checkout.absolute() / "conversion_tools"
    arguments = ["--dataset", "amazon_musical_instruments", "--input_path", str(folder), "--output_path", "theirs"]
    return _seconds([sys.executable, str(tools / "run.py"), *arguments, "--convert_inter"], folder, tools)


def _train(epochs: int | None) -> None:
    """Trains and tests RecBole's LightGCN with RecBole's settings, loop and loaders on the dataset in this folder."""
    protocol = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}}
    recboles = {"eval_batch_size": RECBOLE_EVAL_BATCH_SIZE, "stopping_step": 10, "eval_step": 1, "cold_users": "model"}
    settings = protocol | recboles | SILENT | {"metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"], "epochs": 300}
    config = Config("LightGCN", NAME, config_dict=settings | ({"epochs": epochs} if epochs else {}))
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    trainer = RecBoleTrainer(config, LightGCN(config, train_data._dataset).to(config["device"]))
    trainer.fit(train_data, valid_data, verbose=False, saved=False)
    trainer.evaluate(test_data, load_best_model=False)


def _encode() -> None:
    """Encodes the reviews of the dataset in this folder."""
    from sentence_transformers import SentenceTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reviews = pl.read_ndjson(Path("dataset") / NAME / f"{NAME}.review.jsonl")["review"]
    SentenceTransformer(str(find_encoder(MINILM)), device=device).encode(reviews.to_list())


if __name__ == "__main__":
    if sys.argv[1] == "encode":
        _encode()
    else:
        _train(int(sys.argv[2].partition("=")[2]) if len(sys.argv) > 2 else None)

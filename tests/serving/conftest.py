"""One run of SymCEREPlus, under one cut in time, whose checkpoint the tests share."""

from pathlib import Path
from typing import Any

import pytest

from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.serving import Recommender

PIECES = ("trend", "surge", "newness", "recent", "graph", "own_words", "nearby_texts")
# Other tests may register more.


@pytest.fixture(scope="session")
def plus_settings(tiny_dataset: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a short and silent run of SymCEREPlus on the tiny dataset."""
    return {
        "model": "SymCEREPlus",
        "dataset": "tiny",
        "protocol": "temporal",
        "data_path": str(tiny_dataset.parent),
        "checkpoint_dir": str(tmp_path_factory.mktemp("saved")),
        "text_cache_dir": str(tmp_path_factory.mktemp("text")),
        "text_encoder": str(tiny_encoder),
        "text_precision": "fp32",
        "text_max_length": 16,
        "embedding_size": 8,
        "n_layers": 2,
        "epochs": 20,
        "evidence_weights": {name: 0.2 + 0.1 * n for n, name in enumerate(PIECES)},
        "show_progress": False,
        "state": "ERROR",
    }


@pytest.fixture(scope="session")
def checkpoint(plus_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run whose second model was trained on training and validation together."""
    path = tmp_path_factory.mktemp("run") / "plus.pth"
    run_recbole_symcere(config_dict=plus_settings | {"checkpoint_file": str(path)})
    return path


@pytest.fixture
def recommender(checkpoint: Path) -> Recommender:
    return Recommender.load(checkpoint)

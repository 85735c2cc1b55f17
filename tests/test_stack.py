"""RecBole's general recommenders go on where they stopped, and do what their papers say, on the installed libraries."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_symcere.quick_start import load_data_and_model, run_recbole_symcere
from tests.conftest import for_model

MODELS = ("Pop", "BPR", "NeuMF", "NGCF", "LightGCN", "SGL")


@pytest.fixture
def run(settings: dict[str, Any], tmp_path: Path) -> Any:
    """Trains a model for some epochs and returns its test result; the checkpoint is ``NAME.pth``."""
    del settings["embedding_size"]  # not a setting of each model

    def train(model: str, epochs: int = 2, name: str = "run") -> dict[str, float]:
        changes = {"model": model, "epochs": epochs, "checkpoint_file": str(tmp_path / f"{name}.pth")}
        return run_recbole_symcere(config_dict=for_model(settings | changes))["test_result"]

    return train


@pytest.mark.parametrize("model", MODELS)
def test_a_resumed_recommender_ends_with_the_result_of_a_run_in_one_go(run: Any, model: str) -> None:
    run(model, epochs=1, name="resumed")
    assert run(model, epochs=3, name="resumed") == run(model, epochs=3, name="in one go")


def test_popularity_ranks_by_the_number_of_training_interactions(run: Any, tmp_path: Path) -> None:
    run("Pop")
    _, model, dataset, train_data, _, _ = load_data_and_model(tmp_path / "run.pth")
    counts = torch.bincount(train_data.dataset.inter_feat["item_id"], minlength=dataset.item_num)
    assert model.item_cnt.squeeze(1).tolist() == counts.tolist()


def test_ngcf_evaluates_without_dropout(run: Any, tmp_path: Path) -> None:
    run("NGCF")
    config, model, *_ = load_data_and_model(tmp_path / "run.pth")
    assert config["message_dropout"] > 0
    first, second = (model.eval().forward() for _ in range(2))
    assert torch.equal(first[0], second[0])
    first, second = (model.train().forward() for _ in range(2))
    assert not torch.equal(first[0], second[0])

"""On the demo data, whose truth is planted, SymCERE finds what it should."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from recbole.utils.case_study import full_sort_topk

from dataset_prep.demo import planted, write_demo
from recbole_symcere.quick_start import load_data_and_model, run_recbole_symcere

COLD = 6  # interactions, at most, of a cold user

pytestmark = pytest.mark.slow


class ByUser(NamedTuple):
    """Collects one value for each test user."""

    ndcg: np.ndarray  # @10
    interactions: np.ndarray  # in all parts
    best: np.ndarray  # NDCG@10 of the planted scores


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ByUser]:
    """The results of SymCERE as in the README, of the same model without text, and of popularity."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder / "dataset" / "demo")
    text = {"model": "SymCERE", "text_cache_dir": str(folder / "text")}
    changes = {"SymCERE": text, "without text": text | {"cross_weight": 0}, "popularity": {"model": "Pop"}}
    return {name: _run(folder, folder / f"{name}.pth", settings) for name, settings in changes.items()}


def _run(folder: Path, checkpoint: Path, settings: dict[str, Any]) -> ByUser:
    quiet = {"state": "ERROR", "show_progress": False}
    paths = {"data_path": str(folder / "dataset"), "checkpoint_dir": str(folder), "checkpoint_file": str(checkpoint)}
    run_recbole_symcere(dataset="demo", config_dict=settings | quiet | paths)
    _, model, dataset, _, _, test_data = load_data_and_model(checkpoint)
    users = test_data.uid_list
    _, ranked = full_sort_topk(users, model, test_data, 10)
    truth = planted()
    scores = np.full((dataset.user_num, dataset.item_num), -np.inf)
    rows = [truth.user_ids.index(token) for token in dataset.field2id_token["user_id"][1:]]
    columns = [truth.item_ids.index(token) for token in dataset.field2id_token["item_id"][1:]]
    scores[1:, 1:] = truth.choice_scores[np.ix_(rows, columns)]
    for user in users:
        scores[user, test_data.uid2history_item[user]] = -np.inf
    planted_ranking = torch.from_numpy(scores)[users].topk(10).indices
    counts = dataset.user_counter
    return ByUser(
        np.array([_ndcg(items, test_data.uid2positive_item[user]) for user, items in zip(users, ranked, strict=True)]),
        np.array([counts[int(user)] for user in users]),
        np.array([_ndcg(i, test_data.uid2positive_item[user]) for user, i in zip(users, planted_ranking, strict=True)]),
    )


def _ndcg(ranked: torch.Tensor, relevant: torch.Tensor) -> float:
    discounts = 1 / np.log2(np.arange(len(ranked)) + 2)
    hits = torch.isin(ranked, relevant).numpy()
    return float((hits * discounts).sum() / discounts[: len(relevant)].sum())


def test_symcere_beats_popularity_by_a_wide_margin(runs: dict[str, ByUser]) -> None:
    assert runs["SymCERE"].ndcg.mean() > 2 * runs["popularity"].ndcg.mean()
    assert runs["SymCERE"].ndcg.mean() < runs["SymCERE"].best.mean(), "better than the truth: something leaks"


def test_text_helps_cold_users(runs: dict[str, ByUser]) -> None:
    cold = runs["SymCERE"].interactions <= COLD
    assert cold.sum() > 50
    assert runs["SymCERE"].ndcg[cold].mean() > 1.1 * runs["without text"].ndcg[cold].mean()

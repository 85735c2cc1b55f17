"""What all item-based models share, and those whose weights are RecBole's."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from recbole.model.general_recommender.ease import EASE as RecBoleEASE
from recbole.model.general_recommender.itemknn import ItemKNN as RecBoleItemKNN
from torch import Tensor

from recbole_symcere.errors import ConfigError, DatasetError
from recbole_symcere.model.baselines.item_based import EASE, ItemBased, ItemKNN
from recbole_symcere.model.registry import get_model
from recbole_symcere.quick_start import create_dataset, recommend, run_recbole_symcere
from tests.conftest import for_model, ranked_by_recbole
from tests.model.baselines.rows import N_ITEMS, N_USERS, Row, Rows, few_settings, rows_of_three_users, scores_of_all

quick = hypothesis_settings(deadline=None, max_examples=50)


def slow_history(rows: list[Row], half_life: float | None) -> np.ndarray:
    """Each user's rows, of which each counts half as much with every half-life before the user's last one."""
    history = np.zeros((N_USERS, N_ITEMS))
    for user, item, day in rows:
        last = max(d for u, _, d in rows if u == user)
        history[user, item] += 1 if half_life is None else 2 ** (-(last - day) / half_life)
    return history


WEIGHTS = np.random.default_rng(0).normal(size=(N_ITEMS, N_ITEMS)).astype(np.float32)


class Given(ItemBased):
    """Weights that do not depend on the data."""

    def item_weights(self, config: Any, dataset: Any) -> Tensor:
        weights = torch.from_numpy(WEIGHTS)
        return weights.to_sparse() if config["sparse"] else weights


@quick
@given(rows=rows_of_three_users(), half_life=st.none() | st.floats(0.1, 1000.0), sparse=st.booleans())
def test_scores_are_the_history_that_fades_with_age_times_the_weights(
    rows: list[Row], half_life: float | None, sparse: bool
) -> None:
    model = Given(few_settings(history_decay=half_life, sparse=sparse), Rows(rows))
    expected = slow_history(rows, half_life) @ WEIGHTS
    np.testing.assert_allclose(scores_of_all(model), expected, rtol=1e-4, atol=1e-5)


def test_a_history_fades_only_where_times_are_loaded() -> None:
    untimed = Rows([(1, 1, 0.0)], timed=False)
    Given(few_settings(history_decay=None, sparse=False), untimed)
    with pytest.raises(DatasetError, match=r"few: .*no times.*TIME_FIELD.*load_col"):
        Given(few_settings(history_decay=1.0, sparse=False), untimed)


@pytest.mark.parametrize("model", ["EASE", "TurboCF"])
def test_tables_that_do_not_fit_are_refused_before_any_is_made(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n_tables = get_model(model).dense_tables
    needed = n_tables * N_ITEMS**2 * 4
    own = few_settings(history_decay=None, reg_weight=1.0, alpha=0.5, power=1.0, filter=2)

    def build(free: int) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
        get_model(model)(own, Rows([(1, 1, 0.0)]))

    build(free=needed)
    with pytest.raises(DatasetError, match=rf"^{model} needs .* GiB for {n_tables} tables .* 6 items, but .*RP3beta$"):
        build(free=needed - 1)


@pytest.mark.parametrize("model", ["EASE", "TurboCF"])
def test_the_tables_that_are_asked_for_hold_what_python_is_seen_to_need(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_items = 300
    monkeypatch.setattr("tests.model.baselines.rows.N_ITEMS", n_items)
    everything = Rows([(user, item, 0.0) for user in range(1, 5) for item in range(n_items)])
    own = few_settings(history_decay=None, reg_weight=1.0, alpha=0.5, power=1.0, filter=3)
    model_class = get_model(model)
    tracemalloc.start()
    model_class(own, everything)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most <= model_class.dense_tables * n_items**2 * 4


@quick
@given(rows=rows_of_three_users(unique=True), reg_weight=st.floats(0.5, 50.0))
def test_ease_solves_the_ridge_regression_of_each_item_on_the_others(rows: list[Row], reg_weight: float) -> None:
    met = slow_history(rows, None)
    weights = np.zeros((N_ITEMS, N_ITEMS))
    for item in range(N_ITEMS):  # Steck (2019): the squared error plus lambda |B|^2, with a zero diagonal
        others = [other for other in range(N_ITEMS) if other != item]
        gram = met[:, others].T @ met[:, others] + reg_weight * np.eye(N_ITEMS - 1)
        weights[others, item] = np.linalg.solve(gram, met[:, others].T @ met[:, item])
    model = EASE(few_settings(reg_weight=reg_weight, history_decay=None), Rows(rows))
    np.testing.assert_allclose(scores_of_all(model), met @ weights, atol=1e-4)


@quick
@given(rows=rows_of_three_users(unique=True), shrink=st.floats(0.0, 10.0))
def test_item_knn_weighs_the_nearest_items_by_shrunk_cosines(rows: list[Row], shrink: float) -> None:
    met = slow_history(rows, None)
    scores = np.zeros((N_USERS, N_ITEMS))
    for item in range(N_ITEMS):
        norms = np.linalg.norm(met, axis=0)
        cosines = met.T @ met[:, item] / (norms * norms[item] + shrink + 1e-6)
        cosines[item] = 0
        scores[:, item] = met @ cosines
    model = ItemKNN(few_settings(k=N_ITEMS, shrink=shrink, history_decay=None), Rows(rows))
    np.testing.assert_allclose(scores_of_all(model), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ours", "recboles"), [("EASE", RecBoleEASE), ("ItemKNN", RecBoleItemKNN)])
def test_scores_are_those_of_recboles_class(ours: str, recboles: Any, make_config: Any) -> None:
    config = make_config(model=ours, **({"k": 4, "shrink": 2.0} if ours == "ItemKNN" else {"reg_weight": 3.0}))
    train = create_dataset(config).build()[0]
    users = Interaction({"user_id": torch.arange(train.user_num)})
    expected = recboles(config, train).full_sort_predict(users).flatten()
    torch.testing.assert_close(config.model_class(config, train).full_sort_predict(users), expected)


def test_what_has_no_item_weights_is_refused(make_config: Any) -> None:
    with pytest.raises(ConfigError, match="knn_method is 'user', but must be one of 'item'"):
        make_config(model="ItemKNN", knn_method="user")
    with pytest.raises(ConfigError, match="history_decay is 0, but must be above 0"):
        make_config(model="EASE", history_decay=0)


@pytest.mark.parametrize("model", ["RecentPop", "EASE", "ItemKNN", "RP3beta", "TurboCF", "DirectedRP3"])
def test_a_checkpoint_ranks_as_the_run_did_and_holds_no_weights(
    model: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "run.pth"
    decay = {} if model == "RecentPop" else {"history_decay": 0.001}
    run_recbole_symcere(config_dict=for_model(settings | {"model": model, "checkpoint_file": str(file)}) | decay)
    assert recommend(file, ["u3", "u11"], k=5) == ranked_by_recbole(file, ["u3", "u11"], k=5)
    kept = torch.load(file, weights_only=True)
    assert [tensor.numel() for tensor in kept["state_dict"].values()] <= [1, 1] and not kept["other_parameter"]

"""CEASE against ridge regressions solved one item at a time, against EASE, and on the tiny dataset."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from recbole.model.general_recommender.ease import EASE
from scipy.sparse import csr_matrix
from torch.testing import assert_close

from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError, DatasetError
from recbole_symcere.model.baselines.cease import CEASE, collective_weights
from recbole_symcere.model.text.views import training_vectors
from recbole_symcere.quick_start import create_dataset
from tests.conftest import FIRST_ROWS

MakeConfig = Callable[..., Config]


def slow_weights(met: np.ndarray, features: np.ndarray, reg_weight: float, text_weight: float) -> np.ndarray:
    """Rebuilds each column of [X; sqrt(alpha) T'] from the others, by least squares with a penalty on the weights."""
    stacked = np.concatenate([met, np.sqrt(text_weight) * features.T])
    n_items = met.shape[1]
    weights = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = [other for other in range(n_items) if other != item]
        rows = np.concatenate([stacked[:, others], np.sqrt(reg_weight) * np.eye(len(others))])
        target = np.concatenate([stacked[:, item], np.zeros(len(others))])
        weights[others, item] = np.linalg.lstsq(rows, target, rcond=None)[0]
    return weights


@settings(deadline=None, max_examples=50)
@given(
    n_users=st.integers(1, 8), n_items=st.integers(2, 7), d=st.integers(1, 5), seed=st.integers(0, 99),
    reg_weight=st.sampled_from([0.1, 1.0, 50.0]), text_weight=st.sampled_from([0.0, 0.5, 10.0]),
)  # fmt: skip
def test_weights_rebuild_histories_and_features_from_other_items(
    n_users: int, n_items: int, d: int, seed: int, reg_weight: float, text_weight: float
) -> None:
    random = np.random.default_rng(seed)
    met = (random.random((n_users, n_items)) < 0.4).astype(np.float32)
    features = random.normal(size=(n_items, d)).astype(np.float32)
    features[0] = met[:, 0] = 0  # padding
    found = collective_weights(csr_matrix(met), torch.from_numpy(features), reg_weight, text_weight)
    assert found.numpy() == pytest.approx(slow_weights(met, features, reg_weight, text_weight), abs=1e-5)


def every_user(model: CEASE | EASE) -> Interaction:
    return Interaction({"user_id": torch.arange(model.n_users)})


def test_without_text_it_is_ease(make_config: MakeConfig) -> None:
    config = make_config(model="CEASE", text_weight=0.0, reg_weight=30.0)
    part = create_dataset(config).build()[0]
    ease = EASE(config, part)
    found = CEASE(config, part)
    assert_close(found.full_sort_predict(every_user(found)), ease.full_sort_predict(every_user(ease)).flatten())


def test_the_features_are_directions_of_whitened_training_reviews(make_config: MakeConfig) -> None:
    config = make_config(model="CEASE", reg_weight=2.0, text_weight=3.0, text_ridge=0.1, eval_args=FIRST_ROWS)
    part = create_dataset(config).build()[0]
    vectors = training_vectors(config, part).double().numpy()
    left, singular, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    white = left * singular / (singular + 0.1 * singular[0])
    items = part.inter_feat["item_id"].numpy()
    features = np.zeros((part.item_num, white.shape[1]))
    for item in set(items):
        mean = white[items == item].mean(0)
        features[item] = mean / np.linalg.norm(mean)
    assert len(set(items)) < part.item_num - 1, "an item beside padding has no training review"
    met = part.inter_matrix(form="csr").toarray()
    model = CEASE(config, part)
    expected = met @ slow_weights(met, features, 2.0, 3.0)
    scores = model.full_sort_predict(every_user(model)).view(expected.shape)
    assert scores.isfinite().all()
    assert scores.numpy() == pytest.approx(expected, abs=1e-3)  # the vectors are float32


def test_more_items_than_memory_holds_are_refused_before_any_review_is_read(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(model="CEASE", text_encoder="gone")
    part = create_dataset(config).build()[0]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * 31**2 - 1))
    with pytest.raises(DatasetError, match=r"CEASE needs 0\.0 GiB for 4 tables of all pairs of 31 items"):
        CEASE(config, part)


def test_a_model_that_only_ranks_reads_no_review_and_scores_alike(make_config: MakeConfig) -> None:
    config = make_config(model="CEASE", history_decay=0.001)
    part = create_dataset(config).build()[0]
    whole = CEASE(config, part)
    ranks = CEASE.to_rank(config.with_settings(text_encoder="gone"), part, whole.state_dict())
    assert_close(ranks.full_sort_predict(every_user(ranks)), whole.full_sort_predict(every_user(whole)))
    even = CEASE.to_rank(config.with_settings(history_decay=None), part, whole.state_dict())
    assert not torch.allclose(even.full_sort_predict(every_user(even)), whole.full_sort_predict(every_user(whole)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reg_weight": 0.0}, "reg_weight is 0.0, but must be above 0"),
        ({"text_weight": -1.0}, "text_weight is -1.0, but must be at least 0"),
        ({"text_ridge": 0.0}, "text_ridge is 0.0, but must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config("CEASE", "tiny", config_dict=changes)

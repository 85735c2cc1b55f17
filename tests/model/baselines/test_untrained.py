"""Scorers that train nothing, against slow loops and in whole runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from torch.testing import assert_close

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.model.baselines.text_profile import TextProfile
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.model.text.groups import profiles_by_group
from recbole_symcere.model.text.views import text_profiles
from recbole_symcere.quick_start import create_dataset, recommend, run_recbole_symcere
from tests.conftest import FIRST_ROWS, for_model, ranked_by_recbole, tiny_rows, write_atomic_files

Settings = dict[str, Any]
quick = hypothesis_settings(deadline=None, max_examples=50)


@pytest.fixture
def text_settings(settings: Settings) -> Settings:
    """Of a TextProfile run on the tiny dataset."""
    return for_model(settings | {"model": "TextProfile"})


def every_pair(n_users: int, n_items: int) -> Interaction:
    users, items = torch.arange(n_users), torch.arange(n_items)
    return Interaction({"user_id": users.repeat_interleave(n_items), "item_id": items.repeat(n_users)})


# TextProfile


@quick
@given(
    groups=st.lists(st.integers(0, 5), max_size=12).filter(lambda g: len(set(g)) > 1),  # else there is no direction
    seed=st.integers(0, 99),
)
def test_a_profile_is_the_direction_of_a_mean_from_the_mean_over_all(groups: list[int], seed: int) -> None:
    vectors = 3 + torch.from_numpy(np.random.default_rng(seed).normal(size=(len(groups), 3)))
    found = profiles_by_group(vectors, torch.tensor(groups), 6)
    for group in range(6):
        own = [vector for vector, g in zip(vectors, groups, strict=True) if g == group]
        away = sum(own) / len(own) - sum(vectors) / len(groups) if own else torch.zeros(3, dtype=torch.float64)
        assert_close(found[group], away / away.norm() if own else away)


def test_text_profile_scores_are_cosines_of_mean_training_reviews(text_settings: Settings) -> None:
    config = Config(config_dict=text_settings | {"eval_args": FIRST_ROWS})
    part = create_dataset(config).build()[0]
    model = TextProfile(config, part).eval()
    encoder = ReviewEncoder(config["text_encoder"], train="frozen", max_length=16, precision="fp32")
    vectors = encoder(part.tokenised_reviews(encoder), torch.arange(len(part))).double()
    vectors = vectors - vectors.mean(0)
    expected = torch.zeros(part.user_num, part.item_num)
    users, items = part.inter_feat["user_id"], part.inter_feat["item_id"]
    for user in users.unique():
        for item in items.unique():
            expected[user, item] = torch.cosine_similarity(
                vectors[users == user].mean(0), vectors[items == item].mean(0), 0
            )
    assert (expected[:, 1:] == 0).all(0).any(), "an item beside padding has no training review"
    scores = model.full_sort_predict(Interaction({"user_id": torch.arange(part.user_num)}))
    # The model's float32: the vectors lie a thousandth of their length apart.
    assert_close(scores.view(expected.shape), expected, atol=1e-3, rtol=0)
    assert_close(model.predict(every_pair(*expected.shape)), scores)


def test_no_held_out_review_bears_on_a_profile(text_settings: Settings, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own" / "own", tiny_rows())
    config = Config(config_dict=text_settings | {"dataset": "own", "data_path": str(folder.parent)})
    part = create_dataset(config).build()[0]
    training = set(part.id2token("review_id", part.inter_feat["review_id"].numpy()))
    file = folder / "own.review.jsonl"
    before = torch.cat(text_profiles(config, part))

    def after_a_change_of(changes: Callable[[str], bool]) -> torch.Tensor:
        lines = map(json.loads, file.read_text().splitlines())
        changed = [line | {"review": "love the cable"} if changes(line["review_id"]) else line for line in lines]
        file.write_text("".join(json.dumps(line) + "\n" for line in changed))
        return torch.cat(text_profiles(config, create_dataset(config).build()[0]))

    assert torch.equal(after_a_change_of(lambda review: review not in training), before)
    assert not torch.allclose(after_a_change_of(lambda review: review == min(training)), before)


def test_a_text_profile_run_takes_one_epoch_and_recommends_without_reviews(
    text_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.pth"
    own = {"checkpoint_file": str(file), "result_file": str(tmp_path / "run.json")}
    run_recbole_symcere(config_dict=text_settings | own)
    assert json.loads((tmp_path / "run.json").read_text())["epochs"] == 1
    expected = ranked_by_recbole(file, ["u3", "u11"], k=5)
    monkeypatch.delattr(ReviewDataset, "review_texts")
    assert recommend(file, ["u3", "u11"], k=5, config_dict={"text_encoder": "gone"}) == expected

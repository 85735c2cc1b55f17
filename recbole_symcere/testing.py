"""A suite of tests that every model passes, for the models of this package and for yours; it needs pytest.

A test module inherits from the suite and names the model::

    from recbole_symcere.testing import ModelSuite

    class TestFactors(ModelSuite):
        model = Factors
        settings = {"width": 8}

``pytest`` then finds the tests. They run on a small dataset that the suite makes. A model that reads reviews gets an
encoder by ``settings``, such as ``{"text_encoder": "all-MiniLM-L6-v2", "text_train": "frozen"}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_symcere.config import Config
from recbole_symcere.data.loaders import DataLoaders, create_dataset, data_preparation
from recbole_symcere.model import graph
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.run import build_model
from recbole_symcere.trainer import Trainer

META = torch.device("meta")
WORDS = ("the", "good", "string", "tuner", "cable", "strap", "pedal", "great")


def write_small_dataset(folder: Path, n_users: int = 30, n_items: int = 20, seed: int = 0) -> None:
    """Writes the atomic files of a small dataset with reviews, which is called like its folder.

    Users are of two tastes, each for one half of the items.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float\treview_id:token"]
    reviews: list[str] = []
    for user in range(n_users):
        liked = np.where(np.arange(n_items) % 2 == user % 2, 9.0, 1.0)
        for item in random.choice(n_items, random.integers(5, 10), replace=False, p=liked / liked.sum()):
            number = len(reviews)
            rows.append(f"u{user}\ti{item}\t4.0\t{1_600_000_000 + 60 * number}.0\tr{number}")
            text = " ".join(random.choice(WORDS, 5))
            reviews.append(json.dumps({"review_id": f"r{number}", "review": text}))
    (folder / f"{folder.name}.inter").write_text("\n".join([*rows, ""]), encoding="utf-8")
    (folder / f"{folder.name}.review.jsonl").write_text("\n".join([*reviews, ""]), encoding="utf-8")


class HostWork(TorchDispatchMode):
    """A context that names what keeps the host from running ahead of its device.

    It names random numbers that are drawn on the host, and copies from the host that are not ``non_blocking``, whether
    they are asked for or made by an operation on tensors of both. A number without dimensions is no copy, because it
    travels with the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.named: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        random = torch.Tag.nondeterministic_seeded in function.tags
        if random and isinstance(result, Tensor) and result.device.type == "cpu":
            self.named.append(f"{function} on the host")
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor) and leaf.dim()]
        if len({tensor.device for tensor in tensors}) > 1 and not (kwargs or {}).get("non_blocking"):
            self.named.append(f"{function} on both")
        return result


def host_work_of_a_step(config: Config) -> list[str]:
    """Trains one step with the model on PyTorch's ``meta`` device, which has no values to wait for.

    Returns:
        What the host had to do, by :class:`HostWork`; nothing where it can run ahead of a GPU.

    Raises:
        RuntimeError, NotImplementedError: the step reads a value back.
    """
    train_data, _, _ = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train_data._dataset).to(META)
    with _what_meta_lacks():
        trainer = Trainer(config, model)
        trainer.device = META
        batch = next(iter(train_data))
        model.train()
        with HostWork() as work:
            trainer._train_step(batch, model.calculate_loss, torch.amp.GradScaler(enabled=False))
    return work.named


@contextmanager
def _what_meta_lacks() -> Iterator[None]:
    """The meta device has neither autocast nor sparse products."""
    product = {"meta": lambda adjacency, x: x.new_empty(len(adjacency), x.shape[1])}
    with patch.object(torch, "autocast", lambda *_, **__: nullcontext()), patch.dict(graph._PRODUCTS, product):
        yield


class ModelSuite:
    """The tests of one model.

    Attributes:
        model: the model's name or class.
        settings: of the model, such as small sizes.
        waits: whether a step may wait for the device; models of RecBole may do so.
    """

    model: ClassVar[str | type]
    settings: ClassVar[Mapping[str, Any]] = {}
    waits: ClassVar[bool] = False

    @pytest.fixture
    def config(self, tmp_path: Path) -> Config:
        """The configuration of a short and silent run on a small dataset."""
        write_small_dataset(tmp_path / "dataset" / "small")
        of_run = {"data_path": str(tmp_path / "dataset"), "checkpoint_dir": str(tmp_path / "saved")}
        quiet = {"show_progress": False, "state": "ERROR", "train_batch_size": 64, "learning_rate": 0.01, "epochs": 2}
        return Config(self.model, "small", config_dict={**of_run, **quiet, **self.settings})

    @pytest.fixture
    def loaders(self, config: Config) -> DataLoaders:
        """Dataloaders of training, validation and test."""
        return data_preparation(config, create_dataset(config))

    @pytest.fixture
    def fitted(self, config: Config, loaders: DataLoaders) -> Recommender:
        """The model after a few steps, in eval mode."""
        model = build_model(config, loaders[0]._dataset)
        Trainer(config, model).fit(loaders[0], saved=False, verbose=False)
        model.learn_from_validation(loaders[1]._dataset, loaders[1].known)
        return model.eval()

    def test_each_term_of_the_loss_is_a_finite_number_with_a_name(self, config: Config, loaders: DataLoaders) -> None:
        """The terms are those that ``loss_names`` names, if the model names any."""
        model = build_model(config, loaders[0]._dataset)
        batch = next(iter(loaders[0])).to(config["device"], [*model.host_fields])
        loss = model.calculate_loss(batch)
        terms = loss if isinstance(loss, tuple) else (loss,)
        assert all(term.numel() == 1 and bool(term.isfinite()) for term in terms)
        assert not model.loss_names or len(model.loss_names) == len(terms)

    def test_the_optimiser_has_each_trained_parameter_once(self, config: Config, loaders: DataLoaders) -> None:
        """The groups hold the parameters that require a gradient."""
        model = build_model(config, loaders[0]._dataset)
        grouped = [id(parameter) for group in model.parameter_groups() for parameter in group["params"]]
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        assert len(grouped) == len(set(grouped)) and trained <= set(grouped)

    def test_predict_gives_the_scores_of_full_ranking(self, fitted: Recommender) -> None:
        """Each pair has the score that it has among all items."""
        assert_close(_scores_of_pairs(fitted), _scores(fitted))

    def test_a_reloaded_model_gives_the_same_scores(
        self, config: Config, loaders: DataLoaders, fitted: Recommender
    ) -> None:
        """A new model that ranked before it was given the weights gives the scores of the weights."""
        other = build_model(config, loaders[0]._dataset).eval()
        _scores(other)
        other.load_state_dict(fitted.state_dict())
        other.load_other_parameter(fitted.other_parameter())
        assert_close(_scores(other), _scores(fitted))

    def test_a_model_to_rank_gives_the_same_scores(
        self, config: Config, loaders: DataLoaders, fitted: Recommender
    ) -> None:
        """Its state is a part of that of the whole model."""
        settings, state = dict(config.final_config_dict), fitted.state_dict()
        other = config.model_class.to_rank(config, loaders[0]._dataset, state).to(config["device"])
        other.load_state_dict({name: state[name] for name in other.state_dict()})
        other.load_other_parameter(fitted.other_parameter())
        assert_close(_scores(other.eval()), _scores(fitted))
        assert config.final_config_dict == settings, "to_rank has changed the caller's configuration"

    def test_a_step_does_not_wait_for_the_device(self, config: Config) -> None:
        """Nothing comes back to the host, and nothing is drawn or copied there."""
        if self.waits or config.model_class.type == ModelType.TRADITIONAL:
            pytest.skip("the model may wait")
        assert host_work_of_a_step(config) == []


@torch.no_grad()
def _scores(model: Recommender) -> Tensor:
    """[n_users - 1, n_items - 1], without padding."""
    users = torch.arange(1, model.n_users, device=model.device)
    scores = model.full_sort_predict(Interaction({model.USER_ID: users}))
    return scores.view(len(users), -1)[:, 1:].cpu()


@torch.no_grad()
def _scores_of_pairs(model: Recommender) -> Tensor:
    """The same, by ``predict``."""
    users, items = (torch.arange(1, n, device=model.device) for n in (model.n_users, model.n_items))
    pairs = {model.USER_ID: users.repeat_interleave(len(items)), model.ITEM_ID: items.repeat(len(users))}
    return model.predict(Interaction(pairs)).view(len(users), len(items)).cpu()

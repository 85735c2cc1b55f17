"""A trained SymCERE and the vectors that it aligns: those of users and items, and those of reviews."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recbole_symcere.analysis.shared import PARTS, file_name, labelled_path
from recbole_symcere.analysis.words import Occurrences, occurrences
from recbole_symcere.checkpoint import validation_path
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.errors import AnalysisError
from recbole_symcere.model.symcere import Nodes, SymCERE
from recbole_symcere.model.symcere_plus import SymCEREPlus
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.model.text.views import TrainedEncoder
from recbole_symcere.quick_start import load_data_and_model
from recbole_symcere.run import build_model


class TrainedModel:
    """The model of a checkpoint at its best epoch: SymCERE, or a model that extends SymCERE.

    Args:
        checkpoint: a path, or ``LABEL=PATH``. Tables show the label; without one they show the file's name.
        settings: settings of the checkpoint to change, such as ``data_path``.

    Attributes:
        label: the name of the checkpoint in tables.
        config, model: the configuration, and the model in eval mode.
        dataset: the dataset, with the tokens of its users and items.
        parts: the interactions of training, validation and test, by the names in ``PARTS``.

    Raises:
        AnalysisError: the checkpoint belongs to another model, or to a model that aligns no reviews.
        CheckpointError, ConfigError, DatasetError, ReviewFileError, EncoderError: as ``load_data_and_model`` does.
    """

    config: Config
    model: SymCERE
    dataset: ReviewDataset

    def __init__(self, checkpoint: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.label, self.path = labelled_path(str(checkpoint))
        quiet = {"show_progress": False, "state": "ERROR"}
        self.config, model, self.dataset, *loaders = load_data_and_model(self.path, quiet | dict(settings or {}))
        if not isinstance(model, SymCERE):
            raise AnalysisError(f"{self.path} holds {self.config['model']}; name one of SymCERE or a model like it")
        self.model = model
        self.parts: dict[str, ReviewDataset] = {
            name: loader._dataset for name, loader in zip(PARTS, loaders, strict=True)
        }

    def check_held_out(self, part: str) -> None:
        """Checks that the validation part, if it is asked for, did not train the model.

        Raises:
            AnalysisError: it did, because the checkpoint is of the second fit of ``refit``.
        """
        is_refit = sum(map(len, self.parts.values())) > len(self.dataset)
        if part == "valid" and is_refit:
            raise AnalysisError(
                f"{self.path}: the model was trained on the validation part, too (refit), so it is not held out; "
                f"take {validation_path(self.path)}, or --part=test"
            )

    @property
    def train(self) -> ReviewDataset:
        return self.parts["train"]

    def untrained(self) -> SymCERE:
        """The model as it was before its first step, with the run's seed; in eval mode."""
        model = build_model(self.config, self.train).eval()
        assert isinstance(model, SymCERE)
        return model

    @cached_property
    def nodes(self) -> Nodes:
        """Graph vectors of users [n_users, d] and items [n_items, d], the padding's first; on the CPU."""
        return graph_nodes(self.model)

    @cached_property
    def popularity(self) -> np.ndarray:
        """Training interactions of each item, int [n_items]."""
        return np.bincount(self.train.inter_feat[self.train.iid_field].numpy(), minlength=self.train.item_num)

    def pairs(self, part: str = "train") -> tuple[Tensor, Tensor]:
        """Users and items of a part's interactions, [n] long each."""
        data = self.parts[part]
        return data.inter_feat[data.uid_field], data.inter_feat[data.iid_field]

    def unmet(self, user: int) -> Tensor:
        """Returns which items a user has not met in training, bool [n_items]; the padding is none of them."""
        users, items = self.pairs()
        unmet = torch.ones(self.train.item_num, dtype=torch.bool)
        unmet[0] = False
        unmet[items[users == user]] = False
        return unmet

    def interaction_vectors(self, part: str = "train") -> Tensor:
        """Graph vectors of a part's interactions, as eq. (5) compares them: [n, d], on the CPU."""
        return self.model.interaction_vectors(self.nodes, *self.pairs(part))

    @property
    def reads_reviews(self) -> bool:
        """Whether the model has vectors of reviews, in a space that it learned."""
        return self.model.settings.reads_reviews and self.config["text_source"] != "random"

    @cached_property
    def encoder(self) -> ReviewEncoder:
        """The language model, as far as it was trained.

        Raises:
            AnalysisError: the model has none.
        """
        if not self.reads_reviews:
            raise AnalysisError(f"{self.path}: this model was trained without reviews (cross_weight, text_source)")
        if isinstance(text := self.model.text_encoder, TrainedEncoder):
            return text.encoder
        if isinstance(self.model, SymCEREPlus):
            return ReviewEncoder.frozen_from_config(self.config, self.config["text_adapter"]).to(self.config["device"])
        return ReviewEncoder.from_config(self.config).to(self.config["device"]).eval()

    def encoder_vectors(self, part: str = "train", model: SymCERE | None = None) -> Tensor:
        """What the language model makes of a part's reviews: [n, hidden], on the CPU; cached on disk.

        Args:
            model: whose language model it is: this model's, or that of :meth:`untrained`.
        """
        text = (model or self.model).text_encoder
        encoder = text.encoder if isinstance(text, TrainedEncoder) else self.encoder
        (vectors,) = self.parts[part].embedded_reviews(encoder, 0, 0.0)
        return torch.from_numpy(np.array(vectors))

    def words(self, part: str = "train") -> Occurrences:
        """Returns the words of a part's reviews."""
        return occurrences(self.parts[part].tokenised_reviews(self.encoder), self.encoder.fast_tokenizer)

    def review_vectors(self, part: str = "train") -> Tensor:
        """Vectors of a part's reviews, as eq. (5) compares them: [n, d], on the CPU."""
        return self.model.unit(self.projected_reviews(self.model, part))

    @torch.no_grad()
    def projected_reviews(self, model: SymCERE, part: str) -> Tensor:
        """Vectors of a part's reviews in the graph's space of a model, of any length: [n, d], on the CPU.

        Args:
            model: this model, or :meth:`untrained`.

        Raises:
            AnalysisError: the model can't place reviews that did not train it.
        """
        if isinstance(model, SymCEREPlus):
            if part != "train":
                raise self._cannot_place()
            rows = model.review_rows[self.train.inter_feat[self.train.review_field].to(model.device)]
            return model.projection(model.features[rows]).cpu()
        vectors = self.encoder_vectors(part, model)  # refuses a model without reviews, which has no projection
        return model.projection(vectors.to(self.config["device"])).cpu()

    @torch.no_grad()
    def projected(self, vectors: Tensor) -> Tensor:
        """The language model's vectors [n, hidden] in the graph's space, [n, d], on the model's device.

        Raises:
            AnalysisError: the model compares reviews by word statistics, too, which other texts do not have.
        """
        if isinstance(self.model, SymCEREPlus):
            raise self._cannot_place()
        assert isinstance(self.model.projection, nn.Module)
        return self.model.unit(self.model.projection(vectors.to(self.config["device"])))

    def _cannot_place(self) -> AnalysisError:
        return AnalysisError(
            f"{self.path}: SymCEREPlus compares training reviews by their word statistics, too, so it can't place "
            "other texts; take --part=train where there is such an option, or look into a checkpoint of SymCERE"
        )

    def review_ids(self, part: str) -> np.ndarray:
        """Returns the ids of a part's reviews, [n] text; a dataset may have made them of user tokens."""
        data = self.parts[part]
        return self._tokens(data.review_field)[data.inter_feat[data.review_field].numpy()]

    def number_of(self, kind: Literal["user", "item"], token: str, suggest: bool = True) -> int:
        """Returns the number of a user or an item that training met.

        Args:
            suggest: whether an error may name another token.

        Raises:
            UserError: there is none of this token, or it has no training interaction.
        """
        train = self.train
        field = train.uid_field if kind == "user" else train.iid_field
        number = train.number_of(field, token, suggest)
        if not (train.inter_feat[field] == number).any():
            raise AnalysisError(
                f"{self.path}: {kind} {token!r} has no training interaction, so the model learned nothing of it; "
                "name another"
            )
        return number

    def user_tokens(self) -> np.ndarray:
        """Returns the tokens of the users by their numbers, [n_users] text; the first is the padding's."""
        return self._tokens(self.train.uid_field)

    def item_tokens(self) -> np.ndarray:
        """Returns the tokens of the items by their numbers, [n_items] text; the first is the padding's."""
        return self._tokens(self.train.iid_field)

    def _tokens(self, field: str) -> np.ndarray:
        return np.asarray(self.train.field2id_token[field]).astype(str)


@torch.no_grad()
def graph_nodes(model: SymCERE) -> Nodes:
    """Vectors of users and items by the graph encoder, as they are before eq. (2); on the CPU."""
    users, items = model(model.graph.adjacency())
    return users.cpu(), items.cpu()


def load_trained(
    checkpoints: Sequence[str], part: str, settings: Mapping[str, Any], taken: Collection[str] = ()
) -> list[TrainedModel]:
    """Loads all checkpoints, so that one that can't be used is told before any is looked into.

    Args:
        checkpoints: each ``[LABEL=]PATH``.
        part: the part of the data that will be looked at.
        settings: as for :class:`TrainedModel`.
        taken: labels that no checkpoint may have.

    Raises:
        AnalysisError: two labels, or their names as files, are the same, or a model was trained on the validation part
            that is asked for.
        UserError: as for :class:`TrainedModel`.
    """
    loaded = [TrainedModel(each, settings) for each in tqdm(checkpoints, desc="reading", delay=3, leave=False)]
    for trained in loaded:
        trained.check_held_out(part)
    names = [file_name(label) for label in (*(trained.label for trained in loaded), *taken)]
    if len(set(names)) < len(names):
        raise AnalysisError(
            f"--checkpoint: labels must differ in letters and digits, but are {', '.join(t.label for t in loaded)}"
            f"{f', and {listed} is taken' if (listed := ', '.join(taken)) else ''}; name them apart: A=PATH B=PATH"
        )
    return loaded

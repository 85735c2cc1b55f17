"""The base class of models: every hook that the configuration, the trainer and the checkpoints call.

A model of this package inherits from :class:`Recommender`, or from :class:`VectorRecommender` if its scores are dot
products. The registry gives the models of RecBole the same hooks, so whoever calls a hook need not ask for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from torch import Tensor

from recbole_symcere import compat

if TYPE_CHECKING:
    from typing_extensions import Self

    from recbole_symcere.config import Config
    from recbole_symcere.data.dataset import ReviewDataset
    from recbole_symcere.known import Known


compat.apply()


class Recommender(GeneralRecommender):
    """A general recommender of RecBole with this package's hooks, each with a default.

    Attributes:
        defaults: settings over those of the property files of the model's classes, in the form of a property file;
            the configuration reads them. They are for models of users, who have no file among this package's.
        search_space: the settings that a comparison searches, in the form of a file in ``properties/search``; for
            models of users, too.
        unread: keys of inherited settings that the model does not read; the configuration refuses them.
        loss_names: what the terms of a loss are called in the log, in TensorBoard and in result files, in their order;
            the trainer reads the names after each step. Empty: RecBole's ``train_loss1`` and so on.
        host_fields: fields of a batch that the trainer leaves on the host, because the model looks them up there.
        ranks_strangers: whether the scores of users without a training interaction are the model's own. Else, with
            ``cold_users: recent_popularity``, recent popularity ranks for them.
        ranks_new_items: whether the scores of items without a training interaction are the model's own, where the list
            of items goes on (see ``recbole_symcere.questions``). Else they come last.
        folds_in: whether the model ranks for anybody by a history. If there are questions, :meth:`about_to_rank` gives
            their histories, and the model is asked for their numbers in place of those of users.
        learns_from_validation: whether the model has its own :meth:`learn_from_validation`.
        serves: whether the model has its own :meth:`to_serve`.
        is_probe: whether the model only shows what a protocol lets through, and can't be deployed or compared with
            others. A comparison shows such models in a table of their own.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    search_space: ClassVar[Mapping[str, Any]] = {}
    unread: ClassVar[tuple[str, ...]] = ()
    loss_names: tuple[str, ...] = ()
    host_fields: tuple[str, ...] = ()
    ranks_strangers: bool = False
    ranks_new_items: bool = False
    folds_in: ClassVar[bool] = False
    learns_from_validation: ClassVar[bool] = False
    serves: ClassVar[bool] = False
    is_probe: ClassVar[bool] = False

    @classmethod
    def check_settings(cls, config: Config) -> None:
        """Checks settings that only together can't be used; the configuration calls this before any data is read.

        Raises:
            ConfigError: the settings can't be used together.
        """

    @classmethod
    def to_rank(cls, config: Config, dataset: ReviewDataset, state: Mapping[str, Tensor]) -> Self:
        """Makes a model that only ranks; ``recommend`` calls this and then loads ``state``.

        A model of reviews overrides this so that no review is read.

        Args:
            config: stays as it is.
            dataset: the interactions that trained.
            state: the state dict of the trained model; entries that the new model does not have are left out.
        """
        return cls(config, dataset)

    def about_to_rank(self, known: Known) -> None:
        """Tells the model what is known before the part that is ranked next; by default nothing happens."""

    def learn_from_validation(self, valid: ReviewDataset, known: Known) -> None:
        """Learns what only interactions can tell that training has not seen; by default nothing.

        A run calls this once, after training, with the weights of the best epoch. Validation is then ranked again, so a
        model that learns here must not rank a user of validation by what it learned from the same user: see
        ``known.validates``.

        Args:
            valid: the interactions of validation.
            known: what is known before validation.
        """

    def take_over(self, first: Self) -> None:
        """Takes over what the model of a first fit learned from validation; a second fit calls this."""

    def learned(self) -> dict[str, Any]:
        """Returns what a run shows of the trained model and writes to its result file, as JSON can hold it."""
        return {}

    def to_serve(self, trained: ReviewDataset, past: ReviewDataset, known: Known) -> dict[str, Any]:
        """Returns all that recommends to anybody without the dataset; a run of a model that ``serves`` calls this.

        The run does so once, at its end, with the weights that rank the test part. It keeps the result in the
        checkpoint, so that the result may hold tensors and plain values only.

        Args:
            trained: the interactions that trained the model.
            past: those of training and validation.
            known: what is known before the test part.
        """
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns what the optimiser trains, as PyTorch's parameter groups; the trainer calls this once.

        A group may have its own ``lr`` and a number of ``warmup_steps``, over which its rate rises linearly from 0.
        """
        return [{"params": list(self.parameters())}]

    def learning_rate_factor(self, epoch: int) -> float:
        """Returns what all learning rates are multiplied by in an epoch, counted from 0; the trainer calls this."""
        return 1.0

    def cost_of_an_epoch(self) -> str | None:
        """Returns a sentence on what an epoch takes on this machine, if that is much; a run logs it before training."""
        return None

    def save_adapter(self, folder: Path) -> None:
        """Writes a LoRA adapter into a folder, if the model has one; the trainer calls this with each checkpoint."""


class VectorRecommender(Recommender, ABC):
    """A recommender whose scores are dot products of user and item vectors.

    In eval mode the vectors are propagated once and kept until the weights may have changed.
    """

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self._kept_vectors: tuple[Tensor, Tensor] | None = None
        self.register_load_state_dict_post_hook(_forget_vectors)

    @abstractmethod
    def ranking_vectors(self) -> tuple[Tensor, Tensor]:
        """Returns users [n_users, d] and items [n_items, d] whose dot products are the scores."""

    def train(self, mode: bool = True) -> Self:
        """Sets train or eval mode, and forgets the kept vectors."""
        self._kept_vectors = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves or casts the weights, as PyTorch does for ``to()``, and forgets the kept vectors."""
        self._kept_vectors = None
        return super()._apply(fn, recurse)

    def predict(self, interaction: Interaction) -> Tensor:
        """Returns the scores [B] of the given (user, item) pairs."""
        users, items = self._vectors()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(-1)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Returns the scores of all items for the given users, [B * n_items]."""
        users, items = self._vectors()
        return (users[interaction[self.USER_ID]] @ items.T).flatten()

    def _vectors(self) -> tuple[Tensor, Tensor]:
        if self.training:
            return self.ranking_vectors()
        if self._kept_vectors is None:
            self._kept_vectors = self.ranking_vectors()
        return self._kept_vectors


def _forget_vectors(model: VectorRecommender, incompatible_keys: Any) -> None:
    model._kept_vectors = None

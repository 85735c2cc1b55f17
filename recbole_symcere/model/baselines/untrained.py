"""The base classes of scorers that train nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from recbole.data.interaction import Interaction
from recbole.utils import InputType, ModelType
from torch import Tensor, nn

from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.known import Known
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.questions import Questions


class Untrained(Recommender):
    """The base of scorers without training; it has one number that never changes, since RecBole needs a parameter.

    RecBole gives such models one epoch, with an optimiser and a loss.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.PAIRWISE

    def __init__(self, config: Config, dataset: ReviewDataset) -> None:
        super().__init__(config, dataset)
        self.fake_loss = nn.Parameter(torch.zeros(()))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Returns 0, a scalar."""
        return 0 * self.fake_loss


class UserScorer(Untrained, ABC):
    """The base of scorers without training that score all items for a batch of users at once.

    Attributes:
        asked: the questions that are ranked next, whose numbers :meth:`scores` then gets, if the model folds in; None
            if it gets those of users.
    """

    asked: Questions | None = None

    def about_to_rank(self, known: Known) -> None:
        """Takes over the questions."""
        if self.folds_in:
            self.asked = known.questions and known.questions.to(self.device)

    @abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """Returns the scores of all items for the given users [B], [B, n_items]."""

    def predict(self, interaction: Interaction) -> Tensor:
        """Returns the scores [B] of the given (user, item) pairs; all items are scored for each different user."""
        users, row = interaction[self.USER_ID].unique(return_inverse=True)
        return self.scores(users)[row, interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Returns the scores of all items for the given users, [B * n_items]."""
        return self.scores(interaction[self.USER_ID]).flatten()

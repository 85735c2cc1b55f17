"""MultiVAE: RecBole's class, which also ranks for people whom training has not met."""

from __future__ import annotations

import torch
from recbole.model.general_recommender.multivae import MultiVAE as RecBoleMultiVAE
from torch import Tensor

from recbole_symcere.known import Known
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.questions import Questions


class MultiVAE(RecBoleMultiVAE, Recommender):
    """A variational autoencoder of histories (Liang et al., WWW 2018), which knows a user by the history alone.

    Args:
        config: see ``properties/model/MultiVAE.yaml``.
        dataset: the interactions that train.
    """

    folds_in = True
    asked: Questions | None = None

    def about_to_rank(self, known: Known) -> None:
        """Takes over the questions."""
        self.asked = known.questions and known.questions.to(self.device)

    def get_rating_matrix(self, user: Tensor) -> Tensor:
        """Returns the histories of users, or of questions, float32 [B, n_items]."""
        if self.training or self.asked is None:
            return super().get_rating_matrix(user)
        owner, met = self.asked.histories(user)
        histories = torch.zeros(len(user), self.n_items, device=user.device)
        histories[owner, self.asked.item[met]] = 1
        return histories

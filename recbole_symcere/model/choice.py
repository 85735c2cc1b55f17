"""The weights of evidence: a conditional logit of what people chose among what they could have chosen.

Source: McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior" (1974).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from recbole_symcere.errors import ConfigError
from recbole_symcere.properties import nearest

STRANGERS, OTHERS = 0, 1  # rows of weights: of people of whom nothing is known, and of the others
RIDGE = 0.02  # of the squared weights, beside the mean log-likelihood of a choice
TOP = 20  # the length of a list that people look at
POOL = 10 * TOP  # the best items by some weights, among which are the best TOP by weights that differ a little
PAIRS_TO_FIT = 2**20  # the most pairs of users and items to which the weights are fitted
SCORES_AT_ONCE = 2**20  # of each piece of evidence
TRUST = 100  # how many choices the weights of all choices count as much as, where the best items are told apart

ByUser = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Choices:
    """Interactions that no score has seen, and what each user could have chosen instead.

    Attributes:
        chosen: [n, K], the evidence for the chosen items.
        owner: [n] long, the user of each choice, from 0.
        offered: [U, C, K], the evidence for the items that were offered to each user.
        open: [U, C] bool, whether an offered item is an alternative: the user has neither met nor chosen it.
    """

    chosen: Tensor
    owner: Tensor
    offered: Tensor
    open: Tensor

    def of_users(self, users: Tensor) -> Choices:
        """Returns the choices of some users.

        Args:
            users: [U] bool.
        """
        kept = users[self.owner]
        number = users.cumsum(0) - 1
        return Choices(self.chosen[kept], number[self.owner[kept]], self.offered[users], self.open[users])

    def at_the_top(self, weights: Tensor, n: int = TOP) -> Choices:
        """Returns the choices that are among the best n open items by some weights [K], with those items alone open.

        The users and the items that were offered stay as they are.
        """
        scores = (self.offered @ weights).masked_fill(~self.open, -torch.inf)
        last = scores.topk(n).values[:, -1:] if n <= scores.shape[1] else scores.new_full((1, 1), -torch.inf)
        kept = self.chosen @ weights >= last.expand(len(scores), 1)[self.owner, 0]
        return Choices(self.chosen[kept], self.owner[kept], self.offered, self.open & (scores >= last))

    def loss(self, weights: Tensor) -> Tensor:
        """Returns the mean over the choices of -log P(chosen), where P is the softmax over chosen and alternatives.

        Args:
            weights: [K].
        """
        alternatives = (self.offered @ weights).masked_fill(~self.open, -torch.inf).logsumexp(1)
        return -F.logsigmoid(self.chosen @ weights - alternatives[self.owner]).mean()


@dataclass(frozen=True)
class Weights:
    """Fitted weights.

    Attributes:
        values: [K].
        objective: the convex function of the weights whose minimum they are, a mean over choices.
        n: the number of choices.
    """

    values: Tensor
    objective: Callable[[Tensor], Tensor]
    n: int

    @torch.enable_grad()
    def errors(self) -> Tensor:
        """Returns the standard errors [K]; that of a weight at its bound 0 is 0.

        They are those of maximum likelihood, by the inverse of the objective's second derivatives over the weights
        above 0.
        """
        curvature = torch.autograd.functional.hessian(self.objective, self.values)
        errors, above = torch.zeros_like(self.values), self.values > 0
        errors[above] = (torch.linalg.inv(curvature[above][:, above].double()).diagonal() / self.n).sqrt().to(errors)
        return errors


def draw_choices(
    user: Tensor, item: Tensor, known: Tensor, evidence: ByUser, alternatives: ByUser, pieces: Tensor
) -> tuple[Tensor, Choices, Choices]:
    """Returns the users [U], and twice what they chose and were offered: among all items, and among the best of them.

    Where users and items are many, some are drawn at random, which changes the weights by chance alone (McFadden,
    "Modelling the Choice of Residential Location", 1978). The best items of a draw are not the best of all, so the best
    are sought among all items.

    Args:
        user, item: [n] long, the choices, at least one.
        known: [n_items] bool, the items that can be offered.
        evidence: returns the evidence [B, n_items, K] of some users [B].
        alternatives: returns which items some users [B] could have chosen, [B, n_items] bool.
        pieces: [K] bool, the pieces of evidence to use.
    """
    users, offered = user.unique(), known.nonzero().flatten()
    is_drawn = len(users) * len(offered) > PAIRS_TO_FIT
    if is_drawn:
        side = int(PAIRS_TO_FIT**0.5)
        users = _drawn(users, max(side, PAIRS_TO_FIT // len(offered)))
        offered = _drawn(offered, max(side, PAIRS_TO_FIT // len(users)))
        kept = torch.isin(user, users)
        user, item = user[kept], item[kept]

    def among(offer: Callable[[Tensor, Tensor], Tensor]) -> Choices:
        owner, order = torch.searchsorted(users, user).sort(stable=True)
        of_owner = item[order]
        parts = []
        for rows in torch.arange(len(users), device=users.device).split(max(1, SCORES_AT_ONCE // len(known))):
            table, is_open = evidence(users[rows])[:, :, pieces], alternatives(users[rows])
            own = torch.isin(owner, rows)
            place = owner[own] - rows[0], of_owner[own]
            is_open[place] = False
            items = offer(table, is_open)
            parts.append((table[place], table.take_along_dim(items[:, :, None], 1), is_open.gather(1, items)))
        chosen, of_items, is_open = (torch.cat(part) for part in zip(*parts, strict=True))
        return Choices(chosen, owner, of_items, is_open)

    choices = among(lambda table, _: offered.expand(len(table), -1))
    if not is_drawn:
        return users, choices, choices
    return users, choices, among(partial(_best_items, most_likely(choices, RIDGE).values))


def _best_items(weights: Tensor, evidence: Tensor, is_open: Tensor) -> Tensor:
    """Returns the best ``POOL`` open items of each user by some weights [K], or all items if they are fewer, [B, C]."""
    scores = (evidence @ weights).masked_fill(~is_open, -torch.inf)
    return scores.topk(min(POOL, scores.shape[1])).indices


def _drawn(ids: Tensor, n: int) -> Tensor:
    """Returns at most n of the ids, drawn at random, in ascending order."""
    chosen = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[:n]
    return ids[chosen.sort().values.to(ids.device)]


def fit_weights(choices: Choices, best: Choices, start: Tensor | None = None) -> Weights:
    """Returns the weights, none below 0, that tell best what people chose from what they would be shown instead.

    Most choices are far down any list. They would decide the weights, although no weights bring them to the top, where
    people look. Therefore the weights are fitted twice: first to all choices, and then to the choices that the first
    weights rank among the best ``TOP`` items, each among these items alone. The second weights are drawn to the first
    ones, which count as much as ``TRUST`` choices.

    Args:
        choices: at least one choice.
        best: the same choices, where the offered items contain the best ``TOP`` of all open items by the first weights.
        start: [K], weights near which those that are sought may lie, such as those of nearly the same choices. They
            change how long the search takes, and not what it finds.
    """
    every = most_likely(choices, RIDGE, start=start)
    top = best.at_the_top(every.values)
    return most_likely(top, TRUST / n, every.values) if (n := len(top.owner)) else every


def most_likely(choices: Choices, ridge: float, towards: Tensor | None = None, start: Tensor | None = None) -> Weights:
    """Returns the weights, none below 0, under which the choices are most likely.

    The objective is convex: ``Choices.loss`` plus ``ridge`` / 2 times the squared distance from ``towards``.

    Args:
        choices: at least one choice.
        ridge: above 0.
        towards: [K], to which the weights are drawn; None for 0.
        start: [K], where the search begins; None for ``towards``, or without it for equal weights.
    """
    n, k = choices.chosen.shape
    start = towards if start is None else start
    first = np.full(k, 1 / k) if start is None else start.double().cpu().numpy()
    centre = choices.chosen.new_zeros(k) if towards is None else towards

    def objective(weights: Tensor) -> Tensor:
        return choices.loss(weights) + ridge / 2 * (weights - centre).square().sum()

    def value_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights = choices.chosen.new_tensor(point).requires_grad_()
        value = objective(weights)
        (gradient,) = torch.autograd.grad(value, weights)
        return float(value.detach()), gradient.double().cpu().numpy()

    with torch.enable_grad():
        end = {"ftol": torch.finfo(choices.chosen.dtype).eps}  # smaller changes of the objective are its rounding
        found = minimize(value_and_gradient, first, jac=True, method="L-BFGS-B", bounds=[(0, None)] * k, options=end)
    return Weights(choices.chosen.new_tensor(found.x), objective, n)


def check_weights(given: Any, evidence: Sequence[str]) -> None:
    """Checks that weights are given for all pieces of evidence, or for none.

    Raises:
        ConfigError: they are not.
    """
    if given is None:
        return
    key = "evidence_weights"
    if not isinstance(given, dict):
        raise ConfigError(f"{key} is {given!r}, but must be such as {{trend: 0.5, graph: 1}}, or empty to fit them")
    if unknown := sorted(given.keys() - set(evidence)):
        raise ConfigError(f"{key} names {unknown[0]}, which is not in evidence{nearest(str(unknown[0]), evidence)}")
    if absent := [name for name in evidence if name not in given]:
        raise ConfigError(f"{key} has no weight for {absent[0]}: give one for each piece, or leave {key} empty")
    if wrong := [
        name for name, weight in given.items() if type(weight) not in (int, float) or not 0 <= weight < math.inf
    ]:
        raise ConfigError(f"{key} gives {wrong[0]} the weight {given[wrong[0]]!r}, but it must be a number from 0")
    if not any(given.values()):
        raise ConfigError(f"{key} gives every piece the weight 0, so that nothing would rank")

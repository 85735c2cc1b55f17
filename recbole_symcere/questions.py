"""For whom and for when a part is ranked, where that is not each user once, by what training knows of the user.

- ``strangers``: the held-out users never train. Each gives a few first interactions, and the rest is ranked. The seed
  of the run draws the test users, so that several seeds test on more of them.
- ``days``: each day on which a user has held-out interactions is a question. All that happened until the day before is
  known: what the user met, how often each item was met, and which items there are.

A model that folds in (``Recommender.folds_in``) is given the number of the question in place of that of the user, and
reads the question's history here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_symcere.decay import DAY
from recbole_symcere.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from recbole_symcere.config import Config
    from recbole_symcere.data.dataset import ReviewDataset

QUESTION = "question"  # the field of a batch with the numbers of its questions
READ_WITH = {  # with which questions a setting is read, the protocol that asks them, and the setting's default
    "given": ("strangers", "strangers", 1),
    "given_reviews": ("strangers", "strangers", True),
    "goes_on": ("days", "rolling", True),
    "refit_every": ("days", "rolling", None),
}


@dataclass(frozen=True)
class Questions:
    """Questions to a model, each of one user at one moment.

    The interactions of all users stand in one row, sorted by user and then by time. Question q has three spans in it:
    the history, from ``start[q]`` to ``end[q]``; all that the user has met by then, from ``start[q]`` to ``begin[q]``;
    and what is held out, from ``begin[q]`` to ``stop[q]``.

    Attributes:
        user, start, end, begin, stop: [Q] long; users are ascending.
        now: [Q] float64, the moment that is asked for, in seconds. Nothing later may be read.
        item, moment: [n], of the interactions; moments are float64.
        order: [n] long, the place of each of them in ``past``.
        past: the interactions with their reviews, in the order of their parts.
        goes_on: whether the counts and the list of items go on up to ``now``; else they are those before the part.
        gives_reviews: whether the reviews of the histories are known.
    """

    user: Tensor
    start: Tensor
    end: Tensor
    begin: Tensor
    stop: Tensor
    now: Tensor
    item: Tensor
    moment: Tensor
    order: Tensor
    past: ReviewDataset
    goes_on: bool
    gives_reviews: bool

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_met(self) -> Tensor:
        """The length of each question's history, [Q] long."""
        return self.end - self.start

    @property
    def first(self) -> Tensor:
        """The moment at which somebody first met each item, [n_items] float64; infinity for an item without one."""
        n_items = self.past.item_num
        return self.moment.new_full((n_items,), torch.inf).scatter_reduce(0, self.item, self.moment, "amin")

    def to(self, device: torch.device) -> Questions:
        """Returns a copy whose tensors are on a device."""
        moved: dict[str, Any] = {
            key: value.to(device) for key, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def histories(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the histories of some questions [B]: the position in ``questions``, and the interaction, [n] each."""
        return spans(self.start[questions], self.end[questions])

    def met(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns all that was met before some questions [B]: the position in ``questions``, and the interaction."""
        return spans(self.start[questions], self.begin[questions])

    def held_out(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what is held out of some questions [B]: the position in ``questions``, and the interaction."""
        return spans(self.begin[questions], self.stop[questions])


def spans(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the numbers from each start to each end, one span after the other: the span's place, and the number."""
    length = end - start
    owner = torch.repeat_interleave(length)
    return owner, torch.arange(len(owner), device=start.device) + (end - length.cumsum(0))[owner]


def check_questions(config: Config) -> None:
    """Checks what the settings ask for whom and for when.

    Raises:
        ConfigError: the settings do not go together, or the model can't rank for people whom it has not met.
    """
    from recbole_symcere.recbole_settings import modes  # needs RecBole, which lists from a checkpoint do not load

    kind, given, split = config["questions"], config["given"], config["eval_args"]["split"]
    for key, (reader, protocol, default) in READ_WITH.items():
        if kind != reader and config[key] != default:
            raise ConfigError(
                f"{key} is read with questions: {reader} alone; take --protocol={protocol}, or leave it out"
            )
    if given >= 1 and not float(given).is_integer():
        raise ConfigError(f"given is {given}, but must be a whole number of interactions, or a share below 1")
    if kind == "users":
        return
    if config["eval_args"]["order"] != "TO" or "RS" not in split:
        raise ConfigError(f"questions: {kind} needs order: TO and split: {{RS: […]}} in eval_args")
    if kind == "days" and config["eval_args"]["group_by"] != "none":
        raise ConfigError("questions: days needs one cut in time for all; take group_by: none in eval_args")
    if modes(config["eval_args"]) != ["full"]:
        raise ConfigError(f"questions: {kind} ranks all items, so mode in eval_args must be full")
    if kind == "strangers" and not config.model_class.folds_in:
        raise ConfigError(
            f"questions: strangers asks for people whom training has not met, but {config['model']} has a vector for "
            "each user of training and can't place anybody else; take a model that ranks by a history, such as "
            "SymCEREPlus, EASE, ItemKNN, RP3beta, TurboCF, MultiVAE or RecentPop"
        )
    if config["refit_every"] and (kind != "days" or not config["refit"]):
        raise ConfigError("refit_every needs questions: days and refit: True")


def questions_of(config: Config, earlier: ReviewDataset, part: ReviewDataset) -> Questions | None:
    """Returns the questions of a part; None if each user is ranked once, by what training knows.

    Args:
        config: the settings ``questions``, ``given``, ``given_reviews`` and ``goes_on``.
        earlier: all interactions before the part.
        part: the held-out interactions.

    Raises:
        DatasetError: no user of the part has more interactions than are given.
    """
    makers: dict[str, Callable[[Config, ReviewDataset, ReviewDataset], Questions]] = {
        "strangers": _of_strangers,
        "days": _of_days,
    }
    return makers[config["questions"]](config, earlier, part) if config["questions"] in makers else None


def _of_strangers(config: Config, earlier: ReviewDataset, part: ReviewDataset) -> Questions:
    user, _, order = _sorted(part)
    users, n = user.unique_consecutive(return_counts=True)
    stop = n.cumsum(0)
    given = config["given"]
    n_given = torch.full_like(n, int(given)) if given >= 1 else (n * given).floor().long().clamp(min=1)
    asked = n > n_given
    if not asked.any():
        raise DatasetError(
            f"{config['dataset']}: no user of a held-out part has more interactions than given asks for ({given}), so "
            "nobody can be ranked; give fewer"
        )
    end = (stop - n + n_given)[asked]
    moment = part.inter_feat[part.time_field][order].double()
    return Questions(
        user=users[asked],
        start=(stop - n)[asked],
        end=end,
        begin=end,
        stop=stop[asked],
        now=moment[end - 1],
        item=part.inter_feat[part.iid_field][order],
        moment=moment,
        order=order,
        past=part,
        goes_on=False,
        gives_reviews=config["given_reviews"],
    )


def _of_days(config: Config, earlier: ReviewDataset, part: ReviewDataset) -> Questions:
    past = earlier.joined_with(part)
    user, moment, order = _sorted(past)
    day = (moment / DAY).floor()
    begins = torch.ones(len(user), dtype=torch.bool)
    held_out = order >= len(earlier)
    begins[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1]) | (held_out[1:] != held_out[:-1])
    begin = (begins & held_out).nonzero().flatten()
    start = torch.searchsorted(user, user[begin])
    end = begin
    if not config["goes_on"]:  # what training could know: the interactions of the user before the part
        n_held_out = torch.cat([torch.zeros(1, dtype=torch.long), held_out.cumsum(0)])
        end = begin - (n_held_out[begin] - n_held_out[start])
    borders = torch.cat([begins.nonzero().flatten(), torch.tensor([len(user)])])
    return Questions(
        user=user[begin],
        start=start,
        end=end,
        begin=begin,
        stop=borders[torch.searchsorted(borders, begin, right=True)],
        now=day[begin] * DAY - 1,
        item=past.inter_feat[past.iid_field][order],
        moment=moment,
        order=order,
        past=past,
        goes_on=config["goes_on"],
        gives_reviews=True,
    )


def periods(config: Config, test: ReviewDataset) -> list[ReviewDataset]:
    """Returns the interactions of each period of ``refit_every`` days from the first day of the test part.

    A period without an interaction is left out; without ``refit_every`` there is one period.
    """
    if not config["refit_every"]:
        return [test]
    day = (test.inter_feat[test.time_field].double() / DAY).floor()
    number = ((day - day.min()) / config["refit_every"]).floor()
    return [test.copy(test.inter_feat[number == period]) for period in number.unique()]


def _sorted(part: ReviewDataset) -> tuple[Tensor, Tensor, Tensor]:
    """Returns users and moments sorted by user and time, and the order; interactions of one time keep their order."""
    user, moment = part.inter_feat[part.uid_field].numpy(), part.inter_feat[part.time_field].double().numpy()
    order = np.lexsort((moment, user))
    return torch.from_numpy(user[order]), torch.from_numpy(moment[order]), torch.from_numpy(order)

"""``symcere recommend``: prints the best items for users of a checkpoint, or for anybody else."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_symcere.commands.lists import Lists, add_data_arguments, add_list_arguments, load_recommender, row, write
from recbole_symcere.errors import UserError
from recbole_symcere.properties import parse_assignments

if TYPE_CHECKING:
    from recbole_symcere.serving import Recommender, Request

HELP = "Print the best items for people, from a checkpoint; no review of the dataset is read."
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/demo.pth --users u0 u1
  %(prog)s --checkpoint saved/demo.pth --k 20 --format csv > items.csv   (all users)
  %(prog)s --checkpoint saved/demo.pth --users u0 --format json --data_path=elsewhere/dataset

Of SymCEREPlus, also for people who are not in the data, without the dataset:
  %(prog)s --checkpoint saved/plus.pth --items i7 i12 --text "warm tone, easy to play" --why
  %(prog)s --checkpoint saved/plus.pth --users u0 --since week.csv --new-items arrivals.csv
  %(prog)s --checkpoint saved/plus.pth --requests people.jsonl --format json --output items.json

Settings of the run are changed by --key=value.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="PATH", help="a checkpoint that a run has left")
    add("--users", nargs="+", metavar="USER", help="tokens of users as in the .inter file (default: all users)")
    add_list_arguments(parser)
    anybody = parser.add_argument_group("for anybody (checkpoints of SymCEREPlus)")
    add = anybody.add_argument
    add("--items", nargs="+", default=[], metavar="ITEM", help="items that the person has met, all of them just now")
    add("--text", nargs="+", default=[], metavar="TEXT", help="what the person wrote, such as reviews")
    add("--requests", type=Path, metavar="FILE", help="JSON lines with the keys user, items, reviews and at")
    add_data_arguments(add)


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prints the items that the people have not met, best first.

    Raises:
        UserError: options do not go together, or something that they name can't be used.
    """
    settings = parse_assignments(rest)
    lists: Lists
    if _for_anybody(given):
        recommender = load_recommender(given, settings)
        people = _people(given, recommender)
        found = recommender.recommend_many(list(people.values()), given.k, given.why)
        lists = {name: [row(best) for best in items] for name, items in zip(people, found, strict=True)}
    else:
        from recbole_symcere.recommend import recommend  # after parsing: a typo does not wait for the models

        quiet = {"show_progress": False, "state": "ERROR"}
        of_users = recommend(given.checkpoint, given.users, given.k, quiet | settings)
        lists = {user: [{"item": item, "score": score} for item, score in items] for user, items in of_users.items()}
    write(lists, "user", given)


def _for_anybody(given: argparse.Namespace) -> bool:
    options = (given.items, given.text, given.requests, given.since, given.new_items, given.why)
    return any(options) or given.at is not None


def _people(given: argparse.Namespace, recommender: Recommender) -> dict[str, Request]:
    """Returns whom items are wanted for, each by a name."""
    from recbole_symcere.serving import Request
    from recbole_symcere.serving.files import read_requests

    alone = given.items or given.text
    if given.requests:
        if given.users or alone or given.at is not None:
            raise UserError("--requests says who is asked for; leave out --users, --items, --text and --at")
        return {str(n): request for n, request in enumerate(read_requests(given.requests), start=1)}
    if not alone:
        return {user: Request(user, at=given.at) for user in given.users or recommender.users}
    if given.users and len(given.users) > 1:
        raise UserError("--items and --text belong to one person; give one of --users at most, or use --requests")
    user = given.users[0] if given.users else None
    return {user or "you": Request(user, given.items, given.text, given.at)}

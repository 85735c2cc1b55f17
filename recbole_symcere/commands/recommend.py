"""``symcere recommend``: prints the best items for users of a checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

from recbole_symcere.properties import parse_assignments

HELP = "Print the best items for users, from a checkpoint; no review is read."
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/demo.pth --users u0 u1
  %(prog)s --checkpoint saved/demo.pth --k 20 --format csv > items.csv   (all users)
  %(prog)s --checkpoint saved/demo.pth --users u0 --format json --data_path=elsewhere/dataset

Settings of the run are changed by --key=value.
"""
FORMATS = ("table", "json", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="PATH", help="a checkpoint that a run has left")
    add("--users", nargs="+", metavar="USER", help="tokens of users as in the .inter file (default: all users)")
    add("--k", type=int, default=10, help="how many items for each user (%(default)s)")
    add("--format", choices=FORMATS, default=FORMATS[0], help="what to print (%(default)s)")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prints the items that the users have not met in training or validation, best first."""
    settings = parse_assignments(rest)
    from recbole_symcere.recommend import Items, recommend  # after parsing: a typo does not wait for the models

    found: Mapping[str, Items] = recommend(
        given.checkpoint, given.users, given.k, {"show_progress": False, "state": "ERROR"} | settings
    )
    print(_shown(found, given.format))


def _shown(found: Mapping[str, Sequence[tuple[str, float]]], form: str) -> str:
    if form == "json":
        by_user = {user: [{"item": item, "score": score} for item, score in items] for user, items in found.items()}
        return json.dumps(by_user, indent=2, ensure_ascii=False)
    import pandas as pd

    rows = [(user, place, *pair) for user, items in found.items() for place, pair in enumerate(items, start=1)]
    table = pd.DataFrame(rows, columns=["user", "rank", "item", "score"])
    return str(table.to_csv(index=False)).rstrip("\n") if form == "csv" else table.to_string(index=False)

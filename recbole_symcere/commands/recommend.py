"""``symcere recommend``: prints the best items for users of a checkpoint, or for anybody else."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_symcere.errors import UserError
from recbole_symcere.properties import parse_assignments

if TYPE_CHECKING:
    from recbole_symcere.serving import Recommendation, Recommender, Request

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
FORMATS = ("table", "json", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="PATH", help="a checkpoint that a run has left")
    add("--users", nargs="+", metavar="USER", help="tokens of users as in the .inter file (default: all users)")
    add("--k", type=int, default=10, help="how many items for each person (%(default)s)")
    add("--format", choices=FORMATS, default=FORMATS[0], help="what to print (%(default)s)")
    add("--output", type=Path, metavar="FILE", help="write to a file instead")
    anybody = parser.add_argument_group("for anybody (checkpoints of SymCEREPlus)")
    add = anybody.add_argument
    add("--items", nargs="+", default=[], metavar="ITEM", help="items that the person has met, the last one last")
    add("--text", nargs="+", default=[], metavar="TEXT", help="what the person wrote, such as reviews")
    add("--at", type=_moment, metavar="TIME", help="recommend for this moment: a date, or seconds since 1970")
    add("--requests", type=Path, metavar="FILE", help="JSON lines with the keys user, items, reviews and at")
    add("--since", type=Path, metavar="FILE", help="interactions after training: .inter, .csv, .tsv, .jsonl, .parquet")
    add("--new-items", type=Path, metavar="FILE", help="a table of items nobody has met: item, text")
    add("--why", action="store_true", help="say what each piece of evidence adds to a score")


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prints the items that the people have not met, best first.

    Raises:
        UserError: options do not go together, or something that they name can't be used.
    """
    settings = parse_assignments(rest)
    if not _for_anybody(given):
        from recbole_symcere.recommend import recommend  # after parsing: a typo does not wait for the models

        found = recommend(given.checkpoint, given.users, given.k, {"show_progress": False, "state": "ERROR"} | settings)
        rows = {user: [{"item": item, "score": score} for item, score in items] for user, items in found.items()}
    else:
        rows = _recommended(given, settings)
    shown = _shown(rows, given.format)
    if given.output is None:
        print(shown)
        return
    try:
        given.output.write_text(shown + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {given.output}: can't be written ({error})") from error


def _for_anybody(given: argparse.Namespace) -> bool:
    options = (given.items, given.text, given.requests, given.since, given.new_items, given.why)
    return any(options) or given.at is not None


def _recommended(given: argparse.Namespace, settings: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns rows of the table for each person."""
    from recbole_symcere.serving import Recommender
    from recbole_symcere.serving.files import read_interactions, read_items

    allowed = {"imports", "trust_remote_code"}
    if unread := sorted(settings.keys() - allowed):
        raise UserError(f"{unread[0]} changes nothing here, because the dataset is not read; leave it out")
    recommender = Recommender.load(given.checkpoint, **settings)
    if given.new_items:
        recommender = recommender.with_items(read_items(given.new_items), given.at)
    if given.since:
        recommender = recommender.with_interactions(read_interactions(given.since))
    people = _people(given, recommender)
    lists = recommender.recommend_many(list(people.values()), given.k, given.why)
    return {name: [_row(best) for best in items] for name, items in zip(people, lists, strict=True)}


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


def _row(best: Recommendation) -> dict[str, Any]:
    new = {"new": True} if best.is_new else {}
    return {"item": best.item, "score": best.score} | new | ({"why": dict(best.why)} if best.why else {})


def _moment(text: str) -> float:
    """Returns a date, a date and time, or a number of seconds as seconds since 1970; without a zone it is UTC."""
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _shown(found: Mapping[str, Sequence[Mapping[str, Any]]], form: str) -> str:
    if form == "json":
        return json.dumps(found, indent=2, ensure_ascii=False)
    import pandas as pd

    rows = [
        {"user": user, "rank": place} | {key: value for key, value in row.items() if key != "why"} | row.get("why", {})
        for user, items in found.items()
        for place, row in enumerate(items, start=1)
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["user", "rank", "item", "score"]
    table = pd.DataFrame(rows, columns=columns)
    if "new" in table:
        table["new"] = table["new"].eq(True)
    return str(table.to_csv(index=False)).rstrip("\n") if form == "csv" else table.to_string(index=False)

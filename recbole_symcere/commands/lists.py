"""What ``symcere recommend`` and ``symcere search`` share: the data of a recommender, and lists of items as text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_symcere.errors import UserError

if TYPE_CHECKING:
    from recbole_symcere.serving import Recommendation, Recommender

FORMATS = ("table", "json", "csv")
OF_A_RECOMMENDER = ("imports", "trust_remote_code")  # the settings that loading one reads

Lists = Mapping[str, Sequence[Mapping[str, Any]]]  # for each name of a person or a text, a row for each item


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how many items there are and where they go."""
    add = parser.add_argument
    add("--k", type=int, default=10, help="how many items (%(default)s)")
    add("--format", choices=FORMATS, default=FORMATS[0], help="what to print (%(default)s)")
    add("--output", type=Path, metavar="FILE", help="write to a file instead")


def add_data_arguments(add: Any) -> None:
    """Adds the options that say what came after training.

    Args:
        add: the ``add_argument`` of a parser or a group.
    """
    add("--at", type=moment, metavar="TIME", help="for this moment: a date, or seconds since 1970")
    add_file_arguments(add)
    add("--why", action="store_true", help="say what each part adds to a score")


def add_file_arguments(add: Any) -> None:
    """Adds the options that name files of what came after training; ``add`` is as for :func:`add_data_arguments`."""
    add("--since", type=Path, metavar="FILE", help="interactions after training: .inter, .csv, .tsv, .jsonl, .parquet")
    add("--new-items", type=Path, metavar="FILE", help="a table of items nobody has met: item, text")


def load_recommender(given: argparse.Namespace, settings: Mapping[str, Any]) -> Recommender:
    """Loads the recommender of a checkpoint, with what came after training.

    Raises:
        UserError: a setting changes nothing, or a file can't be used.
    """
    from recbole_symcere.serving import Recommender  # after parsing: a typo does not wait for PyTorch
    from recbole_symcere.serving.files import read_interactions, read_items

    if unread := sorted(settings.keys() - set(OF_A_RECOMMENDER)):
        raise UserError(f"{unread[0]} changes nothing here, because the dataset is not read; leave it out")
    recommender = Recommender.load(given.checkpoint, **settings)
    if given.new_items:
        recommender = recommender.with_items(read_items(given.new_items), given.at)
    if given.since:
        recommender = recommender.with_interactions(read_interactions(given.since))
    return recommender


def row(best: Recommendation) -> dict[str, Any]:
    """Returns an item of a list as JSON shows it."""
    new = {"new": True} if best.is_new else {}
    return {"item": best.item, "score": best.score} | new | ({"why": dict(best.why)} if best.why else {})


def write(lists: Lists, key: str, given: argparse.Namespace) -> None:
    """Prints lists, or writes them to ``--output``.

    Args:
        key: what the names of the lists are called in a table.

    Raises:
        UserError: the file can't be written.
    """
    shown = _shown(lists, key, given.format)
    if given.output is None:
        print(shown)
        return
    try:
        given.output.write_text(shown + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {given.output}: can't be written ({error})") from error


def _shown(lists: Lists, key: str, form: str) -> str:
    if form == "json":
        return json.dumps(lists, indent=2, ensure_ascii=False)
    import pandas as pd

    rows = [
        {key: name, "rank": place} | {column: value for column, value in of_item.items() if column != "why"} | why
        for name, items in lists.items()
        for place, of_item in enumerate(items, start=1)
        for why in [of_item.get("why", {})]
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row)) or [key, "rank", "item", "score"]
    table = pd.DataFrame(rows, columns=columns)
    if "new" in table:
        table["new"] = table["new"].eq(True)
    return str(table.to_csv(index=False)).rstrip("\n") if form == "csv" else table.to_string(index=False)


def moment(text: str) -> float:
    """Returns a date, a date and time, or a number of seconds as seconds since 1970; without a zone it is UTC."""
    try:
        return float(text)
    except ValueError:
        found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()

"""``symcere search``: prints the items whose reviews are nearest to a text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from recbole_symcere.commands.lists import add_data_arguments, add_list_arguments, load_recommender, row, write
from recbole_symcere.properties import parse_assignments

HELP = "Print the items that a text describes, from a checkpoint of SymCEREPlus; the dataset is not read."
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/plus.pth --text "quiet chew toy for a teething puppy"
  %(prog)s --checkpoint saved/plus.pth --text "warm tone" --user u7 --why   (what u7 likes counts, too)
  %(prog)s --checkpoint saved/plus.pth --text "warm tone" "for beginners" --items i7 --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="PATH", help="a checkpoint of SymCEREPlus")
    add("--text", nargs="+", required=True, metavar="TEXT", help="what is looked for; a list for each")
    add("--user", metavar="USER", help="who looks for it, as in the .inter file")
    add("--items", nargs="+", default=[], metavar="ITEM", help="items that this person has met, all of them just now")
    add_list_arguments(parser)
    add_data_arguments(add)


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prints the items that each text finds, best first.

    Raises:
        UserError: something that the options name can't be used.
    """
    settings = parse_assignments(rest)
    recommender = load_recommender(given, settings)
    from recbole_symcere.serving import Request

    requests = [Request(given.user, given.items, at=given.at)] * len(given.text)
    found = recommender.search_many(given.text, requests, given.k, given.why)
    write({text: [row(best) for best in items] for text, items in zip(given.text, found, strict=True)}, "text", given)

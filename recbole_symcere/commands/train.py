"""``symcere train``: trains a model and ranks the test part once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from recbole_symcere.properties import parse_assignments, parse_value

HELP = "Train a recommender, stop on validation, and rank all items for the test part."
EXAMPLES = """examples:
  %(prog)s --model=SymCERE --dataset=demo
  %(prog)s --model=LightGCN --dataset=yelp --protocol=temporal --learning_rate=0.002
  %(prog)s --model=SymCERE --dataset=yelp --checkpoint_file=saved/run.pth   (again, to resume)

Any other setting of RecBole or of the model is given as --key=value; values are read as YAML.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command; all other settings are left to :func:`settings_of`."""
    add = parser.add_argument
    add("-m", "--model", help="SymCERE, SMORE, XSimGCL, or a RecBole general recommender such as LightGCN")
    add("-d", "--dataset", help="a folder of atomic files below data_path (dataset/); demo is made on first use")
    add(
        "--config_files",
        nargs="+",
        action="extend",
        default=[],
        metavar="YAML",
        help="files with settings; later files win over earlier ones",
    )
    add("--protocol", help="strict (default), temporal, strangers, rolling or paper")
    add("--tuned", nargs="?", const=True, type=parse_value, help="take what a comparison chose for this dataset")
    add(
        "--trust-pickles",
        "--trust_pickles",
        nargs="?",
        const=True,
        type=parse_value,
        help="load RecBole's pickles, of dataset_save_path and dataloaders_save_path, which can run any code",
    )
    add("--checkpoint_file", metavar="PATH", help="where the best epoch is kept; given again, the run resumes")
    add("--result_file", metavar="PATH", help="write settings, versions and metrics there as JSON")


def settings_of(given: argparse.Namespace, rest: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Returns the configuration files and the settings of a command line.

    Raises:
        ConfigError: an argument is not of the form ``--key=value``, is given twice, or has a value that is not YAML.
    """
    known = {key: value for key, value in vars(given).items() if value is not None and key != "command"}
    files = [name for entry in known.pop("config_files") for name in entry.split(",") if name]
    return files, known | parse_assignments(rest)


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Trains and tests the model, alone or beside the other processes that ``torchrun`` started."""
    files, settings = settings_of(given, rest)
    from recbole_symcere import distributed, quick_start  # after parsing: a typo does not wait for the models

    with distributed.process_group():
        quick_start.run_recbole_symcere(config_file_list=files, config_dict=settings)

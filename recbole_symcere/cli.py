"""The command: ``--model --dataset --config_files --protocol`` and every RecBole key as ``--key=value``."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from recbole_symcere.config import parse_assignments, parse_value
from recbole_symcere.errors import ConfigError, UserError

EXAMPLE = """examples:
  %(prog)s --model=SymCERE --dataset=demo
  %(prog)s --model=LightGCN --dataset=yelp --protocol=paper --learning_rate=0.002
  %(prog)s --model=SymCERE --dataset=yelp --checkpoint_file=saved/run.pth   (again, to resume)
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a recommender and rank all items for the test part.",
        epilog=EXAMPLE + "\nAny other setting of RecBole or the model is --key=value; values are read as YAML.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-m", "--model", help="SymCERE, SMORE, XSimGCL, or a RecBole general recommender such as LightGCN")
    add("-d", "--dataset", help="a folder of atomic files below data_path (dataset/); demo is made on first use")
    add(
        "--config_files",
        nargs="+",
        action="extend",
        default=[],
        metavar="YAML",
        help="later files win over earlier ones",
    )
    add("--protocol", help="strict (default), paper or temporal")
    add("--tuned", nargs="?", const=True, type=parse_value, help="what a comparison chose for this dataset")
    add(
        "--trust-checkpoint",
        "--trust_checkpoint",
        nargs="?",
        const=True,
        type=parse_value,
        help="load RecBole's pickles, of dataset_save_path and dataloaders_save_path, which can run any code",
    )
    add("--checkpoint_file", metavar="PATH", help="where the best epoch is kept; given again, the run resumes")
    add("--result_file", metavar="PATH", help="write settings, versions and metrics there as JSON")
    return parser


def parse_settings(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Configuration files and settings from the command line.

    Raises:
        ConfigError: an argument is not of the form ``--key=value``, stands twice, or holds a value that is not YAML.
    """
    known, rest = _parser().parse_known_args(arguments)
    settings = {key: value for key, value in vars(known).items() if value is not None}
    files = [name for entry in settings.pop("config_files") for name in entry.split(",") if name]
    return files, settings | parse_assignments(rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 for settings or files that can't be used."""
    try:
        files, settings = parse_settings(sys.argv[1:] if arguments is None else arguments)
        from recbole_symcere import distributed, quick_start  # after parsing: --help does not wait for models
    except ConfigError as error:
        return _refuse(error)
    try:
        with distributed.process_group():
            quick_start.run_recbole_symcere(config_file_list=files, config_dict=settings)
    except UserError as error:
        return _refuse(error)
    return 0


def _refuse(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

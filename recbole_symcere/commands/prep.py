"""``symcere prep``: prepares datasets, from raw files of a source or by the name of a known dataset."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import dataset_prep.cli as sources
from dataset_prep.download import download
from dataset_prep.sources import kinds
from recbole_symcere.errors import ConfigError, PreparationError
from recbole_symcere.named import NamedDataset, dataset_names, named_dataset
from recbole_symcere.properties import nearest

HELP = sources.HELP
EXAMPLES = """examples:
  %(prog)s --dataset amazon-pet-supplies --download
  %(prog)s --dataset yelp --input yelp_dataset.tar --max-users 802 --seed 1
  %(prog)s amazon --input Musical_Instruments.jsonl.gz --output dataset/instruments --user-core 5 --item-core 5
  %(prog)s stats yelp demo --format latex

`%(prog)s SOURCE --help` says where the raw files come from and under which terms. --dataset takes the name of a file in
properties/dataset, and then options: `%(prog)s --dataset yelp --help` lists them.
"""
STATISTICS = "recbole_symcere.commands.statistics"  # imported late, because it needs PyTorch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a sub-command for each source, one for statistics, and the option that names a dataset."""
    parser.add_argument(
        "--dataset", nargs=argparse.REMAINDER, help="a known dataset, such as yelp or amazon-pet-supplies, and options"
    )
    commands = sources.add_sources(parser, required=False)
    commands.add_parser("stats", help="print the statistics of prepared datasets as a table", module=STATISTICS)


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prepares a dataset, or prints the statistics of some.

    Raises:
        PreparationError: an argument is unknown, or the dataset can't be prepared.
        ConfigError: no property file says how to prepare the dataset.
        DatasetError: a dataset can't be read.
    """
    if given.dataset is not None:
        name, *arguments = given.dataset or [""]
        if arguments and arguments[0] in (*kinds(), "stats"):
            raise PreparationError(f"--dataset NAME says the source itself; leave {arguments[0]} out, or --dataset")
        prepare_named(name, *rest, *arguments)
    elif given.source == "stats":
        import_module(STATISTICS).run(given, rest)
    elif given.source is None:
        raise PreparationError(f"name a source ({', '.join(kinds())}), or a dataset: --dataset NAME")
    else:
        sources.run(given, rest)


def prepare_named(name: str = "", *arguments: str) -> None:
    """Prepares a dataset as its property file says, where the arguments say nothing else.

    Raises:
        PreparationError: the dataset can't be prepared.
        ConfigError: no property file says how to prepare it, or the file names an unknown option.
    """
    dataset, known = named_dataset(name), dataset_names()
    if dataset is None:
        fault = f"there is no dataset {name!r} that a property file describes" if name else "--dataset needs a name"
        raise ConfigError(f"{fault}{nearest(name, known)} (known: {', '.join(known)})")
    parser = argparse.ArgumentParser(
        prog=f"symcere prep --dataset {name}",
        description=kinds()[dataset.source].about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sources.add_options(parser, kinds()[dataset.source])
    parser.add_argument("--download", action="store_true", help="fetch the raw file first, if it is not there")
    parser.add_argument("--address", default=dataset.address, help="from where (default: %(default)s)")
    own = [f"--{key.replace('_', '-')}={value}" for key, value in dataset.options.items()]
    places = ["--input", f"raw/{dataset.file}", "--output", f"dataset/{name}"]
    _, unknown = parser.parse_known_args([*places, *own])
    if unknown:
        raise ConfigError(f"{dataset.path}: {dataset.source} has no option {unknown[0].partition('=')[0]}")
    given, unknown = parser.parse_known_args([*places, *own, *arguments], argparse.Namespace(source=dataset.source))
    if unknown:
        options = re.findall(r"--[\w-]+", parser.format_usage())
        raise PreparationError(f"unknown argument {unknown[0]}{nearest(unknown[0].partition('=')[0], options)}")
    print(kinds()[dataset.source].about, file=sys.stderr)
    if given.download:
        _download(dataset, given.address, given.input)
    elif absent := [path for path in given.input if not path.is_file()]:
        raise PreparationError(f"{absent[0]}: no such file; {_mend(dataset, given.address)}")
    sources.make(given)


def _download(dataset: NamedDataset, address: str | None, inputs: Sequence[Path]) -> None:
    if address is None:
        raise PreparationError(f"{dataset.name} can't be downloaded without an agreement: {_mend(dataset, address)}")
    if len(inputs) > 1:
        raise PreparationError("--download fetches one file; give one --input, where it goes")
    print(f"{inputs[0]} from {address}", file=sys.stderr)
    download(address, inputs[0])


def _mend(dataset: NamedDataset, address: str | None) -> str:
    if address:
        return f"add --download to fetch {address}, or name the file with --input"
    return f"{dataset.agreement}; then name the file with --input"

"""The demo dataset, which is generated from a seed."""

import argparse
from typing import Any

from dataset_prep.demo import SEED, write_demo
from dataset_prep.source import Generator

ABOUT = """\
Generated café reviews, which need no download.
They have about 300 users, 200 items and 4,000 reviews, and are drawn from a seed.
Terms: the MIT licence of this package."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=SEED, help="the seed of the generator (default: %(default)s)")


def _write(options: argparse.Namespace) -> dict[str, Any]:
    return write_demo(options.output, options.seed)


KIND = Generator(name="demo", about=ABOUT, example="--output dataset/demo", write=_write, add_options=_add_options)

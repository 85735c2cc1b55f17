"""``python -m recbole_symcere.analysis``: an older name of ``symcere analyse``."""

import sys
from collections.abc import Sequence

from dataset_prep.command import run_command
from recbole_symcere.analysis import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(cli, arguments, prog="python -m recbole_symcere.analysis")


if __name__ == "__main__":
    sys.exit(main())

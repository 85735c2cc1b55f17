"""``python -m recbole_symcere.comparison``: an older name of ``symcere compare``."""

import sys
from collections.abc import Sequence

from dataset_prep.command import run_command
from recbole_symcere.comparison import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(command, arguments, prog="python -m recbole_symcere.comparison")


if __name__ == "__main__":
    sys.exit(main())

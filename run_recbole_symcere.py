"""Train and evaluate: ``python run_recbole_symcere.py --model=SymCERE --dataset=demo``; see ``--help``."""

import sys

from recbole_symcere.cli import train

if __name__ == "__main__":
    sys.exit(train())

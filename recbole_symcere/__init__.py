"""SymCERE and its baselines for review-enhanced recommendation, as a RecBole extension."""

from recbole_symcere import compat

__version__ = "0.1.0"

compat.apply()

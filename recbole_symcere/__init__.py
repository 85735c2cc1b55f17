"""SymCERE and its baselines for review-enhanced recommendation, as a RecBole extension."""

from recbole_symcere import compat, metrics

__version__ = "0.1.0"

__all__ = ["metrics"]  # importing them lets RecBole's setting `metrics` name them

compat.apply()

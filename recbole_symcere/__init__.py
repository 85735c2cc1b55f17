"""SymCERE and its baselines for review-enhanced recommendation, as a RecBole extension."""

from recbole_symcere import compat, ranking

__version__ = "0.1.0"

compat.apply()
ranking.register_metrics()

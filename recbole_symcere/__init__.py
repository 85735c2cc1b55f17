"""SymCERE and its baselines for review-enhanced recommendation, as a RecBole extension."""

__version__ = "0.1.0"

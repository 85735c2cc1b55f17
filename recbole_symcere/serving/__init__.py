"""Recommendations from one file, for anybody: see :class:`~recbole_symcere.serving.recommender.Recommender`."""

from recbole_symcere.serving.additions import NewInteraction
from recbole_symcere.serving.recommender import Recommendation, Recommender, Request

__all__ = ["NewInteraction", "Recommendation", "Recommender", "Request"]

"""Recommendations from one file, for anybody: see :class:`~recbole_symcere.serving.recommender.Recommender`."""

from recbole_symcere.serving.additions import NewInteraction
from recbole_symcere.serving.people import Request
from recbole_symcere.serving.recommender import Recommendation, Recommender

__all__ = ["NewInteraction", "Recommendation", "Recommender", "Request"]

"""Converts raw review dumps to RecBole's atomic files, with the review texts beside them."""

from dataset_prep.conversion import prepare
from dataset_prep.demo import planted, write_demo
from dataset_prep.errors import PreparationError
from dataset_prep.pipeline import Filters

__all__ = ["Filters", "PreparationError", "planted", "prepare", "write_demo"]

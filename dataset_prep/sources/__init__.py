"""The kinds of raw files that can be prepared: each module of this folder states one, in the constant ``KIND``."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from dataset_prep.source import Kind


def kinds() -> dict[str, Kind]:
    """Returns every kind of raw files by its name."""
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    found: list[Kind] = [module.KIND for module in modules]
    return {kind.name: kind for kind in found}

"""What can be prepared: each module of this folder states one kind of raw files, or a generator, as ``KIND``."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from dataset_prep.source import Generator, Kind


def kinds() -> dict[str, Kind | Generator]:
    """Returns every kind of raw files and every generator, by its name."""
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    found: list[Kind | Generator] = [module.KIND for module in modules]
    return {kind.name: kind for kind in found}

"""The progress bar of a training, beside RecBole's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@contextmanager
def training_bar(epochs: int, done: int) -> Iterator[tqdm]:
    """Shows a bar of epochs while the body runs; warnings and errors are printed above the bar.

    Args:
        done: the number of epochs that were trained before the run was resumed.
    """
    bar = tqdm(total=epochs, initial=done, desc="training", unit="epoch", dynamic_ncols=True)
    with logging_redirect_tqdm(), _quiet_console(), bar:
        yield bar


@contextmanager
def _quiet_console() -> Iterator[None]:
    """Keeps RecBole's log lines off the console while the body runs, because they would break the progress bar."""
    consoles = [handler for handler in getLogger().handlers if not isinstance(handler, logging.FileHandler)]
    levels = [handler.level for handler in consoles]
    try:
        for handler in consoles:
            handler.setLevel(max(handler.level, logging.WARNING))
        yield
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)

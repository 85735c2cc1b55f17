"""Folders that a command is to write to, checked before its long work."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_symcere.errors import ConfigError


def make_output_folder(folder: Path, option: str) -> None:
    """Makes a folder and its parents, and checks that files can be written into it.

    Args:
        folder: the folder; it may exist.
        option: the setting or option that names the folder, for the message.

    Raises:
        ConfigError: the folder can't be made or written to; the message names the option and the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option}: the folder {folder} can't be made ({error})") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option}: the folder {folder} can't be written to")

"""Where a result comes from: the versions and the commit that made it."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import recbole

import recbole_symcere


def versions() -> dict[str, str]:
    """Returns the versions of everything that decides a result, by package."""
    names = ("numpy", "pandas", "scipy", "torch", "transformers", "tokenizers", "peft", "polars")
    ours = {"recbole_symcere": recbole_symcere.__version__, "recbole": recbole.__version__}
    return ours | {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def commit() -> str | None:
    """Returns the commit of the checkout that this package runs from, or None where it runs from a wheel.

    A ``+`` follows the commit if tracked files have changed since.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not a wheel inside somebody else's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def without_folders(value: Any) -> Any:
    """Returns a setting without this machine's folders: of a path from the root, home or here, the last part is left.

    Args:
        value: a value of JSON; the strings inside mappings and lists are changed too.
    """
    if isinstance(value, str):
        paths = (PurePosixPath(value), PureWindowsPath(value))
        return next((path.name for path in paths if path.is_absolute() or value.startswith(("~", "."))), value)
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    return [without_folders(inner) for inner in value] if isinstance(value, Sequence) else value

"""What several analyses share: options, names of files, tables and reading."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from recbole_symcere.errors import AnalysisError

PARTS = ("train", "valid", "test")
LEAST_POINTS = 10  # the neighbourhoods of t-SNE need some
CHECKPOINT = "LABEL ends at the first = after which the name of a file follows"


def labelled_path(text: str) -> tuple[str, Path]:
    """Splits the option ``[LABEL=]PATH``, where both can hold ``=``.

    A text that names a file is a path. Of any other text the label ends at the first ``=`` after which the name of a
    file follows, or at the first ``=`` if there is no such file. A checkpoint without a label is called by the stem of
    its file.
    """
    ends = [place for place, character in enumerate(text) if character == "="]
    if Path(text).exists() or not ends:
        return Path(text).stem, Path(text)
    end = next((end for end in ends if Path(text[end + 1 :]).is_file()), ends[0])
    path = Path(text[end + 1 :])
    return text[:end] or path.stem, path


def file_name(label: str) -> str:
    """Returns a label as part of the name of a file."""
    return re.sub(r"[^\w.-]+", "-", label)


def write_text(file: Path, text: str) -> None:
    """Writes text with the same line ends on every system."""
    file.write_text(text, encoding="utf-8", newline="\n")


def without_nan(value: Any) -> Any:
    """Returns JSON in which None stands for numbers that are not defined."""
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def write_json(file: Path, content: Any) -> None:
    """Writes JSON for people and programs; null stands for numbers that are not defined."""
    write_text(file, json.dumps(without_nan(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(file: Path) -> Any:
    """Reads a JSON file that another command has written.

    Raises:
        AnalysisError: it can't be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnalysisError(f"{file}: can't be read as JSON ({error}); make it again") from error

"""Checks of atomic files: RecBole reads a broken file silently, or answers it with an error that names no line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from recbole_symcere.config import Config
from recbole_symcere.errors import DatasetError
from recbole_symcere.properties import nearest

COLUMN = re.compile(r"([^:]+):(token|float|token_seq|float_seq)")
SHOWN_CHARACTERS = 200  # how much of a faulty value a message shows


def check_file(path: Path, config: Config, needed: Collection[str], types: Mapping[str, str]) -> None:
    """Checks the header of an atomic file, and that each of its lines has a value for each column.

    Args:
        needed: the settings that name the columns which the file must have, such as ``USER_ID_FIELD``.
        types: the type that a column must have, by the setting that names it.

    Raises:
        DatasetError: the message names the file and the line.
    """
    columns = read_header(path, config)
    for key in types:
        if config[key] not in columns and (key in needed or config[key] != config.internal_config_dict[key]):
            found = _shown(", ".join(columns))
            raise DatasetError(f"{path}, line 1: no column {config[key]}, which {key} names, among {found}")
    for key, kind in types.items():
        name = config[key]
        if (found := columns.get(name, kind)) != kind:
            raise DatasetError(f"{path}, line 1: the column {name} has the type {found}, but must be {name}:{kind}")
    _check_widths(path, len(columns), config)


def check_columns(path: Path, config: Config, source: str) -> None:
    """Checks that a file has the columns that ``load_col`` and ``unload_col`` name.

    Args:
        source: the suffix of the file: ``inter``, ``user`` or ``item``.

    Raises:
        DatasetError: a column does not exist, or both settings name columns of this file.
    """
    load, unload = ((config[key] or {}).get(source) for key in ("load_col", "unload_col"))
    if load and unload and load != "*":
        raise DatasetError(
            f"load_col and unload_col both name columns of {path}; give one of them: --load_col=None loads all columns "
            "but those of unload_col"
        )
    usual = config.internal_config_dict["load_col"] or {}
    if load == usual.get(source):
        load = None  # nobody asked for these columns by name, and a file may lack some
    known = read_header(path, config)
    for key, names in (("load_col", load), ("unload_col", unload)):
        for name in names if isinstance(names, list) else ():
            if name not in known:
                raise DatasetError(f"{path}: there is no column {name!r}, which {key} names{nearest(name, known)}")


def read_header(path: Path, config: Config) -> dict[str, str]:
    """Returns the types of the columns of an atomic file by their names.

    Raises:
        DatasetError: the file can't be read in the setting ``encoding``, or line 1 is no header.
    """
    encoding = config["encoding"]
    try:
        with path.open(encoding=encoding) as file:
            header = file.readline().rstrip("\r\n").split(config["field_separator"])
    except LookupError as error:
        raise DatasetError(f"{path}: {error}; set encoding to that of the file, such as utf-8 or cp932") from error
    except UnicodeError as error:
        raise DatasetError(f"{path}: not {encoding} ({error}); set encoding to that of the file") from error
    found = [COLUMN.fullmatch(column) for column in header]
    if not all(found):
        raise DatasetError(
            f"{path}, line 1: expected columns `name:type`, separated by {config['field_separator']!r} "
            f"(field_separator), where type is token, float, token_seq or float_seq, but found {_shown(header)}"
        )
    return {match[1]: match[2] for match in found if match}


def _check_widths(path: Path, n_columns: int, config: Config) -> None:
    separator = config["field_separator"]
    with path.open(encoding=config["encoding"], errors="replace", newline="\n") as file:  # pandas tells what is broken
        for number, line in enumerate(file, start=1):
            if (n := line.count(separator) + 1) != n_columns and line.strip():
                raise DatasetError(f"{path}, line {number}: {n} values for {n_columns} columns; mend the line")


def rows(path: Path, config: Config) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the values of each line after the first. A blank line, which pandas skips, has none."""
    with path.open(encoding=config["encoding"], newline="\n") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            values = line.rstrip("\r\n").split(config["field_separator"])
            yield number, values if len(values) > 1 or values[0].strip() else []


def broken_line(path: Path, config: Config) -> DatasetError | None:
    """Returns an error for the first line that can't be read, or None.

    This is slow, and is only used after pandas could not read the file.
    """
    columns = read_header(path, config)
    try:
        for number, values in rows(path, config):
            for (name, kind), value in zip(columns.items(), values, strict=False):
                if value.startswith('"'):
                    return DatasetError(f"{path}, line {number}: {name} begins with a quotation mark; take it out")
                if kind == "float" and value and not _is_number(value):
                    return DatasetError(f"{path}, line {number}: {name} is {_shown(value)!r}, not a number; mend it")
    except UnicodeError as error:
        return DatasetError(f"{path}: not {config['encoding']} ({error}); set encoding to that of the file")
    return None


def _shown(value: object) -> str:
    return str(value)[:SHOWN_CHARACTERS]


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True

"""The formats of raw files: JSON lines, delimited text and Parquet. Each is read as an SQL relation of strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Protocol

from dataset_prep.containers import CONTAINERS
from dataset_prep.delimited import Delimited
from dataset_prep.engine import Engine, identifier, literal
from dataset_prep.errors import PreparationError
from dataset_prep.staging import Staged

__all__ = ["SAMPLED_OBJECTS", "Delimited", "Format", "JsonLines", "Parquet", "format_of"]

# The fields of a JSON file are collected from its first lines, because one line may lack a field that others have.
SAMPLED_OBJECTS = 1000
IDS = ("user_id", "item_id")
EXACT = 1 << 53  # floating-point numbers below this hold every whole number


class Format(Protocol):
    """How to read the files of one format.

    The rows that ``relation`` selects are numbered from 1. This number is called ``record``.
    """

    @property
    def is_text(self) -> bool:
        """Whether the file has lines and an encoding."""

    @property
    def is_divisible(self) -> bool:
        """Whether a file can be cut at any line end into parts that are files of this format themselves."""

    def fields(self, engine: Engine, file: Staged) -> list[str]:
        """Returns the names of the fields that the file has."""

    @property
    def has_types(self) -> bool:
        """Whether the file tells numbers and strings apart."""

    def hint(self, file: Staged, wanted: Sequence[str]) -> str:
        """Returns the end of a message about a file that lacks some of the ``wanted`` fields: a mend, or ""."""
        return ""

    def readings(self, file: Staged) -> Sequence[Format]:
        """Returns the ways to read the file. The first is right unless another fits the rows better."""
        return [self]

    def readable(self, file: Staged, target: Path) -> Staged:
        """Returns a file that ``relation`` can read: ``file`` itself, or ``target``, which this method writes."""
        return file

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        """Returns SQL that selects the rows of the file.

        Args:
            columns: the field from which each selected column takes its strings; None fills the column with NULL.

        Returns:
            A query with the columns ``record``, ``broken`` (what is wrong with the row, or NULL), ``row_like`` (a list
            of what stands in the place of the time in each line of the row that looks like a row, or NULL), and those
            of ``columns``.
        """

    def broken_rows(self, engine: Engine, file: Staged) -> list[tuple[int, str]]:
        """Returns the line and the fault of each row that ``relation`` left out, in the order of the file.

        The query of ``relation`` must have run before. It leaves no row out where it says in ``broken`` what is wrong.
        """
        return []

    def place(self, engine: Engine, file: Staged, record: int) -> str:
        """Returns the place of a record, such as ``line 12``. It is exact if ``relation`` left out no row before it."""


@dataclass(frozen=True)
class JsonLines(Format):
    """JSON lines: one object on each line. Blank lines are skipped.

    Staging also makes such lines of a JSON array, of objects of several lines, and of Python dicts.
    """

    is_text = True
    is_divisible = True
    has_types = True

    def fields(self, engine: Engine, file: Staged) -> list[str]:
        found = engine.execute(
            "SELECT DISTINCT unnest(json_keys(json)) FROM "
            f"(FROM {self._objects(file)} LIMIT {SAMPLED_OBJECTS}) WHERE json_type(json) = 'OBJECT'"
        )
        return [name for (name,) in found]

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        fields = [field for field in columns.values() if field is not None]
        pointers = map(_pointer, fields)
        picked = [
            f"{_from_json(fields.index(field) + 1, _pointer(field), name in IDS) if field else 'NULL'} AS {name}"
            for name, field in columns.items()
        ]
        return f"""
            SELECT record, broken, NULL AS row_like, {", ".join(picked)} FROM (
                SELECT json, row_number() OVER () AS record,
                    CASE WHEN json IS NULL THEN 'is not valid JSON'
                        WHEN json_type(json) <> 'OBJECT' THEN 'is not a JSON object' END AS broken,
                    json_extract_string(json, [{", ".join(pointers)}]) AS found
                FROM {self._objects(file)})"""

    def place(self, engine: Engine, file: Staged, record: int) -> str:
        if file.counts_objects:
            return f"object {record:,}"
        with file.path.open("rb") as lines:
            filled = (number for number, line in enumerate(lines, start=1) if line.strip())
            for _ in range(record - 1):
                next(filled)
            return f"line {next(filled):,}"

    def _objects(self, file: Staged) -> str:
        path = literal(escape(str(file.path)))
        return f"read_ndjson_objects({path}, ignore_errors = true, compression = 'uncompressed')"


@dataclass(frozen=True)
class Parquet(Format):
    """A Parquet file. Dates and timestamps are read as seconds since 1970."""

    is_text = False
    is_divisible = False
    has_types = True

    def fields(self, engine: Engine, file: Staged) -> list[str]:
        return list(self._types(engine, file))

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        types = self._types(engine, file)
        picked = [
            f"{_as_string(field, types[field], name in IDS) if field else 'NULL'} AS {name}"
            for name, field in columns.items()
        ]
        return f"""
            SELECT file_row_number + 1 AS record, NULL AS broken, NULL AS row_like, {", ".join(picked)}
            FROM read_parquet({self._path(file)}, file_row_number = true)"""

    def place(self, engine: Engine, file: Staged, record: int) -> str:
        return f"row {record:,}"

    def _types(self, engine: Engine, file: Staged) -> dict[str, str]:
        found = engine.execute(f"SELECT column_name, column_type FROM (DESCRIBE FROM read_parquet({self._path(file)}))")
        return dict(found)

    @staticmethod
    def _path(file: Staged) -> str:
        return literal(escape(str(file.path)))


def format_of(path: Path, delimiter: str | None = None) -> Format:
    """Returns the format that the suffix of a file names; a suffix of a container, such as .gz, is ignored.

    Args:
        delimiter: the delimiter of delimited text; None takes the one that the suffix names. With a delimiter, a file
            whose suffix names no format is delimited text.

    Raises:
        PreparationError: the suffix names no format.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in CONTAINERS]
    match suffixes[-1] if suffixes else "":
        case ".jsonl" | ".ndjson" | ".json":
            return JsonLines()
        case ".csv":
            return Delimited(delimiter or ",")
        case ".tsv" | ".tab":
            return Delimited(delimiter or "\t")
        case ".parquet":
            return Parquet()
    if delimiter:
        return Delimited(delimiter)
    raise PreparationError(
        f"{path}: the name says no format; rename the file to end in .csv, .tsv or .jsonl (then .gz, .zst or .zip), "
        "or in .parquet"
    )


def _pointer(field: str) -> str:
    return literal("/" + field.replace("~", "~0").replace("/", "~1"))


def _from_json(number: int, pointer: str, is_id: bool) -> str:
    """Returns SQL for a value of a JSON object as a string. NaN, which Python's json and pandas write, is NULL."""
    value = f"found[{number}]"
    is_number = f"json_type(json, {pointer}) = 'DOUBLE'"
    as_id = f"WHEN suffix({value}, '.0') THEN CASE WHEN {is_number} THEN {_whole(value)} ELSE {value} END"
    return (
        f"CASE WHEN {value} = 'NaN' THEN CASE WHEN {is_number} THEN NULL ELSE {value} END "
        f"{as_id if is_id else ''} ELSE {value} END"
    )


def _as_string(field: str, kind: str, is_id: bool) -> str:
    column = identifier(field)
    if kind.startswith(("TIMESTAMP", "DATE")):
        return f"CAST(epoch({column}) AS VARCHAR)"
    text = f"CAST({column} AS VARCHAR)"
    if kind not in ("FLOAT", "DOUBLE"):
        return text
    return f"CASE WHEN NOT isnan({column}) THEN {_whole(text) if is_id else text} END"


def _whole(text: str) -> str:
    """Returns SQL for the digits of a whole number that is written with ``.0``.

    A number that is too large for all its digits to be exact is written with an exponent, which makes it a fault.
    """
    return f"""CASE WHEN NOT suffix({text}, '.0') THEN {text}
        WHEN abs({text}::DOUBLE) < {EXACT} THEN left({text}, -2) ELSE format('{{:e}}', {text}::DOUBLE) END"""

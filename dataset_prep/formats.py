"""The formats of raw files: JSON lines, delimited text and Parquet. Each is read as an SQL relation of strings."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Protocol

from dataset_prep.engine import Engine, identifier, literal
from dataset_prep.errors import PreparationError
from dataset_prep.staging import Staged

# The fields of a JSON file are collected from its first lines, because one line may lack a field that others have.
SAMPLED_OBJECTS = 1000


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

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        """Returns SQL that selects the rows of the file.

        Args:
            columns: the field from which each selected column takes its strings; None fills the column with NULL.

        Returns:
            A query with the columns ``record``, ``broken`` (what is wrong with the row, or NULL), and those of
            ``columns``.
        """

    def broken_rows(self, engine: Engine, file: Staged) -> list[tuple[int, str]]:
        """Returns the line and the fault of each row that ``relation`` left out, in the order of the file.

        The query of ``relation`` must have run before.
        """

    def place(self, engine: Engine, file: Staged, record: int) -> str:
        """Returns the place of a record, such as ``line 12``. It is exact if ``relation`` left out no row before it."""


@dataclass(frozen=True)
class JsonLines:
    """JSON lines: one object on each line. Blank lines are skipped."""

    is_text = True
    is_divisible = True

    def fields(self, engine: Engine, file: Staged) -> list[str]:
        found = engine.execute(
            "SELECT DISTINCT unnest(json_keys(json)) FROM "
            f"(FROM {self._objects(file)} LIMIT {SAMPLED_OBJECTS}) WHERE json_type(json) = 'OBJECT'"
        )
        return [name for (name,) in found]

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        fields = [field for field in columns.values() if field is not None]
        pointers = [literal("/" + field.replace("~", "~0").replace("/", "~1")) for field in fields]
        picked = [
            f"NULL AS {name}" if field is None else f"found[{fields.index(field) + 1}] AS {name}"
            for name, field in columns.items()
        ]
        return f"""
            SELECT record, broken, {", ".join(picked)} FROM (
                SELECT row_number() OVER () AS record,
                    CASE WHEN json IS NULL THEN 'is not valid JSON'
                        WHEN json_type(json) <> 'OBJECT' THEN 'is not a JSON object' END AS broken,
                    json_extract_string(json, [{", ".join(pointers)}]) AS found
                FROM {self._objects(file)})"""

    def broken_rows(self, engine: Engine, file: Staged) -> list[tuple[int, str]]:
        return []  # ``relation`` keeps broken lines, and says what is wrong in ``broken``

    def place(self, engine: Engine, file: Staged, record: int) -> str:
        with file.path.open("rb") as lines:
            filled = (number for number, line in enumerate(lines, start=1) if line.strip())
            for _ in range(record - 1):
                next(filled)
            return f"line {next(filled):,}"

    def _objects(self, file: Staged) -> str:
        path = literal(escape(str(file.path)))
        return f"read_ndjson_objects({path}, ignore_errors = true, compression = 'uncompressed')"


@dataclass(frozen=True)
class Delimited:
    """Delimited text, such as CSV, whose first line usually holds the names of the fields.

    Attributes:
        delimiter: the character between two fields.
        quote: the character around a field that holds a delimiter, a quote or a newline; a quote inside such a field
            is doubled. "" means that quotes are plain characters.
        names: the names of the fields in a file without a line of names. A file counts as one if its first line has as
            many fields as there are names, and none of these names.
    """

    delimiter: str
    quote: str = '"'
    names: tuple[str, ...] = ()

    is_text = True
    is_divisible = False  # a newline may stand inside quotes

    def fields(self, engine: Engine, file: Staged) -> list[str]:
        return self._read_fields(file)[0]

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        position = {name: number for number, name in reversed(list(enumerate(self.fields(engine, file))))}
        picked = [f"{f'c{position[field]}' if field else 'NULL'} AS {name}" for name, field in columns.items()]
        return f"""
            SELECT row_number() OVER () AS record, NULL AS broken, {", ".join(picked)}
            FROM {self._rows(file)}"""

    def broken_rows(self, engine: Engine, file: Staged) -> list[tuple[int, str]]:
        found = engine.execute(
            f"SELECT min(line_byte_position), any_value(error_message) FROM {self._rejects(file)} "
            "GROUP BY line ORDER BY 1"
        )
        return [(_line_at(file.path, byte), message) for byte, message in found]

    def place(self, engine: Engine, file: Staged, record: int) -> str:
        names, has_header = self._read_fields(file)
        breaks = " + ".join(f"coalesce(len(c{n}) - len(replace(c{n}, chr(10), '')), 0)" for n in range(len(names)))
        before = engine.value(f"SELECT coalesce(sum({breaks}), 0) FROM (FROM {self._rows(file)} LIMIT {record - 1})")
        header = 1 + sum(name.count("\n") for name in names) if has_header else 0
        return f"line {int(before) + header + record:,}"

    def _read_fields(self, file: Staged) -> tuple[list[str], bool]:
        """Returns the names of the fields, and whether they stand in the first line of the file."""
        with file.path.open(encoding="utf-8", newline="") as lines:
            reader = csv.reader(
                lines,
                delimiter=self.delimiter,
                quotechar=self.quote or None,
                quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            )
            try:
                first = next(reader, [])
            except csv.Error as error:
                raise PreparationError(f"{file.source}, line 1: not delimited text ({error})") from error
        if not first:
            raise PreparationError(
                f"{file.source}, line 1: no names of fields; the file is empty or begins with an empty line"
            )
        if len(first) == len(self.names) and not set(first) & set(self.names):
            return list(self.names), False
        return first, True

    def _rows(self, file: Staged) -> str:
        names, has_header = self._read_fields(file)
        columns = ", ".join(f"c{number}: 'VARCHAR'" for number in range(len(names)))
        rejects = self._rejects(file)
        return f"""read_csv({literal(escape(str(file.path)))}, auto_detect = false, compression = 'uncompressed',
            header = {str(has_header).lower()}, columns = {{{columns}}}, delim = {literal(self.delimiter)},
            quote = {literal(self.quote)}, escape = {literal(self.quote)}, store_rejects = true,
            rejects_table = {literal(rejects)}, rejects_scan = {literal(f"{rejects}_scan")})"""

    @staticmethod
    def _rejects(file: Staged) -> str:
        return f"rejects_{file.sha256}"


@dataclass(frozen=True)
class Parquet:
    """A Parquet file. Dates and timestamps are read as seconds since 1970."""

    is_text = False
    is_divisible = False

    def fields(self, engine: Engine, file: Staged) -> list[str]:
        return list(self._types(engine, file))

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        types = self._types(engine, file)
        picked = [
            f"{_as_string(field, types[field]) if field else 'NULL'} AS {name}" for name, field in columns.items()
        ]
        return f"""
            SELECT file_row_number + 1 AS record, NULL AS broken, {", ".join(picked)}
            FROM read_parquet({self._path(file)}, file_row_number = true)"""

    def broken_rows(self, engine: Engine, file: Staged) -> list[tuple[int, str]]:
        return []

    def place(self, engine: Engine, file: Staged, record: int) -> str:
        return f"row {record:,}"

    def _types(self, engine: Engine, file: Staged) -> dict[str, str]:
        found = engine.execute(f"SELECT column_name, column_type FROM (DESCRIBE FROM read_parquet({self._path(file)}))")
        return dict(found)

    @staticmethod
    def _path(file: Staged) -> str:
        return literal(escape(str(file.path)))


def format_of(path: Path) -> Format:
    """Returns the format that the suffix of a file names; a suffix of compression (.gz, .zst or .zstd) is ignored.

    Raises:
        PreparationError: the suffix names no format.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix.lower() not in (".gz", ".zst", ".zstd")]
    match suffixes[-1].lower() if suffixes else "":
        case ".jsonl" | ".ndjson" | ".json":
            return JsonLines()
        case ".csv":
            return Delimited(",")
        case ".tsv" | ".tab":
            return Delimited("\t")
        case ".parquet":
            return Parquet()
    raise PreparationError(
        f"{path}: the name says no format; rename the file to end in .csv, .tsv or .jsonl (then .gz or .zst), "
        "or in .parquet"
    )


def _as_string(field: str, kind: str) -> str:
    column = identifier(field)
    return f"CAST({f'epoch({column})' if kind.startswith(('TIMESTAMP', 'DATE')) else column} AS VARCHAR)"


def _line_at(path: Path, byte: int) -> int:
    """Returns the number of the line that holds a byte of a file."""
    ended = 0
    with path.open("rb") as file:
        while byte > 0 and (chunk := file.read(min(byte, 1 << 20))):
            ended += chunk.count(b"\n")
            byte -= len(chunk)
    return ended + 1

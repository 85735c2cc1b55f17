"""How rows stand in a raw file: JSON lines, delimited text, Parquet. Each becomes one SQL relation of strings."""

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

SAMPLED_OBJECTS = 1000  # JSON lines that are asked for their fields: a line may lack one that others have


class Format(Protocol):
    """How to read one kind of file. ``record`` counts its rows from 1, those that could not be read left out."""

    @property
    def is_text(self) -> bool:
        """Whether the file has lines and an encoding."""

    @property
    def is_divisible(self) -> bool:
        """Whether any whole lines of the file are a file of this kind."""

    def fields(self, engine: Engine, file: Staged) -> list[str]:
        """Names of the fields that the file has."""

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        """SQL that selects ``record``, ``broken`` (what is wrong with the row, or NULL) and strings named by the keys
        of ``columns`` from the fields that are its values (NULL for None)."""

    def broken_rows(self, engine: Engine, file: Staged) -> list[tuple[int, str]]:
        """Line and fault of the rows that ``relation``, once read, had to leave out; in order."""

    def place(self, engine: Engine, file: Staged, record: int) -> str:
        """Where ``record`` stands, such as ``line 12``; exact while no row was left out."""


@dataclass(frozen=True)
class JsonLines:
    """One JSON object a line; empty lines don't count."""

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
        return []  # they stay, as rows that say so

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
    """Delimited text with the names of its fields in the first line.

    Attributes:
        delimiter: between fields.
        quote: around fields that hold a delimiter, a quote (then doubled) or a newline; "" if quotes mean nothing.
        names: of the fields of a file that has no such line; its first line is then the first row.
    """

    delimiter: str
    quote: str = '"'
    names: tuple[str, ...] = ()

    is_text = True
    is_divisible = False  # a line may begin inside quotes

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
        """Names of the fields, and whether the first line gave them."""
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
            raise PreparationError(f"{file.source}, line 1: no names of fields; the file is empty or starts so")
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
    """A Parquet file; a field of a date or timestamp type counts as seconds since 1970."""

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
    """The format that a file's suffix names, whatever compression follows it.

    Raises:
        PreparationError: the suffix names none.
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
        f"{path}: the name says no format; rename the file to end in .csv, .tsv, .jsonl or .parquet (then .gz or .zst)"
    )


def _as_string(field: str, kind: str) -> str:
    column = identifier(field)
    return f"CAST({f'epoch({column})' if kind.startswith(('TIMESTAMP', 'DATE')) else column} AS VARCHAR)"


def _line_at(path: Path, byte: int) -> int:
    """Number of the line that holds a byte of a file."""
    ended = 0
    with path.open("rb") as file:
        while byte > 0 and (chunk := file.read(min(byte, 1 << 20))):
            ended += chunk.count(b"\n")
            byte -= len(chunk)
    return ended + 1

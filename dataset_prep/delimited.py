"""Delimited text, such as CSV, as an SQL relation of strings."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from dataset_prep.engine import Engine, literal
from dataset_prep.errors import PreparationError
from dataset_prep.line_ends import CARRIAGE_RETURN, has_carriage_returns, unify
from dataset_prep.staging import Staged
from dataset_prep.text import MISSING_WORDS

USUAL_DELIMITERS = (",", ";", "\t", "|")
LONGEST_MISSING_WORD = max(map(len, MISSING_WORDS))


@dataclass(frozen=True)
class Delimited:
    """Delimited text, such as CSV, whose first line usually holds the names of the fields.

    Attributes:
        delimiter: the character between two fields.
        quote: the character around a field that holds a delimiter, a quote or a newline; a quote inside such a field
            is doubled. "" means that quotes are plain characters.
        names: the names of the fields in a file without a line of names. A file counts as one if its first line has as
            many fields, and none of these names.
        may_be_plain: whether quotes may turn out to be plain characters: the file is read without quoting if it fits
            better then. A quoted field that holds lines which look like rows is a fault.
    """

    delimiter: str
    quote: str = '"'
    names: tuple[str, ...] = ()
    may_be_plain: bool = True

    is_text = True
    is_divisible = False
    has_types = False

    def fields(self, engine: Engine, file: Staged) -> list[str]:
        return self._read_fields(file)[0]

    def hint(self, file: Staged, wanted: Sequence[str]) -> str:
        found = {
            other: len({name.strip() for name in replace(self, delimiter=other)._read_fields(file)[0]} & {*wanted})
            for other in USUAL_DELIMITERS
        }
        best = max(USUAL_DELIMITERS, key=lambda other: found[other])
        if best != self.delimiter and found[best]:
            return f"; its columns seem to be separated by {best!r}: give --delimiter {best!r}"
        return ""

    def readings(self, file: Staged) -> list[Delimited]:
        plain = replace(self, quote="")
        names = self._read_fields(file)[0]
        is_possible = self.may_be_plain and self.quote and plain._read_fields(file)[0] == names
        return [self, plain] if is_possible else [self]

    def readable(self, file: Staged, target: Path) -> Staged:
        if not has_carriage_returns(file.path):
            return file
        unify(file.path, target, delimiter=self.delimiter, quote=self.quote)
        return replace(file, path=target, holds_marks=True)

    def relation(self, engine: Engine, file: Staged, columns: Mapping[str, str | None]) -> str:
        names = self.fields(engine, file)
        picked = [
            f"{_value(names.index(field), file) if field else 'NULL'} AS {name}" for name, field in columns.items()
        ]
        return f"""
            SELECT row_number() OVER () AS record, NULL AS broken,
                {self._row_like(names, columns)} AS row_like, {", ".join(picked)}
            FROM {self._rows(file)}"""

    def _row_like(self, names: Sequence[str], columns: Mapping[str, str | None]) -> str:
        """Returns SQL for what stands in the place of the time in those lines of a row that have a row's fields."""
        tell = columns.get("time") or columns.get("rating")
        if not (self.may_be_plain and self.quote and tell):
            return "NULL"
        fields = [f"c{number}" for number in range(len(names))]
        has_lines = " OR ".join(f"contains({field}, chr(10))" for field in fields)
        together = ", ".join(f"coalesce({field}, '')" for field in fields)
        line = f"string_split(line, {literal(self.delimiter)})"
        lines = f"string_split(concat_ws({literal(self.delimiter)}, {together}), chr(10))"
        return (
            f"CASE WHEN {has_lines} THEN "
            f"[{line}[{names.index(tell) + 1}] FOR line IN {lines} IF len({line}) = {len(names)}] END"
        )

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

    def _rejects(self, file: Staged) -> str:
        return f"rejects_{'quoted' if self.quote else 'plain'}_{file.sha256}"


def _value(number: int, file: Staged) -> str:
    """Returns SQL for the value of a field, or NULL if it is one of the words for missing values."""
    column = f"c{number}"
    words = "|".join(word.replace(".", r"\.").replace("#", r"\#") for word in MISSING_WORDS)
    is_missing = f"regexp_full_match({column}, {literal(words)})"
    restored = f"replace({column}, {literal(CARRIAGE_RETURN)}, chr(13))" if file.holds_marks else column
    return (
        f"CASE WHEN strlen({column}) > {LONGEST_MISSING_WORD} THEN {restored} WHEN NOT {is_missing} THEN {restored} END"
    )


def _line_at(path: Path, byte: int) -> int:
    """Returns the number of the line that holds a byte of a file."""
    ended = 0
    with path.open("rb") as file:
        while byte > 0 and (chunk := file.read(min(byte, 1 << 20))):
            ended += chunk.count(b"\n")
            byte -= len(chunk)
    return ended + 1

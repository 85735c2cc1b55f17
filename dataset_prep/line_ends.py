"""Rewrites delimited text with carriage returns, so that every row ends with a line feed, as DuckDB wants it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 1 << 20
# Takes the place of carriage returns that belong to a value. Unicode never assigns this code point.
CARRIAGE_RETURN = "\ufdd1"


def has_carriage_returns(path: Path) -> bool:
    """Returns whether a file has a carriage return anywhere."""
    return _holds(path, b"\r")


def unify(path: Path, target: Path, *, delimiter: str, quote: str) -> None:
    """Writes delimited text to ``target`` with a line feed at the end of each row.

    A carriage return before a line feed ends a row together with it. Every other one belongs to a value, and
    ``CARRIAGE_RETURN`` takes its place. A file without line feeds ends its rows with carriage returns alone.

    Args:
        path: a file of UTF-8.
        delimiter: the character between two fields.
        quote: the character around a field that may hold line ends; "" means that no field can.
    """
    row_end = b"\n" if _holds(path, b"\n") else b"\r"
    scanner = _Scanner(delimiter.encode(), quote.encode(), row_end)
    with target.open("wb") as file:
        for lines in _whole_lines(path, row_end):
            file.write(scanner.unified(lines))


class _Scanner:
    """Unifies pieces of whole lines, and remembers whether a quoted field is open at the end of a piece."""

    def __init__(self, delimiter: bytes, quote: bytes, row_end: bytes) -> None:
        self._quote = quote
        self._row_end = row_end
        self._ends = (delimiter, b"\n", b"\r")
        self._is_open = False

    def unified(self, lines: bytes) -> bytes:
        if not self._quote:
            return self._outside(lines)
        pieces = lines.split(self._quote)
        pieces[0] = self._piece(pieces[0])
        has_closed = False  # whether the quote before has closed a field
        for place in range(1, len(pieces)):
            before = pieces[place - 1]
            if self._is_open:
                self._is_open, has_closed = False, True
            else:  # a doubled quote goes on with the field that the quote before seemed to close
                begins = before.endswith(self._ends) or (not before and place == 1)
                self._is_open, has_closed = begins or (not before and has_closed), False
            pieces[place] = self._piece(pieces[place])
        return self._quote.join(pieces)

    def _piece(self, piece: bytes) -> bytes:
        return _inside(piece) if self._is_open else self._outside(piece)

    def _outside(self, text: bytes) -> bytes:
        if self._row_end == b"\r":
            return text.replace(b"\r", b"\n")
        return _inside(text.replace(b"\r\n", b"\n"))


def _inside(text: bytes) -> bytes:
    return text.replace(b"\r", CARRIAGE_RETURN.encode())


def _holds(path: Path, byte: bytes) -> bool:
    if not path.stat().st_size:  # an empty file can't be mapped
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(byte) >= 0


def _whole_lines(path: Path, row_end: bytes) -> Iterator[bytes]:
    begun: list[bytes] = []
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            cut = chunk.rfind(row_end) + 1
            begun.append(chunk[:cut])
            if cut:
                yield b"".join(begun)
                begun = []
            begun.append(chunk[cut:])
    yield b"".join(begun)

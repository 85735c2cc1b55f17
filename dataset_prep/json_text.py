"""Rewrites JSON arrays, JSON objects of several lines and Python dicts as JSON lines."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

LONGEST_OBJECT = 16 << 20  # characters; no review is nearly as long
BETWEEN = re.compile(r"[\s,\[\]]*")
UNREADABLE = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)


class Shape(Enum):
    """How the objects of a file stand in it."""

    LINES = "one JSON object on each line"
    OBJECTS = "a JSON array, or JSON objects of several lines"
    DICTS = "one Python dict on each line"


class BrokenObject(ValueError):
    """An object can't be read, and neither can those after it."""


def shape_of(head: str) -> Shape:
    """Returns the shape of a file that begins with ``head``. A file of no known shape counts as ``Shape.LINES``."""
    head = head.lstrip()
    if re.match(r"\[\s*(\{|$)", head):
        return Shape.OBJECTS
    line = head.split("\n", 1)[0]
    if not line.startswith("{") or _is_object(line):
        return Shape.LINES
    if _from_dict(line) is not None:
        return Shape.DICTS
    try:
        end = json.JSONDecoder().raw_decode(head)[1]
    except (ValueError, RecursionError):
        return Shape.LINES
    return Shape.OBJECTS if end > len(line) else Shape.LINES


def lines_of_objects(texts: Iterator[str]) -> Iterator[str]:
    """Yields each object of a text as one line, as it is written there.

    Args:
        texts: the pieces of the text, which may be cut anywhere.

    Raises:
        BrokenObject: an object is not valid JSON, or the text ends inside an array.
    """
    decoder, number = json.JSONDecoder(), 1
    buffer, at, is_array, has_more = "", 0, False, True
    while True:
        start = _end_of_gap(buffer, at)
        is_array = is_array or (number == 1 and "[" in buffer[at:start])
        end = _end_of_object(decoder, buffer, start, number, may_go_on=has_more)
        if end is None:
            if not has_more:
                break
            text = next(texts, None)
            buffer, at, has_more = buffer[at:] + (text or ""), 0, text is not None
            continue
        yield buffer[start:end].replace("\n", " ").replace("\r", " ") + "\n"
        at, number = end, number + 1
    if is_array and "]" not in buffer[at:]:
        raise BrokenObject(f"object {number:,}: the file ends before it")


def _end_of_gap(buffer: str, at: int) -> int:
    gap = BETWEEN.match(buffer, at)
    return gap.end() if gap else at


def _end_of_object(decoder: json.JSONDecoder, buffer: str, start: int, number: int, *, may_go_on: bool) -> int | None:
    """Returns the end of the object that begins at ``start``, or None if more text is needed to find it."""
    if start == len(buffer):
        return None
    try:
        found, end = decoder.raw_decode(buffer, start)
    except (ValueError, RecursionError) as error:
        if may_go_on and len(buffer) - start < LONGEST_OBJECT:
            return None
        raise BrokenObject(f"object {number:,}: not valid JSON ({str(error).split(':', 1)[0]})") from error
    if not isinstance(found, dict):
        raise BrokenObject(f"object {number:,}: not a JSON object")
    return end


def lines_of_dicts(texts: Iterator[str]) -> Iterator[str]:
    """Yields a text whose lines are Python dicts, in pieces of whole lines, with JSON in their place.

    No code of the file is run. A line that is no dict stays as it is.
    """
    for text in texts:
        yield "\n".join(_from_dict(line) or line for line in text.split("\n"))


def _from_dict(line: str) -> str | None:
    try:
        tree = _NanToNone().visit(ast.parse(line.strip(), mode="eval"))
        found = ast.literal_eval(tree)
        return json.dumps(found) if isinstance(found, dict) else None
    except UNREADABLE:
        return None


class _NanToNone(ast.NodeTransformer):
    """Puts None in the place of the name ``nan``, which Python prints for a missing number."""

    def visit_Name(self, node: ast.Name) -> Any:
        return ast.Constant(None) if node.id == "nan" else node


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False

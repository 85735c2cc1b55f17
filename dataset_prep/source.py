"""What a source of reviews states: how its raw files are laid out, and how the command line presents it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataset_prep.errors import PreparationError
from dataset_prep.formats import Delimited, Format, format_of

SECONDS = "seconds"
MILLISECONDS = "milliseconds"
UNITS = {SECONDS: 1, MILLISECONDS: 10**3, "microseconds": 10**6, "nanoseconds": 10**9}  # how many are a second
QUOTES = ("auto", "double", "none")


@dataclass(frozen=True)
class Layout:
    """The names of the fields of one raw file.

    Attributes:
        user, item, text, time: the names of four fields that the file must have. With None for ``time``, the order of
            the rows in the files is the order of time, and the number of a row takes the place of its time.
        rating: the name of the field of the rating, which the file must have too; None leaves every rating empty.
        time_formats: one of ``UNITS`` for times that are numbers since 1970, or strptime formats,
            which are tried in order. A time without a time zone is in UTC.
    """

    user: str
    item: str
    text: str
    time: str | None
    rating: str | None = None
    time_formats: tuple[str, ...] = (SECONDS,)

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns of the pipeline, each with the name of the field that fills it."""
        return {
            "user_id": self.user,
            "item_id": self.item,
            "review": self.text,
            "time": self.time,
            "rating": self.rating,
        }

    def named(self, names: Mapping[str, str]) -> Layout:
        """Returns the layout with the names that the fields have in a file."""
        return replace(
            self,
            user=names[self.user],
            item=names[self.item],
            text=names[self.text],
            time=None if self.time is None else names[self.time],
            rating=None if self.rating is None else names[self.rating],
        )


@dataclass(frozen=True)
class Source:
    """How to read raw files of one kind.

    Attributes:
        name: the name of the source in the statistics of a dataset.
        layouts: the possible layouts of a file; a file is read by the first layout whose fields it has.
        format: the format of the files; None takes the format that the suffix of each file names.
        member: the name of the wanted file inside a tar; a file that is not a tar is read as it is.
        encoding: the encoding of text files; None is UTF-8.
        delimiter: the character between two fields of delimited text; None takes the one that the suffix names.
        quotes: one of ``QUOTES``: what quotes mean in delimited text whose ``format`` is None.
        options: the options of the command line for this source that messages may name as a mend.
    """

    name: str
    layouts: tuple[Layout, ...]
    format: Format | None = None
    member: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    quotes: str = QUOTES[0]
    options: frozenset[str] = frozenset()

    def format_of(self, path: Path) -> Format:
        """Returns the format of a file.

        Raises:
            PreparationError: the suffix names no format, or a delimiter is given for a format that has none.
        """
        if self.format:
            return self.format
        if self.quotes not in QUOTES:
            raise PreparationError(f"quotes are {self.quotes!r}; choose one of {', '.join(QUOTES)}")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise PreparationError(f"--delimiter {self.delimiter!r}: give one character, such as ';' or tab")
        form = format_of(path, self.delimiter)
        if isinstance(form, Delimited):
            quote = "" if self.quotes == "none" else form.quote
            return replace(form, quote=quote, may_be_plain=self.quotes == "auto")
        if self.delimiter is not None:
            raise PreparationError(f"{path}: the format of this file has no delimiter; leave --delimiter out")
        return form


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the command line says about one thing that it can prepare.

    Attributes:
        name: the word after ``symcere prep``.
        about: how to get the data and under which terms; the first line says what the data are, in one sentence.
        example: the arguments of an example call, after the name.
        add_options: adds the options that only this entry has.
    """

    name: str
    about: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None


@dataclass(frozen=True, kw_only=True)
class Kind(Entry):
    """A kind of raw files.

    Attributes:
        source: makes the source from the parsed options of a call.
        columns: the default name of each column that the user can name, or None if the user must name it. It is empty
            if the names of the fields are fixed; otherwise ``source`` finds the names in the options ``user``,
            ``item``, ``text``, ``time``, ``rating`` and ``encoding``.
    """

    source: Callable[[argparse.Namespace], Source]
    columns: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Generator(Entry):
    """A generator, which makes a dataset without raw files.

    Attributes:
        write: writes the dataset to the folder that the option ``output`` names, and returns its statistics.
    """

    write: Callable[[argparse.Namespace], dict[str, Any]]

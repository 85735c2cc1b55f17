"""What a source of reviews states: where its raw files come from, how they are laid out, which fields they hold."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dataset_prep.formats import Format

SECONDS = "seconds"
MILLISECONDS = "milliseconds"


@dataclass(frozen=True)
class Layout:
    """The names of the fields of one raw file.

    Attributes:
        user, item, text, time: names of fields that the file must have.
        rating: the name of the field of the rating; None leaves every rating empty.
        time_formats: ``(SECONDS,)`` or ``(MILLISECONDS,)`` since 1970, or strptime formats, which are tried in order.
            A time without a zone is UTC.
    """

    user: str
    item: str
    text: str
    time: str
    rating: str | None = None
    time_formats: tuple[str, ...] = (SECONDS,)

    @property
    def columns(self) -> dict[str, str | None]:
        """The pipeline's columns and the fields that they come from."""
        return {
            "user_id": self.user,
            "item_id": self.item,
            "review": self.text,
            "time": self.time,
            "rating": self.rating,
        }


@dataclass(frozen=True)
class Source:
    """How to read raw files of one kind.

    Attributes:
        name: what the statistics of a dataset call the source.
        layouts: a file is read by the first layout whose fields it has.
        format: how rows stand in a file; None lets the file's suffix say it.
        member: the wanted file inside a tar; a file that is no tar is read as it is.
        encoding: of text files; None is UTF-8.
    """

    name: str
    layouts: tuple[Layout, ...]
    format: Format | None = None
    member: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of raw files as the command line knows it.

    Attributes:
        name: the word that names the kind, ``symcere prep NAME``.
        about: how to get the raw files and under which terms; the first line says what they are.
        example: the arguments of a call, after the name.
        source: makes the source from the parsed options of a call.
        columns: the default name of each column that the user can name, None where the user must name it; empty where
            the files have fixed names. ``source`` finds the names in the options ``user``, ``item``, ``text``,
            ``time``, ``rating`` and ``encoding``.
        add_options: adds further options of this kind.
    """

    name: str
    about: str
    example: str
    source: Callable[[argparse.Namespace], Source]
    columns: Mapping[str, str | None] = field(default_factory=dict)
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None

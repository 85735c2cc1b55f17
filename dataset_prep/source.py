"""What a source module states: where its raw files come from, how they are laid out, which fields they hold."""

from __future__ import annotations

from dataclasses import dataclass

from dataset_prep.formats import Format

SECONDS = "seconds"
MILLISECONDS = "milliseconds"


@dataclass(frozen=True)
class Layout:
    """Names of the fields of one raw file.

    Attributes:
        user, item, text, time: names of fields that the file must have.
        rating: name of the rating's field; None leaves every rating empty.
        time_formats: ``(SECONDS,)`` or ``(MILLISECONDS,)`` since 1970, or strptime formats that are tried in order.
            A time without a zone counts as UTC.
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
    """A kind of raw file.

    Attributes:
        name: the word that the command line knows it by.
        about: how to get the raw files, and under which terms.
        layouts: the first whose fields a file has is the file's.
        format: how rows stand in the file; None lets the file's suffix say it.
        member: the wanted file inside a tar; a file that is no tar is read as it is.
        encoding: of text files; None is UTF-8.
    """

    name: str
    about: str
    layouts: tuple[Layout, ...]
    format: Format | None = None
    member: str | None = None
    encoding: str | None = None

"""Turns a raw file into a plain UTF-8 file that DuckDB can read, and takes its fingerprint in the same pass.

DuckDB can unpack gzip itself, but it does not verify the checksum, and it reads neither tar nor the Japanese encodings.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

from tqdm import tqdm

from dataset_prep.containers import DAMAGE, TAR_BLOCK, is_packed, needs_seeking, unpacked
from dataset_prep.engine import progress
from dataset_prep.errors import PreparationError
from dataset_prep.json_text import BrokenObject, Shape, lines_of_dicts, lines_of_objects, shape_of

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
LONGEST_LINE = 16 << 20  # characters; no review is nearly as long
# Against files made to fill the disk: the limit on unpacked bytes is UNPACKED_ANYWAY + LARGEST_RATIO * packed bytes.
# Packed reviews unpack to about 10 times their size, and packed zeros to 1,000 times or more.
LARGEST_RATIO = 200
UNPACKED_ANYWAY = 64 << 20
HEAD_BYTES = 1 << 16  # how much of a file tells the shape of its JSON

# Takes the place of bytes that are not in the encoding. Unicode never assigns this code point, so texts don't hold it.
UNDECODABLE = "\ufdd0"
codecs.register_error("dataset_prep.mark", lambda error: (UNDECODABLE, cast(UnicodeDecodeError, error).end))


@dataclass(frozen=True)
class Staged:
    """A raw file that DuckDB can read.

    Attributes:
        source: the path of the raw file, as the user named it.
        path: the plain UTF-8 file with the same content; the raw file itself if nothing had to be changed.
        size: the size of the raw file in bytes.
        sha256: the SHA-256 of the raw file in hexadecimal.
        holds_marks: whether ``line_ends.CARRIAGE_RETURN`` stands for carriage returns in the file.
        counts_objects: whether the lines of the file are not those of the raw file, but its JSON objects.
        beside: where a rewritten form of the file can be put.
    """

    source: Path
    path: Path
    size: int
    sha256: str
    holds_marks: bool = False
    counts_objects: bool = False
    beside: Path = Path()


def stage(
    source: Path,
    target: Path,
    *,
    encoding: str | None,
    member: str | None = None,
    is_json: bool = False,
    skip_broken: bool = False,
    warn: Callable[[str], None] = logger.warning,
) -> Staged:
    """Unpacks and decodes a raw file, and takes its fingerprint.

    The first bytes of the file tell whether it is packed by gzip or zstd, and whether it is a tar or a zip.

    Args:
        source: the raw file.
        target: the plain file to write. It is not written if the raw file is plain UTF-8 and ``skip_broken`` is false.
        encoding: the encoding of the text; None for a binary file, of which only the fingerprint is taken.
        member: the name of the wanted file inside a tar or a zip; None wants the only file of reviews in it.
        is_json: whether the file holds JSON; then arrays, objects of several lines and Python dicts become JSON lines.
        skip_broken: put ``UNDECODABLE`` in the place of bytes that are not in the encoding, and stop where the file is
            damaged, instead of raising an error.
        warn: is called with a message if the file is damaged and ``skip_broken`` is true.

    Raises:
        PreparationError: the file can't be read, is truncated or damaged, is not in ``encoding``, lacks the member, has
            a line of over 16 Mi characters, or unpacks to over 200 times its size plus 64 MiB.
    """
    try:
        with (
            ExitStack() as opened,
            source.open("rb") as file,
            progress(f"reading {source.name}", source.stat().st_size, unit="B", unit_scale=True) as bar,
        ):
            raw = _Fingerprinted(file, bar)
            stream = io.BufferedReader(cast(Any, raw), CHUNK_BYTES)
            path, shape = source, Shape.LINES
            if encoding is not None:
                shape = _shape(source, encoding, member, is_json)
                is_plain = _is_plain(stream, encoding) and shape is Shape.LINES
                content: Any = stream
                if needs_seeking(stream.peek(TAR_BLOCK)):
                    content = opened.enter_context(source.open("rb"))
                pieces = _texts(content, source, encoding, member, shape, skip_broken, warn)
                if is_plain and not skip_broken:
                    for _ in pieces:  # raises an error if a line is not valid
                        pass
                else:
                    path = target
                    with target.open("wb") as plain:
                        plain.writelines(text.encode() for text in pieces)
            while stream.read(CHUNK_BYTES):  # the fingerprint also covers what follows the member of a tar
                pass
    except OSError as error:
        where = error.filename or f"{source}, unpacking to {target.parent}"
        raise PreparationError(f"{where}: {error.strerror or error}") from error
    return Staged(
        source,
        path,
        raw.size,
        raw.digest.hexdigest(),
        counts_objects=shape is Shape.OBJECTS,
        beside=target.with_name(f"{target.name}-rewritten"),
    )


class _Fingerprinted(io.RawIOBase):
    """A file that hashes and counts the bytes that are read from it."""

    def __init__(self, file: BinaryIO, bar: tqdm) -> None:
        self._file = file
        self._bar = bar
        self.digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self._file.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self.digest.update(chunk)
        self.size += len(chunk)
        self._bar.update(len(chunk))
        return len(chunk)


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise PreparationError(f"encoding {encoding!r} is unknown; try utf-8, cp932, euc_jp or latin-1") from error
    return "utf-8-sig" if name == "utf-8" else name  # "utf-8-sig" leaves out a byte-order mark


def texts(
    source: Path,
    *,
    encoding: str,
    member: str | None = None,
    is_json: bool = False,
    skip_broken: bool = False,
    warn: Callable[[str], None] = logger.warning,
) -> Iterator[str]:
    """Yields the text that ``stage`` writes, in pieces of whole lines. Arguments and errors are those of ``stage``."""
    try:
        with source.open("rb") as file:
            shape = _shape(source, encoding, member, is_json)
            yield from _texts(file, source, encoding, member, shape, skip_broken, warn)
    except OSError as error:
        raise PreparationError(f"{error.filename or source}: {error.strerror or error}") from error


def texts_between(source: Path, start: int, end: int, *, skip_broken: bool) -> Iterator[str]:
    """Yields the text of one of the ranges of a file that ``ranges`` returned, in pieces of whole lines.

    Args:
        start, end: the first byte of the range, and the byte after its last.
        skip_broken: as for ``stage``.

    Raises:
        PreparationError: as for ``texts``; the message counts lines from the beginning of the file, not of the range.
    """
    try:
        with source.open("rb") as file:
            file.seek(start)
            yield from _Lines(source, "utf-8", _errors(skip_broken)).of(_Until(file, end))
    except PreparationError:
        # Reading from the beginning raises the same error again, with the number of the line in the whole file.
        for _ in texts(source, encoding="utf-8", skip_broken=skip_broken):
            pass
        raise
    except OSError as error:
        raise PreparationError(f"{error.filename or source}: {error.strerror or error}") from error


def ranges(source: Path, size: int, *, encoding: str, is_json: bool = False) -> list[tuple[int, int]]:
    """Cuts a file into ranges of whole lines, of about ``size`` bytes each.

    Returns:
        The first byte of each range and the byte after its last. The list is empty if the file can't be cut, because it
        is packed, not plain UTF-8, or JSON of another shape than one object on each line.
    """
    with source.open("rb") as file:
        if not _is_plain(file, encoding) or _shape(source, encoding, None, is_json) is not Shape.LINES:
            return []
        starts = [0]
        for about in range(size, source.stat().st_size, size):
            file.seek(about - 1)
            while (part := file.readline(CHUNK_BYTES)) and not part.endswith(b"\n"):
                pass  # reads to the end of the line in chunks, because a line may be longer than memory
            starts.append(file.tell())
        starts.append(source.stat().st_size)
    return [(start, end) for start, end in pairwise(starts) if start < end]


class _Until:
    """An open file that is read only up to a given byte."""

    def __init__(self, file: io.BufferedReader, end: int) -> None:
        self._file = file
        self._end = end

    def read1(self, size: int) -> bytes:
        return self._file.read1(min(size, self._end - self._file.tell()))


def _is_plain(stream: io.BufferedReader, encoding: str) -> bool:
    """Returns whether a file looks, by its first bytes, like plain UTF-8, which needs no unpacking and no decoding."""
    magic = stream.peek(TAR_BLOCK)
    return _codec(encoding) == "utf-8-sig" and not is_packed(magic) and not magic.startswith(codecs.BOM_UTF8)


def _shape(source: Path, encoding: str, member: str | None, is_json: bool) -> Shape:
    """Returns the shape of a file of JSON, which its first bytes tell."""
    if not is_json:
        return Shape.LINES
    head = b""
    with source.open("rb") as file, suppress(*DAMAGE):  # whoever reads the whole file reports the damage
        content = unpacked(file, source, member)
        while len(head) < HEAD_BYTES and (chunk := content.read1(HEAD_BYTES)):
            head += chunk
    return shape_of(codecs.getincrementaldecoder(_codec(encoding))("replace").decode(head))


def _texts(
    stream: Any,
    source: Path,
    encoding: str,
    member: str | None,
    shape: Shape,
    skip_broken: bool,
    warn: Callable[[str], None],
) -> Iterator[str]:
    lines = _Lines(source, _codec(encoding), _errors(skip_broken))
    try:
        content = unpacked(stream, source, member)
        match shape:
            case Shape.LINES:
                yield from lines.of(content)
            case Shape.DICTS:
                yield from lines_of_dicts(lines.of(content))
            case Shape.OBJECTS:
                yield from lines_of_objects(lines.decoded(content))
    except DAMAGE as error:
        if not skip_broken:
            mend = "get the file again"
            if not isinstance(error, zipfile.BadZipFile) or lines.ended:
                mend += ", or take what can be read with --on-error skip"
            raise PreparationError(
                f"{source}, after line {lines.ended:,}: truncated or damaged ({error}); {mend}"
            ) from error
        warn(f"{source}: truncated or damaged after line {lines.ended} ({error}); the rest is left out")
    except BrokenObject as error:
        if not skip_broken:
            raise PreparationError(
                f"{source}, {error}; mend it, or take the objects before it with --on-error skip"
            ) from error
        warn(f"{source}, {error}; the rest is left out")


def _errors(skip_broken: bool) -> str:
    return "dataset_prep.mark" if skip_broken else "strict"


class _Lines:
    """Decodes the text of a file in pieces of whole lines.

    Attributes:
        ended: the number of lines that have been read to their end so far.
    """

    def __init__(self, source: Path, codec: str, errors: str) -> None:
        self._source = source
        self._codec = codec
        self._errors = errors
        self._decoder = codecs.getincrementaldecoder(codec)(errors)
        self._left = UNPACKED_ANYWAY + LARGEST_RATIO * source.stat().st_size  # bytes that may still be unpacked
        self.ended = 0

    def of(self, content: Any) -> Iterator[str]:
        """Yields the lines of an open binary file. If the file is damaged, the line that was cut off is left out."""
        begun = ""  # the beginning of a line whose end has not been read yet
        for decoded in self.decoded(content):
            text = begun + decoded
            # A file without line feeds ends its lines with carriage returns, whose last may be half of a line end.
            cut = text.rfind("\n") + 1 or text.rfind("\r", 0, -1) + 1
            begun = text[cut:]
            if len(begun) > LONGEST_LINE:
                raise PreparationError(
                    f"{self._source}, line {self.ended + 1:,}: longer than {LONGEST_LINE:,} characters; "
                    "give a file of reviews with one row on each line"
                )
            yield text[:cut]
        yield begun

    def decoded(self, content: Any) -> Iterator[str]:
        """Yields the text of an open binary file in pieces that may end anywhere."""
        while chunk := content.read1(CHUNK_BYTES):  # unlike read, read1 returns what comes before the damage
            self._left -= len(chunk)
            if self._left < 0:
                raise PreparationError(
                    f"{self._source}, after line {self.ended:,}: unpacks to over {LARGEST_RATIO} times its size, "
                    "which no file of reviews does; if you trust the file, unpack it yourself and give the result"
                )
            text = self._decode(chunk)
            self.ended += text.count("\n")
            yield text
        yield self._decode(b"", final=True)

    def _decode(self, chunk: bytes, final: bool = False) -> str:
        try:
            text = self._decoder.decode(chunk, final)
            # Python's decoder never gives out the beginning of a byte-order mark, even at the end of the file.
            if final and (rest := self._decoder.getstate()[0]):
                text += rest.decode(self._codec.removesuffix("-sig"), self._errors)
            return text
        except UnicodeDecodeError as error:
            line = self.ended + error.object[: error.start].count(b"\n") + 1
            codec = self._codec.removesuffix("-sig")
            raise PreparationError(
                f"{self._source}, line {line:,}: not {codec} ({error.reason}); name the file's encoding with "
                "--encoding (such as cp932, euc_jp, latin-1), or leave such lines out with --on-error skip"
            ) from error

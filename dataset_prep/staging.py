"""A raw file as a plain UTF-8 file that the engine can read, with its fingerprint, in one pass over its bytes.

DuckDB reads gzip itself, but without its checksum, and knows neither tar nor the Japanese encodings.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import logging
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from tqdm import tqdm

from dataset_prep.engine import progress
from dataset_prep.errors import PreparationError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
LONGEST_LINE = 16 << 20  # characters; no review comes near it
LARGEST_RATIO = 200  # of unpacked text to the packed file; reviews come to 10, zeros to 1,000 and more
UNPACKED_ANYWAY = 64 << 20  # bytes
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
TAR_MAGIC = b"ustar"
TAR_MAGIC_AT = 257
TAR_BLOCK = 512
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError, tarfile.TarError)

UNDECODABLE = "\ufdd0"  # stands for bytes outside the encoding; Unicode keeps this code point out of any text
codecs.register_error("dataset_prep.mark", lambda error: (UNDECODABLE, cast(UnicodeDecodeError, error).end))


@dataclass(frozen=True)
class Staged:
    """A raw file, ready for the engine.

    Attributes:
        source: the raw file, as the user named it.
        path: the plain UTF-8 file with its content; the raw file itself where nothing had to be changed.
        size: bytes of the raw file.
        sha256: of the raw file, in hexadecimal.
    """

    source: Path
    path: Path
    size: int
    sha256: str


def stage(
    source: Path,
    target: Path,
    *,
    encoding: str | None,
    member: str | None = None,
    skip_broken: bool = False,
    warn: Callable[[str], None] = logger.warning,
) -> Staged:
    """Unpack (gzip, zstd, a member of a tar) and decode ``source``; the file's first bytes tell which.

    Args:
        target: the plain file to write; left unwritten if ``source`` is plain UTF-8 already.
        encoding: of the text; None for a binary file, which is fingerprinted only.
        member: name of the wanted file inside a tar.
        skip_broken: mark undecodable bytes with ``UNDECODABLE`` and end at damage, instead of raising.
        warn: is told of damage that is not raised.

    Raises:
        PreparationError: ``source`` can't be read, is truncated or damaged, isn't in ``encoding``, lacks the member, or
            has a line over 16 Mi characters, or unpacks to over 200 times its size.
    """
    try:
        with (
            source.open("rb") as file,
            progress(f"reading {source.name}", source.stat().st_size, unit="B", unit_scale=True) as bar,
        ):
            raw = _Fingerprinted(file, bar)
            stream = io.BufferedReader(cast(Any, raw), CHUNK_BYTES)
            path = source
            if encoding is not None:
                as_it_stands = _is_plain(stream, encoding, member)
                lines = _texts(stream, source, encoding, member, skip_broken, warn)
                if as_it_stands and not skip_broken:
                    for _ in lines:  # only to see that it is valid
                        pass
                else:
                    path = target
                    with target.open("wb") as plain:
                        plain.writelines(text.encode() for text in lines)
            while stream.read(CHUNK_BYTES):  # what follows a tar's member belongs to the fingerprint
                pass
    except OSError as error:
        where = error.filename or f"{source}, unpacking to {target.parent}"
        raise PreparationError(f"{where}: {error.strerror or error}") from error
    return Staged(source, path, raw.size, raw.digest.hexdigest())


class _Fingerprinted(io.RawIOBase):
    """A file that hashes and counts what is read from it."""

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
    return "utf-8-sig" if name == "utf-8" else name  # a byte-order mark is no text


def texts(
    source: Path,
    *,
    encoding: str,
    member: str | None = None,
    skip_broken: bool = False,
    warn: Callable[[str], None] = logger.warning,
) -> Iterator[str]:
    """The text that ``stage`` writes, in pieces of whole lines; arguments and errors are those of ``stage``."""
    try:
        with source.open("rb") as file:
            yield from _texts(file, source, encoding, member, skip_broken, warn)
    except OSError as error:
        raise PreparationError(f"{error.filename or source}: {error.strerror or error}") from error


def texts_between(source: Path, start: int, end: int, *, skip_broken: bool) -> Iterator[str]:
    """The text of a range of bytes, which are whole lines, of a file that ``ranges`` split.

    Raises:
        PreparationError: as ``texts``; the line that it names is counted in the whole file.
    """
    try:
        with source.open("rb") as file:
            file.seek(start)
            yield from _Lines(source, "utf-8", _errors(skip_broken)).of(_Until(file, end))
    except PreparationError:
        for _ in texts(source, encoding="utf-8", skip_broken=skip_broken):  # raises it again, now with all lines before
            pass
        raise
    except OSError as error:
        raise PreparationError(f"{error.filename or source}: {error.strerror or error}") from error


def ranges(source: Path, size: int, *, encoding: str, member: str | None = None) -> list[tuple[int, int]]:
    """First bytes and ends of pieces of whole lines, of about ``size`` bytes; none if only the whole can be read."""
    with source.open("rb") as file:
        if not _is_plain(file, encoding, member):
            return []
        starts = [0]
        for about in range(size, source.stat().st_size, size):
            file.seek(about - 1)
            while (part := file.readline(CHUNK_BYTES)) and not part.endswith(b"\n"):
                pass  # a line may be longer than memory
            starts.append(file.tell())
        starts.append(source.stat().st_size)
    return [(start, end) for start, end in pairwise(starts) if start < end]


class _Until:
    """An open file of which only a range of bytes is read."""

    def __init__(self, file: io.BufferedReader, end: int) -> None:
        self._file = file
        self._end = end

    def read1(self, size: int) -> bytes:
        return self._file.read1(min(size, self._end - self._file.tell()))


def _is_plain(stream: io.BufferedReader, encoding: str, member: str | None) -> bool:
    """Whether a file at its beginning is UTF-8 text as it stands, if it is valid."""
    magic = stream.peek(TAR_BLOCK)
    return (
        _codec(encoding) == "utf-8-sig"
        and not magic.startswith((GZIP_MAGIC, ZSTD_MAGIC, codecs.BOM_UTF8))
        and not (member is not None and magic[TAR_MAGIC_AT:].startswith(TAR_MAGIC))
    )


def _texts(
    stream: io.BufferedReader,
    source: Path,
    encoding: str,
    member: str | None,
    skip_broken: bool,
    warn: Callable[[str], None],
) -> Iterator[str]:
    lines = _Lines(source, _codec(encoding), _errors(skip_broken))
    try:
        plain = _decompressed(stream, stream.peek(TAR_BLOCK))
        is_tar = member is not None and plain.peek(TAR_BLOCK)[TAR_MAGIC_AT:].startswith(TAR_MAGIC)
        yield from lines.of(_tar_member(plain, source, cast(str, member)) if is_tar else plain)
    except DAMAGE as error:
        if not skip_broken:
            raise PreparationError(
                f"{source}, after line {lines.ended:,}: truncated or damaged ({error}); get the file again, "
                "or take what can be read with --on-error skip"
            ) from error
        warn(f"{source}: truncated or damaged after line {lines.ended} ({error}); the rest is left out")


def _errors(skip_broken: bool) -> str:
    return "dataset_prep.mark" if skip_broken else "strict"


def _decompressed(stream: io.BufferedReader, magic: bytes) -> io.BufferedReader | gzip.GzipFile | zstd.ZstdFile:
    if magic.startswith(GZIP_MAGIC):
        return gzip.GzipFile(fileobj=stream)
    if magic.startswith(ZSTD_MAGIC):
        return zstd.ZstdFile(stream)
    return stream


def _tar_member(stream: Any, source: Path, name: str) -> IO[bytes]:
    """The member's content; nothing is unpacked to disk, so no name inside the tar can reach a folder."""
    archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 (the stream closes it)
    for entry in archive:
        if entry.isfile() and Path(entry.name).name == name:
            return cast(IO[bytes], archive.extractfile(entry))
    raise PreparationError(f"{source}: the tar holds no {name}; give the tar that does, or the unpacked file")


class _Lines:
    """Decoded text of a file, in pieces of whole lines, with the number of lines that have ended so far."""

    def __init__(self, source: Path, codec: str, errors: str) -> None:
        self._source = source
        self._codec = codec
        self._errors = errors
        self._decoder = codecs.getincrementaldecoder(codec)(errors)
        self._left = UNPACKED_ANYWAY + LARGEST_RATIO * source.stat().st_size  # bytes
        self.ended = 0

    def of(self, content: Any) -> Iterator[str]:
        """Returns the lines of an open binary file. If the file is damaged, the line that was cut off is left out."""
        begun = ""  # a line whose end hasn't been read yet
        while chunk := content.read1(CHUNK_BYTES):  # unlike read, it keeps what came before damage
            self._left -= len(chunk)
            if self._left < 0:
                raise PreparationError(
                    f"{self._source}, after line {self.ended:,}: unpacks to over {LARGEST_RATIO} times its size; "
                    "this is no file of reviews. If you trust it, unpack it yourself and give the unpacked file"
                )
            text = begun + self._decode(chunk)
            cut = text.rfind("\n") + 1
            self.ended += text.count("\n")
            begun = text[cut:]
            if len(begun) > LONGEST_LINE:
                raise PreparationError(
                    f"{self._source}, line {self.ended + 1:,}: longer than {LONGEST_LINE:,} characters; "
                    "this is no file of reviews, a row a line"
                )
            yield text[:cut]
        yield begun + self._decode(b"", final=True)

    def _decode(self, chunk: bytes, final: bool = False) -> str:
        try:
            text = self._decoder.decode(chunk, final)
            if final and (rest := self._decoder.getstate()[0]):  # Python keeps part of a byte-order mark back for ever
                text += rest.decode(self._codec.removesuffix("-sig"), self._errors)
            return text
        except UnicodeDecodeError as error:
            line = self.ended + error.object[: error.start].count(b"\n") + 1
            codec = self._codec.removesuffix("-sig")
            raise PreparationError(
                f"{self._source}, line {line:,}: not {codec} ({error.reason}); name the file's own with --encoding "
                "(such as cp932, euc_jp, latin-1), or leave such lines out with --on-error skip"
            ) from error

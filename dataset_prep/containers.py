"""Unpacks raw files as streams: gzip, zstd, tar and zip, also one inside another."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from dataset_prep.errors import PreparationError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZIP_MAGIC = b"PK\x03\x04"
TAR_MAGIC = b"ustar"
TAR_MAGIC_AT = 257
TAR_BLOCK = 512
DEEPEST = 4  # containers inside one another; Yelp's download is a tar inside a zip
CONTAINERS = (".gz", ".zst", ".zstd", ".zip", ".tar", ".tgz")
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError, tarfile.TarError, zipfile.BadZipFile)
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab")  # of files of reviews inside archives
SHOWN_NAMES = 5


def is_packed(magic: bytes) -> bool:
    """Returns whether a file that begins with ``magic`` is packed or an archive."""
    return magic.startswith((GZIP_MAGIC, ZSTD_MAGIC, ZIP_MAGIC)) or _is_tar(magic)


def needs_seeking(magic: bytes) -> bool:
    """Returns whether a file that begins with ``magic`` can't be read from its beginning to its end."""
    return magic.startswith(ZIP_MAGIC)


def unpacked(stream: Any, source: Path, member: str | None) -> Any:
    """Returns the content of the wanted file as a stream. Nothing is unpacked to disk, so no name can do harm.

    Args:
        stream: the open raw file, which can ``peek``; a zip must be able to ``seek``.
        source: the path of the raw file, for messages.
        member: the name of the wanted file inside archives; None wants the only file.

    Raises:
        PreparationError: an archive lacks the wanted file, or is packed in a way that can't be read as a stream.
    """
    for _ in range(DEEPEST):
        magic = stream.peek(TAR_BLOCK)
        if magic.startswith(GZIP_MAGIC):
            stream = gzip.GzipFile(fileobj=stream)
        elif magic.startswith(ZSTD_MAGIC):
            stream = zstd.ZstdFile(stream)
        elif magic.startswith(ZIP_MAGIC):
            stream = _from_zip(stream, source, member)
        elif _is_tar(magic):
            stream = _from_tar(stream, source, member)
        else:
            return stream
    raise PreparationError(f"{source}: packed more than {DEEPEST} times; unpack it and give the result")


def _is_tar(magic: bytes) -> bool:
    return magic[TAR_MAGIC_AT:].startswith(TAR_MAGIC)


def _from_tar(stream: Any, source: Path, member: str | None) -> Any:
    archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 (the stream closes it)
    files = ((entry.name, entry) for entry in archive if entry.isfile())
    found = _wanted(files, source, "tar", member)
    content = archive.extractfile(found)
    return content if member else _Only(content, found.name, files, source)


def _from_zip(stream: Any, source: Path, member: str | None) -> io.BufferedReader:
    if isinstance(stream, gzip.GzipFile | zstd.ZstdFile | tarfile.ExFileObject) or not stream.seekable():
        raise PreparationError(f"{source}: holds a zip inside another archive; unpack it and give the zip")
    try:
        archive = zipfile.ZipFile(stream)
        files = ((entry.filename, entry) for entry in archive.infolist() if not entry.is_dir())
        found = _wanted(files, source, "zip", member)
        if member is None:
            _check_only(found.filename, files, source)
        return io.BufferedReader(cast(Any, archive.open(found)))
    except (RuntimeError, NotImplementedError) as error:  # a password, or an unknown version or compression
        raise PreparationError(f"{source}: {error}; unpack it and give the result") from error


def _wanted(files: Iterable[tuple[str, Any]], source: Path, kind: str, member: str | None) -> Any:
    """Returns the first file that is the member or an archive, which may hold it; or the first file of reviews."""
    for name, entry in files:
        path = PurePosixPath(name)
        if path.name == member if member else _may_hold_reviews(name):
            return entry
        if member and path.suffix.lower() in CONTAINERS and not _is_beside(name):
            return entry
    raise PreparationError(
        f"{source}: the {kind} holds no {member or 'file with a suffix of ' + ', '.join(SUFFIXES)}; "
        f"give the {kind} that does, or the unpacked file"
    )


def _check_only(name: str, others: Iterable[tuple[str, Any]], source: Path) -> None:
    names = [other for other, _ in others if _may_hold_reviews(other)]
    if names:
        shown = ", ".join([name, *names][:SHOWN_NAMES])
        raise PreparationError(f"{source}: holds several files ({shown}); unpack it and give the files of reviews")


def _may_hold_reviews(name: str) -> bool:
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    return not _is_beside(name) and bool({*suffixes[-2:]} & {*SUFFIXES, *CONTAINERS})


def _is_beside(name: str) -> bool:
    """Returns whether a file only accompanies others, as those that macOS adds to an archive."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith(".")


class _Only(io.BufferedReader):
    """The only file of reviews in a tar. Where it ends, an error is raised if another one follows."""

    def __init__(self, content: Any, name: str, others: Iterator[tuple[str, tarfile.TarInfo]], source: Path) -> None:
        super().__init__(content)
        self._name, self._others, self._source = name, others, source

    def read1(self, size: int = -1, /) -> bytes:
        chunk = super().read1(size)
        if not chunk:
            _check_only(self._name, self._others, self._source)
        return chunk

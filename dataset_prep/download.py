"""Downloads a raw file, and goes on after an interruption where it was."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from dataset_prep.errors import PreparationError

BLOCK = 1 << 16  # bytes that are read at once; an interruption loses fewer than these
ATTEMPTS = 5  # in a row that bring nothing, before a download gives up
PAUSE = 2.0  # seconds before the second attempt; each further one waits twice as long
TIMEOUT = 60.0  # seconds without a byte
BEGINNINGS = {".gz": b"\x1f\x8b", ".zip": b"PK", ".zst": b"\x28\xb5\x2f\xfd", ".tgz": b"\x1f\x8b"}


@dataclass(frozen=True)
class Offered:
    """What a server says of a file.

    Attributes:
        size: in bytes; None if the server does not say it.
        version: changes when the file does (an ETag or a date); empty if the server does not say it.
    """

    size: int | None
    version: str


def download(address: str, target: Path) -> Path:
    """Downloads a file, unless it is there. Beside it, ``NAME.download.json`` keeps its address, size and checksum.

    While the download runs, ``NAME.part`` holds what has come. After an interruption, the rest alone is fetched, if
    the server can do that and the file has not changed there.

    Returns:
        ``target``.

    Raises:
        PreparationError: the file can't be had, there is no room for it, or the file that is there is not the one that
            was downloaded; the message names the address and the file.
    """
    if target.exists():
        _check_kept(target)
        return target
    if not _is_of_web(address):
        raise PreparationError(f"{address}: not a web address, which begins with https:// or http://")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        offered = _fetch(address, target)
        part = _part(target)
        record = asdict(offered) | {"address": address, "size": part.stat().st_size, "sha256": _sha256(part)}
        _record(target).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        part.replace(target)
        _begun(target).unlink()
    except OSError as error:
        raise PreparationError(f"{error.filename or target}: {error.strerror or error}") from error
    return target


def _is_of_web(address: str) -> bool:
    try:
        return urlsplit(address).scheme in ("http", "https")
    except ValueError:  # brackets around something else than an IPv6 address
        return False


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _begun(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _record(target: Path) -> Path:
    return target.with_name(target.name + ".download.json")


def _check_kept(target: Path) -> None:
    """Checks the size of a file that was downloaded before; of a file that came in another way nothing is known."""
    record = _record(target)
    if not record.is_file():
        return
    try:
        size = json.loads(record.read_text(encoding="utf-8"))["size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PreparationError(f"{record}: can't be read ({error}); remove it to use {target.name} as it is") from error
    if target.stat().st_size != size:
        raise PreparationError(
            f"{target}: has {target.stat().st_size:,} bytes, but {size:,} were downloaded; remove it to download it "
            "again"
        )


def _fetch(address: str, target: Path) -> Offered:
    """Fetches the file to its ``.part``, with new attempts after interruptions."""
    at_first = most = _size(_part(target))
    failed = 0
    while True:
        before = _size(_part(target))
        try:
            return _attempt(address, target)
        except urllib.error.HTTPError as error:
            raise PreparationError(
                f"{address}: the server answers {error.code} {error.reason}; try again later, or, if the publisher has "
                f"moved the file, give its new --address, or download it yourself to {target}"
            ) from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, UnicodeError) as error:
            reason = getattr(error, "reason", None) or error
        after = _size(_part(target))
        most, failed = max(most, after), 1 if after > most else failed + 1
        if failed == ATTEMPTS or after == at_first == before:
            raise PreparationError(
                f"{address}: can't be downloaded ({reason}); try again later, which goes on where this ended, or "
                f"download the file yourself to {target}"
            )
        tqdm.write(f"{reason}; trying again", file=sys.stderr)
        time.sleep(PAUSE * 2 ** (failed - 1))


def _attempt(address: str, target: Path) -> Offered:
    """Opens the address once, and reads what is missing.

    Raises:
        ConnectionError: the connection ended before the file did.
    """
    part, begun = _part(target), _read_begun(target)
    there = _size(part) if begun else 0
    request = urllib.request.Request(address, headers={"User-Agent": "recbole-symcere", "Accept-Encoding": "identity"})
    if there and begun and begun.version:
        request.add_header("Range", f"bytes={there}-")
        request.add_header("If-Range", begun.version)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the range begins at or after the end of the file
            if begun and begun.size == there:
                return begun
            _forget(target)
            raise ConnectionError("the file on the server has become shorter") from error
        raise
    with response:
        start, offered = _answered(response, there)
        if begun and start:
            if offered.size != (begun.size or offered.size) or offered.version not in ("", begun.version):
                _forget(target)
                raise ConnectionError("the file on the server has changed")
            offered = replace(offered, version=begun.version)
        _check_content(address, target, response, start)
        _check_space(target, offered, start)
        _begun(target).write_text(json.dumps(asdict(offered)), encoding="utf-8")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            _copy(response, file, target, start, offered)
    return offered


def _answered(response: Any, there: int) -> tuple[int, Offered]:
    """Returns at which byte the answer begins, and what the server says of the whole file."""
    headers = response.headers
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    if version.startswith("W/"):
        version = ""  # a weak ETag does not say that the bytes are the same
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        if not found or int(found[1]) != there:
            raise ConnectionError("the server sent another part than the one that was asked for")
        return there, Offered(int(found[2]), version)
    length = headers.get("Content-Length", "")
    return 0, Offered(int(length) if length.isdigit() else None, version)


def _check_content(address: str, target: Path, response: Any, start: int) -> None:
    """Checks that the answer is not a page for people."""
    if start == 0 and response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise PreparationError(
            f"{address}: answers with a page of HTML, not with {target.name}; open it in a browser, for example to "
            f"agree to terms, and download the file to {target}"
        )


def _check_space(target: Path, offered: Offered, start: int) -> None:
    if offered.size is None:
        return
    free, needed = shutil.disk_usage(target.parent).free, offered.size - start
    if free < needed:
        raise PreparationError(
            f"{target.parent}: has {free / 1e9:.1f} GB free, but {target.name} needs {needed / 1e9:.1f} GB more; make "
            "room, or choose another folder with --input"
        )


def _copy(response: Any, file: BinaryIO, target: Path, start: int, offered: Offered) -> None:
    beginning = BEGINNINGS.get(target.suffix.lower(), b"")
    with tqdm(
        total=offered.size, initial=start, unit="B", unit_scale=True, desc=target.name, disable=None, leave=False
    ) as bar:
        while block := _read(response):
            if start == 0 and file.tell() == 0 and not block.startswith(beginning[: len(block)]):
                raise PreparationError(
                    f"{response.url}: does not begin as a {target.suffix} file does; download the file yourself to "
                    f"{target}"
                )
            file.write(block)
            bar.update(len(block))
    if offered.size is not None and file.tell() != offered.size:
        raise ConnectionError(f"the connection ended after {file.tell():,} of {offered.size:,} bytes")


def _read(response: Any) -> bytes:
    """Reads a block; so it is the network that failed, and not the disk, where this raises an error.

    Raises:
        ConnectionError: nothing came.
    """
    try:
        block: bytes = response.read(BLOCK)
    except OSError as error:
        raise ConnectionError(error.strerror or error) from error
    return block


def _read_begun(target: Path) -> Offered | None:
    """Returns what the server said when the ``.part`` was begun, or None if nothing that can be used is there."""
    try:
        begun = json.loads(_begun(target).read_text(encoding="utf-8"))
        return Offered(begun["size"], begun["version"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _forget(target: Path) -> None:
    _part(target).unlink(missing_ok=True)
    _begun(target).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()

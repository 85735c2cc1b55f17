"""Caches arrays on disk, and reads them by memory-mapping.

Each array is one ``.npy`` file. The name of the file is a hash of all that determines the array (texts, tokenizer,
weights of the encoder, ...), so a file made from other inputs is never read. The file ends with the SHA-256 of what is
before it, so a damaged or truncated file is noticed and made again. A file gets its name by an atomic rename, and files
of the same name hold the same bytes, so any number of runs can share a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from recbole_symcere.errors import ReviewFileError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # raise this whenever a change of the code changes the arrays of the same texts
TEXTS_PER_DIGEST = 4096  # how many texts are joined and hashed at a time
DIGEST_BYTES = hashlib.sha256().digest_size
DIGEST = 16  # bytes of the hash of one text: among a billion texts, two share one with a chance of 1e-21


def key_of(*parts: object) -> str:
    """Returns a hash of ``parts`` for the name of a file, of 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps([FORMAT_VERSION, *parts]).encode()).hexdigest()[:32]


def digest_texts(texts: Sequence[str]) -> str:
    """Returns a SHA-256 of texts, in hexadecimal."""
    # The lengths tell ["ab", "c"] from ["a", "bc"].
    digest = hashlib.sha256(np.fromiter(map(len, texts), np.int64, len(texts)).tobytes())
    for start in range(0, len(texts), TEXTS_PER_DIGEST):
        digest.update("".join(texts[start : start + TEXTS_PER_DIGEST]).encode())
    return digest.hexdigest()


def digests(texts: Sequence[str]) -> list[bytes]:
    """Returns a hash of each text, of ``DIGEST`` bytes."""
    return [hashlib.blake2b(text.encode(), digest_size=DIGEST).digest() for text in texts]


@contextmanager
def new_array(
    path: Path, dtype: type[np.generic], row_shape: tuple[int, ...] = ()
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends rows to a new ``.npy`` file. The file gets its name when it is complete.

    The rows are not written through a memory map (``numpy.lib.format.open_memmap``). A map needs their number in
    advance, and if the disk were full, SIGBUS would kill the process.

    Args:
        path: the file to make. Its folder is made if it does not exist.
        dtype: the type of the numbers.
        row_shape: the shape of each row.

    Raises:
        ReviewFileError: the file can't be written.
    """
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{uuid.uuid4().hex}.tmp")
    n_rows = 0

    def write_header(file: BinaryIO) -> None:
        # numpy leaves room for the first axis to grow, so the final header has the same length as the first one.
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        shape = (n_rows, *row_shape)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as file:

                def append(rows: np.ndarray) -> None:
                    nonlocal n_rows
                    file.write(np.ascontiguousarray(rows, dtype).data)
                    n_rows += len(rows)

                write_header(file)
                yield append
                n_bytes = file.tell()
                file.seek(0)
                write_header(file)
                file.seek(0)
                file.write(_digest_file(file, n_bytes))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ReviewFileError(
            f"{path}: can't be written ({error.strerror or error}); free disk space, or set text_cache_dir to a folder "
            "that you may write to"
        ) from error


def load_array(path: Path) -> np.ndarray | None:
    """Returns the array in a file, memory-mapped copy-on-write; None if the file is absent or damaged.

    A damaged file is removed.
    """
    try:
        with path.open("rb") as file:
            n_bytes = max(0, path.stat().st_size - DIGEST_BYTES)
            if _digest_file(file, n_bytes) == file.read():
                return np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        return None
    logger.warning("%s is damaged and is made again", path)
    path.unlink(missing_ok=True)
    return None


def _digest_file(file: BinaryIO, n_bytes: int) -> bytes:
    """Reads the next ``n_bytes`` of a file and returns their SHA-256."""
    digest = hashlib.sha256()
    while n_bytes and (block := file.read(min(n_bytes, 1 << 20))):
        digest.update(block)
        n_bytes -= len(block)
    return digest.digest()

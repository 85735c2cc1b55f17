"""A file server, and a place for what is downloaded from it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dataset_prep import download as module
from tests.dataset_prep.file_server import Served, file_server


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    with file_server() as served:
        yield served


@pytest.fixture
def served(running: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The server, and downloads that don't wait between two attempts."""
    monkeypatch.setattr(module, "PAUSE", 0)
    monkeypatch.setenv("no_proxy", "*")
    return running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "reviews.jsonl"

"""Fixtures of the tests of the review encoder: two small random encoders, and a stand-in for the hub."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from recbole_symcere.model.text import loading
from tests.tiny_encoders import save_llama, save_roberta


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_roberta(tmp_path_factory.mktemp("encoder") / "roberta")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("encoder") / "llama")


@pytest.fixture(scope="session", params=["roberta", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    """An encoder, then a decoder."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A stand-in for the hub: ``answer`` to model_info, ``cached`` folder, and what was ``asked``."""
    state = SimpleNamespace(answer=ConnectionError("no route to host"), cached=None, asked=[], patterns=None)

    def model_info(_: Any, name: str, timeout: float, files_metadata: bool) -> Any:
        state.asked.append(name)
        if isinstance(state.answer, Exception):
            raise state.answer
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file, size=1_000_000) for file in state.answer])

    def snapshot_download(name: str, allow_patterns: Any = None, local_files_only: bool = False) -> str:
        if state.cached is None:
            raise LocalEntryNotFoundError("not cached")
        state.patterns = allow_patterns
        return str(state.cached)

    monkeypatch.setattr(loading.HfApi, "model_info", model_info)
    monkeypatch.setattr(loading, "snapshot_download", snapshot_download)
    return state

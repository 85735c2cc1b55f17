"""A folder for cached arrays, and small shards, so that a few texts make several."""

from pathlib import Path

import pytest

from recbole_symcere.data import embeddings, tokens


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "TEXTS_PER_SHARD", 3)
    monkeypatch.setattr(tokens, "TEXTS_PER_CHUNK", 4)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"

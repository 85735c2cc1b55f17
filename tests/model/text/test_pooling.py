"""Which pooling an encoder gets without being told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_symcere.errors import EncoderError
from tests.model.text.reviews import load


def test_auto_pooling_is_cls_for_encoders_and_last_for_decoders(roberta: Path, llama: Path, tiny_encoder: Path) -> None:
    assert [load(path).pooling for path in (roberta, tiny_encoder, llama)] == ["cls", "cls", "last"]


@pytest.mark.parametrize(
    ("stored", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 16}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
        ({"pooling_mode": ["cls", "mean"]}, "cls+mean"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}, "max"),
        ({"pooling_mode": "attention"}, None),
        ({"pooling_mode": []}, None),
        ({"pooling_mode": "mean", "include_prompt": False}, None),
    ],
)
def test_auto_pooling_is_what_sentence_transformers_stored(
    stored: dict[str, Any], pooling: str | None, roberta: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(roberta, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(stored))
    if pooling:
        assert load(folder).pooling == pooling
    else:
        with pytest.raises(EncoderError, match=r"1_Pooling.*text_pooling"):
            load(folder)
    assert load(folder, pooling="last").pooling == "last"

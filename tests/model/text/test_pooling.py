"""Which pooling an encoder gets without being told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_symcere.errors import EncoderError
from recbole_symcere.model.text.pooling import stored_pooling
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


@pytest.mark.parametrize(
    ("layer", "said"), [("sentence_transformers.models.Dense", True), ("sentence_transformers.models.Normalize", False)]
)
def test_a_dense_layer_that_is_left_out_is_said(
    layer: str, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 2, "path": "2_Layer", "type": layer}]))
    with caplog.at_level("WARNING"):  # a run of an earlier test may have left the root logger quieter
        assert stored_pooling(tmp_path) == "mean"
    assert ("the Dense layer after the pooling is not applied" in caplog.text) == said

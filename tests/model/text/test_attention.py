"""The attention that is registered in transformers: which models get it, and what happens where it can't be."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_symcere.model.text import attention
from recbole_symcere.model.text.encoder import ReviewEncoder
from tests.model.text.reviews import ROWS, load, tokens_of

ROOT = Path(__file__).parents[3]


def test_importing_the_encoder_registers_nothing_in_transformers() -> None:
    program = (
        "import recbole_symcere.model.text.encoder; from transformers import AttentionInterface; "
        f"assert {attention.ATTENTION!r} not in AttentionInterface()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_where_transformers_can_not_be_told_its_own_attention_gives_the_same_vectors(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mask_of_another_version(batch_size: int, q_length: int, kv_length: int, **further: Any) -> None:
        raise AssertionError("never asked for a mask")

    def vectors(encoder: ReviewEncoder) -> torch.Tensor:
        return encoder(tokens_of(encoder), ROWS)

    usual = load(folder, train="frozen")
    assert usual.model.config._attn_implementation == attention.ATTENTION
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_sdpa_mask", lambda: mask_of_another_version)
        fallen_back = load(folder, train="frozen")
    assert fallen_back.model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(vectors(fallen_back), vectors(usual))

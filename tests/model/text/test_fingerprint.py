"""The fingerprint of an encoder: the same for the same vectors, another for any others."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from recbole_symcere.model.text.encoder import ReviewEncoder
from tests.model.text.reviews import MAX_LENGTH, load


def test_the_fingerprint_is_the_same_in_another_process_and_folder(roberta: Path, tmp_path: Path) -> None:
    shutil.copytree(roberta, tmp_path / "copy")
    stored = Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json"))
    stored.enable_truncation(5)
    stored.save(str(tmp_path / "copy" / "tokenizer.json"))
    program = (
        "import sys; from recbole_symcere.model.text.encoder import ReviewEncoder; "
        f"print(ReviewEncoder(sys.argv[1], train='frozen', max_length={MAX_LENGTH}, precision='fp32').fingerprint())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "copy")]
    root = Path(__file__).parents[3]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert (
        result.stdout.strip()
        == load(roberta, train="frozen").fingerprint()
        == load(roberta, train="full").fingerprint()
    )


def test_the_fingerprint_changes_with_all_that_changes_a_vector(roberta: Path, tmp_path: Path) -> None:
    def weights(encoder: ReviewEncoder) -> None:
        with torch.no_grad():
            next(encoder.model.parameters()).view(-1)[-1].add_(1e-6)

    def tokenizer(encoder: ReviewEncoder) -> None:
        encoder.fast_tokenizer.add_tokens(["guitars"])

    def configuration(encoder: ReviewEncoder) -> None:
        encoder.model.config.layer_norm_eps *= 2

    def mask_token(encoder: ReviewEncoder) -> None:
        encoder.mask_token = 3

    def nothing(encoder: ReviewEncoder) -> None:
        pass

    changes: list[tuple[Callable[[ReviewEncoder], None], dict[str, Any]]] = [
        (nothing, {}),
        (weights, {}),
        (tokenizer, {}),
        (configuration, {}),
        (mask_token, {}),
        (nothing, {"max_length": 20}),
        (nothing, {"pooling": "mean"}),
        (nothing, {"precision": "bf16"}),
        (nothing, {"lora_alpha": 4}),
    ]
    found = set()
    for change, choices in changes:
        encoder = load(roberta, train="lora", **choices)
        change(encoder)
        found.add(encoder.fingerprint())
    assert len(found) == len(changes)
    assert load(roberta, tokens_per_batch=1).fingerprint() in found


def test_embeddings_that_were_cached_by_earlier_versions_stay_valid(roberta: Path) -> None:
    """Their file is named by the fingerprint, so what is hashed, and in which form, stays as it was."""
    encoder = load(roberta, train="frozen", pooling="mean")
    config = {
        key: value
        for key, value in encoder.model.config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version")
    }
    settings = ["mean", MAX_LENGTH, False, 4, None]
    hashed = json.dumps([config, settings], sort_keys=True, default=str) + encoder.fast_tokenizer.to_str()
    digest = sha256(hashed.encode())
    for name, weight in encoder.model.state_dict().items():
        described = f"{weight.dtype} {tuple(weight.shape)}".encode()
        digest.update(name.encode() + sha256(described + weight.numpy().tobytes()).digest())
    assert encoder.fingerprint() == digest.hexdigest()

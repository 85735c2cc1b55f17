"""Benchmarks encoding reviews and training the encoder."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from benchmarks.generated import real_dataset
from benchmarks.measure import REPEATS, ROOT, Options, Row, alternate, in_new_process
from recbole_symcere.config import Config
from recbole_symcere.data.embeddings import cached_embeddings
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.model.text.encoder import ReviewEncoder, computes_in_bf16
from recbole_symcere.model.text.loading import MINILM, find_encoder
from recbole_symcere.model.text.masking import mask_words
from recbole_symcere.model.text.views import TrainedEncoder
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.trainer import Trainer

DATASET = "musical-instruments"
MAX_LENGTH = 128
EPOCH_BATCH = 64  # batch size of the LoRA epoch, for which the plain loop needs 7 GB


def frozen_encoding(options: Options) -> Iterator[Row]:
    """Measures turning texts into vectors on disk, including tokenising, as the first run with frozen text does."""
    from sentence_transformers import SentenceTransformer

    with real_dataset(DATASET, options) as folder:
        reviews = pl.read_ndjson(folder / DATASET / f"{DATASET}.review.jsonl")["review"]
    texts = reviews.sample(16 if options.small else 512, seed=0).to_list()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peer = SentenceTransformer(str(find_encoder(MINILM)), device=str(device))
    their_vectors = torch.from_numpy(peer.encode(texts))
    precisions: tuple[tuple[Literal["fp32", "bf16"], float], ...] = (("fp32", 1.2), ("bf16", 2.5))
    for precision, target in precisions:
        if precision == "bf16" and not computes_in_bf16(device):
            continue
        encoder = ReviewEncoder(MINILM, train="frozen", max_length=peer.max_seq_length or 256, precision=precision).to(
            device
        )
        vectors = F.normalize(torch.from_numpy(_embed(encoder, texts)))
        if precision == "fp32":
            torch.testing.assert_close(vectors, their_vectors, rtol=0, atol=1e-4)
        lowest = (vectors * their_vectors).sum(1).min().item()
        if lowest < 0.999:
            raise AssertionError(f"a vector in {precision} has a cosine of {lowest} with the peer's")
        ours, theirs = alternate(partial(_embed, encoder, texts), partial(peer.encode, texts))
        case = f"{len(texts)} reviews, {precision}, {device.type}, {torch.get_num_threads()} threads"
        rate = f"{1000 * len(texts) / ours:.0f} reviews/s; lowest cosine {lowest:.6f}"
        yield Row("frozen-encoding", case, "SentenceTransformer.encode", ours, theirs, target, note=rate)


def _embed(encoder: ReviewEncoder, texts: list[str]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as cache:
        return np.array(cached_embeddings(texts, encoder, 0, 0.0, 0, Path(cache), show_progress=False)[0])


class PlainTexts(nn.Module):
    """The plain way to encode texts: all reviews padded to 128 tokens, in float32, with one pass for each of two views.

    It takes the place of our text encoder in the model, as the peer of the LoRA benchmarks.
    """

    def __init__(self, ours: TrainedEncoder) -> None:
        super().__init__()
        self.encoder, self.reviews = ours.encoder, ours.reviews
        self.mask_ratio, self.width = ours.mask_ratio, ours.width
        self.encoder.precision = "fp32"
        self.encoder.model.set_attn_implementation("sdpa")
        for module in self.encoder.model.modules():
            if isinstance(module, nn.Dropout):
                module.__class__ = nn.Dropout

    def forward(self, rows: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
        ids, word_index, lengths = self.reviews.gather(rows.numpy())
        clean = torch.from_numpy(ids).long()
        hidden = mask_words(clean, word_index, lengths, self.mask_ratio, self.encoder.mask_token)
        return self._encode(clean, lengths), self._encode(hidden, lengths)

    def _encode(self, token_ids: Tensor, lengths: np.ndarray) -> Tensor:
        attended = torch.arange(MAX_LENGTH) < torch.from_numpy(lengths)[:, None]
        padded = torch.full(attended.shape, self.encoder.pad_token).masked_scatter(attended, token_ids)
        device = self.encoder.device
        inputs = {"input_ids": padded.to(device), "attention_mask": attended.long().to(device)}
        hidden = self.encoder.model(**inputs).last_hidden_state
        weight = inputs["attention_mask"][:, :, None]
        return (hidden * weight).sum(1) / weight.sum(1)


def lora_training(
    folder: Path, batch: int, plain: bool, seed: int = 0, dataset: str = DATASET, encoder: str = MINILM
) -> tuple[Trainer, list[Interaction]]:
    """Returns the trainer of SymCERE with LoRA, and the batches of an epoch.

    Args:
        batch: the number of interactions in a batch.
        plain: whether :class:`PlainTexts` encodes the texts instead of our encoder.
        seed: the seed of dropout and masks.
        dataset, encoder: their names.
    """
    settings = {
        "data_path": str(folder), "text_encoder": encoder, "text_train": "lora", "text_max_length": MAX_LENGTH,
        "train_batch_size": batch, "state": "ERROR", "show_progress": False,
    }  # fmt: skip
    config = Config("SymCERE", dataset, config_dict=settings)
    torch.manual_seed(0)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    batches = list(train_data)
    model = SymCERE(config, train_data._dataset)
    if plain:
        model.text_encoder = PlainTexts(model.text_encoder)  # type: ignore[assignment, arg-type]
    trainer = Trainer(config, model.to(config["device"]))
    model.train()
    torch.manual_seed(seed)
    return trainer, batches


def step(trainer: Trainer, batch: Interaction) -> float:
    """Trains one step and returns the contrastive part of its loss."""
    scaler = torch.amp.GradScaler(trainer.device.type, enabled=False)
    terms = trainer._train_step(batch, trainer.model.calculate_loss, scaler)
    return float(dict(zip(trainer.model.loss_names, terms, strict=True))["cross_modal"].detach())


def lora_epoch(options: Options) -> Iterator[Row]:
    """Measures an epoch with LoRA in five parts, by our encoder and by the plain loop in turn.

    Both begin with the same weights and train over the same batches. A second run of ours with other draws of dropout
    and masks shows how much the loss differs by chance.
    """
    with real_dataset(DATASET, options) as folder:
        batch = 4 if options.small else EPOCH_BATCH
        runs = [lora_training(folder, batch, plain, seed) for plain, seed in ((False, 0), (True, 0), (False, 1))]
        seconds: list[list[float]] = [[] for _ in runs]
        losses: list[list[float]] = [[] for _ in runs]
        steps = 5 if options.small else len(runs[0][1])
        for begin, end in pairwise(np.linspace(0, steps, REPEATS + 1).round().astype(int)):
            for (trainer, batches), measured, curve in zip(runs, seconds, losses, strict=True):
                started = perf_counter()
                curve.append(statistics.mean(step(trainer, batch) for batch in batches[begin:end]))
                measured.append(perf_counter() - started)
    ours, theirs, _ = (REPEATS * statistics.median(measured) for measured in seconds)
    curves = ("ours", "plain", "ours, other draws")
    note = "loss by fifths: " + "; ".join(
        f"{name} {', '.join(f'{loss:.4f}' for loss in curve)}" for name, curve in zip(curves, losses, strict=True)
    )
    case = f"{steps} steps of {batch} interactions, {torch.get_num_threads()} threads"
    yield Row("lora-epoch", case, "padded to 128, fp32, two passes, peft", ours, theirs, 4.0, unit="s", note=note)


def lora_step(options: Options) -> Iterator[Row]:
    """Measures training steps with LoRA on one core, here and at the older commit that ``--older`` names."""
    with real_dataset(DATASET, options) as folder:
        size, steps = (4, 2) if options.small else (EPOCH_BATCH, 3 * REPEATS)
        checkouts = [ROOT, *([options.older] if options.older else [])]
        measured = [_steps_of(checkout, folder.absolute(), size, steps) for checkout in checkouts * 2]
    medians = [statistics.median(chain(*measured[n :: len(checkouts)])) for n in range(len(checkouts))]
    note = "; ".join(f"{1000 * size / each:.1f} interactions/s" for each in medians)
    case, older = f"a step of {size} interactions, 1 thread", medians[1] if options.older else None
    yield Row("lora-step", case, "an older commit", medians[0], older, 1.3, note=note)


STEPS = """
import sys, time
from pathlib import Path
import torch
from benchmarks.text import lora_training, step
folder, size, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
trainer, batches = lora_training(folder, size, plain=False)
for batch in batches[: steps + 1]:
    started = time.perf_counter()
    step(trainer, batch)
    print("step", 1000 * (time.perf_counter() - started))
"""


def _steps_of(checkout: Path, folder: Path, size: int, steps: int) -> list[float]:
    """Returns the milliseconds of training steps by the code of a checkout, without the first step."""
    command = [sys.executable, "-c", STEPS, str(folder), str(size), str(steps)]
    environment = os.environ | {"PYTHONPATH": str(checkout.absolute())}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("step ")][1:]


def lora_memory(options: Options) -> Iterator[Row]:
    """Measures the peak memory of a process that makes one LoRA step, and of the plain loop if it fits in memory."""
    peer = "padded to 128, fp32, two passes, peft"
    with real_dataset(DATASET, options) as folder:
        sizes = ((8, True),) if options.small else ((64, True), (256, False), (2_048, False))
        for interactions, fits in sizes:
            _, ours = in_new_process(_one_step, folder, interactions, False)
            theirs = in_new_process(_one_step, folder, interactions, True)[1] if fits else None
            yield Row("lora-memory", f"{interactions:,} interactions", peer, ours, theirs, unit="MiB")


def _one_step(folder: Path, interactions: int, plain: bool) -> None:
    trainer, batches = lora_training(folder, interactions, plain)
    step(trainer, batches[0])

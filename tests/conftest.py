"""A small dataset whose truth is known, a small encoder, and configurations that use them."""

import argparse
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils.case_study import full_sort_topk
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from recbole_symcere.commands import train
from recbole_symcere.config import Config
from recbole_symcere.quick_start import load_data_and_model

# Small tensors lose more than they gain by a second thread; child processes must compute as this one does.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

Row = tuple[str, str, float, float, str, str]  # user, item, rating, timestamp, review_id, review

WORDS = ("gasket", "string", "tuner", "cable", "strap", "pedal", "great", "good", "fine", "love", "the", "a", "it")
FIRST_ROWS = {"split": {"RS": [0.1, 0.1, 0.8]}, "group_by": "none"}  # so few that some items have no training review
START = 1_600_000_000  # seconds: float32 can't tell two moments within a minute apart there


def write_atomic_files(folder: Path, rows: Iterable[Row]) -> Path:
    """Writes ``rows`` as the dataset that is named like the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\treview_id:token\n"
    lines = [f"{user}\t{item}\t{rating}\t{time!r}\t{review_id}\n" for user, item, rating, time, review_id, _ in rows]
    (folder / f"{name}.inter").write_text(header + "".join(lines), encoding="utf-8")
    reviews = [json.dumps({"review_id": row[4], "review": row[5]}, ensure_ascii=False) + "\n" for row in rows]
    (folder / f"{name}.review.jsonl").write_text("".join(reviews), encoding="utf-8")
    return folder


def tiny_rows(n_users: int = 40, n_items: int = 30, seed: int = 0) -> list[Row]:
    """Users of two tastes, each for one half of the items; each review names its user and item."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for user in range(n_users):
        taste = np.arange(n_items) % 2 == user % 2
        items = rng.choice(
            n_items, size=rng.integers(5, 12), replace=False, p=np.where(taste, 9.0, 1.0) / (5 * n_items)
        )
        for item in items:
            number = len(rows)
            words = " ".join(rng.choice(WORDS, size=rng.integers(3, 9)))
            rows.append(
                (f"u{user}", f"i{item}", 4.0, float(START + number // 2), f"r{number}", f"u{user} i{item} {words}")
            )
    return rows


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Restores the handlers and the level of the root logger, which a run changes."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.setLevel(logging.WARNING)  # a run in a fixture of a whole module may have set another level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs each test in a temporary folder, because RecBole writes its logs to the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of atomic files of ``tiny_rows``."""
    return write_atomic_files(tmp_path_factory.mktemp("dataset") / "tiny", tiny_rows())


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT, 16 wide, and a WordPiece tokenizer of ``WORDS`` and letters."""
    folder = tmp_path_factory.mktemp("encoder")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"uir0123456789"]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *(f"##{digit}" for digit in range(10))])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(folder)
    return folder


@pytest.fixture
def settings(tiny_dataset: Path, tiny_encoder: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a short and silent SymCERE run on the tiny dataset."""
    return {
        "model": "SymCERE",
        "dataset": "tiny",
        "data_path": str(tiny_dataset.parent),
        "checkpoint_dir": str(tmp_path / "saved"),
        "text_cache_dir": str(tmp_path / "text"),
        "text_encoder": str(tiny_encoder),
        "text_train": "frozen",
        "text_precision": "fp32",
        "text_max_length": 16,
        "embedding_size": 8,
        "n_layers": 2,
        "epochs": 4,
        "train_batch_size": 64,
        "show_progress": False,
        "state": "ERROR",
    }


@pytest.fixture
def make_config(settings: dict[str, Any]) -> Callable[..., Config]:
    """``settings`` with changes, as a Config; keys of SymCERE's own are left out for other models."""

    def make(**changes: Any) -> Config:
        return Config(config_dict=for_model(settings | changes))

    return make


class FewSettings(dict[str, Any]):
    """Settings for a model that is made without a dataset's files; a setting that is not given is a KeyError."""

    def view(self, kind: type[Any]) -> Any:
        return kind(**{field.name: self[field.name] for field in fields(kind)})


def for_model(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` without those of SymCERE's keys that the model does not have."""
    if settings["model"] in ("SymCERE", "SymCEREPlus"):
        return settings
    of_graph, of_text = {"embedding_size", "n_layers"}, {key for key in settings if key.startswith("text_")}
    if settings["model"] in ("SMORE", "AlphaRec", "RLMRec"):
        own = {"text_train"}
    elif settings["model"] in ("CEASE", "TextProfile"):
        own = {"text_train"} | of_graph
    else:
        own = of_text | of_graph
    return {key: value for key, value in settings.items() if key not in own}


def parse_settings(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The configuration files and the settings of a command line of ``symcere train``."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    train.add_arguments(parser)
    return train.settings_of(*parser.parse_known_args(arguments))


def ranked_by_recbole(file: Path, users: list[str], k: int) -> dict[str, list[tuple[str, Any]]]:
    """The k best items of each user and their scores, nearly, as RecBole's own function ranks a checkpoint's model."""
    config, model, dataset, _, _, test_data = load_data_and_model(file)
    scores, items = full_sort_topk(dataset.token2id("user_id", users), model, test_data, k, config["device"])
    tokens = dataset.id2token("item_id", items).tolist()
    return {
        # A score near 0 is the sum of larger products in float32, which are added in another order.
        user: [(token, pytest.approx(score, rel=1e-6, abs=1e-8)) for token, score in zip(*ranked, strict=True)]
        for user, *ranked in zip(users, tokens, scores.tolist(), strict=True)
    }

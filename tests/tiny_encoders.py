"""Tokenizers of the three kinds, small enough to read, and random encoders over them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def wordpiece() -> Tokenizer:
    """Makes a tokenizer like BERT's: whole words ``the`` and ``good``, else letters; kana in runs, ideographs alone."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "good",
        *LETTERS,
        *"0123456789.,!'-éяホテルとてもですい。良駅",
    ]
    pieces += [f"##{piece}" for piece in ["ing", *LETTERS, *"0123456789éяホテルとてもですい"]]
    tokenizer = Tokenizer(WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def byte_level_bpe() -> Tokenizer:
    """Makes a tokenizer like RoBERTa's: ``the`` and ``good`` with and without a space before them, else bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["t h", "th e", "Ġ the", "g o", "go o", "goo d", "Ġ good"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocabulary, [tuple(merge.split()) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def sentence_piece() -> Tokenizer:
    """Makes a tokenizer like Llama's and sarashina's: no mask token, no end token appended, odd characters as bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS, *".,!'-éя"]
    pieces += ["▁the", "▁good", "ホテル", "とても", "良い", "です", "。"]
    scores = [(piece, -float(3 - min(len(piece), 2))) for piece in pieces]
    tokenizer = Tokenizer(Unigram(scores, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


TOKENIZERS = {"word-piece": wordpiece, "byte-level BPE": byte_level_bpe, "SentencePiece": sentence_piece}

SIZE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def save_encoder(folder: Path, config: Any, tokenizer: Tokenizer, **special: str) -> Path:
    """Saves a random encoder of ``config`` and the tokenizer, whose special tokens are named by their role."""
    from transformers import AutoModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def save_roberta(folder: Path) -> Path:
    """Saves a random RoBERTa, 16 wide, that reads 32 tokens."""
    from transformers import RobertaConfig

    tokenizer = byte_level_bpe()
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 34, "type_vocab_size": 1}
    config = RobertaConfig(vocab_size=tokenizer.get_vocab_size(), **SIZE, **ids)
    special = {
        "bos": "<s>",
        "cls": "<s>",
        "pad": "<pad>",
        "eos": "</s>",
        "sep": "</s>",
        "unk": "<unk>",
        "mask": "<mask>",
    }
    return save_encoder(folder, config, tokenizer, **{f"{role}_token": piece for role, piece in special.items()})


def save_llama(folder: Path) -> Path:
    """Saves a random Llama, 16 wide, that reads 32 tokens; no mask and no padding token."""
    from transformers import LlamaConfig

    tokenizer = sentence_piece()
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), **SIZE, max_position_embeddings=32)
    return save_encoder(folder, config, tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")

"""Benchmarks for a machine with a GPU: a step of an encoder of BLaIR's size, and runs whose results a CPU repeats."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from benchmarks.generated import WORDS, write_dataset
from benchmarks.measure import DEVICE, REPEATS, Options, Row, alternate
from benchmarks.text import lora_training, step
from recbole_symcere.loading import load_data_and_model
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.run import build_trainer

WORDS_OF_A_REVIEW = 100
MATRIX = 8_192  # the side of the products that show the peak of a GPU
CLOSE = 1e-4  # by how much a metric may differ between a GPU and a CPU
RUNS = ("LightGCN", "SGL", "XSimGCL", "NeuMF", "SMORE", "SymCERE", "SymCEREPlus")


def save_roberta(folder: Path, small: bool) -> Path:
    """Saves a random RoBERTa of the size of ``hyp1231/blair-roberta-base``, or a small one, that knows ``WORDS``."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *WORDS.tolist()]
    tokenizer = Tokenizer(WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    tiny = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    RobertaModel(RobertaConfig(max_position_embeddings=514, **tiny if small else {})).save_pretrained(folder)
    return folder


def encoder_step(options: Options) -> Iterator[Row]:
    """Measures a LoRA step with an encoder of BLaIR's size, and an epoch of such steps.

    The floor of a step is the time that its matrix products take at the peak.
    A token costs two operations for each weight of a layer, and as many again for the gradient of what comes before:
    LoRA needs no gradient of the weights themselves. The peak is measured with large products in bf16.
    """
    batch = 8 if options.small else 2_048
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "generated", 500 if options.small else 10 * batch, WORDS_OF_A_REVIEW)
        encoder = save_roberta(folder / "encoder", options.small)
        trainer, batches = lora_training(folder, batch, plain=False, dataset="generated", encoder=str(encoder))
        reviews = trainer.model.text_encoder.reviews
        tokens = 2 * batch * float(reviews.offsets[-1]) / (len(reviews.offsets) - 1)  # a text, and it with masked words
        weights = sum(p.numel() for name, p in trainer.model.named_parameters() if "encoder.layer" in name)
        (ours,) = alternate(lambda: step(trainer, batches[0]), repeats=REPEATS)
        started = perf_counter()
        for each in batches:
            step(trainer, each)  # which reads the loss back, and so waits for a GPU
        epoch = perf_counter() - started
    floor = 4 * weights * tokens / _rate() * 1000
    case = f"LoRA, {weights / 1e6:.0f} million weights in layers, {batch:,} reviews of 100 words"
    yield Row("encoder-step", case, "", ours, floor=floor, note=f"{floor / ours:.0%} of the peak of matrix products")
    yield Row("encoder-step", f"an epoch of {len(batches)} such steps", "", epoch, unit="s")


def _rate() -> float:
    """Returns the operations a second of large matrix products in bf16."""
    side = MATRIX if DEVICE.type == "cuda" else 1_024
    a = torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16)
    return 2 * side**3 / (alternate(lambda: a @ a)[0] / 1000)


def runs(options: Options) -> Iterator[Row]:
    """Trains each main model here, and ranks the test part with its checkpoint here and on a CPU.

    Raises:
        AssertionError: a metric differs by more than 1e-4.
    """
    n, epochs = (500, 2) if options.small else (50_000, 30)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "generated", n)
        encoder = save_roberta(folder / "encoder", small=True)
        for model in RUNS:
            path = folder / f"{model}.pth"
            settings = {"data_path": name, "checkpoint_file": str(path), "epochs": epochs, "state": "ERROR"}
            settings |= {"show_progress": False, "text_cache_dir": str(folder / "text")}
            settings |= {"text_encoder": str(encoder)} if model in ("SMORE", "SymCERE", "SymCEREPlus") else {}
            settings |= {"text_train": "frozen"} if model == "SymCERE" else {}
            started = perf_counter()
            found = run_recbole_symcere(model, "generated", config_dict=settings)["test_result"]
            seconds = perf_counter() - started
            config, loaded, _, train_data, _, test_data = load_data_and_model(path, {"use_gpu": False})
            ranker = build_trainer(config, train_data)
            ranker.model = loaded
            ranker.eval_collector.data_collect(train_data)
            again = ranker.evaluate(test_data, load_best_model=False)
            worst = max(abs(found[name] - again[name]) for name in found if found[name] == found[name])
            if worst > CLOSE:
                raise AssertionError(f"{model}: a metric on {DEVICE.type} differs by {worst:.2g} from that on a CPU")
            case = f"{model}, {epochs} epochs, {DEVICE.type}"
            yield Row("runs", case, "", seconds, unit="s", note=f"metrics within {worst:.1e} of those on a CPU")

"""Profiles where the time of training goes, with frozen text and with LoRA."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.generated import real_dataset
from benchmarks.measure import Options, Row
from benchmarks.text import DATASET, EPOCH_BATCH, lora_training, step
from benchmarks.training import FROZEN, IMDB, SILENT
from recbole_symcere.config import Config
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.trainer import Trainer

LORA_STEPS = 5
# PyTorch's operations by purpose. The time of an operation does not include the operations that it calls.
KINDS = {
    "matrix products": ("mm", "addmm", "addmm_", "bmm", "baddbmm", "mkldnn_linear", "linear"),
    "softmax and masks": (
        "_softmax",
        "_safe_softmax",
        "_softmax_backward_data",
        "masked_fill_",
        "amax",
        "where",
        "all",
    ),
    "random numbers": ("bernoulli_", "rand", "uniform_", "randint", "random_", "native_dropout"),
    "propagation": ("_embedding_bag", "_embedding_bag_forward_only", "scatter_add_"),
    "look-ups": ("index", "index_select", "gather", "embedding", "_index_put_impl_"),
    "activations and norms": ("gelu", "gelu_backward", "native_layer_norm", "native_layer_norm_backward"),
    "copies and casts": ("copy_", "cat", "clone", "fill_", "zero_"),
    "sums and products of elements": ("add", "add_", "mul", "mul_", "div", "div_", "sub", "sub_", "sum"),
}


def epoch_profile(options: Options) -> Iterator[Row]:
    """Measures the milliseconds of each kind of operation in a frozen epoch and in some LoRA steps, largest first.

    The kind "the rest" is Python, the loader and operations that ``KINDS`` does not name.
    """
    with real_dataset(IMDB, options) as folder:
        config = Config("SymCERE", IMDB, config_dict={"data_path": str(folder)} | FROZEN | SILENT)
        train_data, _, _ = data_preparation(config, create_dataset(config))
        trainer = Trainer(config, SymCERE(config, train_data._dataset).to(config["device"]))
        yield from _profiled(f"frozen epoch, {len(train_data)} steps", lambda: trainer._train_epoch(train_data, 0))
    with real_dataset(DATASET, options) as folder:
        lora, batches = lora_training(folder, 8 if options.small else EPOCH_BATCH, plain=False)
        yield from _profiled(f"LoRA, {LORA_STEPS} steps", lambda: [step(lora, batch) for batch in batches[:LORA_STEPS]])


def _profiled(name: str, function: Callable[[], Any]) -> Iterator[Row]:
    function()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = perf_counter()
        function()
        total = 1000 * (perf_counter() - started)
    kind_of = {f"aten::{operation}": kind for kind, operations in KINDS.items() for operation in operations}
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        if event.key in kind_of:
            spent[kind_of[event.key]] += event.self_cpu_time_total / 1000
    spent["the rest"] = total - sum(spent.values())
    threads = torch.get_num_threads()
    for kind, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
        note = f"{100 * milliseconds / total:.0f}% of {total:.0f} ms"
        yield Row("epoch-profile", f"{name}, {threads} threads: {kind}", "", milliseconds, note=note)

"""Measures our code and a peer in turn on the same input, and the least time that the machine would need."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
REPEATS = 5  # the least number of measurements in a median
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COPIED = 2**26 if DEVICE.type == "cpu" else 2**30  # bytes of a large copy, which no cache can hold


@dataclass(frozen=True)
class Options:
    """The options of the command line, which every part gets.

    Attributes:
        small: whether to use tiny inputs, to test that the part runs.
        data_path: the folder of the real datasets, as dataset_prep writes them.
        recsysdatasets: a clone of RUCAIBox/RecSysDatasets, whose conversion tool is a peer; None if there is none.
        reviews: the number of reviews that ``preparation`` prepares.
        spark_master: the Spark master that also prepares the reviews; None to leave Spark out.
        raw: the folder of the raw file that ``whole`` begins with.
        older: a checkout of an older commit, which ``comparison`` measures, too; None to measure this commit alone.
    """

    small: bool = False
    data_path: Path = Path("dataset")
    recsysdatasets: Path | None = None
    reviews: int = 1_000_000
    spark_master: str | None = None
    raw: Path = Path("raw")
    older: Path | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        part: the name of the benchmark.
        case: the size and the settings of the input.
        peer: the name of the code that ours is compared with.
        ours, theirs: the medians of our code and of the peer, in ``unit``.
        target: the ratio theirs / ours to reach; None if the aim is the floor or a fixed bound.
        floor: the least that the machine's arithmetic and memory would take, in ``unit``; None if it is not measured.
        note: other measurements, as text.
    """

    part: str
    case: str
    peer: str
    ours: float
    theirs: float | None = None
    target: float | None = None
    floor: float | None = None
    unit: str = "ms"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The time or memory of the peer, divided by ours."""
        return None if self.theirs is None else self.theirs / self.ours

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "over_floor": self.floor and self.ours / self.floor}


def alternate(*functions: Callable[[], Any], repeats: int = 2 * REPEATS, least: float = 0.1) -> list[float]:
    """Calls the functions in turn and returns the median milliseconds of each.

    Args:
        functions: the functions to measure; each is called once before the measurements.
        repeats: the number of measurements of each function.
        least: the least seconds of a measurement; a function that is faster is called several times in it.
    """
    times: list[list[float]] = [[] for _ in functions]
    calls = [max(1, round(least / max(_seconds(function, 1), 1e-7))) for function in functions for _ in [function()]]
    gc.collect()
    for _ in range(repeats):
        for function, count, measured in zip(functions, calls, times, strict=True):
            measured.append(_seconds(function, count) / count)
    return [1000 * statistics.median(measured) for measured in times]


def _seconds(function: Callable[[], Any], calls: int) -> float:
    _synchronize()
    started = perf_counter()
    for _ in range(calls):
        function()
    _synchronize()
    return perf_counter() - started


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def gemm_floor(m: int, n: int, k: int, products: int = 1) -> float:
    """Returns the milliseconds of ``products`` float32 matrix products [m, k] @ [k, n]."""
    a, b = torch.randn(m, k, device=DEVICE), torch.randn(k, n, device=DEVICE)
    return products * alternate(lambda: a @ b)[0]


def memory_floor(n_bytes: float) -> float:
    """Returns the milliseconds to move ``n_bytes`` between memory and processor at the rate of a large copy."""
    source = torch.empty(COPIED, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return alternate(lambda: target.copy_(source))[0] * n_bytes / (2 * source.numel())


def with_threads(threads: tuple[int, ...] = (1, 2)) -> Iterator[str]:
    """Sets each number of threads in turn, yields its description, and restores the number at the end.

    On a GPU the threads stay as they are, and the name of the GPU is yielded once.
    """
    if DEVICE.type == "cuda":
        yield torch.cuda.get_device_name()
        return
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            yield f"{count} threads"
    finally:
        torch.set_num_threads(before)


def in_new_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Calls a function in a new process; returns its result and the peak memory of the process in MiB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_peak_memory, function, *arguments).result()


def _with_peak_memory(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    result = function(*arguments)
    # Linux only. getrusage would not do, because its peak begins at that of the parent process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return result, int(status["VmHWM"].split()[0]) / 2**10

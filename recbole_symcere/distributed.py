"""Training and ranking in several processes, which ``torchrun`` starts: how work is divided and results are collected.

All processes hold the whole graph, and their random generators give the same numbers, so they draw the same batches,
negatives and dropped edges. The expensive work is divided: the reviews to encode, the anchors of the contrast, and the
users to rank. DistributedDataParallel takes the mean of the processes' gradients. Each process therefore computes its
loss so that the mean over the processes is the loss of the whole batch. In a single process no function here
communicates.
"""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = datetime.timedelta(hours=12)  # enough to wait while one process tokenises a corpus
STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the other processes that ``torchrun`` started, while the body runs; does nothing without ``torchrun``.

    Tensors on the CPU are exchanged by gloo, tensors on GPUs by NCCL.
    """
    if STARTED_BY_TORCHRUN not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Returns the number of processes that work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Returns the number of this process, from 0, among the processes that work together."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes results, checkpoints and logs."""
    return rank() == 0


def device(use_gpu: bool) -> torch.device:
    """Returns the device of this process: the CPU, or the GPU whose number is that of the process on its machine."""
    if not use_gpu or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(_local_rank())
    return torch.device("cuda", _local_rank())


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0


@dataclass(frozen=True)
class Share:
    """This process's part of the rows of a batch.

    A loss function gets the rows that this object selects, and needs no code of its own for several processes.

    Attributes:
        rows: the rows of this process. The slice is never empty, because a mean over no rows has no value: if no row is
            left for a process, it takes the first row.
        weight: the weight of this process's mean over ``rows``. The mean over the processes of the weighted means is
            the mean over all rows. The weight is 0 if no row is left for the process.
    """

    rows: slice
    weight: float

    def of(self, batch: Tensor) -> Tensor:
        """Returns this process's rows of a batch."""
        return batch[self.rows]

    def first(self, batch: Tensor) -> Tensor:
        """Returns all rows of a batch, rotated so that this process's rows are first, in the order of :meth:`of`."""
        return batch.roll(-self.rows.start, 0) if self.rows.start else batch


def share(n: int) -> Share:
    """Returns this process's share of ``n`` > 0 rows; the shares differ by at most one row and follow one another."""
    size = world_size()
    start, end = (n * number // size for number in (rank(), rank() + 1))
    return Share(slice(start, end), size * (end - start) / n) if start < end else Share(slice(0, 1), 0.0)


def shares_by_length(lengths: np.ndarray, parts: int) -> list[np.ndarray]:
    """Divides texts into parts whose total lengths differ by no more than the length of the longest text.

    The texts are dealt out from the longest to the shortest, to the parts from first to last, then from last to first,
    and so on. The numbers of texts in two parts therefore differ by at most one.

    Args:
        lengths: [B] int, the lengths of the texts.
        parts: the number of parts.

    Returns:
        For each part an int array with the numbers of its texts; each of 0 to B - 1 is in exactly one part.
    """
    order = np.argsort(-lengths, kind="stable")
    place = np.arange(len(order)) % (2 * parts)
    owner = np.minimum(place, 2 * parts - 1 - place)
    return [order[owner == part] for part in range(parts)]


def gather_shares(rows: Tensor, shares: Sequence[np.ndarray]) -> Tensor:
    """Returns the rows of all processes in order; the gradient of a row goes back to the process that it came from.

    Args:
        rows: [n, d], the rows of this process, whose numbers are ``shares[rank]``; if that share is empty, one row of
            any values.
        shares: for each process the numbers of its rows; each of 0 to B - 1 is in exactly one share.

    Returns:
        [B, d], the same in all processes.
    """
    longest = max(map(len, shares))
    padded = torch.cat([rows[:longest], rows.new_zeros(longest - min(longest, len(rows)), rows.shape[1])])
    parts = [part[: len(numbers)] for part, numbers in zip(all_gather(padded), shares, strict=True)]
    order = torch.from_numpy(np.argsort(np.concatenate(shares)))
    return torch.cat(parts)[order.to(rows.device)]


def gather(rows: Tensor) -> Tensor:
    """Returns the rows [n, ...] of all processes, one after the other, without gradients.

    The number of rows, n, may differ between processes.
    """
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    longest = int(max(sizes))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def losses_of(model: nn.Module) -> nn.Module:
    """Returns a module that computes the losses of a model, with gradients that are means over the processes.

    The module is called with a batch and a function of the batch, such as the model's ``calculate_loss``, and returns
    what the function returns.
    """
    losses = _Losses(model)
    if world_size() == 1:
        return losses
    with warnings.catch_warnings():
        # PyTorch 2.13 recommends another argument, with which it would send the buffers. They hold the graph and kept
        # vectors, which are the same in all processes.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        # A term of the loss with weight 0 can leave parameters without a gradient.
        return DistributedDataParallel(losses, find_unused_parameters=True, broadcast_buffers=False)


class _Losses(nn.Module):
    """Calls a model's loss function in ``forward``, the only method that DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, loss_func: Callable[[Any], Any]) -> Any:
        return loss_func(batch)


def mean(x: Tensor) -> Tensor:
    """Returns the mean of ``x`` over the processes."""
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total / world_size()


def union(numbers: Iterable[int], n: int) -> list[int]:
    """Returns those of the numbers 0 to n - 1 that at least one process passes in ``numbers``, in ascending order."""
    named = torch.zeros(n, dtype=torch.uint8)
    named[list(numbers)] = 1
    if world_size() > 1:
        dist.all_reduce(named, dist.ReduceOp.MAX)
    return named.nonzero().flatten().tolist()


def from_main(value: Any) -> Any:
    """Returns the ``value`` that the main process passes; every process must call this function."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


def wait_for_all() -> None:
    """Waits until all processes have called this function."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # not dist.barrier(), which uses a GPU even if none has been chosen yet


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """Runs the body in one process of each machine first, so that the others find the files that it wrote."""
    if _local_rank():
        wait_for_all()
    yield
    if not _local_rank():
        wait_for_all()


@contextmanager
def own_randomness(on: torch.device) -> Iterator[None]:
    """Gives the body its own random numbers in each process; afterwards all processes draw the same numbers again."""
    if world_size() == 1:
        yield
        return

    def state() -> Tensor:
        return torch.cuda.get_rng_state(on) if on.type == "cuda" else torch.get_rng_state()

    with torch.random.fork_rng([on] if on.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, ())) + rank())  # drawn on the CPU, so as not to wait for a GPU
        begin = state()
        yield
        has_drawn = not torch.equal(state(), begin)
    if has_drawn:  # a body that draws nothing leaves the generators as in a single process
        torch.rand(())  # moves the generator on, so that the next call draws another seed

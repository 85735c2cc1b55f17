"""Work in several processes, which ``torchrun`` starts: each process's part of it, and how the parts come together.

All processes hold the whole graph, and their random generators give the same numbers, so they draw the same batches,
negatives and dropped edges. The expensive work is divided: the reviews to encode, the anchors of the contrast, and the
users to rank. DistributedDataParallel takes the mean of the processes' gradients, so the losses of the processes are
such that their mean is the loss of the whole batch. In a single process no function here communicates.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

TIMEOUT = datetime.timedelta(hours=12)  # one process tokenises a corpus while the others wait
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
    """Returns the number of this process among those that work together, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes results, checkpoints and logs."""
    return rank() == 0


def device(use_gpu: bool) -> torch.device:
    """Returns this process's device: the GPU with the number of the process on its machine, or the CPU."""
    if not use_gpu or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(_local_rank())
    return torch.device("cuda", _local_rank())


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0


@dataclass(frozen=True)
class Share:
    """This process's part of the rows of a batch.

    Losses see the tensors that this object cuts out and need not know of other processes.

    Attributes:
        rows: which rows are this process's. The slice is never empty, because a mean over nothing has no value: a
            process for which no row is left takes the first row.
        weight: what this process's mean over ``rows`` counts for. The mean over the processes of the weighted means is
            the mean over all rows; the weight is 0 for a process for which no row is left.
    """

    rows: slice
    weight: float

    def of(self, batch: Tensor) -> Tensor:
        """Returns this process's rows of a batch."""
        return batch[self.rows]

    def first(self, batch: Tensor) -> Tensor:
        """Returns all rows of a batch, this process's first, so that row i belongs to row i of :meth:`of`."""
        return batch.roll(-self.rows.start, 0) if self.rows.start else batch


def share(n: int) -> Share:
    """Returns an even part of ``n`` rows, n > 0; the parts of the processes lie one after the other."""
    size = world_size()
    start, end = (n * number // size for number in (rank(), rank() + 1))
    return Share(slice(start, end), size * (end - start) / n) if start < end else Share(slice(0, 1), 0.0)


def shares_by_length(lengths: np.ndarray, parts: int) -> list[np.ndarray]:
    """Divides texts into parts whose total lengths differ by no more than the length of the longest text.

    The texts are dealt out longest first, to the parts from first to last and then back, so the numbers of texts in two
    parts differ by one at most.

    Args:
        lengths: [B] int, the lengths of the texts.
        parts: the number of parts.

    Returns:
        One int array of numbers of texts for each part; together they hold each of 0 to B - 1 once.
    """
    order = np.argsort(-lengths, kind="stable")
    place = np.arange(len(order)) % (2 * parts)
    owner = np.minimum(place, 2 * parts - 1 - place)
    return [order[owner == part] for part in range(parts)]


def gather_shares(rows: Tensor, shares: Sequence[np.ndarray]) -> Tensor:
    """Returns the rows of all processes in order; the gradient of a row goes back to the process that it came from.

    Args:
        rows: [n, d], the rows of this process, numbered ``shares[rank]``; any one row if that share is empty.
        shares: the numbers of each process's rows, which together are 0 to B - 1.

    Returns:
        [B, d], the same in all processes.
    """
    longest = max(map(len, shares))
    padded = torch.cat([rows[:longest], rows.new_zeros(longest - min(longest, len(rows)), rows.shape[1])])
    parts = [part[: len(numbers)] for part, numbers in zip(all_gather(padded), shares, strict=True)]
    order = torch.from_numpy(np.argsort(np.concatenate(shares)))
    return torch.cat(parts)[order.to(rows.device)]


def gather(rows: Tensor) -> Tensor:
    """Returns the rows [n, ...] of all processes, one after the other, without gradients; n may differ."""
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    longest = int(max(sizes))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def mean(x: Tensor) -> Tensor:
    """Returns the mean of ``x`` over the processes."""
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total / world_size()


def union(numbers: Iterable[int], n: int) -> list[int]:
    """Returns those of the numbers 0 to n - 1 that at least one process names."""
    named = torch.zeros(n, dtype=torch.uint8)
    named[list(numbers)] = 1
    if world_size() > 1:
        dist.all_reduce(named, dist.ReduceOp.MAX)
    return named.nonzero().flatten().tolist()


def from_main(value: Any) -> Any:
    """Returns, in every process, the ``value`` that the main process gave."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


def wait_for_all() -> None:
    """Waits until all processes have called this function."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU, because dist.barrier() uses a GPU, which may not be chosen yet


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """Runs the body in one process of each machine and then in the others, so that these find the files it wrote."""
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
        torch.manual_seed(int(torch.randint(2**62, ())) + rank())  # from the CPU's generator, to wait for no GPU
        begin = state()
        yield
        has_drawn = not torch.equal(state(), begin)
    if has_drawn:  # where nothing was drawn, the numbers stay those of a single process
        torch.rand(())  # so that the next seed differs

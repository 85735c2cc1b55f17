"""Several processes, as ``torchrun`` starts them: which part each one does, and how the parts come together.

All processes hold the whole graph and draw the same batches, negatives and dropped edges, since their random
generators go in step. What costs is shared out: the reviews to encode, the anchors of the contrast, the users to rank.
DistributedDataParallel takes the mean of the processes' gradients, so each one's loss is such that the mean over the
processes is the loss of the whole batch. In one process every function here does nothing.
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

TIMEOUT = datetime.timedelta(hours=12)  # a corpus is tokenised by one process, and the others wait
STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that ``torchrun`` started with this one, for as long as the body runs; alone, does nothing.

    CPU tensors go over gloo, CUDA tensors over NCCL.
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
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the one process that writes results, checkpoints and logs."""
    return rank() == 0


def device(use_gpu: bool) -> torch.device:
    """This process's own: the GPU of its number on the machine, or the CPU."""
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
    """Numbers of texts for each of some parts, whose total lengths differ by no more than the longest text's.

    Dealt out longest first, to the parts from first to last and then back: no two parts differ by more than one text.

    Args:
        lengths: [B] int.

    Returns:
        ``parts`` int arrays that together hold each of 0 to B - 1 once.
    """
    order = np.argsort(-lengths, kind="stable")
    place = np.arange(len(order)) % (2 * parts)
    owner = np.minimum(place, 2 * parts - 1 - place)
    return [order[owner == part] for part in range(parts)]


def gather_shares(rows: Tensor, shares: Sequence[np.ndarray]) -> Tensor:
    """The rows of all processes, put in order; a gradient goes back to the process whose row it is.

    Args:
        rows: [n, d], this process's own: those numbered ``shares[rank]``, or any one if that is empty.
        shares: for each process the numbers of its rows, which together are 0 to B - 1.

    Returns:
        [B, d], the same in all processes.
    """
    longest = max(map(len, shares))
    padded = torch.cat([rows[:longest], rows.new_zeros(longest - min(longest, len(rows)), rows.shape[1])])
    parts = [part[: len(numbers)] for part, numbers in zip(all_gather(padded), shares, strict=True)]
    order = torch.from_numpy(np.argsort(np.concatenate(shares)))
    return torch.cat(parts)[order.to(rows.device)]


def gather(rows: Tensor) -> Tensor:
    """[N, ...], the rows [n, ...] of all processes one after the other, without gradients; n may differ."""
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    longest = int(max(sizes))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def mean(x: Tensor) -> Tensor:
    """The mean of ``x`` over the processes."""
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total / world_size()


def union(numbers: Iterable[int], n: int) -> list[int]:
    """Which of 0 to n - 1 any process names."""
    named = torch.zeros(n, dtype=torch.uint8)
    named[list(numbers)] = 1
    if world_size() > 1:
        dist.all_reduce(named, dist.ReduceOp.MAX)
    return named.nonzero().flatten().tolist()


def from_main(value: Any) -> Any:
    """What the main process has for ``value``."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


def wait_for_all() -> None:
    """Returns once all processes have come here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU: dist.barrier() takes a GPU, before there is one


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """The body runs in one process of each machine, and then in the others, which find the files that it wrote."""
    if _local_rank():
        wait_for_all()
    yield
    if not _local_rank():
        wait_for_all()


@contextmanager
def own_randomness(on: torch.device) -> Iterator[None]:
    """The body draws what no other process draws; afterwards the generators of all are in step, as they were before."""
    if world_size() == 1:
        yield
        return

    def state() -> Tensor:
        return torch.cuda.get_rng_state(on) if on.type == "cuda" else torch.get_rng_state()

    with torch.random.fork_rng([on] if on.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, ())) + rank())  # by the CPU's generator: no GPU is waited for
        begin = state()
        yield
        has_drawn = not torch.equal(state(), begin)
    if has_drawn:  # else all goes on as in one process
        torch.rand(())  # the next seed is another

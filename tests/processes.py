"""Runs a function in several gloo processes at once."""

import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 120  # a process that waits longer is stuck

# A fork of this process would inherit the locks of its threads; the server has none, and has imported all there is.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["recbole_symcere.quick_start", "recbole_symcere.model.symcere_plus"])


def in_processes(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Returns what ``function(*arguments)`` returns in each of ``size`` processes of one group; None if it was killed.

    Raises:
        AssertionError: a process raised an error or does not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(size):
            receiver, sender = CONTEXT.Pipe(duplex=False)
            process = CONTEXT.Process(
                target=_run, args=(rank, size, f"{folder}/store", sender, function, arguments), daemon=True
            )
            process.start()
            sender.close()
            started.append((process, receiver))
        results = []
        for process, receiver in started:
            assert receiver.poll(SECONDS), "a process doesn't end"
            try:
                error, result = pickle.loads(receiver.recv_bytes())  # noqa: S301
            except EOFError:  # killed
                error, result = None, None
            process.join()
            assert error is None, error
            results.append(result)
        return results


def _run(
    rank: int, size: int, store: str, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{Path(store)}", rank=rank, world_size=size)
    try:
        sender.send_bytes(pickle.dumps((None, function(*arguments))))  # as bytes: tensors would share memory
    except BaseException:
        sender.send_bytes(pickle.dumps((traceback.format_exc(), None)))
    finally:
        sender.close()
    dist.destroy_process_group()


def kill_this_process() -> None:
    """Kills this process with the signal that a cluster sends."""
    os.kill(os.getpid(), signal.SIGKILL)

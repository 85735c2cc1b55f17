"""Benchmarks the service of a recommender: clients that ask at once, over the loopback."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from logging import WARNING, getLogger
from multiprocessing import get_context
from pathlib import Path
from socket import create_server
from threading import Thread
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.clients import ask
from benchmarks.generated import write_dataset
from benchmarks.measure import Options, Row, alternate, with_threads
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.model.text.loading import MINILM
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.serving import Recommender

if TYPE_CHECKING:
    import uvicorn

CLIENTS = 50
MET = 5  # items that a stranger names
TEXT = "warm tone, easy to play, and it stays in tune"


def service(options: Options) -> Iterator[Row]:
    """Measures loading and asking a recommender, and the latency of ``/recommend`` with 50 clients that ask at once.

    Each client asks again once it has its answer, and the clients are another process. How well the model is trained
    changes no time, so it is trained for two steps, on random vectors in the place of reviews.
    """
    from recbole_symcere.serving.service import make_server  # needs packages of the extra

    n, asked = (2_000, 5) if options.small else (50_000, 41)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = _checkpoint(Path(folder), n)
        recommender = Recommender.load(path)
        sizes = f"{len(recommender.users):,} users, {len(recommender.items):,} items"
        alone: dict[str, Callable[[], Any]] = {
            f"load, {sizes}": partial(Recommender.load, path),
            f"ten items for a stranger with {MET} items, {sizes}": partial(
                recommender.recommend, history=recommender.items[1 : 1 + MET]
            ),
            f"encode a text of {len(TEXT.split())} words, MiniLM": partial(
                ReviewEncoder(MINILM, train="frozen", max_length=128).encode, [TEXT]
            ),
        }
        for count in with_threads((1,)):
            for what, function in alone.items():
                (median,) = alternate(function)
                yield Row("service", f"{what}, {count}", "", median)
    server = make_server(recommender)
    getLogger("uvicorn.error").setLevel(WARNING)
    torch.set_num_threads(1)  # as the command does, once the service has taken its number of threads from PyTorch
    with running(server) as port, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        for who, bodies in _bodies(recommender).items():
            latencies = 1000 * np.array(other.submit(ask, port, bodies, asked).result())
            middle, high, highest = np.percentile(latencies, [50, 95, 99])
            rate = 1000 * CLIENTS / latencies.mean()  # each client always has one request that waits
            note = f"{rate:.0f} requests/s; 95% {high:.0f} ms, 99% {highest:.0f} ms"
            yield Row("service", f"{who}, {sizes}, {CLIENTS} clients, {threads} threads", "", float(middle), note=note)
    torch.set_num_threads(threads)


def _checkpoint(folder: Path, n: int) -> Path:
    write_dataset(folder / "generated", n)
    settings: dict[str, Any] = dict.fromkeys(("data_path", "checkpoint_dir", "text_cache_dir"), str(folder))
    settings |= {"text_source": "random", "epochs": 2, "eval_step": 1, "state": "ERROR", "show_progress": False}
    path = folder / "service.pth"
    run_recbole_symcere("SymCEREPlus", "generated", config_dict=settings | {"checkpoint_file": str(path)})
    return path


def _bodies(recommender: Recommender) -> dict[str, list[dict[str, Any]]]:
    """Returns what each client asks for, by who is asked for."""
    drawn = np.random.default_rng(0)
    users = drawn.choice(recommender.users, CLIENTS).tolist()
    met = drawn.choice(recommender.items, (CLIENTS, MET)).tolist()
    return {"users": [{"user": user} for user in users], f"strangers with {MET} items": [{"items": i} for i in met]}


@contextmanager
def running(server: uvicorn.Server) -> Iterator[int]:
    """Runs a server on the loopback, in a thread of its own, at a free port, which is yielded."""
    with create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                sleep(0.01)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()

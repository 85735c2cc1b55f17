"""The clients of the benchmark of the service; they import nothing large, because they are a process of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import chain
from time import perf_counter
from typing import Any


def ask(port: int, bodies: Sequence[dict[str, Any]], n: int) -> list[float]:
    """Asks for recommendations, each body ``n`` times by a client of its own, all clients at once.

    Returns:
        The seconds until each answer, without the first one of each client.

    Raises:
        RuntimeError: a request was refused.
    """
    with ThreadPoolExecutor(len(bodies)) as clients:
        return list(chain.from_iterable(clients.map(lambda body: _one_client(port, body, n), bodies)))


def _one_client(port: int, body: dict[str, Any], n: int) -> list[float]:
    connection = HTTPConnection("127.0.0.1", port)
    latencies = []
    for _ in range(n):
        started = perf_counter()
        connection.request("POST", "/recommend", json.dumps(body))
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {answer.decode()}")
        latencies.append(perf_counter() - started)
    connection.close()
    return latencies[1:]

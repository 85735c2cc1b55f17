"""Serves a recommender over HTTP; bodies are JSON. FastAPI and uvicorn are the extra ``service``.

What is sent as a text is neither logged nor stored nor sent back: messages name keys, tokens and numbers alone.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import torch

from dataset_prep.command import run_command
from recbole_symcere.commands.lists import add_file_arguments, load_recommender
from recbole_symcere.errors import EncoderError, UserError
from recbole_symcere.properties import parse_assignments
from recbole_symcere.serving import Recommendation, Recommender, Request
from recbole_symcere.serving.files import as_interactions, as_items, as_object, as_request, check_keys

try:
    import uvicorn
    from fastapi import FastAPI, Response
    from fastapi import Request as HTTPRequest
    from fastapi.responses import JSONResponse
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as error:
    missing = f"{error.name} is not installed; pip install 'recbole-symcere[service]' brings it"
    if __name__ == "__main__":
        sys.exit(f"error: {missing}")
    raise UserError(missing) from error

PROGRAM = "python -m recbole_symcere.serving.service"
HELP = "Answer requests over HTTP, from a checkpoint of SymCEREPlus; the dataset is not read."
EXAMPLES = """examples:
  %(prog)s --checkpoint saved/plus.pth
  %(prog)s --checkpoint saved/plus.pth --host 0.0.0.0 --port 80 --since week.csv --new-items arrivals.csv
"""
# What one request may ask for at most, so that others do not wait long for it
LIMITS = {"items in the answer": 1000, "items that were met": 1000, "texts": 100, "rows": 1000}
BODY = 2**20  # bytes
CONNECTIONS = 256  # at once; another one is answered with 503
ENDING = 10  # seconds that running requests have when the service is stopped
GONE = 499  # the status that logs of proxies have for clients that did not wait

logger = logging.getLogger(__name__)


def create_app(recommender: Recommender, threads: int | None = None) -> FastAPI:
    """Returns the service of a recommender.

    ``app.state.recommender`` is the recommender that requests are answered from. New interactions and items put
    another one in its place. They wait for each other in a thread of their own, so that none is lost, while requests
    are answered from the old one.

    Args:
        threads: how many requests are computed at once; None: as many as PyTorch has threads. They share the cores
            best if PyTorch then has one thread: ``torch.set_num_threads(1)``.
    """
    readers = ThreadPoolExecutor(threads or torch.get_num_threads(), "reader")
    writer = ThreadPoolExecutor(1, "writer")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with readers, writer:
            yield

    def read(answer: Callable[[Recommender, dict[str, Any]], Any], given: dict[str, Any]) -> Any:
        return answer(app.state.recommender, given)

    def change(changed: Callable[[Recommender, dict[str, Any]], Recommender], given: dict[str, Any]) -> Any:
        app.state.recommender = changed(app.state.recommender, given)
        return known()

    def known() -> dict[str, int]:
        recommender: Recommender = app.state.recommender
        return {"users": len(recommender.users), "items": len(recommender.items)}

    async def health() -> Any:
        return {"status": "ok"} | known()

    # No pages of documentation, because FastAPI's fetch scripts from elsewhere; /openapi.json is there.
    app = FastAPI(title="recbole-symcere", lifespan=lifespan, redirect_slashes=False, docs_url=None, redoc_url=None)
    app.state.recommender = recommender
    app.add_api_route("/health", health)
    for path, answer in {"/recommend": _recommend, "/recommend/many": _recommend_many, "/search": _search}.items():
        _add_route(app, path, readers, partial(read, answer), answer.__doc__)
    for path, changed in {"/interactions": _with_interactions, "/items": _with_items}.items():
        _add_route(app, path, writer, partial(change, changed), changed.__doc__)
    return app


def _recommend(recommender: Recommender, given: dict[str, Any]) -> Any:
    """Lists the best items for a person: user, items, reviews, at; k, why."""
    k, why = _list_options(given)
    request = as_request("the body", given, ("k", "why"))
    _check_size([request])
    return {"items": _rows(recommender.recommend_many([request], k, why)[0])}


def _recommend_many(recommender: Recommender, given: dict[str, Any]) -> Any:
    """Lists the best items for each of several persons: requests, each with user, items, reviews and at; k, why."""
    check_keys("the body", given, ("requests", "k", "why"))
    people = given.get("requests")
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise UserError("the body: requests must be a list of objects")
    k, why = _list_options(given, len(people))
    requests = [as_request(f"request {number}", person) for number, person in enumerate(people, start=1)]
    _check_size(requests)
    return {"lists": [_rows(found) for found in recommender.recommend_many(requests, k, why)]}


def _search(recommender: Recommender, given: dict[str, Any]) -> Any:
    """Lists the items whose reviews are nearest to a text: text; user, items, reviews, at; k, why."""
    k, why = _list_options(given)
    text = given.pop("text", None)
    request = as_request("the body", given, ("text", "k", "why"))
    if not isinstance(text, str):
        raise UserError("the body: text must be a text")
    _check_size([request], 1)
    return {"items": _rows(recommender.search_many([text], [request], k, why)[0])}


def _with_interactions(recommender: Recommender, given: dict[str, Any]) -> Recommender:
    """Adds what came after training: rows, each with user, item, time and, if there is a review, text."""
    check_keys("the body", given, ("rows",))
    rows = as_interactions(given.get("rows"))
    _check_limit("rows", len(rows))
    return recommender.with_interactions(rows)


def _with_items(recommender: Recommender, given: dict[str, Any]) -> Recommender:
    """Adds items that nobody has met: rows, each with item and text."""
    check_keys("the body", given, ("rows",))
    items = as_items(given.get("rows"))
    _check_limit("rows", sum(map(len, items.values())))
    return recommender.with_items(items)


def _list_options(given: dict[str, Any], n_lists: int = 1) -> tuple[int, bool]:
    """Takes ``k`` and ``why`` out of a body."""
    k, why = given.pop("k", 10), given.pop("why", False)
    if not isinstance(k, int) or isinstance(k, bool):
        raise UserError("the body: k must be a whole number")
    if not isinstance(why, bool):
        raise UserError("the body: why must be true or false")
    _check_limit("items in the answer", k * n_lists)
    return k, why


def _check_size(requests: Sequence[Request], n_texts: int = 0) -> None:
    _check_limit("items that were met", sum(len(request.history) for request in requests))
    _check_limit("texts", n_texts + sum(len(request.reviews) for request in requests))


def _check_limit(what: str, n: int) -> None:
    if n > LIMITS[what]:
        raise UserError(f"{n} {what} are too many at once; the limit is {LIMITS[what]}")


def _rows(found: Sequence[Recommendation]) -> list[dict[str, Any]]:
    return [
        {"item": best.item, "score": best.score, "is_new": best.is_new} | ({"why": best.why} if best.why else {})
        for best in found
    ]


def _add_route(
    app: FastAPI, path: str, pool: Executor, work: Callable[[dict[str, Any]], Any], about: str | None
) -> None:
    """Adds a path whose bodies are answered in a pool of threads, so that the event loop stays free."""

    async def endpoint(request: HTTPRequest) -> Response:
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > BODY:
                    return _error(413, f"the body is too large; the limit is {BODY} bytes")
            return await _unless_gone(request, pool, partial(_answer, work, bytes(body)))
        except ClientDisconnect:
            return Response(status_code=GONE)

    has_body = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}
    app.add_api_route(path, endpoint, methods=["POST"], summary=path, description=about or "", openapi_extra=has_body)


async def _unless_gone(request: HTTPRequest, pool: Executor, work: Callable[[], Response]) -> Response:
    """Does work in a pool; if the client leaves before the work has begun, it is taken out of the queue.

    Raises:
        ClientDisconnect: the client has left.
    """

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    done, gone = asyncio.wrap_future(pool.submit(work)), asyncio.ensure_future(left())
    try:
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        return done.result()
    finally:
        done.cancel()
        gone.cancel()


def _answer(work: Callable[[dict[str, Any]], Any], body: bytes) -> Response:
    """Returns the answer to a body; a failure is logged by its kind and its place, as a message may repeat a text."""
    try:
        return JSONResponse(work(as_object("the body", body)))
    except EncoderError as error:
        logger.error(f"the text encoder can't be had: {error}")
        return _error(503, "texts can't be read at the moment; leave them out, or try again later")
    except UserError as error:
        return _error(422, str(error))
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error(f"{type(error).__name__}; its message is left out, as it may hold what was sent\n{where}")
        return _error(500, "the service failed")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"detail": message}, status)


def make_server(recommender: Recommender, host: str = "127.0.0.1", port: int = 8000) -> uvicorn.Server:
    """Returns the server of a recommender; its method ``run`` serves until the process is told to stop."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(recommender),
            host,
            port,
            access_log=False,  # an address may hold a text, against all advice
            ws="none",  # uvicorn logs the addresses of these, too
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=ENDING,
        )
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="PATH", help="a checkpoint of SymCEREPlus")
    add("--host", default="127.0.0.1", help="the address to listen at (%(default)s: this machine alone)")
    add("--port", type=int, default=8000, help="the port to listen at (%(default)s)")
    add_file_arguments(add)
    parser.set_defaults(at=None)


def run(given: argparse.Namespace, rest: Sequence[str]) -> None:
    """Serves until the process is told to stop.

    Raises:
        UserError: something that the options name can't be used.
    """
    recommender = load_recommender(given, parse_assignments(rest))
    try:
        recommender.encode(["ready"])  # else the first text would wait for the encoder
    except UserError as error:
        logger.warning(f"requests with texts can't be answered: {error}")
    server = make_server(recommender, given.host, given.port)
    torch.set_num_threads(1)
    server.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(sys.modules[__name__], arguments, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())

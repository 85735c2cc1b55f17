"""The service, on the loopback: it answers as a recommender does, to many at once, and keeps texts to itself."""

import json
import logging
import runpy
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from importlib import import_module
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import Any

import pytest
import torch
import uvicorn

from benchmarks.service import running
from recbole_symcere.errors import EncoderError, UserError
from recbole_symcere.serving import NewInteraction, Recommendation, Recommender, Request
from recbole_symcere.serving.service import BODY, CONNECTIONS, main, make_server
from tests.conftest import START

SECRET = "secretsecret"
NEW = [NewInteraction("guest", "i3", START + 9000.0, "great"), NewInteraction("guest", "i7", START + 9001.0)]


def ask(port: int, path: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
    """Returns the status and the answer; a body that is not of bytes is sent as JSON."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content)


def shown(found: list[Recommendation]) -> list[dict[str, Any]]:
    """A list of items as the service shows it."""
    return [vars(best) if best.why else {k: v for k, v in vars(best).items() if k != "why"} for best in found]


def rows_of(interactions: list[NewInteraction]) -> list[dict[str, Any]]:
    return [vars(row) for row in interactions]


def eventually(true: Callable[[], bool]) -> None:
    end = monotonic() + 10
    while not true():
        assert monotonic() < end, "it never came true"
        sleep(0.005)


class Gated(Recommender):
    """A recommender that computes nothing until ``gate`` is open."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.gate, self._lock, self.begun, self.at_once, self.most = Event(), Lock(), 0, 0, 0

    def recommend_many(self, *arguments: Any) -> list[list[Recommendation]]:
        with self._lock:
            self.begun, self.at_once = self.begun + 1, self.at_once + 1
            self.most = max(self.most, self.at_once)
        self.gate.wait(10)
        with self._lock:
            self.at_once -= 1
        return super().recommend_many(*arguments)

    def with_interactions(self, rows: Any) -> Any:
        self.gate.wait(10)
        return Recommender(self._record, self._texts).with_interactions(rows)


@pytest.fixture
def gated(recommender: Recommender) -> Iterator[Gated]:
    found = Gated(recommender._record, recommender._texts)
    yield found
    found.gate.set()


@pytest.fixture(scope="module")
def port(checkpoint: Path) -> Iterator[int]:
    """The port of a service that the tests of this module share; none of them changes it."""
    with running(make_server(Recommender.load(checkpoint))) as port:
        yield port


PEOPLE: list[dict[str, Any]] = [
    {"user": "u0"},
    {"user": "u3", "items": ["i3", ["i7", START]], "at": START + 5000},
    {"items": ["i3", "i7"], "reviews": ["great gasket", "u1 i3 love"]},
    {"reviews": ["u9 i9 tuner"]},
    {},
]
REQUESTS = [
    Request("u0"),
    Request("u3", ["i3", ("i7", START)], at=START + 5000),
    Request(None, ["i3", "i7"], ["great gasket", "u1 i3 love"]),
    Request(None, [], ["u9 i9 tuner"]),
    Request(),
]


def test_answers_are_those_of_the_recommender(port: int, recommender: Recommender) -> None:
    expected = recommender.recommend_many(REQUESTS, 4, True)
    for person, found in zip(PEOPLE, expected, strict=True):
        status, answer = ask(port, "/recommend", person | {"k": 4, "why": True})
        assert (status, [row["item"] for row in answer["items"]]) == (200, [best.item for best in found])
        for row, best in zip(answer["items"], found, strict=True):
            assert row["score"] == pytest.approx(best.score, abs=1e-4) and not row["is_new"]
            assert row["why"] == pytest.approx(dict(best.why), abs=1e-4)
    together = {"lists": [shown(found) for found in recommender.recommend_many(REQUESTS, 4)]}
    assert ask(port, "/recommend/many", {"requests": PEOPLE, "k": 4}) == (200, together)
    assert ask(port, "/recommend", {"user": "u0"}) == (200, {"items": shown(recommender.recommend("u0"))})
    searched = recommender.search("great gasket", "u0", history=["i3"], k=3, why=True)
    body = {"text": "great gasket", "user": "u0", "items": ["i3"], "k": 3, "why": True}
    assert ask(port, "/search", body) == (200, {"items": shown(searched)})


def test_the_service_says_that_it_is_well_and_whom_it_knows(port: int, recommender: Recommender) -> None:
    known = {"status": "ok", "users": len(recommender.users), "items": len(recommender.items)}
    assert ask(port, "/health", method="GET") == (200, known)


def test_fifty_at_once_get_what_each_gets_alone(port: int, recommender: Recommender) -> None:
    bodies = [{"user": user, "k": 3} for user in recommender.users[:20]]
    bodies += [{"items": [item], "reviews": [f"{item} great"], "k": 3} for item in recommender.items[:20]]
    bodies += [{"items": [f"{item}x"]} for item in recommender.items[:10]]
    alone = [ask(port, "/recommend", body) for body in bodies]
    assert [status for status, _ in alone] == [200] * 40 + [422] * 10
    assert len({json.dumps(answer) for _, answer in alone}) > 40, "the answers can be told apart"
    with ThreadPoolExecutor(50) as clients:
        assert list(clients.map(lambda body: ask(port, "/recommend", body), bodies)) == alone


def test_the_service_is_well_while_it_computes_for_as_many_as_it_has_threads(gated: Gated) -> None:
    torch.set_num_threads(3)
    server = make_server(gated)
    torch.set_num_threads(1)
    with running(server) as port, ThreadPoolExecutor(6) as clients:
        waiting = [clients.submit(ask, port, "/recommend", {"user": "u0", "k": 3}) for _ in range(6)]
        eventually(lambda: gated.begun == 3)
        assert ask(port, "/health", method="GET")[0] == 200
        gated.gate.set()
        assert {status for status, _ in (each.result() for each in waiting)} == {200}
    assert (gated.begun, gated.most) == (6, 3)


BAD: list[tuple[str, Any, str]] = [
    ("/recommend", b'{"reviews": ["' + SECRET.encode(), "the body: not JSON"),
    ("/recommend", b'{"reviews": ["' + SECRET.encode() + b'\xff"]}', "the body: not JSON"),
    ("/recommend", b'{"reviews": ["' + SECRET.encode() + b'\\ud800"]}', "the body: not JSON"),
    ("/recommend", b"[" * 100_000, "the body: not JSON"),
    ("/recommend", b"", "the body: not JSON"),
    ("/recommend", [SECRET], "the body: not an object"),
    ("/recommend", {"itmes": [SECRET]}, "the body: unknown key 'itmes'; did you mean 'items'?"),
    ("/recommend", {"reviews": [SECRET], "wyh": True}, "the body: unknown key 'wyh'; did you mean 'why'?"),
    ("/recommend", {"reviews": SECRET}, "the body: reviews must be a list of texts"),
    ("/recommend", {"reviews": [[SECRET]]}, "the body: reviews must be a list of texts"),
    ("/recommend", {"reviews": {SECRET: 1}}, "the body: reviews must be a list of texts"),
    ("/recommend", {"reviews": [SECRET, " "]}, "a text is empty"),
    ("/recommend", {"reviews": [SECRET] * 101}, "101 texts are too many at once; the limit is 100"),
    ("/recommend", {"user": 7}, "the body: user must be a text"),
    ("/recommend", {"user": "u999"}, "there is no user 'u999'"),
    ("/recommend", {"items": ["i3x"]}, "there is no item 'i3x'; did you mean 'i3'?"),
    ("/recommend", {"items": 0}, "the body: items must be a list"),
    ("/recommend", {"items": [["i3", 1.6e12]]}, "the body: items must be a list"),
    ("/recommend", {"items": ["i3"] * 1001}, "1001 items that were met are too many at once"),
    ("/recommend", b'{"at": NaN}', "the body: not JSON (NaN is not a number)"),
    ("/recommend", b'{"at": 1e999}', "the body: at must be a number"),
    ("/recommend", {"at": 10**400}, "the body: at must be a number"),
    ("/recommend", {"k": 1.5}, "the body: k must be a whole number"),
    ("/recommend", {"k": True}, "the body: k must be a whole number"),
    ("/recommend", {"k": 0}, "k is 0, but must be at least 1"),
    ("/recommend", {"k": 1001}, "1001 items in the answer are too many at once; the limit is 1000"),
    ("/recommend", {"why": SECRET}, "the body: why must be true or false"),
    ("/recommend/many", {"requests": {"user": "u0"}}, "the body: requests must be a list of objects"),
    ("/recommend/many", {"requests": [SECRET]}, "the body: requests must be a list of objects"),
    ("/recommend/many", {"requests": [{"user": "u0"}, {"user": 7}]}, "request 2: user must be a text"),
    ("/recommend/many", {"requests": [{}] * 101}, "1010 items in the answer are too many at once"),
    ("/recommend/many", {"requests": [{"reviews": [SECRET] * 51}] * 2}, "102 texts are too many at once"),
    ("/search", {"txet": SECRET}, "the body: unknown key 'txet'; did you mean 'text'?"),
    ("/search", {"text": [SECRET]}, "the body: text must be a text"),
    ("/search", {"text": " "}, "a text is empty"),
    ("/search", {"text": SECRET, "reviews": [SECRET] * 100}, "101 texts are too many at once"),
    ("/interactions", {"row": SECRET}, "the body: unknown key 'row'; did you mean 'rows'?"),
    ("/interactions", {"rows": SECRET}, "rows must be a list of objects with the keys user, item, time, text"),
    ("/interactions", {"rows": [{"user": "u0", "item": "i3"}]}, "row 1 has no time that is a number of seconds"),
    ("/interactions", {"rows": [{"user": "u0", "item": "i3", "time": 1.6e12}]}, "row 1 has no time"),
    ("/interactions", {"rows": [{"user": "u0", "item": "i3", "time": START, "text": [SECRET]}]}, "row 1 has no text"),
    ("/interactions", {"rows": [{"user": "u0", "item": " ", "time": START}]}, "row 1 has no item that is a text"),
    ("/interactions", {"rows": [vars(NEW[0])] * 1001}, "1001 rows are too many at once"),
    ("/items", {"rows": [{"item": "x", "txet": SECRET}]}, "row 1: unknown key 'txet'; did you mean 'text'?"),
    ("/items", {"rows": [{"item": "x"}]}, "row 1 has no text that is a text"),
    ("/items", {"rows": [{"item": "i3", "text": SECRET}]}, "item 'i3' is not new"),
    ("/items", {"rows": [{"item": "x", "text": SECRET}] * 1001}, "1001 rows are too many at once"),
]


@pytest.mark.parametrize(("path", "body", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_request_gets_one_message_without_its_texts(port: int, path: str, body: Any, message: str) -> None:
    before = ask(port, "/health", method="GET")
    status, answer = ask(port, path, body)
    assert (status, list(answer)) == (422, ["detail"])
    assert message in answer["detail"] and SECRET not in answer["detail"] and "\n" not in answer["detail"]
    assert ask(port, "/health", method="GET") == before


def test_a_body_that_is_too_large_is_not_read(port: int) -> None:
    status, answer = ask(port, "/recommend", {"reviews": [SECRET * (BODY // len(SECRET))]})
    assert (status, answer) == (413, {"detail": f"the body is too large; the limit is {BODY} bytes"})
    with socket.create_connection(("127.0.0.1", port), timeout=10) as endless:
        endless.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        endless.sendall(chunk * (BODY // 0x10000 + 1))
        assert endless.recv(100).startswith(b"HTTP/1.1 413"), "before the body has ended"


def test_one_connection_too_many_is_refused_and_the_others_stay(recommender: Recommender) -> None:
    server = make_server(recommender)
    with running(server) as port, ExitStack() as idle:
        for _ in range(CONNECTIONS - 1):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        eventually(lambda: len(server.server_state.connections) == CONNECTIONS - 1)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as refused:
            refused.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert refused.recv(100).startswith(b"HTTP/1.1 503")
        idle.close()
        eventually(lambda: not server.server_state.connections)
        assert ask(port, "/health", method="GET")[0] == 200


def test_what_is_not_there_is_told(port: int) -> None:
    assert ask(port, "/recommand", {})[0] == ask(port, "/recommend/", {})[0] == 404
    assert ask(port, "/recommend", method="GET")[0] == 405


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Collects what all loggers say, at every level, whether or not they pass it on."""
    lines: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    known = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    before = [(logger, logger.level) for logger in (logging.root, *known)]
    keeping = Keeping()
    for logger, _ in before:
        logger.addHandler(keeping)
        logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        for logger, level in before:
            logger.removeHandler(keeping)
            logger.setLevel(level)


def test_no_text_is_logged_or_sent_back(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError(f"can't read {SECRET}")

    sent = [(path, body) for path, body, _ in BAD] + [
        ("/recommend", {"reviews": [SECRET]}),
        ("/recommend/many", {"requests": [{"reviews": [SECRET]}]}),
        ("/search", {"text": SECRET}),
        ("/interactions", {"rows": [vars(NEW[0]) | {"text": SECRET}]}),
        ("/items", {"rows": [{"item": "x", "text": SECRET}]}),
        ("/recommend", {"reviews": [SECRET * (BODY // len(SECRET))]}),
    ]
    with running(make_server(recommender)) as port, everything_logged() as lines:
        answers = [ask(port, path, body) for path, body in sent]
        assert {status for status, _ in answers} == {200, 422, 413}
        monkeypatch.setattr(Recommender, "search_many", fail)
        answers += [ask(port, "/search", {"text": SECRET})]
    assert answers[-1] == (500, {"detail": "the service failed"})
    assert any("POST /recommend" in line for line in lines), "uvicorn's access log is among them"
    assert any("ValueError" in line and "in fail\n" in line for line in lines), "a failure is told with its place"
    assert SECRET not in json.dumps(answers) + "".join(lines)


def test_a_text_in_an_address_is_not_logged(recommender: Recommender, capsys: pytest.CaptureFixture[str]) -> None:
    with running(make_server(recommender)) as port:
        for path in (f"/search?text={SECRET}", f"/{SECRET}"):
            ask(port, path, {"text": "great"})
            ask(port, path, method="GET")
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
        )
        for sent in (f"GET /{SECRET} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n", f"{SECRET}\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                raw.sendall(sent.encode())
                assert SECRET.encode() not in raw.recv(10_000)
    out = "".join(capsys.readouterr())
    assert "Invalid HTTP request received" in out and SECRET not in out


def test_a_client_that_leaves_takes_no_time_of_others(gated: Gated) -> None:
    server = make_server(gated)  # with one thread
    body = json.dumps({"user": "u0", "k": 3}).encode()
    with running(server) as port:
        leaving = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        for client in leaving[:-1]:
            client.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        leaving[-1].sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        eventually(lambda: gated.begun == 1 and len(server.server_state.tasks) == 12)
        for client in leaving:
            client.close()
        eventually(lambda: not server.server_state.tasks)
        gated.gate.set()
        assert ask(port, "/recommend", {"user": "u0", "k": 3})[0] == 200
    assert gated.begun == 2, "those who had left before their turn were passed over"


def test_requests_are_answered_from_the_old_state_while_a_new_one_is_made(gated: Gated) -> None:
    with running(make_server(gated)) as port:
        posting = Thread(target=ask, args=(port, "/interactions", {"rows": rows_of(NEW)}))
        posting.start()
        old = ask(port, "/search", {"text": "great"})
        assert old[0] == 200 and ask(port, "/search", {"text": "great", "user": "guest"})[0] == 422
        gated.gate.set()
        posting.join()
        assert ask(port, "/search", {"text": "great", "user": "guest"})[0] == 200


def test_no_interaction_is_lost_and_no_answer_is_of_two_states(recommender: Recommender) -> None:
    users, items = [f"new{n}" for n in range(24)], recommender.items[:12]
    batches = [
        [NewInteraction(user, item, START + 9000.0 + 100 * n + place) for place, item in enumerate(items)]
        for n, user in enumerate(users)
    ]
    writing = Event()

    def read(port: int) -> int:
        """Asks for new users, twice each in one request, until the last one is known; returns how often it could."""
        n_read = 0
        while not writing.is_set():
            for user in users:
                status, answer = ask(port, "/recommend/many", {"requests": [{"user": user}] * 2, "k": 100})
                assert status == 200 or "there is no user" in answer["detail"]
                if status == 200:
                    one, other = answer["lists"]
                    assert one == other and not {row["item"] for row in one} & set(items), "all rows of a batch or none"
                    n_read += 1
        return n_read

    with running(make_server(recommender)) as port, ThreadPoolExecutor(16) as clients:
        readers = [clients.submit(read, port) for _ in range(4)]
        try:
            posted = clients.map(lambda rows: ask(port, "/interactions", {"rows": rows_of(rows)}), batches)
            assert [status for status, _ in posted] == [200] * len(batches)
        finally:
            writing.set()
        assert all(reader.result() for reader in readers)
        status, answer = ask(port, "/recommend/many", {"requests": [{"user": user} for user in users], "k": 40})
    assert status == 200
    expected = recommender.with_interactions([row for rows in batches for row in rows])
    for rows, found in zip(answer["lists"], expected.recommend_many([Request(u) for u in users], 40), strict=True):
        scores = {row["item"]: row["score"] for row in rows}
        assert scores == pytest.approx({best.item: best.score for best in found}, abs=1e-4)


def test_what_came_after_training_is_known_from_then_on(recommender: Recommender) -> None:
    texts = {"x1": ["u1 i3 great gasket", "fine"], "x2": ["tuner"]}
    rows = [{"item": item, "text": text} for item, of_item in texts.items() for text in of_item]
    with running(make_server(recommender)) as port:
        sizes = {"users": len(recommender.users) + 1, "items": len(recommender.items)}
        assert ask(port, "/interactions", {"rows": rows_of(NEW)}) == (200, sizes)
        sizes["items"] += 2
        assert ask(port, "/items", {"rows": rows}) == (200, sizes)
        answers = [ask(port, "/recommend", {"user": user, "k": 100}) for user in ("guest", "u0")]
        assert ask(port, "/health", method="GET") == (200, {"status": "ok"} | sizes)
    later = recommender.with_interactions(NEW).with_items(texts)
    assert answers == [(200, {"items": shown(later.recommend(user, k=100))}) for user in ("guest", "u0")]
    assert {row["item"] for row in answers[0][1]["items"] if row["is_new"]} == set(texts)


def test_an_encoder_that_can_not_be_had_is_the_services_own_fault(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: Any) -> None:
        raise EncoderError("no such folder: /encoders/a")

    monkeypatch.setattr(recommender._texts, "_loaded", missing)
    with running(make_server(recommender)) as port:
        status, answer = ask(port, "/recommend", {"reviews": [SECRET]})
        assert ask(port, "/recommend", {"user": "u0"})[0] == 200
    assert status == 503 and "texts can't be read" in answer["detail"] and "/encoders" not in answer["detail"]
    assert "no such folder: /encoders/a" in caplog.text


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[uvicorn.Server]:
    """The servers that the command would have run."""
    servers: list[uvicorn.Server] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: servers.append(server))
    return servers


def test_the_command_serves_a_checkpoint_with_what_came_since(
    checkpoint: Path, served: list[uvicorn.Server], tmp_path: Path
) -> None:
    week, arrivals = tmp_path / "week.csv", tmp_path / "arrivals.csv"
    week.write_text(f"user,item,time\nguest,i3,{START + 9000}\n", encoding="utf-8")
    arrivals.write_text("item,text\nfresh,great gasket\n", encoding="utf-8")
    torch.set_num_threads(2)
    files = ["--since", str(week), "--new-items", str(arrivals)]
    assert main(["--checkpoint", str(checkpoint), "--host", "0.0.0.0", "--port", "81", *files]) == 0
    assert torch.get_num_threads() == 1
    (server,) = served
    assert (server.config.host, server.config.port) == ("0.0.0.0", 81)
    recommender: Recommender = server.config.app.state.recommender  # type: ignore[union-attr]
    assert "guest" in recommender.users and "fresh" in recommender.items


def test_the_encoder_is_loaded_before_the_first_request_if_it_can_be(
    checkpoint: Path, served: list[uvicorn.Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["--checkpoint", str(checkpoint)]) == 0
    assert served[0].config.app.state.recommender._texts._encoder is not None  # type: ignore[union-attr]

    def refuse(*_: Any) -> None:
        raise UserError("the model was trained with random texts")

    monkeypatch.setattr(Recommender, "encode", refuse)
    assert main(["--checkpoint", str(checkpoint)]) == 0 and len(served) == 2
    assert "requests with texts can't be answered: the model was trained with random texts" in caplog.text


def test_the_command_tells_what_it_can_not_use(
    checkpoint: Path, served: list[uvicorn.Server], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", "nothing.pth"]) == 2
    assert main(["--checkpoint", str(checkpoint), "--data_path=elsewhere"]) == 2
    err = capsys.readouterr().err
    assert "nothing.pth" in err and "data_path changes nothing here" in err and not served


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_without_the_extra_the_command_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = f"{package} is not installed; pip install 'recbole-symcere[service]' brings it"
    module = "recbole_symcere.serving.service"
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match="error: " + message.replace("[", r"\[")):
        runpy.run_module(module, run_name="__main__")
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        import_module(module)

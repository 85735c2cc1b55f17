"""A download that is interrupted goes on where it was, and at its end there is the file as the server has it."""

import errno
import gzip
import hashlib
import http.client
import io
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError
from dataset_prep import download as module
from dataset_prep.download import ATTEMPTS, download
from tests.dataset_prep.file_server import Answer, Served, file_server
from tests.dataset_prep.rows import scratch_folder

CONTENT = bytes(range(256)) * 8
PACKED = gzip.compress(CONTENT)
MODIFIED = "Sun, 29 Nov 2026 08:43:02 GMT"


def record(target: Path) -> dict:
    return json.loads(target.with_name(f"{target.name}.download.json").read_text(encoding="utf-8"))


def assert_whole(target: Path, content: bytes = CONTENT) -> None:
    """Checks the file, the record of its size and checksum, and that nothing else is left of the download."""
    assert target.read_bytes() == content
    assert record(target)["size"] == len(content)
    assert record(target)["sha256"] == hashlib.sha256(content).hexdigest()
    assert {path.name for path in target.parent.iterdir()} == {target.name, f"{target.name}.download.json"}


def begin(served: Served, target: Path, answer: Answer) -> None:
    """Downloads until the connection is cut, and then nothing comes any more."""
    served.answering(answer, Answer(status=503))
    with pytest.raises(PreparationError, match="503"):
        download(served.address, target)
    assert target.with_name(f"{target.name}.part").stat().st_size == answer.cut
    assert not target.exists()


def test_a_file_is_fetched_with_its_address_size_and_checksum_beside_it(served: Served, target: Path) -> None:
    served.answering(Answer(CONTENT))
    assert download(served.address, target) == target
    assert_whole(target)
    assert record(target)["address"] == served.address
    assert served.sent == [(0, len(CONTENT))]


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=400),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    header=st.sampled_from([("ETag", '"1"'), ("Last-Modified", MODIFIED)]),
    says_again=st.booleans(),
)
def test_no_byte_that_came_is_sent_again_wherever_the_connection_is_cut(
    content: bytes, cuts: list[int], header: tuple[str, str], says_again: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch, file_server() as served, scratch_folder() as folder:
        patch.setattr(module, "PAUSE", 0)
        patch.setenv("no_proxy", "*")
        answer = {"content": content, "header": header[0], "version": header[1], "says_again": says_again}
        served.answering(*(Answer(**answer, cut=cut) for cut in cuts), Answer(**answer))
        target = folder / "file"
        for _ in [*cuts, None]:  # a call whose first attempt brings nothing ends
            try:
                download(served.address, target)
                break
            except PreparationError as error:
                assert "goes on where this ended" in str(error)
        assert_whole(target, content)
        came = 0
        for first, n in served.sent:
            assert first == came
            came += n
        assert came == len(content)


def test_a_download_goes_on_often_though_only_the_first_answer_says_the_version(served: Served, target: Path) -> None:
    answers = [Answer(CONTENT, says_again=False, cut=cut) for cut in (700, 300, 200, None)]
    served.answering(*answers)
    download(served.address, target)
    assert served.asked == [0, 700, 1000, 1200]
    assert_whole(target)


def test_an_interrupted_download_goes_on_at_the_next_call(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.answering(Answer(CONTENT))
    monkeypatch.setattr(module, "BLOCK", 100)
    read, blocks = http.client.HTTPResponse.read, iter([True] * 3)

    def interrupted(response: http.client.HTTPResponse, n: int) -> bytes:
        if not next(blocks, False):
            raise KeyboardInterrupt
        return read(response, n)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(http.client.HTTPResponse, "read", interrupted)
        download(served.address, target)
    assert not target.exists()
    download(served.address, target)
    assert served.asked == [0, 300]
    assert served.sent[1] == (300, len(CONTENT) - 300)
    assert_whole(target)


def test_an_interruption_after_the_last_byte_fetches_nothing_again(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Path) -> str:
        raise KeyboardInterrupt

    served.answering(Answer(CONTENT))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_sha256", interrupted)
        download(served.address, target)
    download(served.address, target)
    assert served.asked == [0, len(CONTENT)]
    assert served.sent == [(0, len(CONTENT))]
    assert_whole(target)


@pytest.mark.parametrize("error", [OSError(errno.EHOSTUNREACH, "No route to host"), TimeoutError("timed out")])
def test_a_network_that_fails_while_reading_is_tried_again(
    error: OSError, served: Served, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served.answering(Answer(CONTENT))
    monkeypatch.setattr(module, "BLOCK", 1000)
    read, errors = http.client.HTTPResponse.read, iter([None, error])

    def failing(response: http.client.HTTPResponse, n: int) -> bytes:
        if found := next(errors, None):
            raise found
        return read(response, n)

    monkeypatch.setattr(http.client.HTTPResponse, "read", failing)
    download(served.address, target)
    assert served.asked == [0, 1000]
    assert_whole(target)
    assert f"{error.strerror or error}; trying again" in capsys.readouterr().err


def test_a_disk_that_fails_is_named_and_not_tried_again(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    served.answering(Answer(CONTENT))
    monkeypatch.setattr(module, "_copy", full)
    with pytest.raises(PreparationError, match=f"^{target}: No space left on device$"):
        download(served.address, target)
    assert served.asked == [0]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(CONTENT, ranges=False),
        Answer(CONTENT, version=""),
        Answer(CONTENT, version='W/"1"'),
        Answer(CONTENT, version=MODIFIED, header="X-Date"),
    ],
)
def test_a_server_that_can_not_go_on_sends_the_whole_file_again(answer: Answer, served: Served, target: Path) -> None:
    begin(served, target, Answer(**vars(answer) | {"cut": 700}))
    served.answering(answer)
    download(served.address, target)
    assert served.sent == [(0, len(CONTENT))]
    assert_whole(target)


def test_without_ranges_an_end_comes_after_some_attempts_that_bring_no_more_than_the_best(
    served: Served, target: Path
) -> None:
    cuts = [Answer(CONTENT, ranges=False, cut=cut) for cut in (100, 50) * 10]
    served.answering(*cuts, Answer(CONTENT))
    with pytest.raises(PreparationError, match="the connection ended after 100 of 2,048 bytes"):
        download(served.address, target)
    assert len(served.asked) == ATTEMPTS


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_file_that_has_changed_on_the_server_is_fetched_anew(
    header: str, if_range: bool, served: Served, target: Path
) -> None:
    begin(served, target, Answer(CONTENT, header=header, cut=700))
    changed = bytes(reversed(CONTENT))
    served.answering(Answer(changed, header=header, version='"2"', if_range=if_range))
    download(served.address, target)
    assert_whole(target, changed)


@pytest.mark.parametrize("size", [701, 700, 600])
def test_a_file_of_another_size_is_fetched_anew_though_the_server_says_no_version_of_a_range(
    size: int, served: Served, target: Path
) -> None:
    begin(served, target, Answer(CONTENT, cut=700))
    changed = CONTENT[::-1][:size]
    served.answering(Answer(changed, says_again=False, if_range=False))
    download(served.address, target)
    assert served.asked == [700, 0]
    assert_whole(target, changed)


def test_a_range_that_begins_elsewhere_is_not_used(served: Served, target: Path) -> None:
    begin(served, target, Answer(CONTENT, cut=700))
    served.answering(Answer(CONTENT, skips=1))
    with pytest.raises(PreparationError, match="the server sent another part than the one that was asked for"):
        download(served.address, target)
    served.answering(Answer(CONTENT))
    download(served.address, target)
    assert served.asked == [700]
    assert_whole(target)


@pytest.mark.parametrize("begun", [None, "", "[]", '{"size": 5}', "\udcff"])
def test_a_part_of_which_nothing_is_known_is_fetched_anew(begun: str | None, served: Served, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("reviews.jsonl.part").write_bytes(b"of another file")
    if begun is not None:
        target.with_name("reviews.jsonl.part.json").write_text(begun, encoding="utf-8", errors="surrogateescape")
    served.answering(Answer(CONTENT))
    download(served.address, target)
    assert served.asked == [0]
    assert_whole(target)


@pytest.mark.parametrize("length", [None, 0])
def test_a_file_whose_size_is_not_said_is_taken_as_it_comes(length: int | None, served: Served, target: Path) -> None:
    served.answering(Answer(CONTENT, length=length, chunked=length is None))
    download(served.address, target)
    assert_whole(target)


def test_chunks_without_their_end_are_no_whole_file(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 100)
    served.answering(Answer(CONTENT, chunked=True, cut=700), Answer(CONTENT))
    download(served.address, target)
    assert served.asked == [0, 700]
    assert_whole(target)


def test_a_size_that_never_comes_is_an_error_after_some_attempts(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module, "PAUSE", 2.0)
    monkeypatch.setattr("time.sleep", pauses.append)
    served.answering(Answer(CONTENT, length=len(CONTENT) + 5, ranges=False))
    with pytest.raises(PreparationError, match=r"the connection ended after 2,048 of 2,053 bytes.*yourself to "):
        download(served.address, target)
    assert len(served.asked) == ATTEMPTS
    assert pauses == [2, 4, 8, 16]
    assert not target.exists()


def test_a_packed_file_goes_on_in_its_middle(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)
    target = tmp_path / "reviews.jsonl.gz"
    served.answering(Answer(PACKED, cut=9), Answer(PACKED, cut=1), Answer(PACKED))
    download(served.address, target)
    assert served.asked == [0, 9, 10]
    assert_whole(target, PACKED)


def test_a_kept_file_is_not_fetched_again(served: Served, target: Path) -> None:
    served.answering(Answer(CONTENT))
    download(served.address, target)
    served.answering(Answer(b"another", version='"2"'))
    assert download(served.address, target) == target
    assert served.asked == []
    assert_whole(target)


def test_a_file_that_came_in_another_way_is_used_as_it_is(served: Served, target: Path) -> None:
    served.answering(Answer(CONTENT))
    target.parent.mkdir()
    target.write_bytes(b"mine")
    assert download(served.address, target).read_bytes() == b"mine"
    assert served.asked == []


@pytest.mark.parametrize(("free", "there"), [(2047, 0), (1347, 700)])
def test_room_for_what_is_missing_is_needed_before_it_is_fetched(
    free: int, there: int, served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        begin(served, target, Answer(CONTENT, cut=there))
    served.answering(Answer(CONTENT))
    left = [free]
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(left[0]))
    with pytest.raises(PreparationError, match=rf"{target.parent}: has 0.0 GB free, but reviews.jsonl needs .*--input"):
        download(served.address, target)
    part = target.with_name("reviews.jsonl.part")
    assert (part.stat().st_size if part.exists() else 0) == there
    left[0] += 1
    download(served.address, target)
    assert_whole(target)


def test_a_bar_shows_the_progress_from_where_the_download_goes_on(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    begin(served, target, Answer(CONTENT, cut=1024))
    served.answering(Answer(CONTENT))
    monkeypatch.setattr(sys, "stderr", Terminal())
    download(served.address, target)
    assert "reviews.jsonl:  50%" in sys.stderr.getvalue()


def test_without_a_terminal_there_is_no_bar(served: Served, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served.answering(Answer(CONTENT))
    download(served.address, target)
    assert capsys.readouterr() == ("", "")

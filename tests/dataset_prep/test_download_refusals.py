"""What can't be downloaded, or is not what was wanted, is an error of one line that says what to do."""

import socket
from pathlib import Path

import pytest

from dataset_prep import PreparationError
from dataset_prep.download import download
from tests.dataset_prep.file_server import Answer, Served
from tests.dataset_prep.test_download import CONTENT, assert_whole

PAGE = b"<!DOCTYPE html><title>Agree to our terms</title>"


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (500, "Internal Server Error")])
def test_what_the_server_refuses_is_said_at_once_with_what_to_do(
    status: int, reason: str, served: Served, target: Path
) -> None:
    served.answering(Answer(status=status))
    with pytest.raises(PreparationError) as raised:
        download(served.address, target)
    said = str(raised.value)
    assert said.startswith(f"{served.address}: the server answers {status} {reason}; ")
    assert "--address" in said and str(target) in said and "\n" not in said
    assert served.asked == [0]
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/xhtml+xml"])
def test_a_page_for_people_is_not_taken_for_the_file(kind: str, served: Served, target: Path) -> None:
    served.answering(Answer(PAGE, kind=kind))
    with pytest.raises(PreparationError, match="answers with a page of HTML, not with reviews"):
        download(served.address, target)
    assert not list(target.parent.iterdir())
    assert served.asked == [0]


@pytest.mark.parametrize("suffix", [".gz", ".GZ", ".zip", ".zst", ".tgz"])
def test_a_packed_file_must_begin_as_one(suffix: str, served: Served, tmp_path: Path) -> None:
    target = tmp_path / f"reviews.jsonl{suffix}"
    served.answering(Answer(PAGE))
    with pytest.raises(PreparationError, match=f"does not begin as a {suffix} file does; download the file yourself"):
        download(served.address, target)
    assert not target.exists() and served.asked == [0]


def test_a_kept_file_of_another_size_is_refused(served: Served, target: Path) -> None:
    served.answering(Answer(CONTENT))
    download(served.address, target)
    target.write_bytes(CONTENT[:1500])
    with pytest.raises(PreparationError, match=f"{target}: has 1,500 bytes, but 2,048 were downloaded; remove it"):
        download(served.address, target)
    target.unlink()
    download(served.address, target)
    assert_whole(target)


def test_a_record_that_can_not_be_read_is_named(served: Served, target: Path) -> None:
    served.answering(Answer(CONTENT))
    download(served.address, target)
    kept = target.with_name("reviews.jsonl.download.json")
    kept.write_text("[]")
    with pytest.raises(PreparationError, match=rf"{kept}: can't be read .*; remove it to use reviews.jsonl as it is"):
        download(served.address, target)


def test_without_a_network_one_line_names_address_and_folder_at_once(
    served: Served, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits for another attempt"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/reviews.jsonl"
        with pytest.raises(PreparationError) as raised:
            download(address, target)
    said = str(raised.value)
    assert said.startswith(f"{address}: can't be downloaded (") and str(target) in said and "\n" not in said


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("file:///etc/hostname", "not a web address, which begins with https:// or http://"),
        ("example.org/file", "not a web address"),
        ("http://[", "not a web address"),
        ("http://.a/é", "can't be downloaded"),
        ("http://127.0.0.1:port/", "can't be downloaded"),
        ("http://", "can't be downloaded"),
    ],
)
def test_an_address_that_is_none_is_one_line(address: str, message: str, served: Served, target: Path) -> None:
    with pytest.raises(PreparationError) as raised:
        download(address, target)
    assert str(raised.value).startswith(f"{address}: {message}") and "\n" not in str(raised.value)


def test_a_folder_that_can_not_be_made_is_one_line(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PreparationError, match="file: File exists"):
        download(served.address, tmp_path / "file" / "reviews.jsonl")

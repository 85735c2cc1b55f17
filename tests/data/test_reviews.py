"""Review texts are read back as they were written, or refused with the line."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_symcere.data.reviews import read_reviews
from recbole_symcere.errors import ReviewFileError
from tests.data.texts import ANY_TEXT


def write_reviews(path: Path, texts: dict[str, str]) -> Path:
    lines = [json.dumps({"review_id": key, "review": text}, ensure_ascii=False) + "\n" for key, text in texts.items()]
    path.write_bytes("".join(lines).encode())
    return path


@settings(deadline=None)
@given(texts=st.dictionaries(ANY_TEXT, ANY_TEXT, min_size=1), data=st.data())
def test_any_text_comes_back_unchanged_in_the_order_asked_for(
    texts: dict[str, str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_reviews(tmp_path_factory.mktemp("reviews") / "x.review.jsonl", texts)
    ids = data.draw(st.lists(st.sampled_from(sorted(texts)), min_size=1))
    assert read_reviews(path, ids, allow_empty=True) == [texts[review_id] for review_id in ids]


GOOD_LINE = b'{"review_id": "a", "review": "fine"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD_LINE + b'{"review_id": "b", "rev', "line 2: not JSON"),
        (GOOD_LINE + b"\n" + b'{"review_id": "b", "review": "\xff"}', "line 3: not JSON"),
        (GOOD_LINE + b"[1]\n", "line 2: not an object"),
        (GOOD_LINE + b'{"review_id": "b"}\n', "line 2: not an object"),
        (GOOD_LINE + b'{"review_id": "b", "review": null}\n', "line 2: not an object"),
        (b'{"review_id": "c", "review": "x"}\n' + GOOD_LINE + GOOD_LINE, "lines 2 and 3: review_id 'a' occurs more"),
        (b'{"review_id": "b", "review": "x"}\n', r"review_id 'a' is not in the file \(1 of 1"),
        (b'{"review_id": "a", "review": " \\n"}\n', "review_id 'a' has no text"),
        (b"", "review_id 'a' is not in the file"),
    ],
)
def test_a_broken_file_is_one_error_that_names_the_line_or_the_id(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.review.jsonl"
    path.write_bytes(content)
    with pytest.raises(ReviewFileError, match=rf"x\.review\.jsonl.*{message}"):
        read_reviews(path, ["a"])


def test_a_missing_file_or_an_empty_request_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReviewFileError, match="no such review file"):
        read_reviews(tmp_path / "x.review.jsonl", ["a"])
    with pytest.raises(ReviewFileError, match="no review_id"):
        read_reviews(write_reviews(tmp_path / "x.review.jsonl", {"a": "b"}), [])


# Words

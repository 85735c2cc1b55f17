"""Files of other shapes and in other containers are read, or answered by one line with a mend that works."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError, cli, prepare, staging
from dataset_prep.json_text import BrokenObject, lines_of_objects
from dataset_prep.sources import amazon, table, yelp
from tests.dataset_prep.rows import EVERYTHING, START, amazon_line, read_dataset, scratch_folder

NAN = float("nan")
ROWS = [
    {"reviewerID": f"u{n}", "asin": "i", "reviewText": text, "unixReviewTime": START + n, "overall": 5.0}
    for n, text in enumerate(['it\'s "fine"', "two\nlines [1], {2}", "caf\u00e9 true null"])
]
SHAPES = {
    "lines": "".join(json.dumps(row) + "\n" for row in ROWS),
    "array on one line": json.dumps(ROWS),
    "array, a row on each line": "[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n",
    "pretty array": json.dumps(ROWS, indent=2),
    "pretty objects": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "Python dicts": "".join(f"{row}\n" for row in ROWS),
}


def reviews(source: Any, path: Path, content: str | bytes, skip_broken: bool = False) -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    prepare(source, [path], path.parent / "made", filters=EVERYTHING, skip_broken=skip_broken)
    return [row.review for row in read_dataset(path.parent / "made")]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_of_json_gives_the_same_rows(shape: str, tmp_path: Path) -> None:
    assert reviews(amazon.SOURCE, tmp_path / "raw.json", SHAPES[shape]) == [row["reviewText"] for row in ROWS]


objects = st.lists(
    st.dictionaries(
        st.text(max_size=3), st.none() | st.integers() | st.text(st.sampled_from('a"\\[]{},\n'), max_size=6), max_size=3
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(rows=objects, indent=st.sampled_from([None, 1]), chunk=st.integers(1, 9), is_array=st.booleans())
def test_objects_come_back_wherever_the_text_is_cut(rows: list, indent: int | None, chunk: int, is_array: bool) -> None:
    text = json.dumps(rows, indent=indent) if is_array else "\n".join(json.dumps(row, indent=indent) for row in rows)
    pieces = iter([text[at : at + chunk] for at in range(0, len(text), chunk)])
    lines = list(lines_of_objects(pieces))
    assert [json.loads(line) for line in lines] == rows
    assert all(line.count("\n") == 1 for line in lines)


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(1, len(SHAPES["pretty array"]) - 1))
def test_an_array_that_is_cut_short_never_passes_as_whole(cut: int) -> None:
    with pytest.raises(BrokenObject, match=r"object [123]|object 4: the file ends"):
        list(lines_of_objects(iter([SHAPES["pretty array"][:cut]])))


def test_a_broken_object_of_an_array_is_named_and_those_before_it_can_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = SHAPES["pretty array"].replace('"u1"', "u1")
    with pytest.raises(PreparationError, match=r"raw\.json, object 2: not valid JSON .*--on-error skip"):
        reviews(amazon.SOURCE, tmp_path / "raw.json", content)
    assert len(reviews(amazon.SOURCE, tmp_path / "raw.json", content, skip_broken=True)) == 1
    assert "object 2: not valid JSON" in caplog.text
    assert "the rest is left out" in caplog.text
    with pytest.raises(PreparationError, match=r"raw\.json, object 3: has a time"):
        reviews(amazon.SOURCE, tmp_path / "raw.json", SHAPES["pretty array"].replace(str(START + 2), '"soon"'))


@pytest.mark.parametrize("hostile", ["{'reviewerID': __import__('os').mkdir('x')}", "{" * 5000, "{'a': " + "(" * 5000])
def test_python_in_a_line_is_never_run(hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreparationError, match="line 4: is not valid JSON"):
        reviews(amazon.SOURCE, tmp_path / "raw.json", SHAPES["Python dicts"] + hostile + "\n")
    assert not (tmp_path / "x").exists()


def test_nan_of_a_python_dict_is_missing(tmp_path: Path) -> None:
    rows = [*ROWS, ROWS[0] | {"reviewText": NAN, "unixReviewTime": START + 9}]
    assert reviews(amazon.SOURCE, tmp_path / "raw.json", "\n".join(map(str, rows)))[-1] == ""


YELP = json.dumps({"user_id": "u", "business_id": "b", "text": "nice", "date": "2020-01-01", "stars": 5}).encode()


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


MEMBERS = {"terms.pdf": b"%PDF \xff", f"folder/{yelp.SOURCE.member}": YELP, "more.json": b"{}"}
NESTED = {
    "zip": zipped(MEMBERS),
    "tar in a zip": zipped({"__MACOSX/._a.tar": b"x", "Yelp JSON/yelp_dataset.tar": tar(MEMBERS), "a.pdf": b"%PDF"}),
    "tar in a tar": tar({"a.pdf": b"%PDF", "yelp_dataset.tar": tar(MEMBERS)}),
}


@pytest.mark.parametrize("container", NESTED)
def test_the_wanted_file_is_found_in_nested_archives(container: str, tmp_path: Path) -> None:
    assert reviews(yelp.SOURCE, tmp_path / "raw", NESTED[container]) == ["nice"]


@pytest.mark.parametrize("pack", [zipped, tar])
def test_the_only_file_of_reviews_in_an_archive_is_read_and_several_are_refused(pack: Any, tmp_path: Path) -> None:
    content = {"readme.md": b"\xff", "a.csv": b"user,item,text,time\nu,i,t,1\n", "__MACOSX/._a.csv": b"\xff"}
    source, path = table.source("user", "item", "text", "time"), tmp_path / "raw.csv.zip"
    assert reviews(source, path, pack(content)) == ["t"]
    with pytest.raises(PreparationError, match=r"holds several files \(a\.csv, b\.csv\); unpack it"):
        reviews(source, path, pack(content | {"b.csv": b"user,item,text,time\nu,i,t,1\n"}))
    with pytest.raises(PreparationError, match="holds no file with a suffix of"):
        reviews(source, path, pack({"readme.md": b"x"}))


def test_a_damaged_zip_is_one_line_without_a_mend_that_does_nothing(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"truncated or damaged .*; get the file again$"):
        reviews(yelp.SOURCE, tmp_path / "raw", NESTED["zip"][:-30])


def test_a_zip_of_an_unknown_version_or_with_a_password_is_one_line(tmp_path: Path) -> None:
    version, password = bytearray(NESTED["zip"]), bytearray(NESTED["zip"])
    at = 0
    while (at := version.find(b"PK\x01\x02", at) + 1) > 0:  # the entries of the directory at its end
        version[at + 5], password[at + 7] = 99, 1
    password[password.find(b"folder/") - 24] = 1
    for content in (version, password):
        with pytest.raises(PreparationError, match=r"raw: .*; unpack it and give the result$"):
            reviews(yelp.SOURCE, tmp_path / "raw", bytes(content))


def test_a_packed_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"raw\.parquet\.zip: .*unpack it"):
        reviews(table.source("user", "item", "text", "time"), tmp_path / "raw.parquet.zip", b"x")


def test_every_source_has_the_encoding_that_the_message_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw = tmp_path / "raw.json"
    raw.write_bytes(amazon_line("u", "i", "caf\u00e9").encode("latin-1"))
    command = ["amazon", "--input", str(raw), "--output", str(tmp_path / "made"), "--user-core=0", "--item-core=0"]
    assert cli.main(command) == 2
    assert "--encoding" in capsys.readouterr().err
    assert cli.main([*command, "--encoding", "latin-1"]) == 0
    assert read_dataset(tmp_path / "made")[0].review == "caf\u00e9"


def test_an_array_longer_than_the_longest_line_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LONGEST_LINE", 100)
    assert len(reviews(amazon.SOURCE, tmp_path / "raw.json", json.dumps(ROWS))) == 3


def test_a_file_that_only_has_carriage_returns_has_no_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LONGEST_LINE", 100)
    monkeypatch.setattr(staging, "CHUNK_BYTES", 30)
    lines = ["user,item,text,time", *(f"u,i{n},t,{START}" for n in range(50))]
    with scratch_folder() as folder:
        assert len(reviews(table.source("user", "item", "text", "time"), folder / "a.csv", "\r".join(lines))) == 50

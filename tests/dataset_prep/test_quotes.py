"""Quotes mean what the file shows, and never join rows unsaid."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError, cli, prepare
from dataset_prep.sources import table
from tests.dataset_prep.rows import EVERYTHING, START, read_dataset, scratch_folder

OWN = table.source(user="user", item="item", text="text", time="time")
HEADER = "user\titem\ttext\ttime\n"
UNQUOTED = HEADER + 'u\ti\t"Great thing\t1\nu\tj\tgood\t2\nu\tk\tnice"\t3\n'
JOINED = 'user,item,text,time\n"u",i,"said ""yes""",1\n"u",j,"open,2\nv,i,fine,3\nv,j,shut",4\n"w",i,t,5\n'
COLUMNS = ["--user=user", "--item=item", "--text=text", "--time=time", "--user-core=0", "--item-core=0"]


def reviews(path: Path, content: str, **options: str) -> list[str]:
    path.write_bytes(content.encode())
    source = table.source(user="user", item="item", text="text", time="time", **options)
    prepare(source, [path], path.parent / "made", filters=EVERYTHING)
    return [row.review for row in read_dataset(path.parent / "made")]


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_without_quoting_no_row_is_joined_with_another(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = UNQUOTED.replace("\t", "," if suffix == "csv" else "\t")
    assert reviews(tmp_path / f"raw.{suffix}", content) == ['"Great thing', "good", 'nice"']
    assert "quotes are read as plain characters, because 1 rows do not fit otherwise" in caplog.text


def test_a_quoted_field_that_swallows_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"line 3: has a quoted field that holds lines which look like rows"):
        reviews(tmp_path / "raw.csv", JOINED)


def test_the_option_says_what_quotes_mean(tmp_path: Path) -> None:
    swallowed = 'user,item,text,time\nu,i,"a table:\nv,j,x,2\nw,k,y,3\nend",4\n'
    assert reviews(tmp_path / "raw.csv", swallowed, quotes="double") == ["a table:\nv,j,x,2\nw,k,y,3\nend"]
    assert reviews(tmp_path / "raw.tsv", HEADER + 'u\ti\t"all"\t1\n', quotes="none") == ['"all"']
    assert reviews(tmp_path / "raw.tsv", HEADER + 'u\ti\t"all"\t1\n') == ["all"]


@settings(deadline=None, max_examples=30)
@given(
    texts=st.lists(st.text(st.sampled_from('a" '), min_size=1, max_size=6).map("{}x".format), min_size=2, max_size=8)
)
def test_every_row_of_an_unquoted_file_is_there(texts: list[str]) -> None:
    texts = ['"open', *texts, 'shut"']
    content = HEADER + "".join(f"u\ti{n}\t{text}\t{START + n}\n" for n, text in enumerate(texts))
    with scratch_folder() as folder:
        assert reviews(folder / "raw.tsv", content) == texts


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_another_delimiter_is_guessed_and_the_mend_works(
    delimiter: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(HEADER.replace("\t", delimiter) + delimiter.join(["u", "i", "a, b", str(START)]) + "\n")
    command = ["table", "--input", str(raw), "--output", str(tmp_path / "made"), *COLUMNS]
    assert cli.main(command) == 2
    assert f"seem to be separated by {delimiter!r}: give --delimiter" in capsys.readouterr().err
    assert cli.main([*command, "--delimiter", "tab" if delimiter == "\t" else delimiter]) == 0
    assert read_dataset(tmp_path / "made")[0].review == "a, b"


def test_spaces_around_the_names_of_columns_do_not_matter(tmp_path: Path) -> None:
    assert reviews(tmp_path / "raw.csv", "user, item ,text , time\nu,i,fine,1\n") == ["fine"]


@pytest.mark.parametrize(("name", "delimiter"), [("raw.jsonl", ";"), ("raw.csv", "::"), ("raw.csv", '"')])
def test_a_delimiter_that_can_not_be_is_refused(name: str, delimiter: str, tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"delimiter"):
        reviews(tmp_path / name, "", delimiter=delimiter)

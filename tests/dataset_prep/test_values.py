"""Values that every row has wrong, files without times, and times that no review can have."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError, cli, prepare
from dataset_prep.plausibility import year
from dataset_prep.sources import amazon, table
from tests.dataset_prep.rows import EVERYTHING, START, amazon_line, read_dataset, read_statistics, scratch_folder

HEADER = "user,item,text,time,rating\n"
COLUMNS = ["--user=user", "--item=item", "--text=text", "--user-core=0", "--item-core=0"]


def run(path: Path, content: str, *options: str) -> int:
    path.write_text(content)
    return cli.main(["table", "--input", str(path), "--output", str(path.parent / "made"), *COLUMNS, *options])


def test_ratings_that_are_words_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw, content = tmp_path / "raw.csv", f"{HEADER}u,i,t,{START},4 stars\nu,j,t,{START},5 stars\n"
    assert run(raw, content, "--time=time", "--rating=rating") == 2
    assert "isn't a number: '4 stars'; every row is so; leave --rating out" in capsys.readouterr().err
    assert run(raw, f"{content}u,k,t,{START},3\n", "--time=time", "--rating=rating") == 2
    assert "--on-error skip, or leave --rating out" in capsys.readouterr().err
    assert run(raw, content, "--time=time") == 0


WRITTEN = {
    "%Y-%m-%d": ("2020-09-13", "2020-09-14"),
    "%d/%m/%Y": ("01/09/2020", "13/09/2020"),
    "%B %d, %Y": ("September 1, 2020", "May 3, 2020"),
    "%Y-%m-%dT%H:%M:%S%z": ("2020-09-13T12:00:00+0000", "2020-09-14T12:00:00+09:00"),
    "%Y-%m-%dT%H:%M:%SZ": ("2020-09-13T12:00:00Z", "2020-09-14T12:00:00Z"),
}


@pytest.mark.parametrize("time_format", WRITTEN)
def test_where_every_time_is_so_the_message_names_the_format_that_works(
    time_format: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = HEADER + "".join(f'u,i{n},t,"{time}",1\n' for n, time in enumerate(WRITTEN[time_format]))
    assert run(tmp_path / "raw.csv", content, "--time=time") == 2
    assert f"every row is so; give --time-format {time_format!r}" in capsys.readouterr().err
    assert run(tmp_path / "raw.csv", content, "--time=time", "--time-format", time_format) == 0


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        (amazon.SOURCE, "no\njson\n", "is not valid JSON; every row is so, so the file is of another kind"),
        (amazon.SOURCE, amazon_line("u", "i", time="soon") * 2, "every row is so, so the file is of another kind"),
        (table.source("user", "item", "text", "time"), f"{HEADER}u,i,t\nu,i,t\n", "every row is so; .*--delimiter"),
        (table.source("user", "item", "text", "time"), f"{HEADER}u,i,t,,\nu,i,t,,\n", "has no time; .*--order rows"),
    ],
)
def test_no_message_says_to_delete_every_row(source: Any, content: str, message: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(content)
    with pytest.raises(PreparationError, match=message):
        prepare(source, [raw], tmp_path / "made", filters=EVERYTHING)
    with pytest.raises(PreparationError, match=r"every row is broken; without --on-error skip"):
        prepare(source, [raw], tmp_path / "made", filters=EVERYTHING, skip_broken=True)


def test_without_times_the_user_asks_for_the_order_of_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    content = "user,item,text\nu,b,t\nu,a,t\nv,c,t\n"
    assert run(tmp_path / "raw.csv", content) == 2
    assert "no column of times: models are tested on the last reviews" in capsys.readouterr().err
    assert run(tmp_path / "raw.csv", content, "--order=rows") == 0
    assert capsys.readouterr().out.endswith(", in the order of the rows\n")
    assert not caplog.records
    assert [(row.item, row.time) for row in read_dataset(tmp_path / "made")] == [("b", 0.0), ("a", 1.0), ("c", 2.0)]
    assert read_statistics(tmp_path / "made")["times"] == "in the order of the rows"
    assert run(tmp_path / "raw.csv", content, "--order=rows", "--from=2020-01-01") == 2
    assert run(tmp_path / "raw.csv", content, "--order=rows", "--time=text") == 2


@settings(deadline=None, max_examples=25)
@given(
    written=st.sampled_from(["seconds", "milliseconds", "microseconds", "nanoseconds"]),
    taken=st.sampled_from(["seconds", "milliseconds", "microseconds", "nanoseconds"]),
    time=st.integers(1_000_000_000, 1_700_000_000),
)
def test_times_in_another_unit_are_told_with_that_unit(written: str, taken: str, time: int) -> None:
    scale = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}[written]
    with scratch_folder() as folder, pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("dataset_prep.plausibility.logger.warning", said.append)
        (folder / "raw.csv").write_text(f"{HEADER}u,i,t,{time * scale},1\n")
        source = table.source("user", "item", "text", "time", time_format=taken)
        prepare(source, [folder / "raw.csv"], folder / "made", filters=EVERYTHING)
        assert len(said) == (written != taken)
        assert all(text.endswith(f"they look like {written}: give --time-format {written}") for text in said)


def test_a_source_with_a_fixed_unit_says_how_far_off_the_times_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "raw.json").write_text(amazon_line("u", "i", time=START * 1000) + amazon_line("u", "j"))
    prepare(amazon.SOURCE, [tmp_path / "raw.json"], tmp_path / "made", filters=EVERYTHING)
    assert "1 of 2 times are before 1990 or in the future, from the year 52671 to 52671; check them" in caplog.text
    caplog.clear()
    (tmp_path / "raw.json").write_text(amazon_line("u", "i", time=START * 1000))
    prepare(amazon.SOURCE, [tmp_path / "raw.json"], tmp_path / "made", filters=EVERYTHING)
    assert "they look 1,000 times too large: read the files with the source table" in caplog.text


def test_negative_times_are_told_and_the_summary_has_the_years(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(tmp_path / "raw.csv", f"{HEADER}u,i,t,-86400,1\nu,j,t,{START},1\n", "--time=time") == 0
    assert "1 of 2 times are before 1990 or in the future, from the year 1969 to 1969; check them" in caplog.text
    assert capsys.readouterr().out.endswith("of all pairs), 1969 to 2020\n")


@pytest.mark.parametrize(("seconds", "expected"), [(0, 1970), (-1, 1969), (START, 2020), (START * 1e3, 52671)])
def test_the_year_of_any_time(seconds: float, expected: int) -> None:
    assert year(seconds) == expected

"""Rows of JSON lines, delimited text and Parquet, and where the broken ones stand."""

import csv
import io
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError, prepare
from dataset_prep.formats import Delimited, Format, JsonLines, Parquet, format_of
from dataset_prep.sources import amazon, table
from dataset_prep.staging import Staged
from dataset_prep.text import MISSING_WORDS
from tests.dataset_prep.rows import EVERYTHING, START, amazon_line, read_dataset, scratch_engine

quick = settings(deadline=None, max_examples=25)
OWN_TABLE = table.source(user="user", item="item", text="text", time="time", rating="rating")
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
MEND = "mend or delete it, or leave such rows out with --on-error skip"


def read(form: Format, path: Path, fields: list[str]) -> list[tuple[str | None, ...]]:
    """The values of ``fields``, row by row."""
    file = Staged(path, path, 0, "0")
    with scratch_engine() as engine:
        columns = {f"column{place}": field for place, field in enumerate(fields)}
        relation = form.relation(engine, file, dict(columns))
        return engine.execute(f"SELECT {', '.join(columns)} FROM ({relation}) WHERE broken IS NULL ORDER BY record")


@quick
@given(st.lists(st.dictionaries(st.sampled_from(["a", "a/b", "a~1b", "$.a", "é ", '"']), values), min_size=1))
def test_json_lines_give_their_values_under_any_name(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict]
) -> None:
    path = tmp_path_factory.mktemp("json") / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    fields = ["a", "a/b", "a~1b", "$.a", "é ", '"']
    assert read(JsonLines(), path, fields) == [tuple(map(row.get, fields)) for row in rows]


@quick
@given(
    rows=st.lists(st.lists(values, min_size=3, max_size=3), max_size=8),
    delimiter=st.sampled_from([",", "\t"]),
)
def test_quoted_fields_come_back_whatever_they_hold(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([["a", "b,\n", "c"], *rows])
    expected = [tuple(None if value in ("", *MISSING_WORDS) else value for value in row) for row in rows]
    assert read(Delimited(delimiter), path, ["a", "b,\n", "c"]) == expected


def test_without_quoting_quotes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('a\tb\n"x\ty"\n""\tsay "hi"\n')
    assert read(Delimited("\t", quote=""), path, ["a", "b"]) == [('"x', 'y"'), ('""', 'say "hi"')]


def test_names_are_used_where_the_first_line_has_none(tmp_path: Path) -> None:
    form = Delimited("\t", names=("a", "b"))
    (tmp_path / "with.tsv").write_text("b\ta\n1\t2\n")
    (tmp_path / "without.tsv").write_text("2\t1\n")
    for name in ("with", "without"):
        assert read(form, tmp_path / f"{name}.tsv", ["a", "b"]) == [("2", "1")]


@pytest.mark.parametrize("name", ["r{}w.jsonl", "r{}w.csv", "r{}w.parquet"])
def test_a_file_whose_name_looks_like_a_pattern_is_read_itself(name: str, tmp_path: Path) -> None:
    write = {
        ".jsonl": pl.DataFrame.write_ndjson,
        ".csv": pl.DataFrame.write_csv,
        ".parquet": pl.DataFrame.write_parquet,
    }
    for letter, value in (("[a]", "mine"), ("a", "another's")):
        write[Path(name).suffix](pl.DataFrame({"a": [value]}), tmp_path / name.format(letter))
    path = tmp_path / name.format("[a]")
    assert read(format_of(path), path, ["a"]) == [("mine",)]


def test_parquet_times_are_seconds(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    moment = pl.Series([START * 1_000_000 + 250_000])
    rows = pl.DataFrame({"moment": moment.cast(pl.Datetime("us")), "day": (moment // 86_400_000_000).cast(pl.Date)})
    rows.with_columns(zone=pl.col("moment").dt.replace_time_zone("UTC"), n=pl.lit(7)).write_parquet(path)
    midnight = float(START // 86_400 * 86_400)
    assert read(Parquet(), path, ["moment", "day", "zone", "n"]) == [
        (f"{START}.25", str(midnight), f"{START}.25", "7"),
    ]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.json", JsonLines()),
        ("a.jsonl.gz", JsonLines()),
        ("a.b.CSV.zst", Delimited(",")),
        ("a.tsv", Delimited("\t")),
        ("a.parquet", Parquet()),
    ],
)
def test_the_suffix_names_the_format(name: str, form: Format) -> None:
    assert format_of(Path(name)) == form


@pytest.mark.parametrize("name", ["reviews", "reviews.txt", "reviews.gz"])
def test_a_name_without_a_format_is_refused(name: str) -> None:
    with pytest.raises(PreparationError, match=rf"{name}: the name says no format; rename the file"):
        format_of(Path(name))


GOOD = amazon_line("u", "i")
JSON_FAULTS = {
    '{"reviewerID": "u"\n': "is not valid JSON",
    "}\n": "is not valid JSON",
    f"{GOOD.strip()} {GOOD}": "is not valid JSON",
    "[1]\n": "is not a JSON object",
    "null\n": "is not a JSON object",
    amazon_line("u", "i", time="soon"): "has a time that isn't in seconds: 'soon'",
    amazon_line("u", "i", time="nan"): "has a time that isn't in seconds: 'nan'",
    amazon_line("u", "i", time="1e999"): "has a time that isn't in seconds: '1e999'",
    '{"reviewerID": "u", "asin": "i"}\n': "has no time",
    amazon_line("u", "i", rating="B-"): "has a rating that isn't a number: 'B-'",
}


@pytest.mark.parametrize("broken", JSON_FAULTS)
def test_a_broken_json_line_is_named_exactly(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "raw.json"
    path.write_text(GOOD * 5000 + "\n  \r\n" + broken + GOOD + broken)
    with pytest.raises(PreparationError) as caught:
        prepare(amazon.SOURCE, [path], tmp_path / "made")
    assert str(caught.value) == f"{path}, line 5,003: {JSON_FAULTS[broken]}; {MEND}"


CSV_HEADER = "user,item,text,time,rating\n"
CSV_GOOD = 'u,i,"two\nlines, ""quoted""",5,1\n'
CSV_FAULTS = {
    "u,i,t\n": "Expected Number of Columns: 5 Found: 3",
    "u,i,t,5,1,2\n": "Expected Number of Columns: 5 Found: 6",
    'u,i,"open,5,1\n': "Value with unterminated quote found.",
    "u,i,t,soon,1\n": "has a time that isn't in seconds: 'soon'",
    'u,i,"t\nt",,1\n': "has no time",
}


@pytest.mark.parametrize("broken", CSV_FAULTS)
def test_a_broken_csv_row_is_named_by_its_first_line(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    path.write_text(CSV_HEADER + CSV_GOOD * 3000 + broken + (CSV_GOOD if '"open' not in broken else ""))
    with pytest.raises(PreparationError) as caught:
        prepare(OWN_TABLE, [path], tmp_path / "made")
    assert str(caught.value) == f"{path}, line 6,002: {CSV_FAULTS[broken]}; {MEND}"


def test_a_header_of_several_lines_counts(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    path.write_text('user,item,text,time,rating,"more\nthan\none"\nu,i,t,5,1,x\nu,i,t,soon,1,x\n')
    with pytest.raises(PreparationError, match="line 5: has a time"):
        prepare(OWN_TABLE, [path], tmp_path / "made")


@pytest.mark.parametrize(
    ("name", "source", "header", "good", "faults"),
    [("raw.json", amazon.SOURCE, "", GOOD, JSON_FAULTS), ("raw.csv", OWN_TABLE, CSV_HEADER, CSV_GOOD, CSV_FAULTS)],
)
def test_broken_rows_can_be_left_out_with_a_counted_warning(
    name: str, source, header: str, good: str, faults: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    unclosed = [fault for fault in faults if '"open' in fault]
    bodies = [good + fault for fault in faults if fault not in unclosed]
    path.write_text(header + "".join(bodies) * 2 + good)
    prepare(source, [path], tmp_path / "made", filters=EVERYTHING, skip_broken=True)
    assert len(read_dataset(tmp_path / "made")) == 2 * len(bodies) + 1
    counts = [int(record.args[1]) for record in caplog.records if record.name == "dataset_prep.parsing"]
    assert sum(counts) == 2 * len(bodies)


def test_a_row_that_is_not_in_the_encoding_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "raw.json"
    path.write_bytes(GOOD.encode() + amazon_line("u", "i", "caf?").encode().replace(b"?", b"\xe9"))
    prepare(amazon.SOURCE, [path], tmp_path / "made", filters=EVERYTHING, skip_broken=True)
    assert [row.review for row in read_dataset(tmp_path / "made")] == ["fine"]
    assert "left out 1 rows, each of which has undecodable bytes" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "raw.json",
            '{"reviewerID": "u", "stars": 1}\n',
            "no field asin, reviewText, unixReviewTime, overall; the file",
        ),
        ("raw.csv", "user,item,text,rating\n", "no field time; the file has item, rating, text, user"),
        ("raw.csv", CSV_HEADER, "the file has no rows"),
        ("raw.csv", "", "no names of fields; the file is empty"),
        ("raw.csv", "\n" + CSV_HEADER + CSV_GOOD, "no names of fields; the file is empty or begins with an empty line"),
        ("raw.csv", '"' + "x" * 200_000, "not delimited text"),
        ("raw.json", "\n\n", "the file has no rows"),
    ],
)
def test_a_file_without_a_needed_field_or_row_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(PreparationError, match=f"{name}.*: {message}"):
        prepare(amazon.SOURCE if name == "raw.json" else OWN_TABLE, [path], tmp_path / "made")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pl.DataFrame({"user": ["u"]}).write_parquet(buffer)
    path = tmp_path / "raw.parquet"
    path.write_bytes(buffer.getvalue()[:-5])
    with pytest.raises(PreparationError, match=r"raw\.parquet: "):
        prepare(OWN_TABLE, [path], tmp_path / "made")


@quick
@given(
    st.binary(max_size=200) | values.map(str.encode), st.sampled_from(["raw.json", "raw.csv", "raw.tsv", "raw.parquet"])
)
def test_any_bytes_are_converted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / name).write_bytes(content)
    with pytest.raises(PreparationError, match=name):
        prepare(OWN_TABLE, [folder / name], folder / "made", filters=EVERYTHING)

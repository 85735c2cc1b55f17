"""Each kind of raw file, as its publisher lays it out."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import polars as pl
import pytest

from dataset_prep import PreparationError, prepare
from dataset_prep.sources import amazon, rakuten_travel, table, yelp
from tests.dataset_prep.rows import EVERYTHING, START, Interaction, amazon_line, read_dataset


def converted(source, path: Path, content: bytes) -> list[Interaction]:
    path.write_bytes(content)
    prepare(source, [path], path.parent / "made", filters=EVERYTHING)
    return read_dataset(path.parent / "made")


AMAZON = {
    "2014": {
        "reviewerID": "A1",
        "asin": "B1",
        "reviewerName": "x",
        "helpful": [0, 1],
        "reviewText": "Fits &#34;well&#34;",
        "overall": 4.0,
        "summary": "s",
        "unixReviewTime": START,
        "reviewTime": "09 13, 2020",
    },
    "2018": {
        "overall": 4.0,
        "verified": True,
        "reviewTime": "09 13, 2020",
        "reviewerID": "A1",
        "asin": "B1",
        "style": {"Size:": " 7"},
        "reviewText": "Fits &#34;well&#34;",
        "unixReviewTime": START,
        "image": ["x"],
    },
    "2023": {
        "rating": 4.0,
        "title": "t",
        "text": 'Fits "well"',
        "images": [],
        "asin": "B0",
        "parent_asin": "B1",
        "user_id": "A1",
        "timestamp": START * 1000,
        "helpful_vote": 0,
        "verified_purchase": True,
    },
}


@pytest.mark.parametrize("year", AMAZON)
def test_amazon_years_are_told_apart_by_their_fields(year: str, tmp_path: Path) -> None:
    content = gzip.compress(json.dumps(AMAZON[year]).encode())
    rows = converted(amazon.SOURCE, tmp_path / "reviews.json.gz", content)
    assert rows == [Interaction("A1", "B1", 4.0, START, 'Fits "well"')]


def test_amazon_lines_without_a_text_are_dropped_rows_not_another_layout(tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_text(
        '{"reviewerID":"u","asin":"i","overall":1,"unixReviewTime":1}\n' + amazon_line("u", "i")
    )
    statistics = prepare(amazon.SOURCE, [tmp_path / "raw.json"], tmp_path / "made", filters=EVERYTHING)
    assert (statistics["reviews"], statistics["empty_texts"]) == (2, 1)


YELP = {"review_id": "r", "user_id": "A1", "business_id": "B1", "stars": 4.0, "useful": 0, "text": "Nice\n\nplace"}


@pytest.mark.parametrize("container", ["alone", "tar", "tgz"])
def test_yelp_reviews_are_read_alone_or_inside_the_tar(container: str, tmp_path: Path) -> None:
    line = json.dumps(YELP | {"date": "2020-09-13 12:26:40"}).encode() + b"\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if container == "tgz" else "w") as archive:
        for name, content in (("Dataset_User_Agreement.pdf", b"%PDF"), (yelp.SOURCE.member, line)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    rows = converted(yelp.SOURCE, tmp_path / "yelp_dataset", line if container == "alone" else buffer.getvalue())
    assert rows == [Interaction("A1", "B1", 4.0, START, "Nice\n\nplace")]


def test_old_yelp_dates_have_no_time_of_day(tmp_path: Path) -> None:
    content = json.dumps(YELP | {"date": "2015-04-15"}).encode()
    assert converted(yelp.SOURCE, tmp_path / "yelp.json", content)[0].time == 1_429_056_000


def rakuten_line(user: str, time: str, item: str, rating: str, text: str) -> str:
    known = dict(zip((rakuten_travel.USER, rakuten_travel.TIME, rakuten_travel.ITEM), (user, time, item), strict=True))
    known |= {rakuten_travel.RATING: rating, rakuten_travel.TEXT: text}
    return "\t".join(known.get(field, "x") for field in rakuten_travel.FIELDS) + "\n"


@pytest.mark.parametrize("encoding", [None, "cp932", "euc_jp"])
@pytest.mark.parametrize("header", ["", "\t".join(rakuten_travel.FIELDS) + "\n"])
def test_rakuten_files_have_names_or_the_manuals_order(encoding: str | None, header: str, tmp_path: Path) -> None:
    lines = rakuten_line("user_1", "2020-09-13 12:26:40", "77", "5", '"露天風呂"が良い')
    lines += rakuten_line("user_2", "2020/09/14", "78", "0", "普通")
    content = (header + lines).encode(encoding or "utf-8")
    assert converted(rakuten_travel.source(encoding=encoding), tmp_path / "reviews.tsv", content) == [
        Interaction("user_1", "77", 5.0, START, '"露天風呂"が良い'),
        Interaction("user_2", "78", 0.0, 1_600_041_600, "普通"),
    ]


def test_other_rakuten_releases_are_read_by_the_names_given(tmp_path: Path) -> None:
    content = "利用者\t宿\t本文\t日時\nuser_1\t77\t良い\t2020-09-13\n".encode()
    source = rakuten_travel.source(user="利用者", item="宿", text="本文", time="日時", rating=None)
    assert converted(source, tmp_path / "reviews.tsv", content)[0].review == "良い"
    with pytest.raises(PreparationError, match="line 1: no field 投稿者ID, 施設ID, ユーザ投稿本文"):
        converted(rakuten_travel.SOURCE, tmp_path / "reviews.tsv", content)


OWN = pl.DataFrame(
    {"who": ["A1", "A2"], "what": ["B1", "B2"], "said": ['a "b",\tc', "é\nい"], "at": [START, START + 1]}
)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_of_any_format_gives_the_same_dataset(suffix: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    {
        ".csv": OWN.write_csv,
        ".tsv": lambda file: OWN.write_csv(file, separator="\t"),
        ".jsonl": OWN.write_ndjson,
        ".parquet": OWN.write_parquet,
    }[suffix](buffer)
    source = table.source(user="who", item="what", text="said", time="at")
    assert converted(source, tmp_path / f"own{suffix}", buffer.getvalue()) == [
        Interaction("A1", "B1", None, START, 'a "b",\tc'),
        Interaction("A2", "B2", None, START + 1, "é\nい"),
    ]

"""``symcere prep --dataset`` makes a dataset from its raw file, and ``symcere prep stats`` counts what is in it."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest

from dataset_prep.sources import kinds, rakuten_travel, yelp
from recbole_symcere.cli import main
from recbole_symcere.commands.statistics import HEADS, as_text, statistics
from tests.conftest import START, Row, write_atomic_files
from tests.dataset_prep.file_server import Answer, Served, file_server
from tests.dataset_prep.rows import contents, read_dataset, read_statistics
from tests.dataset_prep.test_sources import rakuten_line

DAY = 86_400
VALID = 44  # a row that lies between the two cuts in time
PAIRS = [(f"u{user}", f"i{item}") for user in range(8) for item in range(6)] + [("u9", f"i{n}") for n in range(4)]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "*")
    with file_server() as running:
        yield running


def amazon_2023() -> bytes:
    """Eight users of six items, who make a 5-core, and one of four items, who falls out of it."""
    lines = [
        json.dumps(
            {"user_id": user, "parent_asin": item, "text": f"fine {n}", "timestamp": (START + n) * 1000, "rating": 4.0}
        )
        for n, (user, item) in enumerate(PAIRS)
    ]
    return gzip.compress("\n".join(lines).encode())


def yelp_tar() -> bytes:
    lines = [
        json.dumps(
            {"user_id": user, "business_id": item, "text": "nice", "date": f"2019-01-{1 + n % 28}", "stars": 4.0}
        )
        for n, (user, item) in enumerate(PAIRS)
    ]
    content, buffer = "\n".join(lines).encode(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(yelp.SOURCE.member)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def users_of(folder: Path) -> set[str]:
    return {row.user for row in read_dataset(folder)}


def prepared(name: str, raw: bytes, file: str, *arguments: str) -> Path:
    """The folder of a dataset that was prepared from a raw file at its usual place."""
    Path("raw").mkdir(exist_ok=True)
    Path("raw", file).write_bytes(raw)
    assert main(["prep", "--dataset", name, *arguments]) == 0
    return Path("dataset", name)


def test_amazon_becomes_a_5_core_whose_size_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    made = prepared("amazon-pet-supplies", amazon_2023(), "Pet_Supplies.jsonl.gz")
    assert users_of(made) == {f"u{n}" for n in range(8)}
    assert capsys.readouterr().out.startswith("dataset/amazon-pet-supplies: 8 users, 6 items, 48 reviews (100.00% of")


@pytest.mark.parametrize("packed", [False, True])
def test_yelp_is_read_from_the_tar_or_the_zip_around_it(packed: bool) -> None:
    path = Path("Yelp-JSON.zip" if packed else "yelp_dataset.tar")
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("Yelp JSON/yelp_dataset.tar", yelp_tar())
    else:
        path.write_bytes(yelp_tar())
    assert main(["prep", "--dataset", "yelp", "--input", str(path)]) == 0
    assert users_of(Path("dataset/yelp")) == {f"u{n}" for n in range(8)}


def test_travel_keeps_who_has_one_review() -> None:
    lines = rakuten_line("a", "2019-01-02 10:00:00", "77", "5", "good")
    lines += rakuten_line("b", "2019-01-03", "78", "4", "普通")
    made = prepared("travel", lines.encode(), "01_Travel_Review.2019.tsv")
    assert [(row.user, row.item, row.review) for row in read_dataset(made)] == [
        ("a", "77", "good"),
        ("b", "78", "普通"),
    ]


def test_a_seed_draws_users_and_the_same_seed_the_same() -> None:
    drawn = {}
    for seed in ("1", "2", "1"):
        made = prepared("yelp", yelp_tar(), "yelp_dataset.tar", "--max-users", "6", "--seed", seed)
        assert len(users_of(made)) == 6
        filters = read_statistics(made)["filters"]
        assert (filters["max_users"], filters["seed"]) == (6, int(seed))
        assert drawn.setdefault(seed, contents(made)) == contents(made)
    assert drawn["1"] != drawn["2"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dataset", "yelp", "--user-core=6", "--item-core", "8"],
        ["--dataset=yelp", "--user-core=6", "--item-core=8"],
        ["--dataset=yelp", "--user-core", "6", "--item-core", "8"],
        ["--user-core=6", "--item-core=8", "--dataset", "yelp"],
    ],
)
def test_what_is_given_takes_precedence_over_the_file_wherever_it_stands(arguments: list[str]) -> None:
    Path("raw").mkdir()
    Path("raw/yelp_dataset.tar").write_bytes(yelp_tar())
    assert main(["prep", *arguments]) == 0
    filters = read_statistics(Path("dataset/yelp"))["filters"]
    assert (filters["user_core"], filters["item_core"]) == (6, 8)


def test_a_download_from_another_address_is_prepared_and_fetched_once(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.answering(Answer(amazon_2023()))
    command = ["prep", "--dataset", "amazon-pet-supplies", "--download", "--address", served.address]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert 0 <= said.index("Terms: offered by") < said.index(f"raw/Pet_Supplies.jsonl.gz from {served.address}\n")
    assert users_of(Path("dataset/amazon-pet-supplies")) == {f"u{n}" for n in range(8)}
    kept = json.loads(Path("raw/Pet_Supplies.jsonl.gz.download.json").read_text())
    assert (kept["address"], kept["size"]) == (served.address, len(amazon_2023()))
    assert main([*command, "--max-users=6"]) == 0
    assert served.asked == [0]


def test_a_download_goes_where_the_input_is_named(served: Served) -> None:
    served.answering(Answer(amazon_2023()))
    place = ["--input", "elsewhere/pets.jsonl.gz", "--output", "mine/pets"]
    assert main(["prep", "--dataset", "amazon-pet-supplies", "--download", f"--address={served.address}", *place]) == 0
    assert Path("elsewhere/pets.jsonl.gz").is_file() and not Path("raw").exists()
    assert users_of(Path("mine/pets")) == {f"u{n}" for n in range(8)}


def test_the_terms_stand_before_the_first_request(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.answering(Answer(status=404))
    command = ["prep", "--dataset", "amazon-pet-supplies", "--download", "--address", served.address]
    assert main(command) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert kinds()["amazon"].about in "\n".join(before)
    assert last.startswith(f"error: {served.address}: the server answers 404 Not Found; ")
    assert not Path("dataset").exists()


def test_without_an_option_the_address_is_the_publishers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("recbole_symcere.commands.prep.download", lambda *given: asked.append(given))
    assert main(["prep", "--dataset", "gift-cards", "--download"]) == 2, "nothing was fetched"
    address = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/Gift_Cards_5.json.gz"
    assert asked == [(address, Path("raw/Gift_Cards_5.json.gz"))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dataset amazon-pet-suplies", "there is no dataset 'amazon-pet-suplies' that a property file describes; did "
         "you mean 'amazon-pet-supplies'? (known: amazon-automotive, "),
        ("--dataset demo", "there is no dataset 'demo' that a property file describes"),
        ("--dataset", "--dataset needs a name (known: amazon-automotive, "),
        ("--dataset --max-users=3", "there is no dataset '--max-users=3'"),
        ("--max-users=3 --dataset", "--dataset needs a name (known: amazon-automotive, "),
        ("--dataset yelp --max-user=3", "unknown argument --max-user=3; did you mean '--max-users'?"),
        ("--dataset yelp --form 2019-01-01", "unknown argument --form; did you mean '--from'?"),
        ("--dataset yelp --sead=20190101000000", "unknown argument --sead=20190101000000; did you mean '--seed'?"),
        ("--dataset=yelp --downlod", "unknown argument --downlod; did you mean '--download'?"),
        ("--dataset yelp --time x", "unknown argument --time"),
        ("--dataset=yelp demo --output x", "--dataset NAME says the source itself; leave demo out, or --dataset"),
        ("--dataset=yelp stats demo", "--dataset NAME says the source itself; leave stats out, or --dataset"),
        ("--dataset yelp", "raw/yelp_dataset.tar: no such file; agree to the Yelp Dataset User Agreement at https://"),
        ("--dataset yelp --download", "yelp can't be downloaded without an agreement: agree to the Yelp Dataset User"),
        ("--dataset travel --download", "travel can't be downloaded without an agreement: apply for the Rakuten Data"),
        ("--dataset yelp --input a.tar b.tar", "a.tar: no such file; agree to"),
        ("--dataset gift-cards", "raw/Gift_Cards_5.json.gz: no such file; add --download to fetch https://mcauleylab"),
        ("--dataset gift-cards --download --input a b", "--download fetches one file; give one --input, where it goes"),
        ("", "name a source (amazon, demo, rakuten-travel, table, yelp), or a dataset: --dataset NAME"),
        ("stats demo --formt=csv", "unknown argument --formt=csv; `symcere prep stats --help` lists all arguments"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_make_nothing(
    arguments: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["prep", *arguments.split()]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert not list(Path.cwd().iterdir())


def test_the_help_of_a_dataset_lists_the_options_of_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["prep", "--dataset", "travel", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: symcere prep --dataset travel ")
    assert rakuten_travel.ABOUT in said
    assert all(option in said for option in ("--download", "--address", "--max-users", "--text", "--encoding"))


# --- statistics ----------------------------------------------------------------------------------------------------


def rows_with_all_faults() -> list[Row]:
    """Rows with ties, repeated pairs and texts, blank texts and users who come late, and not in the order of time.

    Only the first rows have ties, so the cuts of the split by time lie between rows of different times.
    """
    rng = np.random.default_rng(5)
    rows: list[Row] = []
    for n in range(60):
        user = f"u{(n // 2 if n < 24 else rng.integers(9)) % 9}"
        if n in (VALID, 58):
            user = "valid"
        elif n > 52 and n % 2:
            user = f"late{n % 3}"
        text = ["", "the same words", f"own\u3000words {n} ", f"many more words in  this text {n}"][rng.integers(4)]
        time = START + DAY * (n // 2 if n < 24 else n) + 0.25
        rows.append((user, f"i{rng.integers(12)}", 4.0, time, f"r{n}", text))
    return [rows[n] for n in rng.permutation(len(rows))]


def strangers(rows: Sequence[Row], left_out: int = 0) -> float:
    """The share of the users of the last fifth of the first rows of each pair, by time, who have no row before it.

    Args:
        left_out: how many rows before the last fifth don't count.
    """
    first: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row[3]):
        first.setdefault((row[0], row[1]), row)
    kept = sorted(first.values(), key=lambda row: row[3])
    n_test = int(0.2 * len(kept))
    earlier, tested = ({row[0] for row in part} for part in (kept[: -n_test - left_out], kept[-n_test:]))
    return len([user for user in tested if user not in earlier]) / len(tested)


def slow_count(rows: Sequence[Row]) -> dict[str, Any]:
    users, items = {row[0] for row in rows}, {row[1] for row in rows}
    of_users = Counter(row[0] for row in rows).values()
    days = [datetime.fromtimestamp(row[3], timezone.utc).strftime("%Y-%m-%d") for row in rows]
    moments, texts = Counter((row[0], row[3]) for row in rows), Counter(row[5] for row in rows)
    return {
        "users": len(users),
        "items": len(items),
        "reviews": len(rows),
        "density": len(rows) / len(users) / len(items),
        "mean": mean(of_users),
        "median": median(of_users),
        "words": median(len(row[5].split()) for row in rows),
        "ties": sum(moments[row[0], row[3]] > 1 for row in rows) / len(rows),
        "repeated_pairs": sum(n - 1 for n in Counter((row[0], row[1]) for row in rows).values()),
        "repeated_texts": sum(texts[row[5]] > 1 for row in rows),
        "strangers": strangers(rows),
        "first": min(days),
        "last": max(days),
    }


def written(name: str, rows: Sequence[Row], reviews: bool = True) -> None:
    folder = write_atomic_files(Path("dataset", name), rows)
    if not reviews:
        (folder / f"{name}.review.jsonl").unlink()
        path = folder / f"{name}.inter"
        lines = [line.rpartition("\t")[0] for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n")


def shown(count: dict[str, Any]) -> list[str]:
    """The cells of a row of a table."""
    forms = dict.fromkeys(HEADS, "{:,d}") | dict.fromkeys(("mean", "median", "words"), "{:,.1f}")
    forms |= dict.fromkeys(("first", "last"), "{}") | dict.fromkeys(("density", "ties", "strangers"), "{:.3g}%")
    shares = {key: 100 * count[key] for key in ("density", "ties", "strangers") if key in count}
    return [forms[key].format((count | shares)[key]) if key in count else "n/a" for key in HEADS]


def as_numbers(text: str) -> dict[str, list[Any]]:
    _, *rows = csv.reader(text.splitlines())
    return {name: [*map(float, cells[:-2]), *cells[-2:]] for name, *cells in rows}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["prep", "stats", *arguments]) == 0
    return capsys.readouterr().out


def test_the_statistics_are_those_of_a_slow_count_in_each_format(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_with_all_faults()
    written("shop", rows)
    written("a_b", rows[:40])
    counts = {"shop": slow_count(rows), "a_b": slow_count(rows[:40])}
    assert 0 < counts["shop"]["strangers"] < 1 and 0 < counts["shop"]["ties"] < 1
    assert strangers(rows, left_out=4) > counts["shop"]["strangers"], "somebody is known from validation alone"
    assert counts["shop"]["repeated_pairs"] > 0 < counts["shop"]["repeated_texts"]
    as_csv = printed(capsys, "shop", "a_b", "--format", "csv")
    assert as_csv.splitlines()[0] == ",".join(["dataset", *HEADS])
    found = as_numbers(as_csv)
    assert list(found) == ["shop", "a_b"]
    for name, count in counts.items():
        *numbers, first, last = (count[key] for key in HEADS)
        assert found[name] == [*map(pytest.approx, numbers), first, last]
    head, _, *lines = printed(capsys, "shop", "a_b").splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["Dataset", *HEADS.values()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [[name, *shown(count)] for name, count in counts.items()]
    latex = printed(capsys, "shop", "a_b", "--format=latex")
    body = latex.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    expected = [[name, *shown(count)] for name, count in counts.items()]
    assert body == "".join(
        " & ".join(cells).replace("_", r"\_").replace("%", r"\%") + r" \\" + "\n" for cells in expected
    )


def test_a_dataset_without_reviews_has_all_but_what_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_with_all_faults()
    written("plain", rows, reviews=False)
    written("shop", rows)
    count = {key: value for key, value in slow_count(rows).items() if key not in ("words", "repeated_texts")}
    lines = printed(capsys, "plain").splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["plain", *shown(count)]
    plain, shop = csv.DictReader(printed(capsys, "plain", "shop", "--format", "csv").splitlines())
    assert (plain["words"], plain["repeated_texts"]) == ("", "")
    assert float(shop["words"]) == slow_count(rows)["words"]


def test_statistics_are_found_in_another_folder_and_count_as_the_preparation_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = "".join(f"{user},{item},word {n % 3},{START + n % 7}\n" for n, (user, item) in enumerate(PAIRS * 2))
    Path("own.csv").write_text(f"user,item,text,time\n{raw}")
    columns = "--user user --item item --text text --time time --user-core 0 --item-core 0 --duplicates keep"
    assert main(["prep", "table", "--input", "own.csv", "--output", "mine/own", *columns.split()]) == 0
    count, found = read_statistics(Path("mine/own")), statistics("own", "mine")
    same = ("users", "items", "reviews", "density", "repeated_pairs")
    assert {key: found[key] for key in same} == {key: count[key] for key in same}
    assert found["ties"] * found["reviews"] == pytest.approx(count["time_ties"])
    capsys.readouterr()
    assert list(as_numbers(printed(capsys, "own", "--data-path", "mine", "--format", "csv"))) == ["own"]


def test_a_dataset_that_is_too_small_to_be_split_has_no_share_of_strangers() -> None:
    written("one", [("u", "i", 4.0, START, "r", "x")])
    found = statistics("one", "dataset")
    assert found["strangers"] is None
    assert as_text({"one": found}, "csv").splitlines()[1].endswith(",,2020-09-13,2020-09-13")


def test_times_beyond_the_calendar_are_shown_as_years() -> None:
    written("late", [("u", f"i{n}", 4.0, START * 1000**n, f"r{n}", "x") for n in range(2)])
    found = statistics("late", "dataset")
    assert (found["first"], found["last"]) == ("2020-09-13", "52671")

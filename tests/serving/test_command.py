"""``symcere recommend`` for anybody: what it prints and writes, and which options go together."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from recbole_symcere import cli
from recbole_symcere.serving import Recommender, Request
from tests.conftest import START


@pytest.fixture
def shown(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command and returns its status and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = cli.main(["recommend", "--checkpoint", str(checkpoint), *arguments])
        out, err = capsys.readouterr()
        return status, out + err

    return run


def test_items_and_words_of_somebody_else(shown: Any, recommender: Recommender) -> None:
    status, out = shown("--items", "i3", "i7", "--text", "great gasket", "--k", "4", "--why", "--format", "json")
    expected = recommender.recommend(history=["i3", "i7"], reviews=["great gasket"], k=4, why=True)
    assert status == 0
    assert json.loads(out) == {"you": [{"item": e.item, "score": e.score, "why": dict(e.why)} for e in expected]}
    status, out = shown("--items", "i3", "i7", "--text", "great gasket", "--k", "4", "--why", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and [row["item"] for row in rows] == [best.item for best in expected]
    assert [float(row["graph"]) for row in rows] == pytest.approx([best.why["graph"] for best in expected])


def test_a_moment_is_a_date_or_seconds(shown: Any, recommender: Recommender) -> None:
    expected = [best.item for best in recommender.recommend("u0", at=float(START), k=3)]
    for moment in (str(START), "2020-09-13T12:26:40", "2020-09-13T14:26:40+02:00"):
        status, out = shown("--users", "u0", "--at", moment, "--k", "3", "--format", "json")
        assert status == 0 and [row["item"] for row in json.loads(out)["u0"]] == expected


def test_what_came_since_and_what_is_new(shown: Any, tmp_path: Path) -> None:
    week, arrivals = tmp_path / "week.csv", tmp_path / "arrivals.csv"
    week.write_text(f"user,item,time,text\nguest,i3,{START + 9000},great\nguest,i7,{START + 9001},\n", encoding="utf-8")
    arrivals.write_text("item,text\nfresh,u1 i3 great gasket\n", encoding="utf-8")
    arguments = ("--users", "guest", "--since", str(week), "--new-items", str(arrivals), "--k", "100")
    status, out = shown(*arguments, "--format", "json")
    rows = json.loads(out)["guest"]
    assert status == 0 and not {"i3", "i7"} & {row["item"] for row in rows}
    assert [row["item"] for row in rows if row.get("new")] == ["fresh"]
    status, out = shown(*arguments)
    assert status == 0 and out.splitlines()[0].split() == ["user", "rank", "item", "score", "new"]


def test_requests_from_a_file_to_a_file(shown: Any, recommender: Recommender, tmp_path: Path) -> None:
    people, found = tmp_path / "people.jsonl", tmp_path / "found.json"
    people.write_text('{"user": "u3"}\n{"items": ["i3"]}\n', encoding="utf-8")
    status, out = shown("--requests", str(people), "--k", "3", "--format", "json", "--output", str(found))
    expected = recommender.recommend_many([Request("u3"), Request(history=["i3"])], k=3)
    assert (status, out) == (0, "")
    lists = json.loads(found.read_text(encoding="utf-8"))
    assert [[row["item"] for row in rows] for rows in lists.values()] == [[b.item for b in each] for each in expected]
    assert list(lists) == ["1", "2"]


def test_everybody_is_asked_for_if_nobody_is_named(shown: Any, recommender: Recommender) -> None:
    status, out = shown("--why", "--k", "1", "--format", "json")
    assert status == 0 and list(json.loads(out)) == list(recommender.users)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--items", "i3x"], "there is no item 'i3x'; did you mean 'i3'"),
        (["--items", "i3", "--users", "u0", "u1"], "--items and --text belong to one person"),
        (["--requests", "people.jsonl", "--items", "i3"], "--requests says who is asked for"),
        (["--requests", "nothing.jsonl"], "nothing.jsonl: can't be read"),
        (["--items", "i3", "--data_path=elsewhere"], "data_path changes nothing here"),
        (["--items", "i3", "--output", "no/such/folder.json"], "--output no/such/folder.json: can't be written"),
        (["--users", "u0", "--at", "yesterday"], "argument --at: invalid"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        status = cli.main(["recommend", "--checkpoint", str(checkpoint), *arguments])
    except SystemExit as stopped:  # of argparse
        status = int(stopped.code or 0)
    assert status == 2 and message in capsys.readouterr().err

"""The command ``symcere``: its help, its exit statuses, and what ``recommend`` prints."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataset_prep.command import INTERRUPTED
from recbole_symcere import quick_start
from recbole_symcere.cli import COMMANDS, main
from recbole_symcere.errors import UserError
from recbole_symcere.recommend import recommend

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkpoint(settings: dict[str, Any], tmp_path: Path) -> Path:
    given = {key: settings[key] for key in ("dataset", "data_path", "state", "show_progress")}
    file = tmp_path / "saved" / "run.pth"
    arguments = [f"--{key}={value}" for key, value in (given | {"model": "BPR", "epochs": 1}).items()]
    assert main(["train", *arguments, f"--checkpoint_file={file}"]) == 0
    return file


def test_the_help_is_one_screen_and_names_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24
    assert all(f"symcere {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"examples:\n  symcere {command} " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["prep", "amazon", "--help"], ["analyse", "--help"]])
def test_help_waits_for_neither_torch_nor_recbole(arguments: list[str]) -> None:
    program = f"""
import sys
from recbole_symcere.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print({{"torch", "recbole", "transformers", "matplotlib"}} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--model=SymCERE", "--dataset=nowhere"],
        ["prep", "amazon", "--input", "nowhere.json", "--output", "made"],
        ["compare", "--models", "Pop", "--datasets", "nowhere", "--trials", "0"],
        ["analyse", "export", "--checkpoint", "nowhere.pth", "--output", "vectors"],
        ["recommend", "--checkpoint", "nowhere.pth"],
    ],
)
def test_every_command_reports_an_error_in_one_line_with_the_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "nowhere" in last


def test_an_interrupt_ends_with_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quick_start, "run_recbole_symcere", interrupted)
    assert main(["train", "--model=Pop", "--dataset=demo"]) == INTERRUPTED


def test_demo_data_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "dataset"
    assert main(["train", "--model=Pop", "--dataset=demo", f"--data_path={place}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and str(tmp_path / "file") in error


def test_recommend_prints_the_same_items_in_each_format(
    checkpoint: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    expected = [
        {"user": user, "rank": str(place), "item": item}
        for user, items in recommend(checkpoint, ["u3", "u1"], k=2).items()
        for place, (item, _) in enumerate(items, start=1)
    ]
    shown = {}
    for form in ("csv", "json", "table"):
        assert (
            main(["recommend", "--checkpoint", str(checkpoint), "--users", "u3", "u1", "--k=2", "--format", form]) == 0
        )
        shown[form] = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert [{key: row[key] for key in ("user", "rank", "item")} for row in rows] == expected
    by_user = json.loads(shown["json"])
    assert [entry["item"] for user in ("u3", "u1") for entry in by_user[user]] == [row["item"] for row in expected]
    assert [line.split()[:3] for line in shown["table"].splitlines()[1:]] == [[*row.values()] for row in expected]


def test_recommend_takes_one_user_or_all(checkpoint: Path) -> None:
    every = recommend(checkpoint, k=1)
    assert sorted(every) == sorted(f"u{number}" for number in range(40))
    ((user, ((item, score),)),) = recommend(checkpoint, "u3", k=1).items()
    assert (user, item, pytest.approx(score)) == ("u3", *every["u3"][0])


@pytest.mark.parametrize(
    ("users", "k", "message"),
    [
        ("u33x", 1, "tiny has no user 'u33x'; did you mean 'u33'?"),
        ([7], 1, "tiny has no user '7'; did you mean 'u7'?"),
        (["[PAD]"], 1, "tiny has no user '[PAD]'"),
        ("u3", 0, "k is 0, but must be at least 1"),
        ("u3", -1, "k is -1, but must be at least 1"),
    ],
)
def test_what_recommend_cannot_answer_is_one_clear_error(checkpoint: Path, users: Any, k: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        recommend(checkpoint, users, k)
    assert str(error.value) == message


def test_whole_numbers_are_user_tokens(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "dataset" / "numbers"
    folder.mkdir(parents=True)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\treview_id:token\n"
    rows = [
        f"{user}\t{item}\t1.0\t{60 * item}.0\tr{user}-{item}\n"
        for user in range(1, 7)
        for item in range(user, user + 5)
    ]
    (folder / "numbers.inter").write_text(header + "".join(rows))
    given = {
        "data_path": str(folder.parent),
        "epochs": 1,
        "show_progress": False,
        "topk": [3],
        "valid_metric": "NDCG@3",
    }
    file = tmp_path / "run.pth"
    quick_start.run_recbole_symcere("Pop", "numbers", config_dict=given | {"checkpoint_file": str(file)})
    assert recommend(file, [3], k=1).keys() == {"3"}

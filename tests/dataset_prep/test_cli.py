"""``python -m dataset_prep``."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dataset_prep import cli
from dataset_prep.command import INTERRUPTED
from dataset_prep.sources import kinds
from tests.dataset_prep.rows import START, amazon_line, read_dataset, read_statistics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.json"
    lines = [amazon_line(f"u{n % 6}", f"i{n % 5}", f"some text {n}", START + n * 3600) for n in range(60)]
    path.write_text("".join(lines))
    return path


def test_a_dump_becomes_a_dataset(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = tmp_path / "dataset" / "made"
    assert cli.main(["amazon", "--input", str(raw), "--output", str(made)]) == 0
    assert len(read_dataset(made)) == 30
    said = capsys.readouterr()
    assert said.out == f"{made}: 6 users, 5 items, 30 reviews (100.00% of all pairs), 2020 to 2020\n"
    assert "Terms: " in said.err


def test_every_filter_option_arrives(raw: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    filters = "--user-core 2 --item-core 3 --duplicates last --missing-text keep --min-words 1 --from 2020-09-13"
    filters += " --to 2020-12-31 --max-users 4 --seed 9 --memory 300MB --on-error skip"
    raw.write_text(raw.read_text() + "{broken\n")
    assert cli.main(["amazon", "--input", str(raw), "--output", str(made), *filters.split()]) == 0
    assert read_statistics(made)["filters"] == {
        "user_core": 2,
        "item_core": 3,
        "duplicates": "last",
        "missing_text": "keep",
        "min_words": 1,
        "start": "2020-09-13",
        "end": "2020-12-31",
        "max_users": 4,
        "seed": 9,
    }


def test_a_table_is_read_by_its_column_options(tmp_path: Path) -> None:
    raw, made = tmp_path / "own.csv", tmp_path / "made"
    raw.write_bytes("who,what,said,at,stars\nA,B,caf\xe9,9 November 2012,3\n".encode("latin-1"))
    columns = (
        "--user who --item what --text said --time at --rating stars --encoding latin-1 --user-core 0 --item-core 0"
    )
    command = ["table", "--input", str(raw), "--output", str(made), "--time-format", "%d %B %Y", *columns.split()]
    assert cli.main(command) == 0
    assert read_dataset(made) == [("A", "B", 3.0, 1_352_419_200.0, "café")]


def test_an_error_is_one_line_and_status_2(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw.write_text(raw.read_text() + "{broken\n")
    assert cli.main(["amazon", "--input", str(raw), "--output", str(tmp_path / "made")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {raw}, line 61: is not valid JSON")


@pytest.mark.parametrize("source", kinds())
def test_each_sources_help_says_how_to_get_the_files_and_the_terms(source: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([source, "--help"])
    said = capsys.readouterr().out
    assert kinds()[source].about in said
    assert "Terms: " in said
    assert f"example:\n  symcere-prep {source} " in said


def test_an_unknown_argument_is_refused(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["amazon", "--input", str(raw), "--output", str(tmp_path / "made"), "--user_core=3"]) == 2
    assert "unknown argument --user_core=3; `symcere prep amazon --help` lists all" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_made(
    number: signal.Signals, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "dataset" / "made"
    monkeypatch.setattr("dataset_prep.writer.write_reviews", lambda *_: os.kill(os.getpid(), number))
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # by what runs in the background
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main(["amazon", "--input", str(raw), "--output", str(made)]) == INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert list(made.parent.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_day_that_is_none_is_refused(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["amazon", "--input", str(raw), "--output", str(tmp_path / "made"), "--from", "2014-7"])
    assert "'2014-7' is not a day; write it as 2014-07-22" in capsys.readouterr().err


def test_preparation_needs_neither_torch_nor_recbole() -> None:
    program = (
        "import sys, dataset_prep.cli; print({'torch', 'recbole', 'recbole_symcere', 'pandas'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


@pytest.mark.parametrize("source", ["demo", "amazon"])
@pytest.mark.parametrize("place", ["/proc/nope", "{long}", "{loop}/made", "{file}/made", "{file}"])
def test_an_output_that_can_not_be_made_is_one_line(
    source: str, place: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    made = place.format(long=tmp_path / ("x" * 300), loop=tmp_path / "loop", file=raw)
    assert cli.main([source, *(["--input", str(raw)] if source == "amazon" else []), "--output", made]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: /")


def test_a_missing_folder_of_temporary_files_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert cli.main(["demo", "--output", str(tmp_path / "made")]) == 2
    assert str(tmp_path / "gone") in capsys.readouterr().err.splitlines()[-1]

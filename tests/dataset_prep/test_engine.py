"""The engine's limits and errors."""

import hashlib
import json
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from dataset_prep import PreparationError
from dataset_prep.engine import Engine


def test_a_memory_limit_that_is_no_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"memory limit 'lots': .*; give a size such as 1GB"):
        Engine(tmp_path, "lots")


def test_what_does_not_fit_in_memory_goes_to_disk(tmp_path: Path) -> None:
    with Engine(tmp_path, "100MB") as engine:
        engine.execute("CREATE TABLE wide AS SELECT hash(range) AS n, repeat('x', 100) AS text FROM range(2_000_000)")
        engine.execute("CREATE TABLE ordered AS FROM wide ORDER BY n")  # 200 MB to sort
        assert engine.value("SELECT count(*) FROM ordered") == 2_000_000


def test_running_out_of_memory_or_disk_is_one_clear_error(tmp_path: Path) -> None:
    with (
        Engine(tmp_path, "10MB") as engine,
        pytest.raises(PreparationError, match=r"sorting: .*; raise --memory or free disk space"),
    ):
        engine.execute("SELECT list(hash(range)) FROM range(10_000_000)", task="sorting")


def test_lines_are_written_by_position_whatever_their_sql_looks_into(tmp_path: Path) -> None:
    words = ", ".join(f"'word {number}'" for number in range(40))
    with Engine(tmp_path, "200MB") as engine:
        engine.table("numbers", "SELECT range AS position FROM range(500_000) ORDER BY hash(range)")
        sql = f"SELECT position, CASE WHEN 'word ' || position IN ({words}) THEN position ELSE position END AS line"
        engine.write(tmp_path / "lines", "SELECT position FROM numbers", f"{sql} FROM batch", header="a\tb")
    assert (tmp_path / "lines").read_text().split("\n") == ["a\tb", *map(str, range(500_000)), ""]


def test_an_interrupt_stops_an_endless_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "SELECT sum(sqrt(a.range * b.range)) FROM range(10_000_000) a, range(10_000_000) b"
    waits = iter([KeyboardInterrupt()])

    def interrupted_once(*arguments: Any, **options: Any) -> Any:
        for error in waits:
            raise error
        return wait(*arguments, **options)

    monkeypatch.setattr("dataset_prep.engine.wait", interrupted_once)
    with Engine(tmp_path, "200MB") as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.execute(endless)
        assert engine.value("SELECT 1") == 1


def test_rows_are_written_in_order_in_less_memory_than_several_threads_need(tmp_path: Path) -> None:
    n = 400_000
    file = tmp_path / "lines"
    with Engine(tmp_path, "80MB", threads=2) as engine:
        text = "repeat(md5(range::VARCHAR), 8)"
        engine.table("texts", f"SELECT range AS row, {n - 1} - range AS position, {text} AS text FROM range({n})")
        engine.table("places", "SELECT row, position FROM texts")
        joined = "SELECT position, text FROM places JOIN (SELECT row, text FROM texts) USING (row)"
        line = "SELECT position, to_json({'place': position, 'text': text})::VARCHAR AS line FROM batch"
        engine.write(file, joined, line)
        assert engine.value("SELECT current_setting('threads')") == 2
    lines = file.read_text().splitlines()
    assert [json.loads(line)["place"] for line in lines] == list(range(n))
    assert json.loads(lines[0])["text"] == 8 * hashlib.md5(str(n - 1).encode()).hexdigest()

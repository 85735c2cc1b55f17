"""The benchmarks run, and our code and the peer compute the same; speed is not tested."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS, main


@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_in_its_small_form(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([part, "--small", "--output", str(tmp_path / "rows.json")]) == 0
    out = capsys.readouterr().out
    record = json.loads((tmp_path / "rows.json").read_text())
    assert record["rows"] and {row["part"] for row in record["rows"]} == {part}
    for row in record["rows"]:
        assert row["ours"] > 0
        assert row["ratio"] == (row["theirs"] and pytest.approx(row["theirs"] / row["ours"]))
        assert f"| {part} | {row['case']} | {row['peer']} |" in out


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["propagatoin"])
    assert "there is no part propagatoin; there are propagation" in capsys.readouterr().err

"""The example of a source of one's own is found in the folder of sources, and its options arrive."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from dataset_prep import cli, sources
from tests.dataset_prep.rows import Interaction, read_dataset, read_statistics

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "own_source.py"
POST = {"author": "ann", "product": "lamp", "title": "Bright", "body": "Lights the whole room", "stars": 4}


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A call of the example, which is one more module of ``dataset_prep.sources``."""
    folder = tmp_path / "sources"
    folder.mkdir()
    shutil.copy(EXAMPLE, folder / "forum.py")
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "dataset_prep.sources.forum", raising=False)
    raw = tmp_path / "posts.jsonl"
    raw.write_text(json.dumps(POST | {"posted": "13.09.2020 12:26"}) + "\n")
    return ["forum", "--input", str(raw), "--output", str(tmp_path / "made"), "--user-core", "0", "--item-core", "0"]


def test_a_file_in_the_folder_of_sources_is_a_command(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(arguments) == 0
    assert "only for people who work at the shop" in capsys.readouterr().err
    expected = Interaction("ann", "lamp", 4.0, 1_599_999_960.0, "Lights the whole room")
    assert read_dataset(tmp_path / "made") == [expected]
    assert read_statistics(tmp_path / "made")["source"] == "forum"


def test_the_options_of_the_file_arrive(arguments: list[str], tmp_path: Path) -> None:
    assert cli.main([*arguments, "--text", "title"]) == 0
    assert read_dataset(tmp_path / "made")[0].review == "Bright"

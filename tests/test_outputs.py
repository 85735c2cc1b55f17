"""A folder for results is made, or refused in one line that names the option."""

import os
from pathlib import Path

import pytest

from recbole_symcere.errors import ConfigError
from recbole_symcere.outputs import make_output_folder


def test_a_folder_is_made_with_its_parents_and_may_exist(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    make_output_folder(folder, "--output")
    make_output_folder(folder, "--output")
    assert folder.is_dir()


def test_a_folder_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--output: the folder .*file/folder can't be made"):
        make_output_folder(tmp_path / "file" / "folder", "--output")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(ConfigError, match=r"result_file: the folder .* can't be written to"):
        make_output_folder(tmp_path, "result_file")

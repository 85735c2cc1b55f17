"""The command's own answers."""

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_symcere.analysis.__main__ import main
from recbole_symcere.analysis.cli import ANALYSES
from recbole_symcere.analysis.shared import labelled_path


def test_a_package_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("recbole_symcere.analysis.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    assert main(["geometry", "--checkpoint", "run.pth"]) == 2
    assert capsys.readouterr().err == (
        "error: matplotlib is not installed; pip install 'recbole-symcere[analysis]' brings it\n"
    )


def test_what_draws_nothing_needs_no_package_of_the_extra() -> None:
    """In a process of its own, without the packages that only the extra brings."""
    missing = ("matplotlib", "captum", "openTSNE", "py3langid", "stopwordsiso", "vaderSentiment")
    program = f"""
import sys
from importlib import import_module
sys.modules.update(dict.fromkeys({missing}))
from recbole_symcere.cli import main
try:
    main(["analyse", "--help"])
except SystemExit:
    pass
for name in ("neighbours", "explain", "export"):
    import_module("recbole_symcere.analysis." + name)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("text", "label", "path"),
    [
        ("saved/x.pth", "x", "saved/x.pth"),
        ("A=saved/x.pth", "A", "saved/x.pth"),
        ("A=saved/lr=0.1/x.pth", "A", "saved/lr=0.1/x.pth"),
        ("=saved/x.pth", "x", "saved/x.pth"),
    ],
)
def test_a_label_ends_at_the_first_equals_sign_if_there_is_no_file(text: str, label: str, path: str) -> None:
    assert labelled_path(text) == (label, Path(path))


def test_a_text_that_names_a_file_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "lr=0.1" / "x.pth"
    file.parent.mkdir()
    file.touch()
    assert labelled_path(str(file)) == ("x", file)
    assert labelled_path(f"A={file}") == ("A", file)
    assert labelled_path(f"tau=0.1={file}") == ("tau=0.1", file)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n    {name}" in shown for name in ANALYSES)


@pytest.mark.parametrize("command", ["geometry", "anchoring", "neighbours --item i1", "explain --user u1 --item i1"])
def test_a_checkpoint_that_is_not_there_is_one_clear_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--checkpoint", "absent.pth"]) == 2
    assert capsys.readouterr().err.endswith("error: absent.pth: no such checkpoint\n")

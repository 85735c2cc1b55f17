"""The command's own answers."""

import sys

import pytest

from recbole_symcere.analysis.__main__ import COMMANDS, main


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


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n    {name}" in shown for name in COMMANDS)


@pytest.mark.parametrize("command", ["geometry", "anchoring", "neighbours --item i1", "explain --user u1 --item i1"])
def test_a_checkpoint_that_is_not_there_is_one_clear_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--checkpoint", "absent.pth"]) == 2
    assert capsys.readouterr().err.endswith("error: absent.pth: no such checkpoint\n")

"""Words that matplotlib's own font can't write, and figures that are the same file every time."""

from pathlib import Path

import pytest

from recbole_symcere.analysis.figures import FORMATS, STYLE, figure, font_families, save


def test_fonts_of_the_machine_stand_in_for_what_the_first_lacks() -> None:
    assert font_families(["IPAexGothic", "Comic Sans MS", "Noto Sans CJK JP"]) == [
        "DejaVu Sans",
        "Noto Sans CJK JP",
        "IPAexGothic",
    ]
    assert font_families([]) == ["DejaVu Sans"]


def test_japanese_is_drawn_where_there_is_a_font_for_it(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with figure(2, 1) as (drawn, (axes,)):
        axes.set_title("温泉")
        files = save(drawn, tmp_path, "words")
    assert [file.suffix[1:] for file in files] == list(FORMATS)
    missing = [str(warning.message) for warning in recwarn if "missing from font" in str(warning.message)]
    assert bool(missing) == (len(STYLE["font.family"]) == 1)

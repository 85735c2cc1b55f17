"""How figures look, and the files they come as."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler

matplotlib.use("Agg")

from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's, for all eyes
CHINESE_JAPANESE_KOREAN = (
    "Noto Sans CJK JP", "Noto Sans JP", "Source Han Sans JP", "IPAexGothic", "IPAGothic", "TakaoGothic",
    "Hiragino Sans", "Yu Gothic", "MS Gothic", "WenQuanYi Zen Hei", "Droid Sans Fallback",
)  # fmt: skip


def font_families(installed: Collection[str]) -> list[str]:
    """Matplotlib's own font, then for what it lacks those of ``CHINESE_JAPANESE_KOREAN`` that the machine has."""
    return ["DejaVu Sans", *(name for name in CHINESE_JAPANESE_KOREAN if name in installed)]


STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 200,
    "font.family": font_families({font.name for font in font_manager.fontManager.ttflist}),
    "font.size": 9,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "recbole_symcere",  # the same figure, the same file
}


@contextmanager
def figure(width: float, height: float, columns: int = 1, rows: int = 1) -> Iterator[tuple[Figure, list]]:
    """A figure of ``width`` x ``height`` inches, closed at the end, and its axes row by row."""
    with plt.rc_context(STYLE):
        drawn, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
        try:
            yield drawn, list(axes.flat)
        finally:
            plt.close(drawn)


def save(drawn: Figure, folder: Path, name: str) -> list[Path]:
    """Writes ``name`` as SVG (for pages), PNG, and PDF (for papers); returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    for file in files:
        drawn.savefig(
            file, metadata={} if file.suffix == ".png" else {"CreationDate" if file.suffix == ".pdf" else "Date": None}
        )
    return files


def plain(text: str) -> str:
    """Returns text for matplotlib, where dollars would begin a formula."""
    return text.replace("$", r"\$")

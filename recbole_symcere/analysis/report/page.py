"""The page of a report: its figures and the template that holds them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from recbole_symcere.analysis.figures import save
from recbole_symcere.analysis.report import plots
from recbole_symcere.analysis.shared import file_name
from recbole_symcere.errors import AnalysisError
from recbole_symcere.grid import Grid

MAX_BYTES = 5_000_000
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """A figure of the page; ``data`` has the numbers behind it."""

    name: str
    title: str
    caption: str
    svg: Markup
    data: Grid | None = None


@dataclass
class Figures:
    """The figures of the page, each under its own name; they are also written as files if there is a folder.

    Attributes:
        sizes: in bytes, by name.
    """

    folder: Path | None = None
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, drawn: Figure, name: str, title: str, caption: str, data: Grid | None = None) -> Plot:
        name = self._free(name)
        svg = plots.to_svg(drawn, name)  # first: each drawing moves the layout a little
        if self.folder:
            save(drawn, self.folder, name)
        return self._plot(svg, name, title, caption, data)

    def read(self, file: Path, title: str, caption: str, data: Grid | None = None) -> Plot:
        """Returns a figure that another command drew.

        Raises:
            AnalysisError: the file is not there, or not SVG.
        """
        try:
            return self._plot(file.read_text(encoding="utf-8"), self._free(file.stem), title, caption, data)
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise AnalysisError(f"{file}: can't be read as an SVG figure ({error}); make it again") from error

    def _free(self, name: str) -> str:
        """Returns the name as a file's name, with a number if it is taken."""
        stem = file_name(name)
        numbered = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(self.sizes) + 2))
        return next(name for name in numbered if name not in self.sizes)

    def _plot(self, svg: str, name: str, title: str, caption: str, data: Grid | None) -> Plot:
        element = plots.inlined(svg, name, f"{title}. {caption}")
        self.sizes[name] = len(element.encode())
        return Plot(name, title, caption, Markup(element), data)


def rendered(content: Mapping[str, Any]) -> str:
    """The page. All of ``content`` is escaped but Markup; no script runs but the page's own, nothing is loaded."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = (FOLDER / "report.js").read_text(encoding="utf-8")
    own = {
        "style": Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment.get_template("report.html.jinja").render(**content, **own)


def check_size(page: str, sizes: Mapping[str, int]) -> int:
    """Returns the size of the page in bytes.

    Args:
        sizes: of its figures.

    Raises:
        AnalysisError: it is above ``MAX_BYTES``.
    """
    size = len(page.encode())
    if size > MAX_BYTES:
        largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:3]
        of = ", ".join(f"{name} {sizes[name] / 1e6:.1f} MB" for name in largest)
        raise AnalysisError(
            f"the page would have {size / 1e6:.1f} MB, and at most {MAX_BYTES / 1e6:g} can be mailed and opened with "
            f"ease; its figures have {sum(sizes.values()) / 1e6:.1f} MB, the largest {of}"
        )
    return size

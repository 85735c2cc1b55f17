"""Comparisons by name: the models of a table of the paper, and the table in the paper's layout."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_symcere.comparison.entry import Entry
from recbole_symcere.comparison.rendering import PLACES, to_csv, to_latex, to_markdown
from recbole_symcere.comparison.runs import QUIET
from recbole_symcere.comparison.tables import Run, Table, make_ablation, make_table
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.grid import Cell, Grid, Row, number_cell
from recbole_symcere.metrics import label_of
from recbole_symcere.properties import load_yaml, nearest, properties_folder
from recbole_symcere.run import fit

METRICS = ("hit@10", "ndcg@10")
GEOMETRY_POINTS = 2000  # interactions on a map, as in symcere analyse geometry
BEST = "Means over users and seeds; the best of a row is bold, and the second best underlined."
MAX_IMPROVEMENT = (
    "Max. improv. sets the best of ours on test against the best baseline on test, as the paper does. Beneath stands "
    "ours that is best on validation, with intervals and tests."
)
MIN_DROP = (
    "Min. drop is that from the whole model, the last of its group, to the better of its parts, as in the paper; below "
    "zero a part is better. Beneath, each part is compared with the whole over users, with tests."
)


@dataclass(frozen=True)
class Preset:
    """What ``properties/preset`` says of a comparison.

    Attributes:
        table: the name of the file with the table in the paper's layout; empty if there is none.
        groups: the models under each head of the table, in its order.
        ours: the models that are not baselines. None: there are no baselines, and the last model of each group is the
            whole of which the others lack a part.
        geometry: the models whose vectors are measured afterwards.
    """

    name: str
    table: str
    groups: Mapping[str, Sequence[str]]
    ours: Sequence[str] | None
    geometry: Sequence[str]

    @property
    def models(self) -> list[str]:
        """All models of the comparison."""
        return [*(model for group in self.groups.values() for model in group), *self.geometry]


def read_preset(name: str) -> Preset:
    """Reads a preset.

    Raises:
        ConfigError: there is no such preset.
    """
    folder = properties_folder() / "preset"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"there is no preset {name!r}{nearest(name, known)} (known: {', '.join(known)})")
    content = load_yaml(folder / f"{name}.yaml")
    return Preset(
        name, content.get("table", ""), content.get("groups", {}), content.get("ours"), content.get("geometry", [])
    )


def paper_texts(preset: Preset, runs: Sequence[Run]) -> dict[str, str]:
    """Returns the table of a preset in the paper's layout, with our tests beneath, by the suffixes of files.

    A dataset has two rows, and each model a column. The last column of the table, or of each group, is the paper's: the
    largest improvement over the best baseline, or the smallest drop from the whole model. Both are of means over users.

    Raises:
        RunsError: the runs do not make one table.
    """
    table = make_table(runs, METRICS, preset.ours or ())
    grid = _grid(preset, table)
    tested = [table] if preset.ours is not None else _against_wholes(preset, runs)
    meaning = MAX_IMPROVEMENT if preset.ours is not None else MIN_DROP
    return {
        "md": "\n".join([f"{grid.to_markdown()}\n\n{BEST} {meaning}\n", *map(to_markdown, tested)]),
        "tex": "\n".join([f"% {BEST} {meaning}\n{grid.to_latex()}", *map(to_latex, tested)]),
        "csv": to_csv(table),
    }


def _against_wholes(preset: Preset, runs: Sequence[Run]) -> list[Table]:
    """Returns for each group the table that compares its models with the whole model, the last one."""
    return [
        make_ablation([run for run in runs if run.model in models], METRICS, models[-1])
        for models in preset.groups.values()
    ]


def _grid(preset: Preset, table: Table) -> Grid:
    heads, groups = ["metric"], [""]
    for group, models in preset.groups.items():
        heads += [*models, *(["min. drop"] if preset.ours is None else [])]
        groups += [group] * (len(heads) - len(groups))
    if preset.ours is not None:
        heads.append("max. improv.")
        groups.append("")
    rows = [Row(dataset, _cells(preset, table, dataset, metric)) for dataset in table.datasets for metric in METRICS]
    return Grid("", ["dataset", *heads], rows, groups=groups)


def _cells(preset: Preset, table: Table, dataset: str, metric: str) -> list[Cell]:
    found = table.columns[dataset, metric]
    cells = [Cell(label_of(metric))]
    for models in preset.groups.values():
        cells += [
            Cell(f"{found[model].mean:.4f}", found[model].mean, kind=PLACES[found[model].place]) for model in models
        ]
        if preset.ours is None:
            *parts, whole = (found[model].mean for model in models)
            cells.append(_percent(whole - max(parts), whole))
    if preset.ours is not None:
        best_of = [max(cell.mean for model, cell in found.items() if (model in preset.ours) == ours) for ours in (0, 1)]
        cells.append(_percent(best_of[1] - best_of[0], best_of[0]))
    return cells


def _percent(difference: float, of: float) -> Cell:
    return number_cell(difference / of if of else None, "+.1%")


def measure_geometry(entries: Sequence[Entry], folder: Path) -> str:
    """Trains models with their best settings and the first seed, and measures their vectors on each dataset.

    The checkpoints stay in ``folder/DATASET/``, beside the tables and figures of ``symcere analyse geometry``.

    Returns:
        The tables, as Markdown.

    Raises:
        UserError: a model can't be trained, or the packages of the extra ``analysis`` are absent.
    """
    from recbole_symcere.analysis.geometry.measuring import measure_checkpoints  # needs packages of the extra

    found = []
    for dataset in dict.fromkeys(entry.dataset for entry in entries):
        own = folder / dataset
        checkpoints = [f"{e.model}={_checkpoint(e, own)}" for e in entries if e.dataset == dataset]
        given = argparse.Namespace(checkpoint=checkpoints, output=own, part="train", points=GEOMETRY_POINTS)
        found.append(measure_checkpoints(given, {}))
    return "\n\n".join(found)


def _checkpoint(entry: Entry, folder: Path) -> Path:
    """Returns the checkpoint of a model. It is trained; of a training that was begun or done before, the rest is."""
    path = folder / f"{entry.model}.pth"
    fit(Config(config_dict=entry.tuned | QUIET | {"seed": entry.seeds[0], "checkpoint_file": str(path)}))
    return path

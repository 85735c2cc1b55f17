"""The tables of settings and versions: how the models of a report were trained, and by which code."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import cache
from typing import Any

from recbole_symcere.comparison.results import Results, SavedRun
from recbole_symcere.comparison.statistics import mean_and_sd
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.grid import Cell, Grid, Row, scores_cell
from recbole_symcere.provenance import without_folders


def settings_grid(results: Results, dataset: str) -> Grid:
    """How each model was trained: what differs from its defaults, and how long it took."""
    runs = {model: results.runs[dataset, model] for model in results.models}
    changes = {model: changed(of[0]) for model, of in runs.items()}
    common = set.intersection(*(set(of.items()) for of in changes.values()))
    rows = []
    for model, of in runs.items():
        numbers = [
            statistics.fmean(saved.record["epochs"] for saved in of),
            statistics.fmean(saved.record["best_epoch"] + 1 for saved in of),
            statistics.fmean(saved.run.seconds for saved in of),
        ]
        cells = [Cell(f"{number:.1f}".removesuffix(".0"), number) for number in numbers]
        cells.append(scores_cell(*mean_and_sd([saved.run.valid_score for saved in of])))
        own = dict(item for item in changes[model].items() if item not in common)
        rows.append(Row(model, [*cells, Cell(listed(own) or "none")], model in results.ours))
    score = f"validation {runs[results.models[0]][0].record['settings']['valid_metric']}"
    heads = ["model", "epochs", "epoch kept", "seconds", score, "settings that differ from the defaults"]
    said = f"; all with {listed(dict(common))}" if common else ""
    return Grid(f"Training on {dataset}, means over seeds{said}", heads, rows)


def listed(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}".rstrip() for key, value in sorted(settings.items()))


def changed(saved: SavedRun) -> dict[str, str]:
    """A run's settings that are not the model's defaults under the run's protocol, as text."""
    of = saved.record["settings"]
    try:
        defaults = _defaults(of["model"], of["dataset"], of["protocol"])
    except ConfigError:
        return {"defaults not known in this version": ""}
    found = {key: value for key, value in saved.settings.items() if key not in defaults or defaults[key] != value}
    return {key: shown(value) for key, value in without_folders(found).items()}


@cache
def _defaults(model: str, dataset: str, protocol: str) -> dict[str, Any]:
    return Config(model, dataset, config_dict={"protocol": protocol, "state": "ERROR"}).settings


def shown(value: Any) -> str:
    """Returns a setting as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    return "[" + ", ".join(map(shown, value)) + "]" if isinstance(value, list) else str(value)


def versions_grid(results: Results) -> Grid:
    """Of the code and of packages; several, where runs differ."""
    records = [saved.record for runs in results.runs.values() for saved in runs]
    found: dict[str, set[str]] = {"commit": {record.get("commit") or "not known" for record in records}}
    for record in records:
        for name, version in record.get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    rows = [Row(name, [Cell(", ".join(sorted(versions)))]) for name, versions in found.items()]
    return Grid("Versions", ["of", "version"], rows)

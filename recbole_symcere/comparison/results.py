"""The runs that a comparison left on disk, and which of them make up whole tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_symcere.comparison.entry import NOT_TUNED, is_ours
from recbole_symcere.comparison.runs import NOT_COMPARED, read_record, read_run
from recbole_symcere.comparison.tables import Run, Table, make_tables
from recbole_symcere.errors import ConfigError, RunsError
from recbole_symcere.model.registry import get_model

Key = tuple[str, str]  # a dataset, and a row of its table: a model, or an ablation's "MODEL, name"
COMMAND = "symcere compare"


@dataclass(frozen=True, eq=False)
class SavedRun:
    """A complete run with the content of its ``run.json``."""

    run: Run
    record: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that bear on the result, without model, dataset, protocol and seed."""
        hidden = NOT_COMPARED | NOT_TUNED
        return {key: value for key, value in self.record["settings"].items() if key not in hidden}


@dataclass(frozen=True, eq=False)
class Results:
    """The rows of the tables that have a run for every dataset and every seed.

    Attributes:
        models: all of them, ours among them, without probes.
        probes: the models that only show what the protocol lets through.
        ablations: the rows "MODEL, name", by those of ``ours`` that have some.
        runs: by dataset and row, in the order of ``seeds``.
        notes: what is left out, and what differs between runs that should be alike; sentences.
    """

    protocol: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    probes: tuple[str, ...]
    ours: tuple[str, ...]
    ablations: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    runs: Mapping[Key, Sequence[SavedRun]]
    notes: tuple[str, ...]

    def tables(self) -> dict[str, Table]:
        """Returns the comparison's tables of these runs; see ``make_tables``."""
        ablations = {model: self.of([model, *rows]) for model, rows in self.ablations.items()}
        return make_tables(self.of(self.models), self.ours, ablations, self.of(self.probes))

    def of(self, rows: Sequence[str]) -> list[Run]:
        """Returns the runs of some rows on all datasets."""
        return [saved.run for dataset in self.datasets for row in rows for saved in self.runs[dataset, row]]


def read_results(folder: Path, protocol: str, ours: Collection[str] | None = None) -> Results:
    """Reads the complete runs of a comparison.

    Seeds are those that most rows have. A row that lacks one of them on a dataset is left out, and a dataset where so
    few are complete that tables without it hold more; ``notes`` says so.

    Args:
        folder: the comparison's ``--output``.
        ours: names of models; None for SymCERE and the models that extend it.

    Raises:
        RunsError: there is no complete run, a run can't be read, or it can't be told which models are ours.
    """
    found = _read(folder, protocol)
    seeds = _seeds_of_most(found)
    done = {key for key, runs in found.items() if set(seeds) <= runs.keys()}
    names = {dataset: sorted(row for of, row in done if of == dataset and ", " not in row) for dataset, _ in found}
    datasets = _datasets_of_most(names)
    complete = tuple(model for model in names[datasets[0]] if all(model in names[dataset] for dataset in datasets))
    probes = tuple(model for model in complete if _is_probe(model))
    models = tuple(model for model in complete if model not in probes)
    if not models:
        raise RunsError(f"{folder}: no model has runs with the seeds {_listed(seeds)}; give `{COMMAND}` again")
    own = tuple(model for model in models if model in _ours(models, ours))
    ablations = {
        model: tuple(sorted(row for row in _ablations(model, done) if all((of, row) in done for of in datasets)))
        for model in own
    }
    shown = {row for model in complete for row in (model, *ablations.get(model, ()))}
    runs = {
        (dataset, row): [found[dataset, row][seed] for seed in seeds] for dataset in datasets for row in sorted(shown)
    }
    notes = [*_left_out(found, seeds, datasets, shown), *_odd(runs)]
    ablations = {model: rows for model, rows in ablations.items() if rows}
    return Results(protocol, datasets, models, probes, own, ablations, seeds, runs, tuple(notes))


def _read(folder: Path, protocol: str) -> dict[Key, dict[int, SavedRun]]:
    """Returns the runs by dataset and row, then by seed, and the rows that have no complete run yet."""
    root = folder / "runs" / protocol
    if not root.is_dir():
        there = sorted(path.name for path in (folder / "runs").glob("*") if path.is_dir())
        mend = f"--protocol {there[0]}" if there else f"--comparison names the --output of `{COMMAND}`"
        raise RunsError(f"{root}: no such folder of runs; {mend}")
    found: dict[Key, dict[int, SavedRun]] = {}
    for path in sorted(root.glob("*/*/seed-*")):
        runs = found.setdefault((path.parts[-3], path.parts[-2]), {})
        if (path / "run.json").is_file():
            saved = SavedRun(read_run(path.parts[-2], path), read_record(path))
            runs[saved.run.seed] = saved
    if not any(found.values()):
        raise RunsError(f"{root}: no run is complete; give `{COMMAND}` again")
    return found


def _seeds_of_most(found: Mapping[Key, Mapping[int, SavedRun]]) -> tuple[int, ...]:
    counted = Counter(tuple(sorted(runs)) for runs in found.values() if runs)
    return max(counted, key=lambda seeds: (counted[seeds], len(seeds), seeds))


def _datasets_of_most(models: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Those of which tables hold most cells: of datasets by how many models are complete, the first few."""
    ordered = sorted(models, key=lambda dataset: (-len(models[dataset]), dataset))

    def cells(n: int) -> int:
        return n * len(set.intersection(*(set(models[dataset]) for dataset in ordered[:n])))

    return tuple(sorted(ordered[: max(range(1, len(ordered) + 1), key=lambda n: (cells(n), n))]))


def _ours(models: Sequence[str], given: Collection[str] | None) -> set[str]:
    if given is None:
        try:
            return {model for model in models if is_ours(model)}
        except ConfigError as error:
            raise RunsError(f"{error}; say with --ours which models are ours") from error
    if absent := sorted(set(given) - set(models)):
        raise RunsError(f"--ours names {_listed(absent)}, but the complete models are {_listed(models)}")
    return set(given)


def _is_probe(model: str) -> bool:
    try:
        return get_model(model).is_probe
    except ConfigError:  # a model of a user's module, which the report does not import
        return False


def _ablations(model: str, done: Collection[Key]) -> set[str]:
    return {row for _, row in done if row.startswith(f"{model}, ")}


def _left_out(
    found: Mapping[Key, Mapping[int, SavedRun]], seeds: Sequence[int], datasets: Sequence[str], shown: Collection[str]
) -> list[str]:
    notes = [
        f"The dataset {dataset} is left out: too few models have all {len(seeds)} seeds there."
        for dataset in sorted({dataset for dataset, _ in found} - set(datasets))
    ]
    for row in sorted({row for _, row in found} - set(shown)):
        counts = {dataset: len(set(seeds) & set(found.get((dataset, row), ()))) for dataset in datasets}
        of_each = ", ".join(f"{dataset} {n} of {len(seeds)}" for dataset, n in counts.items())
        why = f"complete runs: {of_each}" if min(counts.values()) < len(seeds) else "its model is left out, or not ours"
        notes.append(f"{row} is left out; {why}.")
    for (dataset, row), runs in found.items():
        if row in shown and dataset in datasets and (others := sorted(set(runs) - set(seeds))):
            notes.append(f"{row} on {dataset} also has runs with the seeds {_listed(others)}, which are left out.")
    return notes


def _odd(runs: Mapping[Key, Sequence[SavedRun]]) -> list[str]:
    notes = []
    for (dataset, row), of_seeds in runs.items():
        first, *others = (saved.settings for saved in of_seeds)
        keys = {key for other in others for key in first.keys() | other if first.get(key) != other.get(key)}
        if keys:
            notes.append(f"The seeds of {row} on {dataset} differ in {_listed(sorted(keys))}.")
    commits = {saved.record.get("commit") for of_seeds in runs.values() for saved in of_seeds}
    if len(commits) > 1:
        notes.append(f"The runs are of {len(commits)} versions of the code: see Settings and versions.")
    return notes


def _listed(values: Collection[Any]) -> str:
    return ", ".join(map(str, values))

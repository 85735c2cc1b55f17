"""A comparison: for each dataset and model a search on validation, then runs on test, then tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import yaml
from filelock import FileLock, Timeout
from optuna import Trial
from tqdm import tqdm

from recbole_symcere.comparison import runs
from recbole_symcere.comparison.search import Search, origin, search_space
from recbole_symcere.comparison.tables import Run, make_ablation, make_table, to_csv, to_latex, to_markdown
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError, TrainingError
from recbole_symcere.model.registry import get_model
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.properties import load_yaml, properties_folder, tuned_settings

Task = tuple[str, Callable[[], None]]  # its name, and what does it
SECONDS_BETWEEN_LOOKS = 5.0  # at what other processes have finished
FIRST_SEED = 2020
NOT_TUNED = {"model", "dataset", "protocol", "seed", "tuned"}
SUMMARY = ("ndcg@10",)
ACCURACY = ("hit@10", "ndcg@10", "hit@20", "ndcg@20")
POPULARITY = (
    "ndcg@10", "headndcg@10", "middlendcg@10", "tailndcg@10", "itemcoverage@10", "averagepopularity@10", "giniindex@10",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One row of a table on one dataset: a model, or an ablation of it.

    Attributes:
        name: the row's.
        settings: all that is given or fixed; what is searched comes over it.
        folder: of its runs.
        changes: an ablation's, over the best settings of its model, whose search it shares.
        failures: by seed, why its run can't be trained.
    """

    dataset: str
    model: str
    name: str
    settings: Mapping[str, Any]
    search: Search
    folder: Path
    seeds: Sequence[int]
    changes: Mapping[str, Any] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def tuned(self) -> dict[str, Any]:
        """The best settings, once the search is done."""
        return {**self.settings, **self.search.best(), **self.changes}

    @property
    def is_ablation(self) -> bool:
        return self.name != self.model

    def ablation(self, name: str, changes: Mapping[str, Any]) -> Entry:
        """The row of the same model with some settings changed.

        Raises:
            ConfigError: a setting that the model does not read, or that can't be used.
        """
        Config(config_dict={**self.settings, **changes})
        folder = self.folder.with_name(f"{self.model}, {name}")
        return replace(self, name=f"{self.model}, {name}", folder=folder, changes=changes, failures={})

    @property
    def chosen(self) -> dict[str, Any]:
        """What ``--tuned`` reads: all that was searched, or given, and bears on the result."""
        given = {key: value for key, value in self.settings.items() if key not in runs.NOT_COMPARED | NOT_TUNED}
        tuned = tuned_settings(self.model, self.dataset) if self.settings.get("tuned") else {}
        return tuned | given | self.search.best()

    def run_folder(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"

    def is_complete(self, seed: int) -> bool:
        """Whether the run of a seed is there, with the best settings."""
        return runs.is_complete(self.run_folder(seed), self.tuned | {"seed": seed})

    @property
    def seeds_left(self) -> list[int]:
        return [seed for seed in self.seeds if seed not in self.failures and not self.is_complete(seed)]

    @property
    def tasks(self) -> int:
        return (0 if self.is_ablation else self.search.n_trials) + len(self.seeds)

    @property
    def tasks_left(self) -> int:
        trials_left = 0 if self.is_ablation else max(0, self.search.n_trials - len(self.search.scores))
        return trials_left + len(self.seeds_left)


class Comparison:
    """Models on datasets under one protocol; all that is finished is on disk in ``output``.

    Args:
        models, datasets: names.
        ours: those of the models that the others are baselines of.
        n_trials, n_seeds: of each model on each dataset.
        settings: for all models that read them.
        ablations: whether ``ours`` are also run with the changes of ``properties/ablation/MODEL.yaml``, each alone.

    Raises:
        ConfigError: a setting that no model reads, or that can't be used.
    """

    def __init__(
        self,
        models: Sequence[str],
        datasets: Sequence[str],
        ours: Sequence[str],
        n_trials: int,
        n_seeds: int,
        protocol: str,
        settings: Mapping[str, Any],
        output: Path,
        ablations: bool = False,
    ) -> None:
        self.ours, self.output, self.tables = list(ours), output, output / protocol
        if absent := sorted(set(ours) - set(models)):
            raise ConfigError(f"--ours names {', '.join(absent)}, which --models does not")
        seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
        common = {"protocol": protocol, "seed": FIRST_SEED}
        configs = [Config(model, dataset, config_dict=common) for dataset in datasets for model in models]
        read_by_none = sorted(set(settings) - set().union(*(config.known_keys for config in configs)))
        if read_by_none:
            Config(models[0], datasets[0], config_dict={key: settings[key] for key in read_by_none})  # says which
        self.entries = []
        for config in configs:
            model, dataset = config["model"], config["dataset"]
            own = {key: value for key, value in settings.items() if key in config.known_keys}
            given = common | own | {"model": model, "dataset": dataset}
            with_given = Config(config_dict=given)
            _check_metrics(with_given)
            complete = with_given.settings
            searched = search_space(model) or search_space(config.model_class.__name__)  # or a variant's model's
            space = {key: values for key, values in searched.items() if key not in own}
            fixed = {key: value for key, value in complete.items() if key not in runs.NOT_COMPARED | space.keys()}
            name = f"{protocol}/{dataset}/{model}"
            search = Search(output / "search", name, space, complete, n_trials, fixed)
            entry = Entry(dataset, model, model, given, search, output / "runs" / name, seeds)
            changes = ablations_of(model) if ablations and model in ours else {}
            self.entries += [entry, *(entry.ablation(name, settings) for name, settings in changes.items())]

    def work(self) -> None:
        """Does what is left, beside other processes that do the same.

        Raises:
            TrainingError: runs on test that can't be trained, once all else is done.
        """
        total = sum(entry.tasks for entry in self.entries)
        with tqdm(total=total, desc="comparison", unit="run", dynamic_ncols=True) as bar:
            while left := sum(entry.tasks_left for entry in self.entries):
                bar.n = total - left
                with closing(self._claimed_tasks()) as claimed:
                    name, do = next(claimed, ("waiting for other processes", partial(sleep, SECONDS_BETWEEN_LOOKS)))
                    bar.set_postfix_str(f"{name}; {self._time_left()}")
                    do()
            failures = [
                f"{entry.dataset}, {entry.name}, seed {seed}: {why}"
                for entry in self.entries
                for seed, why in entry.failures.items()
            ]
            bar.n = total - len(failures)
            bar.set_postfix_str("")
        if failures:
            raise TrainingError(
                f"runs that can't be trained: {len(failures)}; all others are done. Leave the model out, or give other "
                f"settings. {' '.join(failures)}"
            )

    def _claimed_tasks(self) -> Generator[Task, None, None]:
        """What is to be done next that nobody does, each ours until the next is asked for."""
        for entry in self.entries:
            if entry.search.done:
                yield from self._claimed_runs(entry)
            elif not entry.is_ablation:
                with entry.search.claim() as trial:
                    if trial is not None:
                        number, best = len(entry.search.scores) + 1, max(entry.search.scores, default=None)
                        so_far = "" if best is None else f", best so far {best:.4f}"
                        name = f"{entry.dataset}, {entry.name}: trial {number} of {entry.search.n_trials}{so_far}"
                        yield name, partial(self._try, entry, trial)

    def _claimed_runs(self, entry: Entry) -> Iterator[Task]:
        for seed in entry.seeds_left:
            folder = entry.run_folder(seed)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held = FileLock(folder / "lock").acquire(timeout=0)
            except Timeout:
                continue
            with held:
                if not entry.is_complete(seed):  # by now
                    yield f"{entry.dataset}, {entry.name}: seed {seed}", partial(_run, entry, seed)

    def _try(self, entry: Entry, trial: Trial) -> None:
        checkpoint = entry.folder / f"trial-{origin(trial)}.pth"
        try:
            hopeless = partial(entry.search.is_hopeless, trial)
            score, details = runs.validation_score({**entry.settings, **trial.params}, checkpoint, hopeless)
        except (TrainingError, ConfigError) as error:  # a rate at which the loss is not finite; too few layers
            score, details = 0.0, {"error": str(error)}
        entry.search.finish(trial, score, **details)
        runs.remove(checkpoint)  # only now: a trial that is killed before goes on from it

    def _time_left(self) -> str:
        """A guess by each model's own runs, or by the others' where it has none."""
        means = [statistics.fmean(seconds) if (seconds := entry.search.seconds) else None for entry in self.entries]
        known = [mean for mean in means if mean is not None]
        if not known:
            return "time left unknown"
        pairs = zip(self.entries, means, strict=True)
        left = sum(entry.tasks_left * (statistics.fmean(known) if mean is None else mean) for entry, mean in pairs)
        return f"about {tqdm.format_interval(left)} left for one process"

    def write_tables(self) -> str:
        """Writes the tables and the best settings; returns the first table in Markdown."""
        models = [entry for entry in self.entries if not entry.is_ablation]
        done = _runs(models)
        # On a small dataset nobody may have an item of one of the groups held out.
        of_popularity = [
            name for name in POPULARITY if not any(math.isnan(run.metrics.get(name, math.nan)) for run in done)
        ]
        tables = {
            "summary": replace(make_table(done, SUMMARY, self.ours), seconds={}),
            "accuracy": make_table(done, ACCURACY, self.ours),
            "popularity": make_table(done, of_popularity, self.ours),
        }
        for model in sorted({entry.model for entry in self.entries if entry.is_ablation}):
            rows = [entry for entry in self.entries if entry.model == model]
            tables[f"ablation-{model}"] = make_ablation(_runs(rows), ACCURACY, model)
        self.tables.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            for suffix, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
                (self.tables / f"{name}.{suffix}").write_text(render(table), encoding="utf-8")
        for entry in models:
            path = self.tables / "tuned" / entry.dataset / f"{entry.model}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(entry.chosen), encoding="utf-8")
        return to_markdown(tables["summary"])


def _run(entry: Entry, seed: int) -> None:
    try:
        runs.test_run(entry.tuned | {"seed": seed}, entry.run_folder(seed))
    except TrainingError as error:
        entry.failures[seed] = str(error)


def is_ours(model: str) -> bool:
    """Whether a model is SymCERE or made of it."""
    return issubclass(get_model(model), SymCERE)


def _check_metrics(config: Config) -> None:
    known = {f"{metric.lower()}@{k}" for metric in config["metrics"] for k in config["topk"]}
    if absent := sorted({*SUMMARY, *ACCURACY} - known):
        raise ConfigError(f"the tables need {', '.join(absent)}: leave metrics and topk as they are, or add to them")


def ablations_of(model: str) -> dict[str, dict[str, Any]]:
    """The changes of ``properties/ablation/MODEL.yaml`` by their names: none, if there is no such file."""
    path = properties_folder() / "ablation" / f"{model}.yaml"
    changes = load_yaml(path) if path.is_file() else {}
    if odd := next((name for name in changes if "/" in name), None):
        raise ConfigError(f"{path}: {odd!r} would name a folder, and must have no '/'")
    return changes


def _runs(entries: Sequence[Entry]) -> list[Run]:
    return [runs.read_run(entry.name, entry.run_folder(seed)) for entry in entries for seed in entry.seeds]

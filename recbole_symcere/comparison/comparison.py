"""A comparison of models: for each model and dataset a search on validation, then runs on test, then tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import yaml
from filelock import FileLock, Timeout
from optuna import Trial
from tqdm import tqdm

from recbole_symcere.comparison import runs
from recbole_symcere.comparison.entry import Entry, ablations_of, check_inputs, is_ours
from recbole_symcere.comparison.rendering import to_csv, to_latex, to_markdown
from recbole_symcere.comparison.search import Search, origin, search_space
from recbole_symcere.comparison.tables import NEEDED, Run, make_tables
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError, TrainingError
from recbole_symcere.metrics import metric_of
from recbole_symcere.model.registry import import_modules
from recbole_symcere.outputs import make_output_folder

Task = tuple[str, Callable[[], None]]  # the name of a task, and the function that does it
SECONDS_BETWEEN_LOOKS = 5.0  # between two looks at what other processes have finished
FIRST_SEED = 2020
DECIMALS = 4  # how many decimals of a metric the tables show
SET_HERE = ("model", "dataset", "checkpoint_file", "result_file")  # settings that the comparison itself gives each run


class Comparison:
    """A comparison of models on datasets under one protocol; finished work is kept on disk in ``output``.

    Args:
        models, datasets: names, each given once.
        ours: the models that are not baselines; None for SymCERE and the models that extend it.
        n_trials, n_seeds: the numbers of trials and of runs of each model on each dataset.
        settings: settings by name; each goes to the models that read it.
        ablations: whether to run ``ours`` also with each single change in ``properties/ablation/MODEL.yaml``.

    Raises:
        ConfigError: a name is given twice, ``ours`` has a name that ``models`` lacks, there are no changes for
            ``ablations``, a setting is read by no model or can't be used, or ``output`` can't be written to.
    """

    def __init__(
        self,
        models: Sequence[str],
        datasets: Sequence[str],
        ours: Sequence[str] | None,
        n_trials: int,
        n_seeds: int,
        protocol: str,
        settings: Mapping[str, Any],
        output: Path,
        ablations: bool = False,
    ) -> None:
        import_modules(settings.get("imports", []))
        ours = [model for model in models if is_ours(model)] if ours is None else list(ours)
        self.ours, self.output, self.tables = ours, output, output / protocol
        _check_names(models, datasets, ours)
        changes = {model: ablations_of(model) if ablations else {} for model in ours}
        if ablations and not any(changes.values()):
            raise ConfigError("--ablation: no model of ours has changes in properties/ablation/MODEL.yaml")
        given = _settings_of_each(models, datasets, {"protocol": protocol, "seed": FIRST_SEED}, settings)
        make_output_folder(output, "--output")
        seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
        self.entries: list[Entry] = []
        for own in given:
            config = Config(config_dict=own)
            model, dataset, complete = config["model"], config["dataset"], config.settings
            searched = search_space(model, config.model_class)
            space = {key: values for key, values in searched.items() if key not in own}
            fixed = {key: value for key, value in complete.items() if key not in runs.NOT_COMPARED | space.keys()}
            name = f"{protocol}/{dataset}/{model}"
            search = Search(output / "search", name, space, complete, n_trials, fixed)
            entry = Entry(dataset, model, model, own, search, output / "runs" / name, seeds)
            self.entries += [entry, *(entry.ablation(*change) for change in changes.get(model, {}).items())]

    def work(self) -> None:
        """Does all trials and runs that are left; several processes can share them.

        Raises:
            DatasetError, ReviewFileError, EncoderError: the data or an encoder can't be used.
            TrainingError: some runs on test can't be trained; this is raised once everything else is done.
        """
        check_inputs(self.entries)
        total = sum(entry.n_tasks for entry in self.entries)
        with tqdm(total=total, desc="comparison", unit="run", dynamic_ncols=True) as bar:
            while left := sum(entry.n_tasks_left for entry in self.entries):
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
        """Yields tasks that no other process is doing; a task stays locked for this process until the next is taken."""
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
                if not entry.is_complete(seed):  # another process may have completed it before it was locked
                    yield f"{entry.dataset}, {entry.name}: seed {seed}", partial(_run, entry, seed)

    def _try(self, entry: Entry, trial: Trial) -> None:
        checkpoint = entry.folder / f"trial-{origin(trial)}.pth"
        try:
            hopeless = partial(entry.search.is_hopeless, trial)
            score, details = runs.validation_score({**entry.settings, **trial.params}, checkpoint, hopeless)
        except (TrainingError, ConfigError) as error:  # for example a loss that is not finite, or too few layers
            score, details = 0.0, {"error": str(error)}
        entry.search.finish(trial, score, **details)
        runs.remove(checkpoint)  # last, so that a trial that is killed before can go on from the checkpoint

    def _time_left(self) -> str:
        """Estimates the time left from finished trials; an entry without any counts as the mean of the others."""
        means = [statistics.fmean(seconds) if (seconds := entry.search.seconds) else None for entry in self.entries]
        known = [mean for mean in means if mean is not None]
        if not known:
            return "time left unknown"
        pairs = zip(self.entries, means, strict=True)
        left = sum(entry.n_tasks_left * (statistics.fmean(known) if mean is None else mean) for entry, mean in pairs)
        return f"about {tqdm.format_interval(left)} left for one process"

    def write_tables(self) -> str:
        """Writes all tables and the best settings of each model; returns the summary in Markdown."""
        models = [entry for entry in self.entries if not entry.is_ablation]
        changed = sorted({entry.model for entry in self.entries if entry.is_ablation})
        ablations = {model: _runs([entry for entry in self.entries if entry.model == model]) for model in changed}
        tables = make_tables(_runs(models), self.ours, ablations)
        self.tables.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            for suffix, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
                (self.tables / f"{name}.{suffix}").write_text(render(table), encoding="utf-8")
        for entry in models:
            path = self.tables / "tuned" / entry.dataset / f"{entry.model}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(entry.chosen), encoding="utf-8")
        return to_markdown(tables["summary"])


def _check_names(models: Sequence[str], datasets: Sequence[str], ours: Sequence[str]) -> None:
    for option, names in (("--models", models), ("--datasets", datasets), ("--ours", ours)):
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{option} names {name} twice: name it once")
    if absent := sorted(set(ours) - set(models)):
        raise ConfigError(f"--ours names {', '.join(absent)}, which --models does not")


def _settings_of_each(
    models: Sequence[str], datasets: Sequence[str], common: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns, for each dataset and model, the common settings and those of ``settings`` that the model reads.

    Raises:
        ConfigError: a setting is read by no model, or can't be used.
    """
    if taken := sorted(set(settings) & set(SET_HERE)):
        raise ConfigError(f"{taken[0]} can't be set here: the comparison sets it for each run")
    configs = [Config(model, dataset, config_dict=dict(common)) for dataset in datasets for model in models]
    read_by_none = sorted(set(settings) - set().union(*(config.known_keys for config in configs)))
    if read_by_none:
        ignored = Config(models[0], datasets[0], config_dict={key: settings[key] for key in read_by_none}).ignored
        owners = ", ".join(f"{key} is {owner}'s" for key, owner in ignored.items())
        raise ConfigError(f"no model of the comparison reads some of the settings: {owners}; leave them out")
    found = []
    for config in configs:
        own = {key: value for key, value in settings.items() if key in config.known_keys}
        found.append({**common, **own, "model": config["model"], "dataset": config["dataset"]})
        _check_metrics(Config(config_dict=found[-1]))
    return found


def _check_metrics(config: Config) -> None:
    known = {f"{metric.lower()}@{k}" for metric in config["metrics"] for k in config["topk"]}
    if absent := sorted(set(NEEDED) - known):
        raise ConfigError(f"the tables need {', '.join(absent)}: leave metrics and topk as they are, or add to them")
    if config["metric_decimal_place"] < DECIMALS:
        raise ConfigError(f"metric_decimal_place is {config['metric_decimal_place']}, but the tables need {DECIMALS}")
    if not config["valid_metric_bigger"] or metric_of(config["valid_metric"]).sign != 1:
        raise ConfigError(
            f"valid_metric is {config['valid_metric']}, but the search needs a metric whose higher values are better"
        )


def _run(entry: Entry, seed: int) -> None:
    try:
        runs.run_on_test(entry.tuned | {"seed": seed}, entry.run_folder(seed))
    except (TrainingError, ConfigError) as error:
        entry.failures[seed] = str(error)


def _runs(entries: Sequence[Entry]) -> list[Run]:
    return [runs.read_run(entry.name, entry.run_folder(seed)) for entry in entries for seed in entry.seeds]

"""Does the trials and runs of a comparison that are left; several processes can share them through locks on disk."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from time import sleep
from typing import Any

from filelock import FileLock, Timeout
from optuna import Trial
from tqdm import tqdm

from recbole_symcere.comparison import runs
from recbole_symcere.comparison.entry import Entry
from recbole_symcere.comparison.search import origin, results_of
from recbole_symcere.errors import ConfigError, TrainingError

Task = tuple[str, Callable[[], None]]  # the name of a task, and the function that does it
SECONDS_BETWEEN_LOOKS = 2.0  # between two looks at what other processes have finished


def work_alone(entries: Sequence[Entry]) -> None:
    """Does all trials and runs that are left in this process, with a progress bar.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the data or an encoder can't be used.
        TrainingError: some runs on test can't be trained; this is raised once everything else is done.
    """
    with progress_bar(entries) as bar:

        def show(name: str) -> None:
            bar.n = bar.total - n_left(entries)
            bar.set_postfix_str(f"{name}; {time_left(entries)}")

        work(entries, show)
        finish_bar(bar, entries)
    check_failures(entries)


def work(entries: Sequence[Entry], tell: Callable[[str], None]) -> None:
    """Does all trials and runs that are left, or waits for other processes that do them.

    Args:
        tell: called before each task with what will be done.
    """
    while n_left(entries):
        with closing(_claimed_tasks(entries)) as claimed:
            name, do = next(claimed, ("waiting for other processes", partial(sleep, SECONDS_BETWEEN_LOOKS)))
            tell(name)
            do()


def progress_bar(entries: Sequence[Entry]) -> Any:
    """Returns a progress bar over all trials and runs."""
    total = sum(entry.n_tasks for entry in entries)
    return tqdm(total=total, desc="comparison", unit="run", dynamic_ncols=True)


def finish_bar(bar: Any, entries: Sequence[Entry]) -> None:
    """Shows on a progress bar how many trials and runs are done at the end."""
    bar.n = bar.total - n_left(entries) - sum(len(entry.failures) for entry in entries)
    bar.set_postfix_str("")


def n_left(entries: Sequence[Entry]) -> int:
    """Returns the number of trials and runs that are left."""
    return sum(entry.n_tasks_left for entry in entries)


def check_failures(entries: Sequence[Entry]) -> None:
    """Raises an error that names every run that can't be trained, if there is any.

    Raises:
        TrainingError: as said.
    """
    failures = [f"{entry.title}, seed {seed}: {why}" for entry in entries for seed, why in entry.failures.items()]
    if failures:
        raise TrainingError(
            f"runs that can't be trained: {len(failures)}; all others are done. Leave the model out, or give other "
            f"settings. {' '.join(failures)}"
        )


def time_left(entries: Sequence[Entry], n_processes: int = 1) -> str:
    """Estimates the time left from finished trials; an entry without any counts as the mean of the others."""
    # A run on test trains once, a trial with each of the search's seeds.
    means = [statistics.fmean(of) / entry.search.n_seeds if (of := entry.search.seconds) else None for entry in entries]
    known = [mean for mean in means if mean is not None]
    if not known:
        return "time left unknown"
    left = 0.0
    for entry, mean in zip(entries, means, strict=True):
        trainings = entry.n_trials_left * entry.search.n_seeds + len(entry.seeds_left)
        left += trainings * (statistics.fmean(known) if mean is None else mean)
    workers = "one process" if n_processes == 1 else f"{n_processes} jobs"
    return f"about {tqdm.format_interval(left / n_processes)} left for {workers}"


def _claimed_tasks(entries: Sequence[Entry]) -> Generator[Task, None, None]:
    """Yields tasks that no other process is doing; a task stays locked for this process until the next is taken."""
    for entry in entries:
        if entry.search.done:
            yield from _claimed_runs(entry)
        elif not entry.is_variation:
            with entry.search.claim() as trial:
                if trial is not None:
                    number, best = len(entry.search.scores) + 1, max(entry.search.scores, default=None)
                    so_far = "" if best is None else f", best so far {best:.4f}"
                    name = f"{entry.title}: trial {number} of {entry.search.n_trials}{so_far}"
                    yield name, partial(_try, entry, trial)


def _claimed_runs(entry: Entry) -> Iterator[Task]:
    for seed in entry.seeds_left:
        folder = entry.run_folder(seed)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(folder / "lock").acquire(timeout=0)
        except Timeout:
            continue
        with held:
            if not entry.is_complete(seed):  # another process may have completed it before it was locked
                yield f"{entry.title}: seed {seed}", partial(_run, entry, seed)


def _try(entry: Entry, trial: Trial) -> None:
    """Trains a trial with each seed of the search that it has no score of yet."""
    for number in range(len(results_of(trial)), entry.search.n_seeds):
        seed = entry.settings["seed"] + number
        checkpoint = entry.folder / f"trial-{origin(trial)}-{seed}.pth"
        settings = {**entry.settings, **trial.params, "seed": seed}
        try:
            score, details = runs.validation_score(settings, checkpoint, partial(entry.search.is_hopeless, trial))
        except (TrainingError, ConfigError) as error:  # for example a loss that is not finite, or too few layers
            score, details = 0.0, {"error": str(error)}
        entry.search.add(trial, score, **details)
        runs.remove(checkpoint)  # last, so that a trial that is killed before can go on from the checkpoint
    entry.search.finish(trial)


def _run(entry: Entry, seed: int) -> None:
    try:
        runs.run_on_test(entry.tuned | {"seed": seed}, entry.run_folder(seed))
    except (TrainingError, ConfigError) as error:
        entry.failures[seed] = str(error)

"""The search for the best settings of a model on validation, by Optuna; several processes can share one search.

Every model gets the same number of trials, and each trial is kept on disk. A trial trains its settings once with each
of the search's seeds. A trial that was killed is run again with the same settings, and keeps the seeds that it had
finished. Each draw of settings depends only on the number of trials and on the finished ones, so a search by one
process ends with the same result whether or not it was interrupted.

On a dataset under a protocol, the random trials of all models come from the same random numbers. Models with the same
search space, such as the variants of an ablation, therefore try the same settings: none is better for a luckier draw.

The median rule of Vizier and Optuna ends hopeless trials of every model early. A trial ends if its best score so far is
below the median of the best scores that the finished trials had up to the same epoch. Unlike Optuna's own rule, the
median includes trials that had ended before that epoch. A trial that ends early counts as a trial, with its best score.
If there are several seeds, the rule ends the training with one seed, by the scores that others had with the same seed.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.stats import rankdata

from recbole_symcere.errors import ConfigError
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.model.registry import variants
from recbole_symcere.properties import load_yaml, properties_folder

RANDOM_TRIALS = 10  # this many trials are drawn at random; later trials are drawn from what the results show
# The median rule ends no trial before this many trials and epochs, because validation curves dip before they rise.
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 50
ORIGIN, REPORTED = "origin", "reported"  # attributes of a trial that goes on with a killed one
RESULTS = "results"  # attribute of a trial: a dictionary for each seed that is finished, with the score and the seconds
SEARCH_SEEDS = "--search-seeds"
STEPS_OF_A_SEED = 10**6  # Optuna numbers the validations of a trial; those of each seed get numbers of their own
LIVING = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)


def search_space(model: str, model_class: type[Recommender]) -> dict[str, BaseDistribution]:
    """Returns the settings to search for a model; none if nobody says what to search.

    They are those of ``properties/search/MODEL.yaml``; of the file of the model of which it is a variant, or of its
    class; or those that the class has itself.

    Raises:
        ConfigError: an entry is neither a list of choices nor a range.
    """
    line = [path.stem for path, _ in reversed(variants(model))]
    paths = [properties_folder() / "search" / f"{name}.yaml" for name in (model, *line, model_class.__name__)]
    path = next((path for path in paths if path.is_file()), None)
    where = path or f"{model_class.__name__}.search_space"
    space = load_yaml(path) if path else model_class.search_space
    return {key: _distribution(f"{where}: {key}", values) for key, values in space.items()}


def _distribution(where: str, values: Any) -> BaseDistribution:
    if isinstance(values, list) and values:
        return CategoricalDistribution(values)
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        raise ConfigError(f"{where}: expected a list of choices, or low, high and log")
    kinds = {type(values[end]) for end in ("low", "high")}
    if not kinds <= {int, float}:
        raise ConfigError(f"{where}: low and high must be numbers")
    kind = IntDistribution if kinds == {int} else FloatDistribution
    try:
        return kind(values["low"], values["high"], log=values.get("log", False))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _holds(space: BaseDistribution, value: Any) -> bool:
    if isinstance(space, CategoricalDistribution):
        return value in space.choices
    assert isinstance(space, IntDistribution | FloatDistribution)
    return isinstance(value, int | float) and space.low <= value <= space.high


class Search:
    """The search for the best settings of one model on one dataset.

    Args:
        folder: the folder of all trials of a comparison.
        name: the name of the search, unique in the folder; what stands before the last slash is common to all models.
        space: the values to search, by setting.
        defaults: the settings of the first trial, so that no model ends below its defaults.
        n_trials: the number of finished trials that ends the search. A model without a space has at most one trial.
        n_seeds: the number of seeds with which each trial is trained.
        fixed: all other settings that can change a result; they must stay as they are while trials are added.

    Raises:
        ConfigError: a setting to search is unknown, its default lies outside the space, or the folder has trials of
            other settings.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        space: Mapping[str, BaseDistribution],
        defaults: Mapping[str, Any],
        n_trials: int,
        fixed: Mapping[str, Any],
        n_seeds: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.space, self.n_seeds = name, dict(space), n_seeds
        fixed = {**fixed, **({SEARCH_SEEDS: n_seeds} if n_seeds > 1 else {})}
        self.n_trials = n_trials if space else min(n_trials, 1)
        self._locks = folder / "locks"
        self._locks.mkdir(exist_ok=True)
        self._lock = FileLock(self._locks / f"{_file_name(name)}.lock")
        if unknown := sorted(space.keys() - defaults.keys()):
            raise ConfigError(f"{name}: the search space has {unknown[0]}, which the model does not read")
        first = {key: defaults[key] for key in space}
        for key, value in first.items():
            if not _holds(space[key], value):
                raise ConfigError(f"{name}: the default of {key}, {value!r}, lies outside its search space")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._lock:
            storage = JournalStorage(JournalFileBackend(str(folder / "trials.journal")))
            self._study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                load_if_exists=True,
            )
            if not self._study.user_attrs:
                self._study.enqueue_trial(first)
                self._study.set_user_attr("fixed", dict(fixed))
        self._check_fixed(folder, fixed)

    def _check_fixed(self, folder: Path, fixed: Mapping[str, Any]) -> None:
        before = self._study.user_attrs["fixed"]
        changed = sorted(key for key in before.keys() | fixed.keys() if before.get(key) != fixed.get(key))
        if changed:
            key = changed[0]
            raise ConfigError(
                f"{folder}: its trials of {self.name} had {key} {before.get(key)!r}, now {fixed.get(key)!r}; "
                "use the same settings, or another --output"
            )

    @property
    def scores(self) -> list[float]:
        """The validation scores of the finished trials, each a mean over the seeds."""
        return [trial.value for trial in self._finished() if trial.value is not None]

    @property
    def seconds(self) -> list[float]:
        """The training times of the finished trials that have one, with all seeds together."""
        of_trials = ([of["seconds"] for of in results_of(trial) if "seconds" in of] for trial in self._finished())
        return [sum(seconds) for seconds in of_trials if seconds]

    @property
    def done(self) -> bool:
        """Whether enough trials are finished."""
        return len(self._finished()) >= self.n_trials

    def best(self) -> dict[str, Any]:
        """Returns the settings of the best trial; empty if no trial is finished.

        The best trial has the best mean rank over the seeds. Of trials whose mean ranks are equal, it is the one with
        the highest mean score, and of several such trials the earliest.
        """
        finished = self._finished()[: self.n_trials]
        if not finished:
            return {}
        scores = np.array([[of["score"] for of in results_of(trial)] or [trial.value] for trial in finished])
        ranks = rankdata(-scores, axis=0).sum(axis=1)  # the sum orders as the mean does, and is exact
        best, _ = min(zip(finished, ranks, strict=True), key=lambda of: (of[1], -(of[0].value or 0.0), of[0].number))
        return dict(best.params)

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    @contextmanager
    def claim(self) -> Iterator[optuna.Trial | None]:
        """Yields a trial that no other process gets while the context lasts, or None if no trial is available now.

        The ``params`` of the trial are the settings to try. If the trial is not passed to ``finish`` within the
        context, it becomes available again.
        """
        with self._lock:
            self._return_trials_of_the_dead()
            n_living = len(self._study.get_trials(deepcopy=False, states=LIVING))
            taken = n_living >= self.n_trials and not self._waiting()
            if self.done or taken:
                trial = None
            else:
                common = self.name.rpartition("/")[0]
                seed = zlib.crc32(f"{common} {n_living}".encode())  # not the same as that of a trial still running
                self._study.sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, multivariate=True, seed=seed)
                trial = self._study.ask(self.space)
                for epoch, score in trial.user_attrs.get(REPORTED, {}).items():
                    trial.report(score, int(epoch))
                held = self._trial_lock(trial.number)
                held.acquire()
        if trial is None:
            yield None
            return
        try:
            yield trial
        finally:
            held.release()

    def is_hopeless(self, trial: optuna.Trial, epoch: int, score: float) -> bool:
        """Returns whether the median rule ends the training of a trial with its next seed.

        The best score up to ``epoch`` is stored for other trials.
        """
        first = len(results_of(trial)) * STEPS_OF_A_SEED
        so_far = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        best = max([score, *(before for step, before in so_far.items() if step >= first)])
        if first + epoch not in so_far:  # a trial that goes on with a killed one may repeat an epoch that is reported
            trial.report(best, first + epoch)
        reached = [_reached(other, first, epoch) for other in self._finished()]
        return epoch >= UNPRUNED_EPOCHS and len(reached) >= UNPRUNED_TRIALS and best < statistics.median(reached)

    def add(self, trial: optuna.Trial, score: float, **details: Any) -> None:
        """Stores the validation score of a trial with its next seed, and ``details`` of this training."""
        trial.set_user_attr(RESULTS, [*results_of(trial), {"score": score, **details}])

    def finish(self, trial: optuna.Trial) -> None:
        """Ends a trial that has a score with each seed."""
        self._study.tell(trial, statistics.fmean(of["score"] for of in results_of(trial)))

    def _waiting(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _trial_lock(self, number: int) -> FileLock:
        return FileLock(self._locks / f"{_file_name(self.name)}.{number}.lock")

    def _return_trials_of_the_dead(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            held = self._trial_lock(trial.number)
            try:
                held.acquire(timeout=0)
            except Timeout:
                continue
            self._study.tell(trial.number, state=TrialState.FAIL)
            reported = {str(epoch): score for epoch, score in trial.intermediate_values.items()}
            kept = {ORIGIN: origin(trial), REPORTED: reported, RESULTS: results_of(trial)}
            self._study.enqueue_trial(trial.params, user_attrs=kept)
            held.release()


def origin(trial: optuna.Trial | optuna.trial.FrozenTrial) -> int:
    """Returns the number of the killed trial that this trial goes on with, or else its own number."""
    return int(trial.user_attrs.get(ORIGIN, trial.number))


def results_of(trial: optuna.Trial | optuna.trial.FrozenTrial) -> list[dict[str, Any]]:
    """Returns what a trial has of each seed that is finished: the score and the details that :meth:`Search.add` got."""
    return list(trial.user_attrs.get(RESULTS, []))


def _reached(trial: optuna.trial.FrozenTrial, first: int, epoch: int) -> float:
    """Returns the best score of a finished trial up to an epoch of one seed; 0 if it has no score by then.

    Args:
        first: the number of the seed's first validation.
    """
    steps = range(first, first + epoch + 1)
    return max((score for step, score in trial.intermediate_values.items() if step in steps), default=0.0)


def _file_name(name: str) -> str:
    return name.replace("/", "--")

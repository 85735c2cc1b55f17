"""Hyper-parameters by Optuna on validation: as many trials for every model, on disk, shared between processes.

A trial that was killed is run again with its settings; as each draw depends on the finished trials alone, a search by
one process ends where an unbroken one would.

The median rule of Vizier and Optuna ends a trial early, for every model alike: one whose best score so far is below the
median of what the finished trials had reached by that epoch, those that ended earlier among them, which Optuna's own
leaves out. It counts as a trial, with that score.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from recbole_symcere.errors import ConfigError
from recbole_symcere.properties import load_yaml, properties_folder

RANDOM_TRIALS = 10  # before the sampler learns from results
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 50  # validation curves dip before they rise
ORIGIN, REPORTED = "origin", "reported"
LIVING = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)


def search_space(model: str) -> dict[str, BaseDistribution]:
    """What is searched for a model, from ``properties/search/MODEL.yaml``: nothing, if there is no such file.

    Raises:
        ConfigError: an entry is neither a list of choices nor a range.
    """
    path = properties_folder() / "search" / f"{model}.yaml"
    if not path.is_file():
        return {}
    return {key: _distribution(f"{path}: {key}", values) for key, values in load_yaml(path).items()}


def _distribution(where: str, values: Any) -> BaseDistribution:
    if isinstance(values, list) and values:
        return CategoricalDistribution(values)
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        raise ConfigError(f"{where}: expected a list of choices, or low, high and log")
    kind = IntDistribution if isinstance(values["low"], int) else FloatDistribution
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
    """The trials of one model on one dataset.

    Args:
        folder: where trials are kept; one for a whole comparison.
        name: of the search, one in the folder.
        space: what is searched.
        defaults: the first trial, so that no model ends below its defaults.
        n_trials: finished trials that end the search. A model without a space has one, unless there are to be none.
        fixed: all other settings that decide a result; another comparison may not go on with these trials.

    Raises:
        ConfigError: a default lies outside the space, or the folder holds trials of other settings.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        space: Mapping[str, BaseDistribution],
        defaults: Mapping[str, Any],
        n_trials: int,
        fixed: Mapping[str, Any],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.space = name, dict(space)
        self.n_trials = n_trials if space else min(n_trials, 1)
        self._locks = folder / "locks"
        self._locks.mkdir(exist_ok=True)
        self._lock = FileLock(self._locks / f"{_file_name(name)}.lock")
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
        """Validation scores of the finished trials."""
        return [trial.value for trial in self._finished() if trial.value is not None]

    @property
    def seconds(self) -> list[float]:
        """Of the finished trials that say."""
        return [trial.user_attrs["seconds"] for trial in self._finished() if "seconds" in trial.user_attrs]

    @property
    def done(self) -> bool:
        return len(self._finished()) >= self.n_trials

    def best(self) -> dict[str, Any]:
        """The settings with the highest validation score; of several, the earliest. Nothing, if nothing was tried."""
        best = max(self._finished()[: self.n_trials], key=lambda trial: (trial.value, -trial.number), default=None)
        return dict(best.params) if best else {}

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    @contextmanager
    def claim(self) -> Iterator[optuna.Trial | None]:
        """A trial that no other process gets while the context lasts; None if there is none to be had now.

        Its ``params`` are the settings to try. Without ``finish`` in the context it is to be had again.
        """
        with self._lock:
            self._return_trials_of_the_dead()
            taken = len(self._study.get_trials(deepcopy=False, states=LIVING)) >= self.n_trials and not self._waiting()
            if self.done or taken:
                trial = None
            else:
                seed = zlib.crc32(f"{self.name} {len(self._finished())}".encode())
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
        """Whether the median rule ends the trial; keeps its best validation score up to ``epoch`` for the others."""
        so_far = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        best = max(score, *so_far.values()) if so_far else score
        if epoch not in so_far:  # a killed trial goes on from an epoch before its last
            trial.report(best, epoch)
        reached = [_reached(other, epoch) for other in self._finished()]
        return epoch >= UNPRUNED_EPOCHS and len(reached) >= UNPRUNED_TRIALS and best < statistics.median(reached)

    def finish(self, trial: optuna.Trial, score: float, **details: Any) -> None:
        """Keeps a trial's validation score, and details as its user attributes."""
        for key, value in details.items():
            trial.set_user_attr(key, value)
        self._study.tell(trial, score)

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
            self._study.enqueue_trial(trial.params, user_attrs={ORIGIN: origin(trial), REPORTED: reported})
            held.release()


def origin(trial: optuna.Trial | optuna.trial.FrozenTrial) -> int:
    """The number of the trial that was first made with these settings, if this one goes on with a killed one."""
    return int(trial.user_attrs.get(ORIGIN, trial.number))


def _reached(trial: optuna.trial.FrozenTrial, epoch: int) -> float:
    """A finished trial's best score up to an epoch; 0 if it had none."""
    return max((score for at, score in trial.intermediate_values.items() if at <= epoch), default=0.0)


def _file_name(name: str) -> str:
    return name.replace("/", "--")

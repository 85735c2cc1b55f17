"""A search is the same for every model and survives kills: shown without training."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recbole_symcere import properties
from recbole_symcere.comparison.search import (
    RANDOM_TRIALS,
    UNPRUNED_EPOCHS,
    UNPRUNED_TRIALS,
    Search,
    results_of,
    search_space,
)
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.model.recommender import Recommender
from recbole_symcere.properties import properties_folder

SPACE = {"rate": FloatDistribution(1e-3, 1.0, log=True), "layers": IntDistribution(1, 4)}
DEFAULTS = {"rate": 0.1, "layers": 3, "other": 5}
N_TRIALS = 14  # more than are drawn at random


def make(folder: Path, **changes: Any) -> Search:
    arguments: dict[str, Any] = {"name": "strict/toys/Model", "space": SPACE, "defaults": DEFAULTS}
    return Search(folder, **(arguments | {"n_trials": N_TRIALS, "fixed": {"epochs": 3}} | changes))


def score(settings: dict[str, Any]) -> float:
    return settings.get("layers", 0) - abs(settings.get("rate", 0.0) - 0.05)


def work(search: Search, killed: Callable[[int], bool] = lambda attempt: False) -> list[dict[str, Any]]:
    """Does all trials; returns the settings that were tried to the end, in order."""
    finished = []
    for attempt in range(100):
        with search.claim() as trial:
            if trial is None:
                break
            if killed(attempt):
                continue
            finished.append(dict(trial.params))
            search.add(trial, score(trial.params), seconds=1.0)
            search.finish(trial)
    return finished


def test_a_search_begins_with_the_defaults_and_ends_after_its_trials(tmp_path: Path) -> None:
    search = make(tmp_path)
    finished = work(search)
    assert finished[0] == {"rate": 0.1, "layers": 3}
    assert len(finished) == len(search.scores) == len(search.seconds) == N_TRIALS and search.done
    assert search.best() == max(finished, key=score)
    assert work(make(tmp_path)) == []


@pytest.mark.parametrize("killed", [{0}, {3, 4}, {12}, set(range(0, 24, 2))])
def test_a_killed_search_ends_as_an_unbroken_one(tmp_path: Path, killed: set[int]) -> None:
    unbroken = work(make(tmp_path / "unbroken"))
    first = work(make(tmp_path / "killed"), killed.__contains__)
    assert first == unbroken


def test_models_with_the_same_space_try_the_same_random_settings(tmp_path: Path) -> None:
    names = ("strict/toys/Model", "strict/toys/Variant", "strict/books/Model", "paper/toys/Model")
    tried = [work(make(tmp_path, name=name, n_trials=RANDOM_TRIALS)) for name in names]
    assert tried[0] == tried[1]
    assert len({str(settings[1:]) for settings in tried}) == 3


def test_a_setting_more_changes_no_draw_of_the_others(tmp_path: Path) -> None:
    more = {"space": SPACE | {"dropout": FloatDistribution(0, 1)}, "defaults": DEFAULTS | {"dropout": 0.5}}
    tried = work(make(tmp_path, n_trials=RANDOM_TRIALS))
    with_more = work(make(tmp_path, name="strict/toys/Wider", n_trials=RANDOM_TRIALS, **more))
    assert [{key: settings[key] for key in SPACE} for settings in with_more] == tried


def test_a_search_that_is_opened_again_goes_on(tmp_path: Path) -> None:
    unbroken = work(make(tmp_path / "unbroken"))
    finished = []
    for _ in range(N_TRIALS):
        search = make(tmp_path / "reopened")
        with search.claim() as trial:
            assert trial is not None
            finished.append(dict(trial.params))
            search.add(trial, score(trial.params))
            search.finish(trial)
    assert finished == unbroken


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    one, other = make(tmp_path, n_trials=3), make(tmp_path, n_trials=3)
    with one.claim() as first, other.claim() as second, one.claim() as third, other.claim() as none:
        assert first and second and third and none is None
        assert len({trial.number for trial in (first, second, third)}) == 3
        for search, trial in ((one, first), (other, second), (one, third)):
            search.add(trial, 1.0)
            search.finish(trial)
    assert one.done and other.done and len(one.scores) == 3


def test_a_model_without_a_space_is_tried_once(tmp_path: Path) -> None:
    search = make(tmp_path, space={})
    assert work(search) == [{}]
    assert search.best() == {} and search.done


def test_no_trials_leave_the_defaults(tmp_path: Path) -> None:
    search = make(tmp_path, n_trials=0)
    assert search.done and search.best() == {} and work(search) == []


EPOCHS = range(0, 200, 10)


def curve(settings: dict[str, Any]) -> list[float]:
    """Validation scores by epoch: it dips, then rises to where it is going."""
    return [score(settings) * (0.5 if epoch < 30 else epoch / EPOCHS[-1]) for epoch in EPOCHS]


def train(search: Search, trial: Any, start: int = 0, killed_at: int | None = None) -> list[int] | None:
    """Validates until the rule ends it; the epochs that it was validated at, or None if it was killed."""
    seen = []
    for epoch, value in zip(EPOCHS, curve(trial.params), strict=True):
        if epoch < start:
            continue
        seen.append(epoch)
        hopeless = search.is_hopeless(trial, epoch, value)
        if epoch == killed_at:
            return None
        if hopeless:
            break
    search.add(trial, max(value for epoch, value in zip(EPOCHS, curve(trial.params), strict=True) if epoch <= seen[-1]))
    search.finish(trial)
    return seen


def prune(search: Search, kills: Iterable[tuple[int, int]] = ()) -> list[tuple[dict[str, Any], int]]:
    """All trials, some killed at an epoch and resumed two validations earlier: their settings and last epochs."""
    done, left = [], dict(kills)
    start = 0
    for attempt in range(100):
        with search.claim() as trial:
            if trial is None:
                break
            seen = train(search, trial, start, killed_at := left.pop(attempt, None))
            start = 0 if seen or killed_at is None else max(0, killed_at - 20)
            if seen:
                done.append((dict(trial.params), seen[-1]))
    return done


def test_the_median_rule_ends_trials_of_every_model_alike(tmp_path: Path) -> None:
    done = prune(make(tmp_path))
    ended = [last for _, last in done if last < EPOCHS[-1]]
    assert len(done) == N_TRIALS and 0 < len(ended) < N_TRIALS - UNPRUNED_TRIALS
    assert all(last == EPOCHS[-1] for _, last in done[:UNPRUNED_TRIALS]) and min(ended) >= UNPRUNED_EPOCHS
    best = max(done, key=lambda trial: score(trial[0]))
    assert best[1] == EPOCHS[-1]


def test_a_dip_is_not_held_against_a_trial_that_was_ahead(tmp_path: Path) -> None:
    """What counts is the best score up to an epoch, a trial's own and the others'."""
    search = make(tmp_path, n_trials=6)
    for _ in range(5):
        with search.claim() as trial:
            assert trial is not None
            assert not search.is_hopeless(trial, 0, 0.5) and not search.is_hopeless(trial, 100, 0.6)
            search.add(trial, 0.6)
            search.finish(trial)
    with search.claim() as trial:
        assert trial is not None
        assert not search.is_hopeless(trial, 0, 0.7)
        assert not search.is_hopeless(trial, 100, 0.1)


def test_a_trial_that_stopped_early_keeps_its_place_in_the_median(tmp_path: Path) -> None:
    search = make(tmp_path, n_trials=6)
    for last, best in ((40, 0.9), (40, 0.9), (40, 0.9), (100, 0.5), (100, 0.1)):
        with search.claim() as trial:
            assert trial is not None
            search.is_hopeless(trial, last, best)
            search.add(trial, best)
            search.finish(trial)
    with search.claim() as trial:
        assert trial is not None
        assert not search.is_hopeless(trial, 40, 0.7), "below the median, but the rule waits"
        assert search.is_hopeless(trial, 100, 0.7)


def test_a_trial_killed_after_its_end_was_said_ends_at_the_same_epoch(tmp_path: Path) -> None:
    search = make(tmp_path, n_trials=6)
    for _ in range(5):
        with search.claim() as trial:
            assert trial is not None
            search.is_hopeless(trial, 100, 0.5)
            search.add(trial, 0.5)
            search.finish(trial)
    with search.claim() as trial:
        assert trial is not None
        assert [search.is_hopeless(trial, epoch, 0.1) for epoch in (0, 60, 100)] == [False, False, True]
    with search.claim() as trial:
        assert trial is not None
        assert [search.is_hopeless(trial, epoch, 0.1) for epoch in (0, 60, 100)] == [False, False, True]


@pytest.mark.parametrize("kills", [{0: 100}, {5: 70, 6: 40}, {9: 190, 12: 50}])
def test_a_killed_trial_is_ended_where_an_unbroken_one_is(tmp_path: Path, kills: dict[int, int]) -> None:
    assert prune(make(tmp_path / "killed"), kills.items()) == prune(make(tmp_path / "unbroken"))


def test_trials_of_other_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    make(tmp_path)
    make(tmp_path, name="strict/toys/Another", fixed={"epochs": 4})
    with pytest.raises(ConfigError, match=r"strict/toys/Model had epochs 3, now 4.*another --output"):
        make(tmp_path, fixed={"epochs": 4})


@pytest.mark.parametrize(
    ("space", "value"),
    [(SPACE["layers"], 9), (SPACE["layers"], None), (SPACE["rate"], 0.0), (CategoricalDistribution([1, 2]), 9)],
)
def test_a_default_outside_its_space_is_refused(tmp_path: Path, space: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"default of layers, {value}, lies outside"):
        make(tmp_path, space={"layers": space}, defaults={"layers": value})


@pytest.mark.parametrize("model", sorted(path.stem for path in (properties_folder() / "search").glob("*.yaml")))
def test_each_model_reads_what_is_searched_and_starts_from_its_defaults(model: str, tmp_path: Path) -> None:
    config = Config(model, "demo")
    space = search_space(model, config.model_class)
    assert space and space.keys() <= config.known_keys
    make(tmp_path, space=space, defaults=config.settings)


def test_a_space_of_a_setting_that_the_model_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the search space has depth, which the model does not read"):
        Search(tmp_path, "strict/toys/Model", {"depth": SPACE["layers"]}, {"layers": 2}, 3, {})


def test_a_space_is_read_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "FOLDER", tmp_path)
    (tmp_path / "search").mkdir()
    file = tmp_path / "search" / "Model.yaml"
    file.write_text(
        "a: [1, ~, x]\nb: {low: 1, high: 3}\nc: {low: 1.0e-3, high: 1.0, log: True}\nd: {low: 1, high: 1.5}\n"
    )
    assert (
        search_space("Model", Recommender)
        == search_space("Variant", type("Model", (Recommender,), {}))
        == {
            "a": CategoricalDistribution([1, None, "x"]),
            "b": IntDistribution(1, 3),
            "c": FloatDistribution(1e-3, 1.0, log=True),
            "d": FloatDistribution(1, 1.5),
        }
    )
    assert search_space("Another", Recommender) == {}
    own = type("Own", (Recommender,), {"search_space": {"a": [1, 2]}})
    assert search_space("Own", own) == {"a": CategoricalDistribution([1, 2])}
    with pytest.raises(ConfigError, match=r"Own\.search_space: a: "):
        search_space("Own", type("Own", (Recommender,), {"search_space": {"a": 3}}))
    ends = ("{low: 1}", "{low: 1, high: 2, step: 1}", "{low: 2, high: 1}", "{low: x, high: 2}", "{low: ~, high: 2}")
    for broken in ("3", "[]", *ends):
        file.write_text(f"a: {broken}")
        with pytest.raises(ConfigError, match=r"Model\.yaml: a: "):
            search_space("Model", Recommender)


def test_the_best_trial_has_the_best_mean_rank_over_the_seeds(tmp_path: Path) -> None:
    """The second trial has the highest mean, by one seed alone; the third wins two seeds of three."""
    of_trials = [(0.2, 0.2, 0.2), (0.9, 0.1, 0.1), (0.3, 0.3, 0.3)]
    search = make(tmp_path, n_trials=3, n_seeds=3)
    tried = []
    for scores in of_trials:
        with search.claim() as trial:
            assert trial is not None
            for value in scores:
                search.add(trial, value, seconds=2.0)
            search.finish(trial)
            tried.append(dict(trial.params))
    assert search.best() == tried[2] and search.seconds == [6.0] * 3
    assert search.scores == pytest.approx([0.2, 1.1 / 3, 0.3])
    with pytest.raises(ConfigError, match=r"had --search-seeds 3, now None"):
        make(tmp_path, n_trials=3)


def test_of_equal_mean_ranks_the_higher_mean_is_better_and_then_the_earlier(tmp_path: Path) -> None:
    search = make(tmp_path, n_trials=3, n_seeds=2)
    tried = []
    for scores in [(0.1, 0.4), (0.4, 0.2), (0.4, 0.2)]:  # ranks 3 + 1, 1.5 + 2.5 and the same again
        with search.claim() as trial:
            assert trial is not None
            for value in scores:
                search.add(trial, value)
            search.finish(trial)
            tried.append(dict(trial.params))
    assert search.best() == tried[1]


def test_a_killed_trial_keeps_the_seeds_that_it_had_finished(tmp_path: Path) -> None:
    search = make(tmp_path, n_trials=1, n_seeds=2)
    with search.claim() as trial:
        search.add(trial, 0.25)
    with make(tmp_path, n_trials=1, n_seeds=2).claim() as again:
        assert [of["score"] for of in results_of(again)] == [0.25] and again.params == trial.params
        search.add(again, 0.75)
        search.finish(again)
    assert search.scores == [0.5]


def test_the_rule_compares_a_seed_with_the_same_seed(tmp_path: Path) -> None:
    """The others were good with the first seed and bad with the second: 0.5 is hopeless with the first alone."""
    search = make(tmp_path, n_seeds=2)
    for _ in range(UNPRUNED_TRIALS):
        with search.claim() as trial:
            for value in (0.9, 0.1):
                search.is_hopeless(trial, 0, value)
                search.add(trial, value)
            search.finish(trial)
    with search.claim() as trial:
        assert search.is_hopeless(trial, UNPRUNED_EPOCHS, 0.5)
        search.add(trial, 0.5)
        assert not search.is_hopeless(trial, UNPRUNED_EPOCHS, 0.5)


def test_trials_that_run_at_once_try_the_settings_of_trials_one_after_the_other(tmp_path: Path) -> None:
    one_by_one = work(make(tmp_path / "one"))[:4]
    search = make(tmp_path / "many")
    with search.claim() as first, search.claim() as second, search.claim() as third, search.claim() as fourth:
        assert [dict(trial.params) for trial in (first, second, third, fourth)] == one_by_one

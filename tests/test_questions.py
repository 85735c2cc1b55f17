"""For whom and for when a part is ranked, against slow loops; nothing of a later day bears on an earlier one."""

import copy
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from recbole.evaluator.collector import DataStruct
from torch import Tensor
from torch.testing import assert_close

from recbole_symcere import run as run_module
from recbole_symcere.best_items import top_items
from recbole_symcere.comparison.runs import QUESTIONS, run_on_test
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.decay import DAY
from recbole_symcere.errors import ConfigError, DatasetError
from recbole_symcere.known import STRANGER, TRAINED, VALIDATION_ONLY, known_before
from recbole_symcere.model.baselines.history import history_matrix
from recbole_symcere.model.choice import OTHERS, STRANGERS
from recbole_symcere.model.symcere_plus import FOLDS
from recbole_symcere.properties import load_yaml, properties_folder
from recbole_symcere.questions import Questions, questions_of
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.ranking import QuestionDataLoader, RankingCollector, RankingEvaluator, joined
from recbole_symcere.run import Fitted, fit, store_what_serves
from recbole_symcere.serving import NewInteraction, Recommender
from recbole_symcere.trainer import Trainer
from tests.conftest import START, WORDS, Row, for_model, write_atomic_files
from tests.model.test_symcere_plus import choices_of
from tests.test_ranking import ndcg

MakeConfig = Callable[..., Config]
TrainedOf = Callable[[str, str], "Trained"]
MIDNIGHT = START // DAY * DAY
OF_PLUS = load_yaml(properties_folder() / "model" / "SymCEREPlus.yaml")
EVIDENCE: list[str] = [*OF_PLUS["evidence"], *OF_PLUS["short_lived"]]
FOLD_IN: dict[str, dict[str, Any]] = {
    "ItemKNN": {"history_decay": 3.0},
    "RecentPop": {"half_life": 5.0},
    "EASE": {},
    "MultiVAE": {},
    "SymCEREPlus": {"evidence_weights": {name: 0.2 + 0.1 * n for n, name in enumerate(EVIDENCE)}},
}
FITTED = "SymCEREPlus with fitted weights"
# New items get their places together, so that their number may decide how products are rounded.
ROUNDING = dict.fromkeys([*FOLD_IN, "LightGCN"], 0.0) | {"SymCEREPlus": 1e-5, FITTED: 1e-5}
quick = hypothesis_settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
few = hypothesis_settings(quick, max_examples=8)

Drawn = list[tuple[int, int, int, int]]  # user, item, day, second of the day
draws = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(0, 7), st.sampled_from([0, 1, 40_000, 86_399])),
    min_size=15,
    max_size=50,
    unique_by=lambda row: row[:2],
)


class Met(NamedTuple):
    """An interaction, in numbers."""

    user: int
    item: int
    moment: float
    review: int

    @property
    def day(self) -> int:
        return int(self.moment // DAY)


class Asked(NamedTuple):
    """A question, and the interactions of its spans, in their order."""

    user: int
    now: float
    history: list[Met]
    met: list[Met]
    held_out: list[Met]


def rows_of(*parts: ReviewDataset) -> list[Met]:
    fields = ("user_id", "item_id", "timestamp", "review_id")
    columns = [[part.inter_feat[field].tolist() for field in fields] for part in parts]
    return [Met(*row) for part in columns for row in zip(*part, strict=True)]


def told(asked: Questions) -> list[Asked]:
    """What the questions say, asked in another order than theirs."""
    past = rows_of(asked.past)
    rows = [past[place] for place in asked.order.tolist()]
    assert [(row.item, row.moment) for row in rows] == list(
        zip(asked.item.tolist(), asked.moment.tolist(), strict=True)
    )
    backwards = torch.arange(len(asked)).flip(0)
    spans: list[list[list[Met]]] = [[[], [], []] for _ in backwards]
    for kind, (owner, number) in enumerate(f(backwards) for f in (asked.histories, asked.met, asked.held_out)):
        for question, row in zip(backwards[owner].tolist(), number.tolist(), strict=True):
            spans[question][kind].append(rows[row])
    assert asked.n_met.tolist() == [len(history) for history, *_ in spans]
    return [Asked(*who, *of) for *who, of in zip(asked.user.tolist(), asked.now.tolist(), spans, strict=True)]


def asked_by_day(earlier: Sequence[Met], part: Sequence[Met], goes_on: bool = True) -> list[Asked]:
    found = []
    for user, day in sorted({(row.user, row.day) for row in part}):
        met = sorted(
            [*(row for row in earlier if row.user == user), *(r for r in part if r.user == user and r.day < day)],
            key=lambda row: row.moment,
        )
        history = met if goes_on else [row for row in met if row in earlier]
        held_out = [row for row in part if row.user == user and row.day == day]
        found.append(Asked(user, day * DAY - 1, history, met, held_out))
    return found


def asked_of_strangers(part: Sequence[Met], share_or_number: float) -> list[Asked]:
    """The questions to the users of rows that are in the order of time, and of the hash where times are equal."""
    found = []
    for user in sorted({row.user for row in part}):
        own = [row for row in part if row.user == user]
        n = int(share_or_number) if share_or_number >= 1 else max(1, math.floor(len(own) * share_or_number))
        if len(own) > n:
            found.append(Asked(user, own[n - 1].moment, own[:n], own[:n], own[n:]))
    return found


def config_of(make_config: MakeConfig, folder: Path, drawn: Drawn, **changes: Any) -> Config:
    rows: list[Row] = [
        (f"u{user}", f"i{item}", 1.0, MIDNIGHT + day * DAY + second, f"r{number}", "x")
        for number, (user, item, day, second) in enumerate(drawn)
    ]
    folder = write_atomic_files(folder / "drawn", rows)
    return make_config(**{"model": "ItemKNN", "dataset": "drawn", "data_path": str(folder.parent)} | changes)


def parts_of(config: Config) -> list[ReviewDataset]:
    parts = ReviewDataset(config).build()
    assume(all(len(part) for part in parts))
    return parts


# Questions


@quick
@given(drawn=draws, goes_on=st.booleans(), on_test=st.booleans())
def test_a_day_of_a_user_is_a_question_whose_history_ends_before_it(
    make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, goes_on: bool, on_test: bool
) -> None:
    config = config_of(
        make_config, tmp_path_factory.mktemp("days"), drawn, protocol="rolling", goes_on=goes_on,
        eval_args={"split": {"RS": [0.5, 0.2, 0.3]}},
    )  # fmt: skip
    train, valid, test = parts_of(config)
    earlier, part = (train.joined_with(valid), test) if on_test else (train, valid)
    asked = questions_of(config, earlier, part)
    assert asked is not None and asked.goes_on == goes_on and asked.gives_reviews
    assert told(asked) == asked_by_day(rows_of(earlier), rows_of(part), goes_on)
    first = {row.item: row.moment for row in sorted(rows_of(earlier, part), key=lambda row: -row.moment)}
    assert asked.first.tolist() == [first.get(item, math.inf) for item in range(train.item_num)]


@quick
@given(
    drawn=draws, share_or_number=st.sampled_from([1, 2, 3, 5, 0.25, 0.5]), reviews=st.booleans(), seed=st.integers(0, 3)
)
def test_a_stranger_gives_the_first_interactions_and_the_others_are_held_out(
    make_config: MakeConfig,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: Drawn,
    share_or_number: float,
    reviews: bool,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("strangers")
    shares = {"eval_args": {"split": {"RS": [0.4, 0.3, 0.3]}}, "tie_seed": seed}
    in_time = rows_of(*parts_of(config_of(make_config, folder, drawn, protocol="temporal", **shares)))
    changes = {"given": share_or_number, "given_reviews": reviews}
    config = config_of(make_config, folder, drawn, protocol="strangers", **shares, **changes)
    train, *held_out = parts_of(config)
    for part in held_out:
        users = {row.user for row in rows_of(part)}
        own = [row for row in in_time if row.user in users]
        expected = asked_of_strangers(own, share_or_number)
        assert rows_of(part) == own and not users & {row.user for row in rows_of(train)}
        if expected:
            asked = questions_of(config, train, part)
            assert asked is not None and not asked.goes_on and asked.gives_reviews == reviews
            assert told(asked) == expected
        else:
            with pytest.raises(DatasetError, match=r"no user .* has more interactions than given asks for \("):
                questions_of(config, train, part)


def test_users_are_held_out_whole_and_those_of_validation_train_before_the_test_part_is_ranked(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [(user, 3 * user % 17 + n, n, 0) for user in range(40) for n in range(5)]
    trained: list[list[Met]] = []
    build = run_module.build_trainer
    monkeypatch.setattr(
        run_module, "build_trainer", lambda config, data: trained.append(rows_of(data._dataset)) or build(config, data)
    )
    config = config_of(make_config, tmp_path, drawn, protocol="strangers", topk=[10])
    fitted = fit(config, saved=False)
    users = [{row.user for row in rows_of(part)} for part in create_dataset(config).build()]
    assert [len(of_part) for of_part in users] == [32, 4, 4] and len(set.union(*users)) == 40
    first, second = ({row.user for row in rows} for rows in trained)
    assert (first, second) == (users[0], users[0] | users[1])
    assert [set(loader.known.questions.user.tolist()) for loader in (fitted.valid_data, fitted.test_data)] == users[1:]
    other = create_dataset(config.with_settings(seed=config["seed"] + 1)).build()
    assert {row.user for row in rows_of(other[1])} == users[1], "the seed draws users for the test part alone"
    assert not {row.user for row in rows_of(other[2])} & users[2]


# Runs on a shop in which people and items come and go


def coming_and_going() -> list[Row]:
    """Six interactions on each of 33 days; on every other day a user and an item come, and leave after 20 days."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    met: set[tuple[int, int]] = set()
    for day in range(33):
        while len(rows) < 6 * (day + 1):
            user, item = (day // 2 + int(rng.integers(10)) for _ in range(2))
            if (user, item) not in met:
                met.add((user, item))
                moment = MIDNIGHT + day * DAY + int(rng.integers(86_400))
                text = f"u{user} i{item} {' '.join(rng.choice(WORDS, 5))}"
                rows.append((f"u{user}", f"i{item}", 4.0, moment, f"r{len(rows)}", text))
    return rows


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> dict[str, Any]:
    """Settings of a short and silent run, in which each question is a batch of its own."""
    folder = write_atomic_files(tmp_path_factory.mktemp("data") / "shop", coming_and_going())
    return {
        "dataset": "shop",
        "data_path": str(folder.parent),
        "checkpoint_dir": str(tmp_path_factory.mktemp("saved")),
        "text_cache_dir": str(tmp_path_factory.mktemp("text")),
        "text_encoder": str(tiny_encoder),
        "text_precision": "fp32",
        "text_max_length": 16,
        "embedding_size": 8,
        "n_layers": 2,
        "epochs": 4,
        "eval_step": 2,
        "learning_rate": 0.02,
        "metrics": ["NDCG", "Hit", "TrainedNDCG", "ValidOnlyNDCG", "StrangerNDCG"],
        "topk": [3, 10],
        "eval_batch_size": 1,
        "show_progress": False,
        "state": "ERROR",
    }


@pytest.fixture(scope="module")
def trained_of(shop: dict[str, Any]) -> TrainedOf:
    """Trains a model of the shop, the same one only once."""

    @cache
    def trained(model: str, protocol: str) -> Trained:
        config = shop_config(shop, model, protocol)
        return Trained(fit(config, saved=False), *create_dataset(config).build())

    return trained


def shop_config(shop: dict[str, Any], model: str, protocol: str, **changes: Any) -> Config:
    own = {"model": model.partition(" ")[0], "protocol": protocol} | FOLD_IN.get(model, {})
    shares = {"eval_args": {"split": {"RS": [0.5, 0.2, 0.3]}}} if protocol == "strangers" else {}
    return Config(config_dict=for_model(shop | own | shares | changes))


class Ranking(NamedTuple):
    """What a trainer ranked for a question: the scores of all items, and the held-out ones."""

    user: int
    now: float
    scores: Tensor
    held_out: list[int]


@contextmanager
def noting() -> Iterator[list[Ranking]]:
    """Notes all that is ranked while the body runs, but for validation."""
    found: list[Ranking] = []
    collect = RankingCollector.eval_batch_collect

    def note(collector: Any, scores: Tensor, interaction: Any, row: Tensor, item: Tensor) -> None:
        if not collector.known.validates:
            now = collector.known.questions.now[collector.known.asked(interaction, "user_id")].tolist()
            for place, user in enumerate(interaction["user_id"].tolist()):
                found.append(Ranking(user, now[place], scores[place].clone(), item[row == place].tolist()))
        collect(collector, scores, interaction, row, item)

    with patch.object(RankingCollector, "eval_batch_collect", note):
        yield found


Scores = dict[tuple[int, float], Tensor]


def by_question(found: Sequence[Ranking]) -> Scores:
    scores = {(one.user, one.now): one.scores for one in found}
    assert len(scores) == len(found), "each question once"
    return scores


@dataclass
class Trained:
    """A trained model, and the parts of the data."""

    fitted: Fitted
    train: ReviewDataset
    valid: ReviewDataset
    test: ReviewDataset
    kept: dict[str, Scores] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return self.fitted.ranker.config

    @property
    def pairs(self) -> set[tuple[int, int]]:
        return {(row.user, row.item) for row in rows_of(self.train, self.valid, self.test)}

    def scores(self, **changes: Any) -> Scores:
        """What the model ranks for the questions of the test part, under some other settings."""
        key = repr(changes)
        if key not in self.kept:
            self.kept[key] = self.asked_again(self.test, **changes)
        return self.kept[key]

    def asked_again(self, test: ReviewDataset, **changes: Any) -> Scores:
        """What the model ranks for the questions of another test part."""
        config = self.config.with_settings(**changes)
        known = known_before(config, self.train, self.valid, True, test)
        loader = QuestionDataLoader(config, test, known.questions)
        loader.known = known
        with noting() as found:
            self.fitted.ranker.evaluate(loader, load_best_model=False)
        return by_question(found)


def test_the_shop_has_what_the_tests_are_about(shop: dict[str, Any]) -> None:
    config = shop_config(shop, "ItemKNN", "rolling")
    train, valid, test = create_dataset(config).build()
    earlier, part = rows_of(train, valid), rows_of(test)
    questions = asked_by_day(earlier, part)
    known_items = {row.item for row in earlier}
    assert sum(not asked.history for asked in questions) >= 3, "new users"
    assert sum(bool({row.item for row in asked.met} - known_items) for asked in questions) > 3, "who met new items"
    assert len({row.item for row in part} - known_items) >= 3, "new items"
    assert len(questions) > len({asked.user for asked in questions}) + 5, "users with several questions"
    assert earlier[-1].day == part[0].day, "the cut is within a day"


# Causality


def change(
    test: ReviewDataset, met: set[tuple[int, int]], kind: str, row: int, other: int, second: int
) -> ReviewDataset:
    """A test part with one change: an interaction with another item or text, one less, or one more on the same day."""
    values = {field: column.clone() for field, column in test.inter_feat.interaction.items()}
    users = range(1, test.user_num)
    user = int(values["user_id"][row]) if kind != "added" else users[other % len(users)]
    unmet = [item for item in range(1, test.item_num) if (user, item) not in met]
    if kind == "item":
        values["item_id"][row] = unmet[other % len(unmet)]
    elif kind == "text":
        values["review_id"][row] = 1 + other % (test.num("review_id") - 1)
    elif kind == "gone":
        values = {field: torch.cat([column[:row], column[row + 1 :]]) for field, column in values.items()}
    else:
        moment = values["timestamp"][row] // DAY * DAY + second
        new = {"user_id": user, "item_id": unmet[other % len(unmet)], "timestamp": float(moment)}
        added = {field: new.get(field, column[row].item()) for field, column in values.items()}
        values = {
            field: torch.cat([column, torch.tensor([added[field]], dtype=column.dtype)])
            for field, column in values.items()
        }
    return test.copy(Interaction(values))


def check_no_earlier_score_moved(
    before: Scores, after: Scores, old: Met, changed: ReviewDataset, tolerance: float
) -> None:
    earlier = {key: scores for key, scores in before.items() if key[1] < old.day * DAY}
    of_the_day = {(row.user, row.day * DAY - 1) for row in rows_of(changed) if row.day == old.day}
    gone = {key for key in earlier if key[1] == old.day * DAY - 1} - of_the_day
    assert earlier.keys() - after.keys() == gone and len(gone) <= 1
    for key in earlier.keys() & after.keys():
        assert_close(after[key], earlier[key], rtol=0, atol=tolerance)


@pytest.mark.parametrize("model", [*FOLD_IN, FITTED])
@few
@given(
    kind=st.sampled_from(["item", "text", "gone", "added"]),
    row=st.integers(0, 38),
    other=st.integers(0, 999),
    second=st.integers(0, 86_399),
    changes=st.fixed_dictionaries({"candidates": st.sampled_from(["seen", "all"]), "goes_on": st.booleans()}),
)
def test_a_change_on_a_day_moves_no_score_of_that_day_or_before(
    trained_of: TrainedOf, model: str, kind: str, row: int, other: int, second: int, changes: dict[str, Any]
) -> None:
    trained = trained_of(model, "rolling")
    changed = change(trained.test, trained.pairs, kind, row, other, second)
    before, after = trained.scores(**changes), trained.asked_again(changed, **changes)
    check_no_earlier_score_moved(before, after, rows_of(trained.test)[row], changed, ROUNDING[model])


@pytest.mark.parametrize("kind", ["item", "text", "gone", "added"])
@pytest.mark.parametrize("model", FOLD_IN)
def test_what_happened_on_a_day_is_known_from_the_next_day_on(trained_of: TrainedOf, model: str, kind: str) -> None:
    trained = trained_of(model, "rolling")
    before, days = trained.scores(), [row.day for row in rows_of(trained.test)]
    moved_on: set[int] = set()  # how many days later
    for row in range(0, 30, 5):
        after = trained.asked_again(change(trained.test, trained.pairs, kind, row, 7 * row, 50_000))
        moved = [key for key in before.keys() & after.keys() if not torch.equal(before[key], after[key])]
        moved_on |= {round((now + 1) / DAY) - days[row] for _, now in moved}
    assert bool(moved_on) == (kind != "text" or model == "SymCEREPlus"), "other models read no text"
    assert min(moved_on, default=1) == 1


def ranked_in_a_run(config: Config) -> Scores:
    with noting() as found:
        fit(config, saved=False).rank_test(load_best_model=False)
    return by_question(found)


@pytest.mark.parametrize(("model", "kind"), [("LightGCN", "item"), ("EASE", "gone"), (FITTED, "added")])
def test_a_change_moves_no_earlier_score_of_a_whole_run_though_models_are_trained_anew(
    shop: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: str, kind: str
) -> None:
    config = shop_config(shop, model, "rolling", refit_every=3)
    parts = create_dataset(config).build()
    met, (*earlier, test) = {(row.user, row.item) for row in rows_of(*parts)}, parts
    row = next(place for place, one in enumerate(rows_of(test)) if one.day >= rows_of(test)[0].day + 4)
    changed = change(test, met, kind, row, 5, 0)
    before = ranked_in_a_run(config)
    monkeypatch.setattr(ReviewDataset, "build", lambda dataset: [*earlier, changed])
    after = ranked_in_a_run(config)
    check_no_earlier_score_moved(before, after, rows_of(test)[row], changed, ROUNDING[model])
    assert any(not torch.equal(before[key], after[key]) for key in before.keys() & after.keys()), "later ones move"


@pytest.mark.parametrize("refit_every", [None, 3])
def test_texts_of_a_day_move_no_earlier_score_of_a_whole_run(
    shop: dict[str, Any], tmp_path: Path, refit_every: int | None
) -> None:
    day = MIDNIGHT // DAY + 29
    rows = [(*row[:-1], "love the cable" if row[3] // DAY == day else row[-1]) for row in coming_and_going()]
    write_atomic_files(tmp_path / "shop", rows)
    config, other = (
        shop_config(settings, "SymCEREPlus", "rolling", refit_every=refit_every)
        for settings in (shop, shop | {"data_path": str(tmp_path)})
    )
    before, after, test = ranked_in_a_run(config), ranked_in_a_run(other), create_dataset(config).build()[2]
    check_no_earlier_score_moved(before, after, next(row for row in rows_of(test) if row.day == day), test, 0)
    assert any(not torch.equal(before[key], after[key]) for key in before), "later ones move"


# Ranking


def check_by_popularity(found: dict[int, float], rows: Iterable[Met], now: float, half_life: float) -> None:
    """Checks that items are ranked by their popularity at a moment, as a slow loop counts it."""
    popularity = dict.fromkeys(found, 0.0)
    for row in rows:
        if row.item in found:
            popularity[row.item] += 2 ** ((row.moment - now) / DAY / half_life)
    for one, other in itertools.permutations(found, 2):
        if popularity[one] > popularity[other] + 1e-9:
            assert found[one] > found[other]


@pytest.mark.parametrize("model", ["ItemKNN", "LightGCN"])  # one folds in
@quick
@given(
    drawn=draws,
    candidates=st.sampled_from(["seen", "all"]),
    cold_users=st.sampled_from(["recent_popularity", "model"]),
    goes_on=st.booleans(),
    refit=st.booleans(),
    ranks_strangers=st.booleans(),
    ranks_new_items=st.booleans(),
    seed=st.integers(0, 99),
)
def test_scores_of_questions_become_what_a_slow_loop_makes_of_them(
    make_config: MakeConfig,
    tmp_path_factory: pytest.TempPathFactory,
    model: str,
    drawn: Drawn,
    candidates: str,
    cold_users: str,
    goes_on: bool,
    refit: bool,
    ranks_strangers: bool,
    ranks_new_items: bool,
    seed: int,
) -> None:
    changes = {"candidates": candidates, "cold_users": cold_users, "goes_on": goes_on}
    split = {"eval_args": {"split": {"RS": [0.4, 0.2, 0.4]}}}
    folder = tmp_path_factory.mktemp("drawn")
    config = config_of(make_config, folder, drawn, model=model, protocol="rolling", **changes, **split)
    train, valid, test = parts_of(config)
    known = known_before(config, train, valid, refit, test)
    earlier, part = rows_of(train, valid), rows_of(test)
    trained_on = earlier if refit else rows_of(train)
    users, items = ({row[column] for row in trained_on} for column in (0, 1))
    questions = asked_by_day(earlier, part, goes_on)
    scores = torch.randn(len(questions), train.item_num, generator=torch.Generator().manual_seed(seed))
    scores[torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.2] = -torch.inf
    of_model: Any = SimpleNamespace(ranks_strangers=ranks_strangers, ranks_new_items=ranks_new_items)
    found = known.ranked(scores.clone(), torch.arange(len(questions)), of_model)
    places_new = ranks_new_items and goes_on and candidates == "seen"
    for asked, before, after in zip(questions, scores.tolist(), found.tolist(), strict=True):
        happened = [row for row in [*earlier, *part] if row.moment <= asked.now] if goes_on else earlier
        offered = {row.item for row in happened} if candidates == "seen" else {*range(train.item_num)}
        cold = cold_users != "model" and (not asked.history if model == "ItemKNN" else asked.user not in users)
        by_popularity = {}
        for item in range(train.item_num):
            expected = before[item] if item in offered else -math.inf
            if expected > -math.inf and cold and not ranks_strangers:
                by_popularity[item] = expected = after[item]
            elif expected > -math.inf and cold_users != "model" and item not in items and not places_new:
                expected = torch.finfo(scores.dtype).min
            assert after[item] == expected
        check_by_popularity(by_popularity, happened, max(row.moment for row in happened), known.half_life)


@quick
@given(drawn=draws, goes_on=st.booleans())
def test_the_kind_of_a_history_is_that_at_the_question(
    make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, goes_on: bool
) -> None:
    split = {"eval_args": {"split": {"RS": [0.2, 0.2, 0.6]}}}
    config = config_of(
        make_config, tmp_path_factory.mktemp("drawn"), drawn, protocol="rolling", goes_on=goes_on, **split
    )
    train, valid, test = parts_of(config)
    trained, earlier = ({row.user for row in rows_of(*parts)} for parts in ((train,), (train, valid)))
    kinds = [
        TRAINED if asked.user in trained else VALIDATION_ONLY if asked.user in earlier or asked.history else STRANGER
        for asked in asked_by_day(rows_of(train, valid), rows_of(test), goes_on)
    ]
    assert known_before(config, train, valid, True, test).history.tolist() == kinds


@pytest.mark.parametrize("model", ["RecentPop", "SymCEREPlus", "LightGCN"])
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_list_has_what_somebody_met_until_the_day_before_and_nothing_that_the_user_met(
    trained_of: TrainedOf, model: str, goes_on: bool
) -> None:
    trained = trained_of(model, "rolling")
    earlier, part = rows_of(trained.train, trained.valid), rows_of(trained.test)
    questions, scores = asked_by_day(earlier, part, goes_on), trained.scores(goes_on=goes_on)
    assert [*scores] == [(asked.user, asked.now) for asked in questions]
    for of_question, asked in zip(scores.values(), questions, strict=True):
        there = {row.item for row in [*earlier, *part] if row.day < asked.held_out[0].day}
        listed = set((of_question > -torch.inf).nonzero().flatten().tolist())
        assert listed == (there if goes_on else {row.item for row in earlier}) - {row.item for row in asked.met}
        new = of_question[[*(listed - {row.item for row in earlier})]]
        lowest = torch.finfo(of_question.dtype).min
        if model == "LightGCN" and asked.user in {row.user for row in earlier}:
            assert (new == lowest).all(), "its vectors of new items are random"
        elif asked.history:
            assert (new > lowest).all()


def test_what_is_held_out_of_a_question_is_what_counts_as_a_hit(trained_of: TrainedOf) -> None:
    trained = trained_of("ItemKNN", "rolling")
    with noting() as found:
        trained.fitted.rank_test(load_best_model=False)
    assert [(one.user, one.now, one.held_out) for one in found] == [
        (asked.user, asked.now, [row.item for row in asked.held_out])
        for asked in asked_by_day(rows_of(trained.train, trained.valid), rows_of(trained.test))
    ]


@pytest.mark.parametrize("model", FOLD_IN)
def test_what_does_not_go_on_reads_nothing_of_the_test_part(trained_of: TrainedOf, model: str) -> None:
    """But what the user has met is left out."""
    trained = trained_of(model, "rolling")
    before, rows = trained.scores(goes_on=False), rows_of(trained.test)
    row = next(n for n, row in enumerate(rows) if any(row.user == r.user and row.day < r.day for r in rows))
    for kind in ("item", "text", "gone", "added"):
        changed = change(trained.test, trained.pairs, kind, row, 7, 50_000)
        after = trained.asked_again(changed, goes_on=False)
        assert len(before.keys() & after.keys()) >= 10
        for key in before.keys() & after.keys():
            listed = (before[key] > -torch.inf) & (after[key] > -torch.inf)
            assert torch.equal(before[key][listed], after[key][listed])
    of_users = {user: [scores for (of, _), scores in before.items() if of == user] for user, _ in before}
    for first, *others in of_users.values():
        for scores in others:
            listed = (first > -torch.inf) & (scores > -torch.inf)
            assert model in ("RecentPop", "SymCEREPlus") or torch.equal(first[listed], scores[listed]), "older counts"


@pytest.mark.parametrize("protocol", ["rolling", "strangers"])
@pytest.mark.parametrize("model", FOLD_IN)
def test_a_question_gets_the_same_scores_alone_and_among_others(
    trained_of: TrainedOf, model: str, protocol: str
) -> None:
    trained = trained_of(model, protocol)
    alone, among_others = (trained.scores(eval_batch_size=size) for size in (1, 500))
    assert alone.keys() == among_others.keys() and len(alone) >= 3
    for key, scores in alone.items():
        assert_close(among_others[key], scores, rtol=1e-5, atol=1e-5)


# Metrics


def slow_means(users: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    """The mean over each user's questions that have a value; NaN if none has."""
    found = {}
    for user in sorted(set(users)):
        own = [value for of, value in zip(users, values, strict=True) if of == user and not math.isnan(value)]
        found[user] = sum(own) / len(own) if own else math.nan
    return found


def mean_of(values: Sequence[float]) -> float:
    having = [value for value in values if not math.isnan(value)]
    return sum(having) / len(having) if having else math.nan


@quick
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 4),  # the user
            st.lists(st.booleans(), min_size=5, max_size=5),
            st.integers(0, 2),  # held-out items that are not in the list
            st.sampled_from([STRANGER, VALIDATION_ONLY, TRAINED]),
        ).filter(lambda row: sum(row[1]) + row[2] > 0),
        min_size=1,
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_a_user_with_several_questions_counts_once_by_their_mean(rows: list[Any], cuts: list[int]) -> None:
    names = ["ndcg", "hit", "mrr", "trainedndcg", "strangerhit"]
    evaluator = RankingEvaluator({"metrics": names, "topk": [2, 5], "metric_decimal_place": 6})

    def collected(some: list[Any]) -> DataStruct:
        struct = DataStruct()
        struct.set("rec.user", torch.tensor([user for user, *_ in some]))
        struct.set("rec.topk", torch.tensor([[*hits, sum(hits) + missed] for _, hits, missed, _ in some]).int())
        struct.set("rec.history", torch.tensor([history for *_, history in some]))
        struct.set("data.num_items", 9)
        return struct

    parts = [
        part for part in np.split(np.arange(len(rows)), sorted(cut for cut in cuts if cut < len(rows))) if len(part)
    ]
    whole = joined([collected([rows[number] for number in part]) for part in parts])
    assert whole.get("data.num_items") == 9
    result, users = evaluator.evaluate(whole), [user for user, *_ in rows]
    of_users = evaluator.of_each_user()
    assert evaluator.users.tolist() == sorted(set(users))
    for k in (2, 5):
        expected: dict[str, list[float]] = {name: [] for name in names}
        for _, hits, missed, history in rows:
            held_out = {place for place in range(5) if hits[place]} | {9 + number for number in range(missed)}
            gain = ndcg([0, 1, 2, 3, 4], held_out, k)
            hit = float(any(hits[:k]))
            expected["ndcg"].append(gain)
            expected["hit"].append(hit)
            expected["mrr"].append(1 / (1 + hits.index(True)) if hit else 0.0)
            expected["trainedndcg"].append(gain if history == TRAINED else math.nan)
            expected["strangerhit"].append(hit if history == STRANGER else math.nan)
        for name, values in expected.items():
            means = slow_means(users, values)
            assert of_users[f"{name}@{k}"] == pytest.approx([*means.values()], nan_ok=True), name
            assert result[f"{name}@{k}"] == pytest.approx(mean_of([*means.values()]), abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("refit_every", [None, 3])
def test_a_comparison_keeps_a_row_for_each_question_and_its_metrics_are_means_over_users(
    shop: dict[str, Any], tmp_path: Path, refit_every: int | None
) -> None:
    config = shop_config(shop, "ItemKNN", "rolling", refit_every=refit_every)
    with noting() as found:
        run_on_test(config.settings, tmp_path)
    train, valid, test = create_dataset(config).build()
    questions = asked_by_day(rows_of(train, valid), rows_of(test))
    assert sorted((one.user, one.now) for one in found) == [(asked.user, asked.now) for asked in questions]
    having_met = {(asked.user, asked.now) for asked in questions if asked.history}
    token = test.field2id_token["user_id"]
    expected = []
    for one in found:
        values, items = top_items(one.scores[None], torch.tensor([one.user]), 10)
        ranked = [item for value, item in zip(values[0].tolist(), items[0].tolist(), strict=True) if value > -math.inf]
        expected.append((token[one.user], one.now, ndcg(ranked, set(one.held_out), 10)))
    kept = pl.read_parquet(tmp_path / QUESTIONS)
    assert kept["user_id"].to_list() == [user for user, *_ in expected]
    assert kept["now"].to_list() == [now for _, now, _ in expected]
    assert kept["ndcg@10"].to_list() == pytest.approx([value for *_, value in expected])
    of_users = pl.read_parquet(tmp_path / "users.parquet")
    means = slow_means([one.user for one in found], [value for *_, value in expected])
    assert of_users["user_id"].to_list() == [token[user] for user in means]
    assert of_users["ndcg@10"].to_list() == pytest.approx([*means.values()])
    metrics = json.loads((tmp_path / "run.json").read_text())["metrics"]
    assert metrics["ndcg@10"] == pytest.approx(mean_of([*means.values()]), abs=1e-6)
    of_questions = mean_of([value for *_, value in expected])
    assert metrics["ndcg@10"] != pytest.approx(of_questions, abs=1e-4), "a mean over questions is another one"
    new = [
        math.nan if (one.user, one.now) in having_met else value
        for one, (*_, value) in zip(found, expected, strict=True)
    ]
    means = slow_means([one.user for one in found], new)
    assert metrics["strangerndcg@10"] == pytest.approx(mean_of([*means.values()]), abs=1e-6)


# Models that are trained anew


@pytest.mark.parametrize("refit_every", [3, None])
@pytest.mark.parametrize("model", ["LightGCN", "EASE", FITTED])
def test_each_period_is_ranked_by_a_model_of_all_that_was_before_it(
    shop: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: str, refit_every: int | None
) -> None:
    config = shop_config(shop, model, "rolling", refit_every=refit_every)
    trained: list[tuple[Trainer, list[Met]]] = []
    ranked: list[tuple[Trainer, Questions]] = []
    build, evaluate = run_module.build_trainer, Trainer.evaluate

    def building(config: Config, data: Any) -> Trainer:
        trained.append((build(config, data), rows_of(data._dataset)))
        return trained[-1][0]

    def evaluating(trainer: Trainer, data: Any, *args: Any, **kwargs: Any) -> Any:
        if not data.known.validates:
            ranked.append((trainer, data.known.questions))
        return evaluate(trainer, data, *args, **kwargs)

    monkeypatch.setattr(run_module, "build_trainer", building)
    monkeypatch.setattr(Trainer, "evaluate", evaluating)
    fitted = fit(config, saved=False)
    assert len(trained) == 2, "the later ones are trained when their periods are ranked"
    with noting() as found:
        fitted.rank_test(load_best_model=False)

    train, valid, test = create_dataset(config).build()
    earlier, part = rows_of(train, valid), rows_of(test)
    length = refit_every or 1000
    numbers = sorted({(row.day - part[0].day) // length for row in part})
    of_periods = [[row for row in part if (row.day - part[0].day) // length == number] for number in numbers]
    before = [[*earlier, *(row for period in of_periods[:n] for row in period)] for n in range(len(of_periods))]
    assert len(of_periods) == (3 if refit_every else 1)
    assert [sorted(rows) for _, rows in trained] == [sorted(rows) for rows in (rows_of(train), *before)]
    assert [trainer for trainer, _ in ranked] == [trainer for trainer, _ in trained[1:]]
    for (_, questions), rows, period in zip(ranked, before, of_periods, strict=True):
        assert told(questions) == asked_by_day(rows, period)
    assert sorted(by_question(found)) == [(asked.user, asked.now) for asked in asked_by_day(earlier, part)]
    assert len({trainer.n_steps for trainer, _ in trained[1:]}) == 1, "as many steps as validation chose"
    if model == FITTED:
        weights = trained[0][0].model.weights
        assert weights.any() and all(torch.equal(trainer.model.weights, weights) for trainer, _ in trained)


# Models that fold in


@pytest.mark.parametrize("share_or_number", [1, 3, 0.5])
@pytest.mark.parametrize("model", ["ItemKNN", "EASE", "RP3beta", "TurboCF", "MultiVAE"])
def test_a_stranger_gets_what_a_user_of_training_with_the_same_history_gets(
    trained_of: TrainedOf, model: str, share_or_number: float
) -> None:
    trained = trained_of(model, "strangers")
    test, folding = trained.test, copy.deepcopy(trained.fitted.ranker.model).eval()
    asked = questions_of(trained.config.with_settings(given=share_or_number), trained.train, test)
    assert asked is not None
    numbers = torch.arange(len(asked))

    def scores(users: Tensor, questions: Questions | None) -> Tensor:
        folding.about_to_rank(SimpleNamespace(questions=questions))
        with torch.no_grad():
            return folding.full_sort_predict(Interaction({"user_id": users})).view(len(users), -1)

    found = scores(numbers, asked)
    given_rows = test.copy(test.inter_feat[asked.order[asked.histories(numbers)[1]]])
    if model == "MultiVAE":
        folding.build_histroy_items(given_rows)
    else:
        folding.history = history_matrix(given_rows, folding.half_life)
    assert_close(found, scores(asked.user, None))
    assert len(found) >= 3 and (found.std(dim=0) > 0).any()


def test_before_weights_are_fitted_the_graph_ranks_by_the_history_that_is_given(trained_of: TrainedOf) -> None:
    trained = trained_of("SymCEREPlus", "strangers")
    model = copy.deepcopy(trained.fitted.ranker.model).requires_grad_(False)
    model.weights.zero_()
    known = known_before(trained.config.with_settings(given=3), trained.train, trained.valid, True, trained.test)
    assert known.questions is not None and not model.ranks_strangers
    model.about_to_rank(known)
    for number, asked in enumerate(told(known.questions)):
        found = model.full_sort_predict(Interaction({"user_id": torch.tensor([number])}))
        folded = sum(model.statistics.folding[row.item] for row in asked.history)
        assert_close(found, model.statistics.vectors @ folded, rtol=1e-4, atol=1e-6)


def test_a_stranger_gets_what_the_checkpoint_serves_for_the_same_history_reviews_and_moment(
    shop: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "run.pth"
    config = shop_config(shop, "SymCEREPlus", "strangers", given=3, checkpoint_file=str(file))
    trained = Trained(fit(config), *create_dataset(config).build())
    store_what_serves(trained.fitted)
    text_of = dict(zip(rows_of(trained.test), trained.test.review_texts(), strict=True))
    items = trained.test.field2id_token["item_id"]
    questions = asked_of_strangers(rows_of(trained.test), 3)
    recommender = Recommender.load(file)
    for reviews in (True, False):
        scores = trained.scores(given_reviews=reviews)
        assert [*scores] == [(asked.user, asked.now) for asked in questions] and len(scores) >= 3
        for asked in questions:
            history = [(str(items[row.item]), row.moment) for row in asked.history]
            texts = [text_of[row] for row in asked.history] if reviews else []
            served = recommender.recommend(history=history, reviews=texts, at=asked.now, k=100)
            of_all = scores[asked.user, asked.now]
            ranked = {str(items[item]): float(of_all[item]) for item in (of_all > -torch.inf).nonzero().flatten()}
            assert {best.item: best.score for best in served} == pytest.approx(ranked, abs=1e-4)


def test_a_question_of_a_day_gets_what_is_served_when_all_days_before_were_added(
    shop: dict[str, Any], tmp_path: Path
) -> None:
    """New items get their places by the texts of their first day, as if they all came at once."""
    file = tmp_path / "run.pth"
    config = shop_config(shop, "SymCEREPlus", "rolling", checkpoint_file=str(file))
    trained = Trained(fit(config), *create_dataset(config).build())
    store_what_serves(trained.fitted)
    past = trained.train.joined_with(trained.valid).joined_with(trained.test)
    text_of = dict(zip(rows_of(past), past.review_texts(), strict=True))
    earlier, part = rows_of(trained.train, trained.valid), rows_of(trained.test)
    users, items = (past.field2id_token[column] for column in ("user_id", "item_id"))
    first_day = {row.item: row.day for row in reversed(part)}
    new = first_day.keys() - {row.item for row in earlier}
    added: dict[float, Recommender] = {}
    scores = trained.scores()
    for asked in asked_by_day(earlier, part):
        if asked.now < earlier[-1].moment:
            continue  # the day of the cut, of whose earlier items the checkpoint knows
        if asked.now not in added:
            before = [row for row in part if row.moment <= asked.now]
            coming = [row for row in before if row.item in new and row.day == first_day[row.item]]
            added[asked.now] = Recommender.load(file)
            for rows in (coming, [row for row in before if row not in coming]):
                added[asked.now] = added[asked.now].with_interactions(
                    [NewInteraction(users[row.user], items[row.item], row.moment, text_of[row]) for row in rows]
                )
        history = [(str(items[row.item]), row.moment) for row in asked.history]
        texts = [text_of[row] for row in asked.history]
        served = added[asked.now].recommend(history=history, reviews=texts, at=asked.now, k=100)
        of_all = scores[asked.user, asked.now]
        ranked = {str(items[item]): float(of_all[item]) for item in (of_all > -torch.inf).nonzero().flatten()}
        assert {best.item: best.score for best in served} == pytest.approx(ranked, abs=1e-3)
    assert any(recommender.items != Recommender.load(file).items for recommender in added.values())


def test_without_reviews_nothing_but_the_words_of_a_stranger_is_unknown(trained_of: TrainedOf) -> None:
    trained = trained_of("SymCEREPlus", "strangers")
    model, all_told, pieces = trained.fitted.ranker.model, [], []
    for reviews in (True, False):
        config = trained.config.with_settings(given_reviews=reviews, given=3)
        known = known_before(config, trained.train, trained.valid, True, trained.test)
        assert known.questions is not None
        model.about_to_rank(known)
        all_told.append(told(known.questions))
        with torch.no_grad():
            pieces.append(model.standardised(torch.arange(len(known.questions))))
    with_words, without = pieces
    assert all_told[0] == all_told[1] and [*with_words] == [*without] == EVIDENCE
    assert with_words["own_words"].any() and not without["own_words"].any()
    assert all(torch.equal(with_words[name], without[name]) for name in EVIDENCE if name != "own_words")


@pytest.mark.parametrize("protocol", ["rolling", "strangers"])
def test_recent_popularity_counts_up_to_the_moment_of_the_question(trained_of: TrainedOf, protocol: str) -> None:
    trained = trained_of("RecentPop", protocol)
    earlier, part = rows_of(trained.train, trained.valid), rows_of(trained.test)
    counted = [*earlier, *part] if protocol == "rolling" else earlier  # no stranger counts
    for (_, now), scores in trained.scores(cold_users="model").items():
        expected = torch.zeros(len(scores), dtype=torch.float64)
        for row in counted:
            expected[row.item] += 2 ** ((row.moment - now) / DAY / 5.0) if row.moment <= now else 0.0
        listed = scores > -torch.inf
        assert listed.any() and torch.allclose(scores[listed], expected[listed], rtol=1e-9)


@pytest.mark.parametrize("protocol", ["rolling", "strangers"])
def test_a_choice_of_validation_competes_with_what_was_there_at_the_question(
    trained_of: TrainedOf, protocol: str
) -> None:
    trained = trained_of(FITTED, protocol)
    model, train, part = trained.fitted.trainer.model, rows_of(trained.train), rows_of(trained.valid)
    model.about_to_rank(known_before(trained.config, trained.train, None, False, trained.valid))
    questions = asked_by_day(train, part) if protocol == "rolling" else asked_of_strangers(part, 1)
    with torch.no_grad():
        numbers, choices = choices_of(model, trained.valid, OTHERS)
        evidence = torch.stack([*model.standardised(torch.arange(len(questions))).values()], 2)
    offered = sorted({row.item for row in [*train, *(part if protocol == "rolling" else [])]})
    found = sorted((int(numbers[owner]), *z.tolist()) for owner, z in zip(choices.owner, choices.chosen, strict=True))
    expected = []
    for number, asked in enumerate(questions):
        counted = [row for row in [*train, *part] if row.moment <= asked.now] if protocol == "rolling" else train
        there, met, held_out = ({row.item for row in rows} for rows in (counted, asked.met, asked.held_out))
        chosen = [item for item in held_out & there if asked.history]
        expected += [(number, *evidence[number, item].tolist()) for item in chosen]
        if chosen:
            place = numbers.tolist().index(number)
            others = [item in there - met - held_out for item in offered]
            assert choices.open[place].tolist() == others
            assert_close(choices.offered[place], evidence[number, offered], rtol=1e-4, atol=1e-5)
    assert len(expected) >= 3 and len(found) == len(expected)
    assert_close(torch.tensor(found), torch.tensor(sorted(expected)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", ["rolling", "strangers"])
def test_nobody_of_validation_is_ranked_by_weights_that_were_fitted_to_the_own_questions(
    trained_of: TrainedOf, protocol: str
) -> None:
    trained = trained_of(FITTED, protocol)
    model = copy.deepcopy(trained.fitted.trainer.model).requires_grad_(False)
    model.weights.copy_(torch.rand(model.weights.shape, generator=torch.Generator().manual_seed(0)))
    for known in (
        known_before(trained.config, trained.train, None, False, trained.valid),
        known_before(trained.config, trained.train, trained.valid, False, trained.test),
    ):
        model.about_to_rank(known)
        assert known.questions is not None
        numbers = torch.arange(len(known.questions))
        scores = model.full_sort_predict(Interaction({"user_id": numbers})).view(len(numbers), -1)
        evidence = torch.stack([*model.standardised(numbers).values()], 2)
        for number, user in enumerate(known.questions.user.tolist()):
            fold = 1 + user % FOLDS if known.validates else 0
            weights = model.weights[fold, OTHERS if known.questions.n_met[number] else STRANGERS]
            assert_close(scores[number], evidence[number] @ weights, rtol=1e-4, atol=1e-4)


# Settings


OF_STRANGERS = "is read with questions: strangers alone; take --protocol=strangers, or leave it out"
OF_DAYS = "is read with questions: days alone; take --protocol=rolling, or leave it out"
NO_SHARE = "but must be a whole number of interactions, or a share below 1"
IN_TIME = "needs order: TO and split: {RS: […]} in eval_args"


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        ("strangers", {"given": 2.5}, f"given is 2.5, {NO_SHARE}"),
        ("strangers", {"given": math.inf}, f"given is inf, {NO_SHARE}"),
        ("strangers", {"given": 0}, "given is 0, but must be above 0"),
        ("strangers", {"refit_every": 7}, f"refit_every {OF_DAYS}"),
        ("strangers", {"goes_on": False}, f"goes_on {OF_DAYS}"),
        ("temporal", {"refit_every": 7}, f"refit_every {OF_DAYS}"),
        ("temporal", {"given": 3}, f"given {OF_STRANGERS}"),
        ("strict", {"goes_on": False}, f"goes_on {OF_DAYS}"),
        ("rolling", {"given": 3}, f"given {OF_STRANGERS}"),
        ("rolling", {"given_reviews": False}, f"given_reviews {OF_STRANGERS}"),
        ("rolling", {"refit_every": 7, "refit": False}, "refit_every needs questions: days and refit: True"),
        ("rolling", {"eval_args": {"mode": "uni100"}}, "questions: days ranks all items, so mode in eval_args must be"),
        ("strangers", {"eval_args": {"mode": "uni100"}}, "questions: strangers ranks all items"),
        ("rolling", {"eval_args": {"group_by": "user"}}, "questions: days needs one cut in time for all"),
        ("rolling", {"eval_args": {"order": "RO"}}, f"questions: days {IN_TIME}"),
        ("strangers", {"eval_args": {"split": {"LS": "valid_and_test"}}}, f"questions: strangers {IN_TIME}"),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    make_config: MakeConfig, protocol: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_config(model="ItemKNN", protocol=protocol, **changes)


def test_a_model_that_can_not_place_strangers_names_those_that_can(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="LightGCN has a vector for each user of training") as told:
        make_config(model="LightGCN", protocol="strangers")
    named = re.split(", | or ", str(told.value).partition("such as ")[2])
    assert named == ["SymCEREPlus", "EASE", "ItemKNN", "RP3beta", "TurboCF", "MultiVAE", "RecentPop"]
    assert all(make_config(model=name, protocol="strangers").model_class.folds_in for name in named)


@pytest.mark.parametrize("protocol", ["strangers", "rolling"])
def test_interactions_without_times_are_told(make_config: MakeConfig, protocol: str) -> None:
    columns = {"load_col": {"inter": ["user_id", "item_id", "review_id"]}}
    with pytest.raises(DatasetError, match="timestamp is not loaded, but order: TO needs it"):
        create_dataset(make_config(model="ItemKNN", protocol=protocol, **columns))


@pytest.mark.parametrize(
    ("saved", "changes"),
    [
        ({"protocol": "strangers"}, {"given": 3}),
        ({"protocol": "strangers"}, {"seed": 7}),
        ({"protocol": "strangers"}, {"given_reviews": False}),
        ({"protocol": "rolling"}, {"goes_on": False}),
        ({"protocol": "temporal", "metrics": ["NDCG"]}, {"protocol": "rolling"}),
    ],
)
def test_dataloaders_that_were_saved_with_other_questions_are_made_anew(
    shop: dict[str, Any], tmp_path: Path, saved: dict[str, Any], changes: dict[str, Any]
) -> None:
    def loaded(**given: Any) -> list[tuple[Any, ...] | None]:
        settings = shop | {"model": "ItemKNN", "checkpoint_dir": str(tmp_path)} | given
        config = Config(config_dict=for_model(settings))
        questions = [loader.known.questions for loader in data_preparation(config, create_dataset(config))[1:]]
        return [asked and (told(asked), asked.goes_on, asked.gives_reviews) for asked in questions]

    loaded(**saved, save_dataloaders=True)
    (pickle,) = tmp_path.glob("*dataloader.pth")
    of_pickle = {"dataloaders_save_path": str(pickle), "trust_pickles": True}
    assert loaded(**saved | changes | of_pickle) == loaded(**saved | changes) != loaded(**saved)
    assert loaded(**saved | of_pickle) == loaded(**saved)

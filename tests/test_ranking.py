"""Our ranking collects what RecBole's does; NDCG of popularity groups is what its definition says."""

import math
import types
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import recbole.evaluator.metrics as recbole_metrics
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.extra.numpy import arrays
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from recbole.model.general_recommender import BPR
from recbole.sampler import Sampler

from recbole_symcere import ranking
from recbole_symcere.best_items import top_items
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.known import STRANGER, TRAINED, VALIDATION_ONLY
from recbole_symcere.metrics import NDCG, AveragePopularity, GiniIndex, popularity_groups
from recbole_symcere.model.registry import with_hooks
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.ranking import (
    RankingCollector,
    RankingDataLoader,
    RankingEvaluator,
)
from recbole_symcere.trainer import Trainer


def collected(
    kind: type[Collector], scores: torch.Tensor, positives: list[tuple[int, int]], need: set[str], known: Any = None
) -> Any:
    collector = object.__new__(kind)
    collector.known = known
    collector.register, collector.config = types.SimpleNamespace(need=need.__contains__), {"USER_ID_FIELD": "user_id"}
    collector.topk, collector.device, collector.data_struct = [2, 5], scores.device, DataStruct()
    users, items = torch.tensor(positives).T
    for rows in (slice(0, 2), slice(2, None)):  # two batches
        here = (users >= (rows.start or 0)) & (users < (rows.stop or len(scores)))
        batch = {"user_id": torch.arange(len(scores))[rows]}
        collector.eval_batch_collect(scores[rows].clone(), batch, users[here] - rows.start, items[here])
    return collector.data_struct._data_dict


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    masked=st.integers(0, 6),
    bad=st.sampled_from([0.0, float("nan")]),
    need=st.sampled_from([{"rec.items"}, {"rec.topk"}, {"rec.items", "rec.topk"}, {"rec.topk", "rec.meanrank"}]),
    positives=st.sets(st.tuples(st.integers(0, 4), st.integers(1, 8)), min_size=1),
)
def test_what_the_metrics_read_is_recboles(
    seed: int, masked: int, bad: float, need: set[str], positives: set[tuple[int, int]]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack([torch.randperm(9, generator=generator) for _ in range(5)]).float()  # no ties
    scores[:, 0] = -torch.inf
    if bad != bad:  # NaN
        scores[2, 3] = bad
    scores[1, 1 : 1 + min(masked, 3)] = -torch.inf
    pairs = sorted(positives | {(user, 8) for user in range(5)})
    ours, theirs = (collected(kind, scores, pairs, need) for kind in (RankingCollector, Collector))
    assert ours.keys() == theirs.keys() | {"rec.user"}
    for name, tensor in theirs.items():
        if name == "rec.items":  # items of score -inf tie
            best = scores.nan_to_num(nan=-torch.inf).gather(1, tensor)
            assert torch.equal(scores.nan_to_num(nan=-torch.inf).gather(1, ours[name]), best)
        elif scores.isfinite().sum(1).min() > 5:
            assert torch.equal(ours[name], tensor), name


@settings(max_examples=60, deadline=None)
@given(
    scores=arrays(np.float32, st.tuples(st.integers(1, 6), st.just(9)), elements=st.integers(0, 3).map(float)),
    bad=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8), st.sampled_from([-np.inf, np.nan])), max_size=5),
    k=st.integers(1, 9),
)
def test_the_best_items_have_the_best_scores_and_each_user_has_an_order_of_equal_ones(
    scores: np.ndarray, bad: list[tuple[int, int, float]], k: int
) -> None:
    for user, item, value in bad:
        scores[user % len(scores), item] = value
    users = torch.arange(len(scores)) + 5
    values, items = top_items(torch.from_numpy(scores), users, k)
    for row, user in enumerate(users):
        ranked = np.where(np.isnan(scores[row]), -np.inf, scores[row])
        assert values[row].tolist() == sorted(ranked, reverse=True)[:k] == ranked[items[row].numpy()].tolist()
        # The order of the equal ones is that of the user alone, whoever else is in the batch and whatever k is.
        whole = top_items(torch.from_numpy(ranked[None]), user[None], 9)[1][0].tolist()
        assert items[row].tolist() == whole[:k]
        of_equals = top_items(torch.zeros(1, 9), user[None], 9)[1][0].tolist()
        assert whole == sorted(range(9), key=lambda item: (-ranked[item], of_equals.index(item)))


@pytest.mark.parametrize("ascending", [False, True])
def test_equal_scores_rank_at_chance_though_items_are_sorted_by_popularity(ascending: bool) -> None:
    n_users, n_items, k = 4000, 50, 10
    rng = np.random.default_rng(0)
    popularity = 1.0 / np.arange(1, n_items + 1)
    held_out = rng.choice(n_items, size=n_users, p=popularity / popularity.sum())
    if ascending:
        held_out = n_items - 1 - held_out
    items = top_items(torch.zeros(n_users, n_items), torch.arange(n_users), k)[1].numpy()
    hits, chance = (items == held_out[:, None]).any(1).mean(), k / n_items
    assert abs(hits - chance) < 3 * math.sqrt(chance * (1 - chance) / n_users)


def test_equal_scores_rank_alike_whatever_else_is_measured() -> None:
    scores, positives = torch.zeros(3, 9), [(0, 1), (1, 5), (2, 7)]
    need = {"rec.items", "rec.topk"}
    alone, beside = (collected(RankingCollector, scores, positives, need | more) for more in (set(), {"rec.meanrank"}))
    assert torch.equal(alone["rec.items"], beside["rec.items"])
    assert "rec.meanrank" in beside


def test_an_item_that_is_not_ranked_is_no_hit() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, -torch.inf, -torch.inf, -torch.inf, -torch.inf]])
    found = collected(RankingCollector, scores, [(0, 2)], {"rec.topk"})
    assert found["rec.topk"].tolist() == [[0, 0, 0, 0, 0, 1]]


@given(
    items=arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.integers(0, 20)),
    counts=st.dictionaries(st.integers(1, 20), st.integers(1, 9), min_size=1),
)
def test_metrics_of_recommended_items_are_recboles(items: np.ndarray, counts: dict[int, int]) -> None:
    config = {"topk": [1], "metric_decimal_place": 4}
    assert GiniIndex(config).get_gini(items, 25) == recbole_metrics.GiniIndex(config).get_gini(items, 25)
    expected = recbole_metrics.AveragePopularity(config).get_pop(items, counts)
    assert np.array_equal(AveragePopularity(config).get_pop(items, counts), expected)


@given(hits=arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 25))), missed=st.integers(0, 30))
def test_ndcg_is_recboles(hits: np.ndarray, missed: int) -> None:
    relevant = np.maximum(hits.sum(1) + missed, 1)
    config = {"topk": [hits.shape[1]], "metric_decimal_place": 6}
    assert np.array_equal(
        NDCG(config).metric_info(hits, relevant), recbole_metrics.NDCG(config).metric_info(hits, relevant)
    )


@given(counts=arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 50)).filter(np.any))
def test_popularity_groups_hold_a_third_each(counts: np.ndarray) -> None:
    groups = popularity_groups(counts)
    for group in range(3):
        assert abs(counts[groups == group].sum() - counts.sum() / 3) <= counts.max()
        assert counts[groups < group].min(initial=99) >= counts[groups >= group].max(initial=0)
    assert (groups[counts == 0] == 2).all()


def test_popularity_groups_of_known_counts() -> None:
    assert popularity_groups(np.array([0, 1, 2, 4, 0, 2, 3])).tolist() == [2, 2, 1, 0, 2, 2, 1]


GROUPS = ("head", "middle", "tail")


def of_groups(scores: torch.Tensor, positives: list[tuple[int, int]], counts: dict[int, int]) -> tuple[Any, Any]:
    """Returns the NDCG of each group at 2 and 5, and the NDCG of each user."""
    names = [f"{group}ndcg" for group in GROUPS]
    evaluator = RankingEvaluator({"metrics": names, "topk": [2, 5], "metric_decimal_place": 6})
    need = set().union(*(metric.metric_need for metric in evaluator.metric_class.values()))
    struct = DataStruct()
    for name, value in collected(RankingCollector, scores, positives, need).items():
        struct.set(name, value)
    struct.set("data.count_items", Counter(counts))
    struct.set("data.num_items", scores.shape[1])
    return evaluator.evaluate(struct), evaluator.of_each_user()


def ndcg(ranked: list[int], relevant: set[int], k: int) -> float:
    """Returns the NDCG by its definition; NaN without a relevant item."""
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked[:k]) if item in relevant)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    return gain / ideal if relevant else math.nan


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positives=st.sets(st.tuples(st.integers(0, 4), st.integers(1, 8)), min_size=1),
    counts=st.dictionaries(st.integers(1, 8), st.integers(1, 9), min_size=1),
)
def test_ndcg_of_a_group_counts_its_items_alone(
    seed: int, positives: set[tuple[int, int]], counts: dict[int, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack([torch.randperm(9, generator=generator) for _ in range(5)]).float()
    result, of_users = of_groups(scores, sorted(positives), counts)
    group_of, before = dict.fromkeys(range(9), "tail"), 0
    for item in sorted(counts, key=lambda item: (-counts[item], item)):
        group_of[item] = GROUPS[3 * before // sum(counts.values())]
        before += counts[item]
    for group in GROUPS:
        for k in (2, 5):
            expected = [
                ndcg(
                    ranked=sorted(range(9), key=lambda item: -scores[user, item]),
                    relevant={item for row, item in positives if row == user and group_of[item] == group},
                    k=k,
                )
                for user in range(5)
            ]
            assert of_users[f"{group}ndcg@{k}"] == pytest.approx(expected, nan_ok=True)
            having = [value for value in expected if not math.isnan(value)]
            mean = sum(having) / len(having) if having else math.nan
            assert result[f"{group}ndcg@{k}"] == pytest.approx(mean, abs=1e-6, nan_ok=True)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_items_outside_training_are_tail_and_a_group_that_nobody_has_is_nan() -> None:
    scores, counts = torch.arange(9.0).repeat(3, 1), {8: 6, 1: 5, 2: 4}
    result, _ = of_groups(scores, [(0, 8), (1, 1), (2, 7)], counts)
    assert [result[f"{group}ndcg@2"] for group in GROUPS] == [1, 0, pytest.approx(1 / math.log2(3), abs=1e-6)]
    result, _ = of_groups(scores, [(0, 8), (1, 1), (2, 8)], counts)
    assert [result[f"{group}ndcg@2"] for group in GROUPS] == pytest.approx([1, 0, math.nan], nan_ok=True)


HISTORIES = {"stranger": STRANGER, "validonly": VALIDATION_ONLY, "trained": TRAINED}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positives=st.sets(st.tuples(st.integers(0, 4), st.integers(1, 8)), min_size=1),
    history=st.lists(st.sampled_from([*HISTORIES.values()]), min_size=5, max_size=5),
    seen=st.sets(st.integers(1, 8)),
)
def test_metrics_by_history_and_over_seen_items_are_what_they_say(
    seed: int, positives: set[tuple[int, int]], history: list[int], seen: set[int]
) -> None:
    positives |= {(user, 8) for user in range(5)}  # whoever is ranked has a held-out item
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack([torch.randperm(9, generator=generator) for _ in range(5)]).float()
    names = [f"{kind}{metric}" for kind in HISTORIES for metric in ("ndcg", "hit")]
    names += ["reachablendcg", "ceilingndcg", "unseenrows"]
    evaluator = RankingEvaluator({"metrics": names, "topk": [2, 5], "metric_decimal_place": 6})
    need = set().union(*(metric.metric_need for metric in evaluator.metric_class.values()))
    known = types.SimpleNamespace(
        history=torch.tensor(history),
        seen=torch.tensor([item in seen for item in range(9)]),
        questions=None,
        asked=lambda interaction, field: interaction[field],
    )
    struct = DataStruct()
    for name, value in collected(RankingCollector, scores, sorted(positives), need, known).items():
        struct.set(name, value)
    result, of_users = evaluator.evaluate(struct), evaluator.of_each_user()
    held_out = [{item for of, item in positives if of == user} for user in range(5)]
    ranked = [sorted(range(9), key=lambda item: -scores[user, item]) for user in range(5)]
    for k in (2, 5):
        expected: dict[str, list[float]] = {"reachablendcg": [], "ceilingndcg": []}
        for kind, value in HISTORIES.items():
            mine = [history[user] == value for user in range(5)]
            expected[f"{kind}ndcg"] = [ndcg(ranked[u], held_out[u], k) if mine[u] else math.nan for u in range(5)]
            hit = [float(bool(held_out[user] & set(ranked[user][:k]))) for user in range(5)]
            expected[f"{kind}hit"] = [hit[user] if mine[user] else math.nan for user in range(5)]
        for user in range(5):
            reachable = held_out[user] & seen
            expected["reachablendcg"].append(ndcg(ranked[user], reachable, k))
            best_list = [*reachable, *(item for item in range(9) if item not in held_out[user])]
            expected["ceilingndcg"].append(ndcg(best_list, held_out[user], k))
        for name, values in expected.items():
            assert of_users[f"{name}@{k}"] == pytest.approx(values, nan_ok=True), name
            having = [value for value in values if not math.isnan(value)]
            mean = sum(having) / len(having) if having else math.nan
            assert result[f"{name}@{k}"] == pytest.approx(mean, abs=1e-6, nan_ok=True)
    unseen = sum(item not in seen for _, item in positives)
    assert result["unseenrows"] == pytest.approx(unseen / len(positives), abs=1e-6)


def test_a_trainer_evaluates_with_it(make_config: Any) -> None:
    config = make_config()
    evaluator = Trainer(config, with_hooks(BPR)(config, create_dataset(config).build()[0])).evaluator
    assert type(evaluator.metric_class["averagepopularity"]) is AveragePopularity
    assert type(evaluator.metric_class["giniindex"]) is GiniIndex
    assert type(evaluator.metric_class["ndcg"]) is NDCG
    assert RankingEvaluator(make_config(metrics=["NDCG"])).metric_class.keys() == {"ndcg"}


def test_batches_of_users_are_made_once(make_config: Any) -> None:
    config = make_config(eval_batch_size=200)
    _, valid_data, test_data = data_preparation(config, create_dataset(config))
    for loader in (valid_data, test_data):
        assert isinstance(loader, RankingDataLoader)
        first, again = list(loader), list(loader)
        assert len(first) == len(loader) > 1
        assert all(one is other for one, other in zip(first, again, strict=True))


def test_a_model_that_scores_pairs_gets_no_more_at_once_than_fit_in_the_caches(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(model="NeuMF", use_gpu=False)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train_data._dataset)
    sizes, found = [], []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda pairs: (sizes.append(len(pairs)), predict(pairs))[1])
    for at_once in (2**12, 7):
        monkeypatch.setattr(ranking, "PAIRS_ON_CPU", at_once)
        trainer = Trainer(config, model)
        trainer.eval_collector.data_collect(train_data)
        sizes.clear()
        found.append(trainer.evaluate(valid_data, load_best_model=False))
        assert max(sizes) <= at_once
    assert max(sizes) == 7 and found[0] == found[1]


@pytest.fixture
def whole(make_config: Any) -> ReviewDataset:
    return create_dataset(make_config())


pairs_of_parts = st.lists(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=12), min_size=3, max_size=3
)


@given(parts=pairs_of_parts, batch=st.sampled_from([1, 14, 100]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_of_users_are_those_of_recbole(
    make_config: Any, whole: ReviewDataset, parts: list[list[tuple[int, int]]], batch: int
) -> None:
    config = make_config(eval_batch_size=batch)

    def part(pairs: list[tuple[int, int]]) -> Any:
        users, items = torch.tensor(pairs).T
        rows = Interaction({"user_id": users, "item_id": items})
        found = whole.copy(rows)
        found.field2id_token = {"user_id": np.array([f"u{n}" for n in range(6)]), "item_id": np.arange(8).astype(str)}
        return found

    train, valid, test = (part(pairs) for pairs in parts)
    samplers = Sampler(["train", "valid", "test"], [train, valid, test])
    for phase, held_out, earlier in (("valid", valid, [train]), ("test", test, [train, valid])):
        ours = RankingDataLoader(config, held_out, earlier)
        theirs = FullSortEvalDataLoader(config, held_out, samplers.set_phase(phase))
        assert len(ours) == len(theirs) and torch.equal(ours.uid_list, theirs.uid_list)
        for (users, history, *positive), (same, their_history, *their_positive) in zip(ours, theirs, strict=True):
            assert torch.equal(users["user_id"], same["user_id"])
            for found, expected in ((history, their_history), (positive, their_positive)):
                assert torch.equal(found[0], expected[0])
                assert sorted(torch.stack([*found], 1).tolist()) == sorted(torch.stack([*expected], 1).tolist())
        for name in ("uid2history_item", "uid2positive_item"):
            for user in theirs.uid_list.tolist():
                assert sorted(getattr(ours, name)[user].tolist()) == sorted(getattr(theirs, name)[user].tolist())

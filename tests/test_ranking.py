"""Our ranking collects what RecBole's does."""

import types
from typing import Any

import hypothesis.strategies as st
import numpy as np
import recbole.evaluator.metrics as recbole_metrics
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from recbole.model.general_recommender import BPR

from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.ranking import AveragePopularity, GiniIndex, RankingCollector, RankingDataLoader, RankingEvaluator
from recbole_symcere.trainer import Trainer


def collected(kind: type[Collector], scores: torch.Tensor, positives: list[tuple[int, int]], need: set[str]) -> Any:
    collector = object.__new__(kind)
    collector.register = types.SimpleNamespace(need=need.__contains__)
    collector.topk, collector.device, collector.data_struct = [2, 5], scores.device, DataStruct()
    users, items = torch.tensor(positives).T
    for rows in (slice(0, 2), slice(2, None)):  # two batches
        here = (users >= (rows.start or 0)) & (users < (rows.stop or len(scores)))
        collector.eval_batch_collect(scores[rows].clone(), None, users[here] - rows.start, items[here])
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
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name == "rec.items":  # items of score -inf tie
            best = scores.nan_to_num(nan=-torch.inf).gather(1, tensor)
            assert torch.equal(scores.nan_to_num(nan=-torch.inf).gather(1, ours[name]), best)
        elif scores.isfinite().sum(1).min() > 5:
            assert torch.equal(ours[name], tensor), name


@given(
    items=arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.integers(0, 20)),
    counts=st.dictionaries(st.integers(1, 20), st.integers(1, 9), min_size=1),
)
def test_metrics_of_recommended_items_are_recboles(items: np.ndarray, counts: dict[int, int]) -> None:
    config = {"topk": [1], "metric_decimal_place": 4}
    assert GiniIndex(config).get_gini(items, 25) == recbole_metrics.GiniIndex(config).get_gini(items, 25)
    expected = recbole_metrics.AveragePopularity(config).get_pop(items, counts)
    assert np.array_equal(AveragePopularity(config).get_pop(items, counts), expected)


def test_a_trainer_evaluates_with_it(make_config: Any) -> None:
    config = make_config()
    evaluator = Trainer(config, BPR(config, create_dataset(config).build()[0])).evaluator
    assert type(evaluator.metric_class["averagepopularity"]) is AveragePopularity
    assert type(evaluator.metric_class["giniindex"]) is GiniIndex
    assert RankingEvaluator(make_config(metrics=["NDCG"])).metric_class.keys() == {"ndcg"}


def test_batches_of_users_are_made_once(make_config: Any) -> None:
    config = make_config(eval_batch_size=200)
    _, valid_data, test_data = data_preparation(config, create_dataset(config))
    for loader in (valid_data, test_data):
        assert isinstance(loader, RankingDataLoader)
        first, again = list(loader), list(loader)
        assert len(first) == len(loader) > 1
        assert all(one is other for one, other in zip(first, again, strict=True))
        plain = [super(RankingDataLoader, loader).collate_fn(index) for index in loader.batch_sampler]
        for (_, history, row, item), (_, expected, *positive) in zip(first, plain, strict=True):
            assert all(torch.equal(a, b) for a, b in zip((*history, row, item), (*expected, *positive), strict=True))

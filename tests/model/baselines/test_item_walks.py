"""The weights of walks and graph filters, against slow loops written from the papers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_symcere.errors import DatasetError
from recbole_symcere.model.baselines import item_walks
from recbole_symcere.model.baselines.item_walks import DirectedRP3, RP3beta, TurboCF
from tests.model.baselines.rows import N_ITEMS, N_USERS, Row, Rows, few_settings, rows_of_three_users, scores_of_all

quick = hypothesis_settings(deadline=None, max_examples=60)
exponents = st.floats(0.0, 1.5)


def table(rows: list[Row]) -> np.ndarray:
    met = np.zeros((N_USERS, N_ITEMS))
    for user, item, _ in rows:
        met[user, item] += 1
    return met


@quick
@given(rows=rows_of_three_users(), alpha=st.floats(0.1, 2.0), beta=exponents, at_once=st.sampled_from([6, 13, 2**22]))
def test_rp3beta_is_a_walk_of_three_steps_over_popularity(
    rows: list[Row], alpha: float, beta: float, at_once: int
) -> None:
    met = table(rows)
    degree, popularity = met.sum(1), met.sum(0)
    walks = np.zeros((N_USERS, N_ITEMS))
    for user, item, over, end in np.ndindex(N_USERS, N_ITEMS, N_USERS, N_ITEMS):
        if item != end and met[user, item] and met[over, item] and met[over, end]:
            first = met[user, item] / degree[user]  # without a power, which changes no ranking
            back = (met[over, item] / popularity[item]) ** alpha
            on = (met[over, end] / degree[over]) ** alpha
            walks[user, end] += first * back * on / popularity[end] ** beta
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(item_walks, "NUMBERS_AT_ONCE", at_once)
        model = RP3beta(few_settings(alpha=alpha, beta=beta, k=N_ITEMS, history_decay=None), Rows(rows))
    # A history has counts in the place of first steps, which differ by a factor for each user.
    np.testing.assert_allclose(scores_of_all(model), walks * degree[:, None], rtol=1e-4, atol=1e-6)


@quick
@given(rows=rows_of_three_users(unique=True), k=st.integers(1, 4))
def test_rp3beta_keeps_the_largest_weights_of_each_item(rows: list[Row], k: int) -> None:
    def weights(k: int) -> np.ndarray:
        own = few_settings(alpha=0.9, beta=0.3, k=k, history_decay=None)
        return RP3beta(own, Rows(rows)).weights.to_dense().numpy()

    every = weights(N_ITEMS)
    largest = -np.sort(-every, axis=1)
    kept = weights(k)
    np.testing.assert_array_equal(-np.sort(-kept, axis=1)[:, :k], largest[:, :k])
    assert ((kept == every) | (kept == 0)).all() and ((kept != 0).sum(1) <= k).all()


@quick
@given(
    rows=rows_of_three_users(),
    alpha=st.floats(0.0, 1.0),
    power=st.floats(0.3, 2.0),
    filtered=st.sampled_from([1, 2, 3]),
)
def test_turbo_cf_filters_the_item_graph_by_a_polynomial(
    rows: list[Row], alpha: float, power: float, filtered: int
) -> None:
    met = table(rows)
    degree, popularity = met.sum(1), met.sum(0)
    graph = np.zeros((N_ITEMS, N_ITEMS))
    for one, other in np.ndindex(N_ITEMS, N_ITEMS):
        for user in range(N_USERS):
            if met[user, one] and met[user, other]:
                graph[one, other] += (
                    (met[user, one] / degree[user] ** alpha / popularity[one] ** (1 - alpha))
                    * (met[user, other] / degree[user] ** alpha)
                    / popularity[other] ** (1 - alpha)
                )
    graph = np.where(graph > 0, graph**power, 0)
    polynomial = {
        1: graph,
        2: 2 * graph - graph @ graph,
        3: graph + 0.01 * (-graph @ graph @ graph + 10 * graph @ graph - 29 * graph),
    }[filtered]
    own = few_settings(alpha=alpha, power=power, filter=filtered, history_decay=None)
    np.testing.assert_allclose(scores_of_all(TurboCF(own, Rows(rows))), met @ polynomial, rtol=1e-3, atol=1e-4)


@quick
@given(rows=rows_of_three_users(), a=exponents, b=exponents, c=exponents, at_once=st.sampled_from([1, 5, 2**22]))
def test_directed_walks_lead_only_to_what_a_user_met_at_the_same_time_or_later(
    rows: list[Row], a: float, b: float, c: float, at_once: int
) -> None:
    met = table(rows)
    degree, popularity = met.sum(1), met.sum(0)
    weights = np.zeros((N_ITEMS, N_ITEMS))
    for user, item, day in rows:
        for other_user, end, other_day in rows:
            if user == other_user and item != end and other_day >= day:
                weights[item, end] += degree[user] ** -a * popularity[item] ** -b * popularity[end] ** -c
    own = few_settings(user_exponent=a, source_exponent=b, end_exponent=c, history_decay=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(item_walks, "NUMBERS_AT_ONCE", at_once)
        model = DirectedRP3(own, Rows(rows))
    np.testing.assert_allclose(model.weights.to_dense(), weights, rtol=1e-5)
    np.testing.assert_allclose(scores_of_all(model), met @ weights, rtol=1e-4, atol=1e-6)


def test_directed_walks_need_times() -> None:
    own = few_settings(user_exponent=0.0, source_exponent=0.0, end_exponent=0.0, history_decay=None)
    with pytest.raises(DatasetError, match=r"few: .*no times.*TIME_FIELD.*load_col"):
        DirectedRP3(own, Rows([(1, 1, 0.0)], timed=False))

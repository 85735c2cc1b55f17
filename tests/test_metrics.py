"""A metric is one record: registered once, it is computed, compared and shown."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information, metric_types, metrics_dict, smaller_metrics
from recbole.utils import EvaluatorType

from recbole_symcere.analysis.__main__ import main as analyse
from recbole_symcere.comparison.__main__ import main as compare
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.metrics import METRICS, Chart, Metric, columns, label_of, metric_of, register
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.ranking import RankingEvaluator

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "own_metric.py"


@pytest.fixture
def own_metric() -> Iterator[None]:
    runpy.run_path(str(EXAMPLE))
    yield
    for known in (METRICS, metric_information, metric_types, metrics_dict):
        del known["first"]


@pytest.fixture
def given(settings: dict[str, Any]) -> dict[str, Any]:
    kept = ("dataset", "data_path", "checkpoint_dir", "show_progress", "state")
    return {key: settings[key] for key in kept} | {"metrics": ["Hit", "NDCG", "First"]}


@pytest.mark.usefixtures("own_metric")
def test_a_metric_of_ones_own_is_in_the_result(given: dict[str, Any]) -> None:
    result = run_recbole_symcere("Pop", config_dict=given | {"topk": [1, 10], "valid_metric": "First@10"})[
        "test_result"
    ]
    assert result["first@1"] == result["first@10"] == result["hit@1"]


@pytest.mark.usefixtures("own_metric")
def test_it_has_a_column_in_the_tables_values_of_each_user_and_a_place_in_the_report(given: dict[str, Any]) -> None:
    names = [f"--{key}={value}" for key, value in given.items() if key in ("data_path", "metrics")]
    command = ["--models", "Pop", "BPR", "--datasets", "tiny", "--trials", "0", "--seeds", "1", "--epochs=1"]
    assert compare([*command, *names]) == 0
    table = Path("comparison/strict/accuracy.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in table.split("|")[2:8]] == [
        "HR@10",
        "NDCG@10",
        "First@10",
        "HR@20",
        "NDCG@20",
        "First@20",
    ]
    users = pl.read_parquet("comparison/runs/strict/tiny/Pop/seed-2020/users.parquet")
    assert set(users["first@10"]) <= {0.0, 1.0}
    assert analyse(["report", "--comparison", "comparison", "--ours", "BPR"]) == 0
    assert "First@10" in Path("report.html").read_text()


def test_a_metric_that_nobody_has_registered_is_refused_with_the_nearest(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="there is no metric 'Frist'"):
        run_recbole_symcere("Pop", config_dict=given | {"metrics": ["Hit", "NDCG", "Frist"]})


def test_every_record_has_a_known_place_and_direction() -> None:
    assert {metric.sign for metric in METRICS.values()} == {0, 1}
    computed = [f"{name}@{k}" for name in METRICS for k in (10, 20)]
    assert columns("accuracy", computed) == ("hit@10", "ndcg@10", "hit@20", "ndcg@20")
    assert columns("popularity", computed) == (
        "ndcg@10", "headndcg@10", "middlendcg@10", "tailndcg@10", "itemcoverage@10", "averagepopularity@10",
        "giniindex@10",
    )  # fmt: skip
    assert columns("accuracy", ["ndcg@10"]) == ("ndcg@10",)


def test_a_metric_of_recbole_without_a_record_has_a_plain_one() -> None:
    assert metric_of("Precision@5") == Metric("precision", "Precision")
    assert label_of("precision@5") == "Precision@5"


class Repeats(AbstractMetric):
    """How often an item is recommended on average: a metric of all recommendations together, of no single user."""

    metric_type, metric_need = EvaluatorType.RANKING, ["rec.items"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.topk = config["topk"]

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        items = dataobject.get("rec.items").numpy()
        return {f"repeats@{k}": items[:, :k].size / len(np.unique(items[:, :k])) for k in self.topk}


@pytest.fixture
def repeats() -> Iterator[None]:
    chart = Chart("repeats", "Repeated items on {}", "recommendations of an item, mean")
    register(Metric("repeats", "Repeats", "lower", Repeats, "popularity", chart))
    yield
    smaller_metrics.remove("repeats")
    for known in (METRICS, metric_information, metric_types, metrics_dict):
        del known["repeats"]


@pytest.mark.usefixtures("repeats")
def test_a_metric_of_no_single_user_has_its_column_and_the_figure_that_its_record_asks_for(
    given: dict[str, Any],
) -> None:
    command = ["--models", "Pop", "BPR", "--datasets", "tiny", "--trials", "0", "--seeds", "1", "--epochs=1"]
    assert compare([*command, f"--data_path={given['data_path']}", "--metrics=[Hit, NDCG, Repeats]"]) == 0
    table = pl.read_csv("comparison/strict/popularity.csv").filter(pl.col("metric") == "repeats@10")
    assert dict(table.select("model", "mean").iter_rows())["Pop"] > 1
    assert "repeats@10" not in pl.read_parquet("comparison/runs/strict/tiny/Pop/seed-2020/users.parquet")
    assert analyse(["report", "--comparison", "comparison", "--ours", "BPR"]) == 0
    page = Path("report.html").read_text()
    assert "Repeated items on tiny" in page and "recommendations of an item, mean" in page


@pytest.mark.usefixtures("repeats")
def test_the_direction_of_a_metric_is_that_of_training_and_of_tables(given: dict[str, Any]) -> None:
    settings = given | {"metrics": ["NDCG", "Repeats"], "valid_metric": "Repeats@10"}
    assert not Config("Pop", config_dict=settings)["valid_metric_bigger"]
    assert metric_of("Repeats@10").sign == -1


@pytest.mark.parametrize("name", ["Repeats", "repeats@10"])
def test_a_name_that_could_not_be_found_again_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lower case and without @k"):
        register(Metric(name, "Repeats", function=Repeats))


@pytest.mark.parametrize("odd", [{"direction": "up"}, {"table": "foo"}])
def test_a_direction_or_table_that_nothing_knows_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"the metric repeats has '{next(iter(odd.values()))}', but this must be one"):
        register(Metric("repeats", "Repeats", **odd))


def test_a_chart_that_the_report_would_not_draw_is_refused() -> None:
    chart = Chart("repeats", "Repeated items on {}", "mean")
    with pytest.raises(ValueError, match="the table 'popularity' only"):
        register(Metric("repeats", "Repeats", function=Repeats, table="accuracy", chart=chart))


def test_a_record_can_replace_the_class_and_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (METRICS, metric_information):
        monkeypatch.setitem(known, "mrr", known["mrr"])
    register(Metric("mrr", "MRR", function=Repeats))
    assert metric_information["mrr"] == ["rec.items"]
    evaluator = RankingEvaluator({"metrics": ["mrr"], "topk": [1], "metric_decimal_place": 4})
    assert type(evaluator.metric_class["mrr"]) is Repeats

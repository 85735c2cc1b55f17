"""Each repair of RecBole keeps its promise, and the promise is broken once the repair is taken away."""

import contextlib
import inspect
import os
import subprocess
import sys
import types
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import recbole.trainer.trainer
import recbole.utils.logger
import torch
from hypothesis import given, settings
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset
from recbole.evaluator.collector import Collector
from recbole.evaluator.metrics import MRR
from recbole.model.general_recommender.ngcf import NGCF
from recbole.model.general_recommender.pop import Pop
from recbole.utils import InputType, case_study
from scipy.sparse import dok_matrix

from recbole_symcere import compat


def take_away(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Restores RecBole's own ``owner.name``; skips the rest where this stack needs no repair."""
    original = getattr(getattr(owner, name), "__wrapped__", None)
    if original is None:
        pytest.skip(f"{name} is right as it is here")
    monkeypatch.setattr(owner, name, original)


def table(folder: Path, suffix: str, lines: list[str]) -> None:
    (folder / "tiny").mkdir(exist_ok=True)
    (folder / "tiny" / f"tiny.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def configuration(folder: Path, **settings: Any) -> Config:
    """RecBole's own Config for the atomic files of ``table``."""
    given = {"data_path": str(folder), "load_col": None, "use_gpu": False} | settings
    return Config(model="BPR", dataset="tiny", config_dict=given)


@pytest.fixture(autouse=True)
def bare_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's Config reads ``sys.argv``."""
    monkeypatch.setattr(sys, "argv", ["test"])


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Two items with missing features: a genre sequence, a price, a maker and a float sequence."""
    table(tmp_path, "inter", ["user_id:token\titem_id:token", "u\ta", "u\tb", "v\tb"])
    table(
        tmp_path,
        "item",
        [
            "item_id:token\tgenre:token_seq\tprice:float\tmaker:token\tsizes:float_seq",
            "a\trock blues folk\t2\tx\t1 3",
            "b\trock\t4\ty\t5",
            "c\t\t\t\t",
        ],
    )
    return tmp_path


# Importing


def test_the_package_needs_neither_ray_nor_quick_start() -> None:
    program = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray" or name == "recbole.quick_start":
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import recbole_symcere, recbole.config, recbole.data, recbole.model, recbole.trainer, recbole.utils
"""
    root = str(Path(compat.__file__).parents[1])
    run = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_general_recommenders_import_without_kmeans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.importlib, "import_module", lambda _: __import__("kmeans_pytorch"))
    with pytest.raises(ModuleNotFoundError):
        compat.importlib.import_module("as RecBole 1.2.0 does")
    found: list[Any] = []
    monkeypatch.setattr(compat.importlib, "import_module", lambda _: found.append(__import__("kmeans_pytorch")))

    compat.import_without_kmeans()

    with pytest.raises(ImportError, match="LDiffRec"):
        found[0].kmeans()
    assert "kmeans_pytorch" not in sys.modules


def test_applying_twice_changes_nothing() -> None:
    before = Pop.calculate_loss, Collector.get_data_struct, Dataset._load_feat
    compat.apply()
    assert before == (Pop.calculate_loss, Collector.get_data_struct, Dataset._load_feat)


def test_no_repair_is_left_out() -> None:
    public = {
        function
        for name, function in vars(compat).items()
        if inspect.isfunction(function) and function.__module__ == compat.__name__ and not name.startswith("_")
    }
    assert public == set(compat.REPAIRS)


# NumPy, SciPy, pandas


def test_recbole_finds_the_numpy_names_that_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path, "inter", ["user_id:token\titem_id:token", "u\ta"])
    assert all(hasattr(np, name) for name in ("float", "bool", "long", "str"))
    configuration(tmp_path)  # sets the names itself

    monkeypatch.delattr(np, "float")
    with pytest.raises(AttributeError, match="float"):
        MRR.metric_info(object.__new__(MRR), np.array([[True, False]]))
    take_away(monkeypatch, Config, "compatibility_settings")
    with pytest.raises(AttributeError, match="float_"):
        configuration(tmp_path)


def test_graph_models_can_fill_a_dok_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill() -> list[list[float]]:
        matrix = dok_matrix((2, 2), dtype=np.float32)
        matrix._update({(0, 1): 1, (1, 0): 1})
        return matrix.toarray().tolist()

    assert fill() == [[0, 1], [1, 0]]
    if "_update" not in vars(dok_matrix):
        pytest.skip("this SciPy has the method itself")
    monkeypatch.delattr(dok_matrix, "_update")
    with pytest.raises(AttributeError):
        fill()


def test_a_missing_sequence_is_read_as_an_empty_one(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths() -> list[int]:
        dataset = object.__new__(Dataset)
        dataset.config = configuration(features)
        dataset.logger = types.SimpleNamespace(debug=print)
        dataset.field2source, dataset.field2type, dataset.field2seqlen, dataset.field2bucketnum = {}, {}, {}, {}
        table = dataset._load_feat(str(features / "tiny" / "tiny.item"), "item")
        return [len(row) for row in table["genre"]]

    assert lengths() == [3, 1, 0]
    take_away(monkeypatch, Dataset, "_load_feat")
    with pytest.raises(AttributeError, match="split"):
        lengths()


def test_missing_features_are_filled(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The padding row and item c get the mean price and maker 0."""

    def filled() -> tuple[list[float], list[int]]:
        dataset = create_dataset(configuration(features))
        dataset._change_feat_format()
        return dataset.item_feat["price"].tolist(), dataset.item_feat["maker"].tolist()

    assert filled() == ([3, 2, 4, 3], [0, 1, 2, 0])
    take_away(monkeypatch, Dataset, "_fill_nan")
    assert filled() != ([3, 2, 4, 3], [0, 1, 2, 0])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("_remap", {}),
        ("_normalize", {"normalize_field": ["sizes"]}),
        ("_discretization", {"numerical_features": ["sizes"], "discretization": {"sizes": {"method": "LD"}}}),
        ("_discretization", {"numerical_features": ["sizes"]}),
    ],
)
def test_sequences_keep_their_lengths(
    features: Path, monkeypatch: pytest.MonkeyPatch, method: str, settings: dict[str, Any]
) -> None:
    def lengths() -> tuple[list[int], list[int]]:
        feat = create_dataset(configuration(features, **settings)).item_feat.set_index("item_id")
        sizes = [row[0] if isinstance(row, tuple) else row for row in feat["sizes"]]
        return [len(row) for row in feat["genre"]], [len(row) for row in sizes]

    right = [0, 3, 1, 0], [0, 2, 1, 0]
    assert lengths() == right
    take_away(monkeypatch, Dataset, method)
    with contextlib.suppress(ValueError):
        assert lengths() != right


# Data


@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=60),
    keep=st.sampled_from(["first", "last"]),
)
@settings(deadline=None)
def test_among_equal_times_the_file_order_says_which_duplicate_stays(rows: list[Any], keep: str) -> None:
    by_time = sorted(range(len(rows)), key=lambda row: rows[row][2])
    stays = {rows[row][:2]: row for row in (reversed(by_time) if keep == "first" else by_time)}
    assert list(without_duplicates(rows, keep).index) == sorted(stays.values(), key=by_time.index)


def test_an_unstable_sort_keeps_any_of_equal_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(0, row % 50, row % 2) for row in range(1000)]
    assert sorted(without_duplicates(rows, "first").index) == list(range(50))
    take_away(monkeypatch, Dataset, "_remove_duplication")
    assert sorted(without_duplicates(rows, "first").index) != list(range(50))


def without_duplicates(rows: list[Any], keep: str) -> pd.DataFrame:
    dataset = object.__new__(Dataset)
    dataset.config = {"rm_dup_inter": keep}
    dataset.logger = types.SimpleNamespace(info=lambda _: None)
    dataset.uid_field, dataset.iid_field, dataset.time_field = "user", "item", "time"
    dataset.inter_feat = pd.DataFrame(rows, columns=["user", "item", "time"])
    dataset._remove_duplication()
    return dataset.inter_feat


def test_a_single_process_download_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.data.dataset import dataset as module

    for name in ("download_url", "extract_zip", "rename_atomic_files"):
        monkeypatch.setattr(module, name, lambda *_: str(tmp_path / "archive.zip"))
    monkeypatch.setattr(module, "decide_download", lambda _: True)
    dataset = object.__new__(Dataset)
    dataset.config, dataset.dataset_name, dataset.dataset_path = {"local_rank": 0}, "tiny", str(tmp_path)
    dataset.logger = types.SimpleNamespace(info=lambda _: None)
    dataset._get_download_url = lambda _: "url"

    def download() -> None:
        (tmp_path / "archive.zip").touch()
        dataset._download()

    monkeypatch.setattr(module, "makedirs", lambda _: None)
    download()
    take_away(monkeypatch, Dataset, "_download")
    with pytest.raises((ValueError, RuntimeError), match="process group"):
        download()


@pytest.mark.parametrize("module", [recbole.trainer.trainer, recbole.utils.logger])
def test_a_folder_that_another_process_makes_meanwhile_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: types.ModuleType
) -> None:
    module.ensure_dir(str(tmp_path / "new" / "folder"))
    assert (tmp_path / "new" / "folder").is_dir()
    monkeypatch.setattr(os.path, "exists", lambda _: False)  # it was not there a moment ago
    module.ensure_dir(str(tmp_path))
    take_away(monkeypatch, module, "ensure_dir")
    with pytest.raises(FileExistsError):
        module.ensure_dir(str(tmp_path))


# Evaluation


def collector(metrics: list[str]) -> Collector:
    return Collector({"metrics": metrics, "eval_args": {"mode": "full"}, "topk": [2], "device": torch.device("cpu")})


def test_item_counts_reach_the_metrics_at_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def popularity() -> list[Any]:
        collect, structs = collector(["ItemCoverage", "AveragePopularity"]), []
        collect.data_struct.set("data.num_items", 3)
        collect.data_struct.set("data.count_items", Counter({1: 5}))
        for scores in ([[0.1, 0.3, 0.2]], [[0.9, 0.3, 0.2]]):
            collect.eval_batch_collect(torch.tensor(scores), None, None, None)
            struct = collect.get_data_struct()
            structs.append((struct.get("rec.items").tolist(), struct.get("data.count_items")[1]))
        return structs

    assert popularity() == [([[1, 2]], 5), ([[0, 1]], 5)]
    take_away(monkeypatch, Collector, "get_data_struct")
    with pytest.raises(AttributeError, match="cpu"):
        popularity()


@given(
    scores=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20, unique=True),
    broken=st.sets(st.integers(0, 19)),
)
@settings(deadline=None)
def test_nan_ranks_below_every_finite_score(scores: list[float], broken: set[int]) -> None:
    ranked = torch.tensor([[*scores, -1e7, -1e8]])  # two that stay finite
    ranked[0, [position for position in broken if position < len(scores)]] = torch.nan
    collect = collector(["ItemCoverage", "Hit"])
    collect.eval_batch_collect(ranked, None, torch.tensor([0]), torch.tensor([0]))
    top = collect.data_struct.get("rec.items")[0]
    expected = sorted((score for score in ranked[0].tolist() if score == score), reverse=True)[:2]
    assert ranked[0, top].tolist() == expected


def test_without_the_repair_nan_ranks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def first() -> int:
        collect = collector(["ItemCoverage"])
        collect.eval_batch_collect(torch.tensor([[0.0, torch.nan, -1.0]]), None, None, None)
        return int(collect.data_struct.get("rec.items")[0, 0])

    assert first() == 0
    take_away(monkeypatch, Collector, "eval_batch_collect")
    assert first() == 1


def test_nan_is_never_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    def recommended() -> int:
        model = types.SimpleNamespace(
            eval=lambda: None, full_sort_predict=lambda _: torch.tensor([[9.0, torch.nan, 1.0]])
        )
        dataset = types.SimpleNamespace(uid_field="user", item_num=3, join=lambda interaction: interaction)
        history = np.array([None, torch.tensor([], dtype=torch.long)], dtype=object)
        data = types.SimpleNamespace(dataset=dataset, is_sequential=False, uid2history_item=history)
        return int(case_study.full_sort_topk([1], model, data, k=1).indices)

    assert recommended() == 2
    take_away(monkeypatch, case_study, "full_sort_scores")
    assert recommended() == 1


# Models


@given(batches=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=30), min_size=1, max_size=4))
@settings(deadline=None)
def test_popularity_counts_every_interaction(batches: list[list[int]]) -> None:
    expected = Counter(item for batch in batches for item in batch)
    assert popularity(batches) == [expected[item] for item in range(5)]


def test_without_the_repair_an_item_counts_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    take_away(monkeypatch, Pop, "calculate_loss")
    assert popularity([[1, 1, 1, 2]]) == [0, 1, 1, 0, 0]


def popularity(batches: list[list[int]]) -> list[int]:
    config = {"USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "NEG_PREFIX": "neg_", "device": "cpu"}
    pop = Pop(config, types.SimpleNamespace(num=lambda _: 5))
    for batch in batches:
        assert pop.calculate_loss({"item": torch.tensor(batch)}).requires_grad
    assert pop.max_cnt == pop.item_cnt.max()
    return pop.item_cnt.squeeze(1).tolist()


def test_popularity_is_given_no_negatives_to_count() -> None:
    """A point-wise batch holds negatives in the item column; see also ``test_stack``."""
    assert Pop.input_type is InputType.PAIRWISE


def test_ngcf_drops_no_messages_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_in_1_2_0(model: Any) -> torch.Tensor:
        return torch.nn.Dropout(model.message_dropout)(torch.ones(1000))

    model = types.SimpleNamespace(message_dropout=0.5, training=False)
    monkeypatch.setattr(NGCF, "forward", as_in_1_2_0)
    assert NGCF.forward(model).eq(0).any()

    compat.evaluate_ngcf_without_dropout()

    assert NGCF.forward(model).eq(1).all()
    model.training = True
    assert NGCF.forward(model).eq(0).any()
    assert model.message_dropout == 0.5


# Warnings


@pytest.mark.parametrize(
    ("message", "module"),
    [
        ("torch.sparse.SparseTensor(indices, values) is deprecated.", "recbole.model.general_recommender.sgl"),
        ("The given NumPy array is not writable, and", "recbole.data.dataset.dataset"),
        ("A value is being set on a copy of a DataFrame or", "recbole.data.dataset.dataset"),
        ("A value is trying to be set on a copy of a DataFrame or", "recbole.data.dataset.dataset"),
    ],
)
def test_known_warnings_are_quiet_in_recbole_alone(message: str, module: str) -> None:
    def warned(where: str) -> int:
        warnings.warn_explicit(message, UserWarning, "file", 1, module=where)
        return len(caught)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert warned(module) == 1
        compat.quiet_known_warnings()
        assert warned(module) == 1
        assert warned("elsewhere") == 2

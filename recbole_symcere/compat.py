"""Repairs that RecBole 1.2.0 and 1.2.1 need on current NumPy, pandas, SciPy and PyTorch.

Each function repairs one fault and changes nothing if the fault is absent; most functions first test whether it is
present. Numbers such as #1604 are issues and pull requests of RUCAIBox/RecBole. This module imports RecBole and
PyTorch, but never ``recbole.quick_start``, because that needs ray: the last release of ray that RecBole allows imports
``pkg_resources``, which setuptools no longer has.
"""

import contextlib
import functools
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from logging import INFO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import recbole.trainer.trainer
import recbole.utils.logger
import torch
from recbole.config import Config
from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.evaluator.collector import Collector, DataStruct
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import FeatureType, InputType, case_study
from scipy.sparse import dok_matrix

import recbole_symcere.sparse  # noqa: F401 - silences a warning that matrices of RecBole's models cause, too
from recbole_symcere import distributed


@functools.cache
def apply() -> None:
    """Applies all repairs to RecBole; only the first call in a process does anything."""
    for repair in REPAIRS:
        repair()


def _replace(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Replaces ``owner.name``; the original stays reachable as ``__wrapped__`` of the replacement."""
    setattr(owner, name, functools.wraps(getattr(owner, name))(replacement))


def _replace_during(owner: Any, name: str, library: Any, attribute: str, replacement: Any) -> None:
    """Replaces ``library.attribute`` for as long as ``owner.name`` runs, and only then."""
    original = getattr(owner, name)

    @contextlib.contextmanager
    def replaced() -> Iterator[None]:
        usual = getattr(library, attribute)
        setattr(library, attribute, replacement)
        try:
            yield
        finally:
            setattr(library, attribute, usual)

    def run(*args: Any, **kwargs: Any) -> Any:
        with replaced():
            return original(*args, **kwargs)

    _replace(owner, name, run)


def import_without_kmeans() -> None:
    """Imports RecBole's general recommenders without ``kmeans_pytorch``.

    RecBole 1.2.0 imports that package with them, but does not list it among its requirements. Only LDiffRec uses the
    package; that model then raises an ImportError that says what to install.
    """

    def kmeans(*_: Any, **__: Any) -> None:
        raise ImportError("LDiffRec of RecBole 1.2.0 needs kmeans_pytorch: pip install kmeans_pytorch")

    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("recbole.model.general_recommender")
        return
    sys.modules["kmeans_pytorch"] = types.SimpleNamespace(kmeans=kmeans)  # type: ignore[assignment]
    importlib.import_module("recbole.model.general_recommender")
    del sys.modules["kmeans_pytorch"]


def restore_numpy_aliases() -> None:
    """Restores the NumPy names that RecBole reads and that NumPy 1.24 and 2.0 removed (#1604, #2162, #2203).

    RecBole's Config sets these names itself, but from other names that NumPy 2.0 removed too.
    """
    aliases = {"float": np.float64, "bool": np.bool_, "long": np.int_, "str": np.str_}

    def set_missing(_: Any = None) -> None:
        for name, scalar in aliases.items():
            if name not in vars(np):
                setattr(np, name, scalar)

    set_missing()
    if not hasattr(np, "float_"):
        _replace(Config, "compatibility_settings", set_missing)


def restore_dok_update() -> None:
    """Restores ``dok_matrix._update``, with which graph models fill their adjacency matrix (#2090, #2185).

    SciPy 1.13 removed this method. The public ``update`` is 100 times slower, because it checks every key in Python.
    """
    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda matrix, entries: matrix._dict.update(entries)


def fill_missing_sequences() -> None:
    """Makes RecBole read a missing sequence as an empty one.

    In pandas 3 ``df[field].fillna(inplace=True)`` fills a copy, so a missing sequence crashes RecBole's reader.
    """
    if not _chained_fill_is_lost():
        return
    read_csv = pd.read_csv

    def read(*args: Any, usecols: list[str], **kwargs: Any) -> pd.DataFrame:
        table = read_csv(*args, usecols=usecols, **kwargs)
        sequences = [column for column in usecols if column.endswith("_seq")]
        table[sequences] = table[sequences].fillna("")
        return table

    _replace_during(Dataset, "_load_feat", pd, "read_csv", read)


def fill_missing_features() -> None:
    """Makes RecBole fill missing features.

    In pandas 3 ``feat[field].fillna(inplace=True)`` fills a copy, so features of the padding row become −2^63 or NaN.
    """
    if _chained_fill_is_lost():
        _replace(Dataset, "_fill_nan", _fill_nan)


def _fill_nan(dataset: Dataset) -> None:
    empty = {FeatureType.TOKEN_SEQ: np.array([], dtype=np.int64), FeatureType.FLOAT_SEQ: np.array([], dtype=np.float64)}
    for feat in (getattr(dataset, name) for name in dataset.feat_name_list):
        for field in feat:
            kind = dataset.field2type[field]
            if kind == FeatureType.TOKEN:
                feat[field] = feat[field].fillna(0)
            elif kind == FeatureType.FLOAT:
                feat[field] = feat[field].fillna(feat[field].mean())
            else:
                feat[field] = [empty[kind] if isinstance(row, float) else row for row in feat[field]]


def _chained_fill_is_lost() -> bool:
    table = pd.DataFrame({"a": [np.nan]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns about this chained fill
        table["a"].fillna(0.0, inplace=True)
    return bool(table["a"].isna().any())


def measure_each_sequence() -> None:
    """Makes ``Series.agg(len)`` return the length of each row's sequence; pandas 3 returns the number of rows."""
    if not isinstance(pd.Series([[0], [0]]).agg(len), int):
        return
    aggregate = pd.Series.aggregate

    def agg(series: pd.Series, func: Any = None, *args: Any, **kwargs: Any) -> Any:
        return series.map(len) if func is len else aggregate(series, func, *args, **kwargs)

    for name in ("_remap", "_normalize", "_discretization"):
        _replace_during(Dataset, name, pd.Series, "agg", agg)
    _replace_during(KnowledgeBasedDataset, "_reset_ent_remapID", pd.Series, "agg", agg)
    _replace_during(SequentialDataset, "_benchmark_presets", pd.Series, "agg", agg)


def keep_file_order_of_duplicates() -> None:
    """Makes RecBole keep the row that is first in the file among duplicates with the same time.

    RecBole removes duplicates after a sort by time that is not stable, so it might keep any of these rows.
    """
    stable = functools.partialmethod(pd.DataFrame.sort_values, kind="stable")
    _replace_during(Dataset, "_remove_duplication", pd.DataFrame, "sort_values", stable)


def download_without_process_group() -> None:
    """Skips the barrier after RecBole's download in a single process, where the barrier raises an error (#2050)."""
    if not torch.distributed.is_available():
        return
    barrier = torch.distributed.barrier

    def wait(*args: Any, **kwargs: Any) -> None:
        if torch.distributed.is_initialized():
            barrier(*args, **kwargs)

    _replace_during(Dataset, "_download", torch.distributed, "barrier", wait)


def collect_counts() -> None:
    """Makes the collector accept counts, which it would try to move to the CPU although they are not tensors.

    Without this repair ItemCoverage and the other metrics that need counts crash (#2194, #2209).
    """
    collector = _bare_collector(needs="data.num_items")
    collector.data_struct.set("data.num_items", 1)
    try:
        collector.get_data_struct()
    except AttributeError:
        _replace(Collector, "get_data_struct", _get_data_struct)


def _get_data_struct(collector: Collector) -> DataStruct:
    struct = DataStruct()
    for name, value in list(collector.data_struct._data_dict.items()):
        struct.set(name, value.cpu() if isinstance(value, torch.Tensor) else value)
        if not name.startswith("data.") or name == "data.label":  # the counts stay for the next evaluation
            del collector.data_struct[name]
    return struct


def rank_nan_last() -> None:
    """Makes RecBole rank a score of NaN as −inf.

    ``torch.topk`` and ``torch.sort`` put NaN first, so a model that diverged could look good.
    """
    collector = _bare_collector(needs="rec.items")
    collector.eval_batch_collect(torch.tensor([[0.0, torch.nan]]), None, None, None)
    if collector.data_struct.get("rec.items").item() == 0:
        return
    collect, score = Collector.eval_batch_collect, case_study.full_sort_scores

    def collect_ranked(collector: Collector, scores: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        ranked = not collector.register.need("rec.score")  # metrics that are computed from scores must see the NaN
        collect(collector, _nan_to_minus_inf(scores) if ranked else scores, *args, **kwargs)

    def score_ranked(*args: Any, **kwargs: Any) -> torch.Tensor:
        return _nan_to_minus_inf(score(*args, **kwargs))

    _replace(Collector, "eval_batch_collect", collect_ranked)
    _replace(case_study, "full_sort_scores", score_ranked)


def _nan_to_minus_inf(scores: torch.Tensor) -> torch.Tensor:
    broken = scores.max().isnan()  # the maximum is NaN if any score is NaN, and is cheap to compute
    return scores.masked_fill(scores.isnan(), -torch.inf) if broken else scores


def _bare_collector(needs: str) -> Collector:
    """Returns a collector with k = 1 that needs one resource, for trying RecBole's methods without a run."""
    collector = object.__new__(Collector)
    collector.register = types.SimpleNamespace(need=needs.__eq__)
    collector.topk = [1]
    collector.data_struct = DataStruct()
    return collector


def count_every_interaction() -> None:
    """Makes ``Pop`` count every interaction; RecBole counts an item only once in a batch (#1844, #2198)."""
    from recbole.model.general_recommender.pop import Pop

    pop = Pop.__new__(Pop)
    torch.nn.Module.__init__(pop)
    pop.ITEM_ID, pop.device, pop.item_cnt = "item", torch.device("cpu"), torch.zeros(2, 1, dtype=torch.long)
    pop.calculate_loss({"item": torch.tensor([1, 1])})
    if pop.item_cnt[1] != 2:
        _replace(Pop, "calculate_loss", _count)


def _count(pop: GeneralRecommender, interaction: Interaction) -> torch.Tensor:
    pop.item_cnt += torch.bincount(interaction[pop.ITEM_ID], minlength=len(pop.item_cnt)).unsqueeze(1)
    pop.max_cnt = pop.item_cnt.max(dim=0).values
    return torch.zeros(1, device=pop.device, requires_grad=True)


def count_no_negatives() -> None:
    """Keeps the sampled negatives out of the counts of ``Pop``.

    ``Pop`` counts all items of a point-wise batch, including the negatives. A pair-wise batch has the negatives in a
    separate column, which ``Pop`` does not read.
    """
    from recbole.model.general_recommender.pop import Pop

    Pop.input_type = InputType.PAIRWISE


def evaluate_ngcf_without_dropout() -> None:
    """Turns off the message dropout of NGCF during evaluation, where RecBole 1.2.0 leaves it on (#1946)."""
    from recbole.model.general_recommender.ngcf import NGCF

    if "Dropout" not in NGCF.forward.__code__.co_names:
        return
    propagate = NGCF.forward

    def forward(model: GeneralRecommender) -> Any:
        rate = model.message_dropout
        model.message_dropout = rate if model.training else 0.0
        try:
            return propagate(model)
        finally:
            model.message_dropout = rate

    _replace(NGCF, "forward", forward)


def write_tensorboard_where_logged() -> None:
    """Lets a run write events for TensorBoard only where it writes the same to its log.

    In RecBole every process of a run writes them, and so do the hundreds of silent runs of a comparison.
    """
    get_tensorboard = recbole.trainer.trainer.get_tensorboard

    def get(logger: Any) -> Any:
        return get_tensorboard(logger) if distributed.is_main() and logger.isEnabledFor(INFO) else _NoTensorBoard()

    _replace(recbole.trainer.trainer, "get_tensorboard", get)


class _NoTensorBoard:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def make_folders_together() -> None:
    """Lets several processes make the folders of logs and checkpoints at the same time.

    RecBole makes a folder if it was not there just before, which raises an error if another process made it meanwhile.
    """
    for module in (recbole.trainer.trainer, recbole.utils.logger):
        _replace(module, "ensure_dir", lambda folder: Path(folder).mkdir(parents=True, exist_ok=True))


def quiet_known_warnings() -> None:
    """Silences three warnings of RecBole that do not concern the result and that a user can't act on.

    They say that ``torch.sparse.FloatTensor`` is deprecated; that columns of pandas 3, which RecBole makes tensors of,
    are read-only; and that a chained ``fillna`` no longer fills, which the functions above repair.
    """
    for message, module in (
        (r"torch\.sparse\.SparseTensor", r"recbole\.model"),
        ("The given NumPy array is not writable", r"recbole\.data"),
        ("A value is (being|trying to be) set on a copy of a DataFrame", r"recbole\.data"),
    ):
        warnings.filterwarnings("ignore", message, module=module)


REPAIRS = (
    import_without_kmeans,
    restore_numpy_aliases,
    restore_dok_update,
    fill_missing_sequences,
    fill_missing_features,
    measure_each_sequence,
    keep_file_order_of_duplicates,
    download_without_process_group,
    collect_counts,
    rank_nan_last,
    count_every_interaction,
    count_no_negatives,
    evaluate_ngcf_without_dropout,
    write_tensorboard_where_logged,
    make_folders_together,
    quiet_known_warnings,
)

"""RecBole's own settings: which of them nothing reads here, and what the others can be.

RecBole reads many settings late, and some of them only for other kinds of models. Its errors name neither the key nor
the mend, and many wrong values raise none. Everything here is checked before any data is read. What depends on the
columns of a dataset is checked in ``data.dataset``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from recbole.utils import InputType
from recbole.utils.argument_list import dataset_arguments

from recbole_symcere.errors import ConfigError, DatasetError, UserError
from recbole_symcere.properties import nearest

EVAL_ARGS_KEYS = ("split", "group_by", "order", "mode")
NEGATIVE_SAMPLING_KEYS = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")
DISTRIBUTIONS = ("uniform", "popularity", "none")
SPLITS = ("RS", "LS", "TS")
INTERVALS = ("user_inter_num_interval", "item_inter_num_interval")
FILTERS = ("rm_dup_inter", "val_interval", "filter_inter_by_user_or_item", *INTERVALS)
PARTS = 3  # training, validation and test
NUMBER = r"\s*([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf))\s*"
INTERVAL = re.compile(rf"\s*[\[(]{NUMBER},{NUMBER}[\])]\s*")
INTERVAL_FORM = "an interval, such as '[5,inf)' or '(0,3]'"

_SEQUENTIAL = "only sequential recommenders read it"
_KNOWLEDGE = "only knowledge-aware recommenders read it"
_FEATURES = "no general recommender reads features of users, items or interactions"
_LABELS = (
    "general recommenders take every interaction for a positive one; to leave out low ratings, give val_interval, such "
    "as {rating: '[4,inf)'}"
)
# Why a setting changes nothing for the models of RecBole and of this package. A class of a user may read it.
UNREAD = {
    "threshold": _LABELS,
    "LABEL_FIELD": _LABELS,
    "NEG_PREFIX": "it only names a column that nothing writes to a file",
    **dict.fromkeys(
        ("ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "MAX_ITEM_LIST_LENGTH", "POSITION_FIELD", "transform"), _SEQUENTIAL
    ),
    **dict.fromkeys(
        ("HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "ENTITY_ID_FIELD", "kg_reverse_r",
         "entity_kg_num_interval", "relation_kg_num_interval", "alias_of_entity_id", "alias_of_relation_id"),
        _KNOWLEDGE,
    ),
    **dict.fromkeys(
        ("preload_weight", "additional_feat_suffix", "numerical_features", "discretization", "normalize_field",
         "normalize_all", "seq_len", "seq_separator", "alias_of_user_id", "alias_of_item_id"),
        _FEATURES,
    ),
}  # fmt: skip
READ_AFTER_ALL = {"DMF": ("normalize_field", "normalize_all")}  # DMF reads ratings


def check_is_read(where: str, key: str, value: Any, default: Any, model: type) -> None:
    """Checks that a setting of RecBole is not one that nothing reads; the default value is always allowed.

    Args:
        where: names the file of the setting in an error; empty for the command line.
        model: the model's class. A class that is neither RecBole's nor this package's may read any setting.

    Raises:
        ConfigError: nothing reads the setting.
    """
    known = model.__module__.partition(".")[0] in ("recbole", "recbole_symcere")
    if known and value != default and key in UNREAD and key not in READ_AFTER_ALL.get(model.__name__, ()):
        raise ConfigError(f"{where}{key} changes nothing, so leave it out: {UNREAD[key]}")


def check_own_parts(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks that nothing asks for a filter or a split beside ``benchmark_filename``, which RecBole would ignore.

    Args:
        given: the settings that the user gives.
        defaults: the values of settings that the user does not give.

    Raises:
        ConfigError: ``benchmark_filename`` names no three parts, or another setting would do nothing.
    """
    parts = given.get("benchmark_filename")
    if parts is None:
        return
    if not (isinstance(parts, list) and len(parts) == PARTS and all(isinstance(part, str) for part in parts)):
        raise ConfigError(
            f"benchmark_filename is {parts!r}; name three parts, for training, validation and testing, such as "
            "[train, valid, test]"
        )
    eval_args, usual = given.get("eval_args"), defaults["eval_args"]
    split = {key: eval_args[key] for key in ("split", "order", "group_by") if key in eval_args} if eval_args else {}
    unread = [key for key in FILTERS if key in given and given[key] != defaults.get(key)]
    unread += [f"{key} in eval_args" for key, value in split.items() if value != usual.get(key)]
    if unread:
        raise ConfigError(
            f"benchmark_filename takes the parts as they are, so {', '.join(unread)} would do nothing: filter or split "
            "the files, or leave benchmark_filename out"
        )


def read_intervals(key: str, value: Any) -> str:
    """Returns intervals in RecBole's form, such as ``[5,inf);(0,3]``.

    Args:
        key: names the setting in an error.
        value: text in that form, or two numbers, as YAML reads ``[14,20]``.

    Raises:
        ConfigError: the value is no interval, or one that holds no number.
    """
    if isinstance(value, list) and len(value) == 2 and all(type(end) in (int, float) for end in value):
        value = f"[{value[0]},{value[1]}]"
    found = [INTERVAL.fullmatch(part) for part in str(value).split(";")]
    if not isinstance(value, str) or not all(found):
        raise ConfigError(f"{key} is {value!r}, but must be {INTERVAL_FORM}")
    for interval in filter(None, found):
        low, high = map(float, interval.groups())
        closed = interval[0].strip()[0] == "[" and interval[0].strip()[-1] == "]"
        if low > high or (low == high and not closed):
            raise ConfigError(f"{key} is {value!r}, but no number lies in {interval[0].strip()}")
    return str(value)


def check_filters(settings: Mapping[str, Any]) -> None:
    """Checks the settings by which RecBole filters interactions, as far as no data is needed.

    Raises:
        ConfigError: a filter has another form.
    """
    values = settings.get("val_interval")
    if values is not None and not (isinstance(values, dict) and values):
        raise ConfigError(f"val_interval is {values!r}, but must name fields, such as {{rating: '[4,inf)'}}")
    if type(settings["filter_inter_by_user_or_item"]) is not bool:
        value = settings["filter_inter_by_user_or_item"]
        raise ConfigError(f"filter_inter_by_user_or_item is {value!r}, but must be True or False")
    for key in ("load_col", "unload_col", "unused_col"):
        _check_columns(key, settings.get(key))


def _check_columns(key: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{key} is {value!r}, but must name columns by file, such as {{inter: [user_id, item_id]}}")
    for source, columns in value.items():
        if source not in ("inter", "user", "item"):
            raise ConfigError(f"{key} names a file .{source}{nearest(str(source), ('inter', 'user', 'item'))}, which "
                              "nothing reads")  # fmt: skip
        if columns != "*" and not (isinstance(columns, list) and all(isinstance(name, str) for name in columns)):
            raise ConfigError(f"{key} of {source} is {columns!r}, but must be a list of columns, or '*' for all")


def check_evaluation(settings: Mapping[str, Any]) -> None:
    """Checks how a run is split and evaluated.

    Raises:
        ConfigError: a part of ``eval_args``, or ``topk``, can't be used.
    """
    given = settings["eval_args"]
    for key, allowed in (("order", ("TO", "RO")), ("group_by", ("user", "none", None))):
        if given.get(key) not in allowed:
            raise ConfigError(f"{key} in eval_args is {given.get(key)!r}, but must be one of "
                              f"{', '.join(map(repr, allowed))}")  # fmt: skip
    _check_split(given)
    if len(given["split"].get("RS", ())) == PARTS - 1 and (settings["refit"] or settings["questions"] != "users"):
        key = "refit" if settings["refit"] else "questions"
        raise ConfigError(
            f"{key} is {settings[key]!r}, but the split {given['split']!r} in eval_args has no part beside the one "
            "that is reported; give it three"
        )
    if settings["tie_seed"] and (settings["tie_break"] == "file" or settings.get("benchmark_filename") is not None):
        raise ConfigError(
            f"tie_seed is {settings['tie_seed']}, but changes nothing with tie_break: file or with benchmark_filename; "
            "leave it out"
        )
    topk = settings["topk"]
    topk = topk if isinstance(topk, list) else [topk]
    if not topk or not all(type(k) is int and k >= 1 for k in topk):
        raise ConfigError(f"topk is {settings['topk']!r}, but must be whole numbers from 1, such as [10, 20]")
    for name in modes(given):
        if (sampled := sampled_negatives(name)) is not None and max(topk) > sampled:
            raise ConfigError(
                f"topk is {settings['topk']}, but mode {name!r} in eval_args ranks a positive item among {sampled} "
                "sampled ones, so each user would have a hit; take a smaller topk, or mode: full"
            )


def _check_split(given: Mapping[str, Any]) -> None:
    split = given.get("split")
    if not (isinstance(split, dict) and len(split) == 1 and next(iter(split)) in SPLITS):
        raise ConfigError(f"eval_args split is {split!r}, but must be one of RS, LS and TS, such as "
                          "{RS: [0.7, 0.1, 0.2]} or {LS: valid_and_test}")  # fmt: skip
    ((kind, value),) = split.items()
    if kind == "LS" and value != "valid_and_test":
        raise ConfigError(f"eval_args split is {split!r}, but LS must be valid_and_test: a run needs both parts")
    shares = value if isinstance(value, list) else []
    numbers = all(type(share) in (int, float) and 0 <= share < math.inf for share in shares)
    enough = len(shares) == PARTS or (kind == "RS" and len(shares) == PARTS - 1)
    if kind != "LS" and not (enough and numbers and sum(shares) > 0):
        raise ConfigError(
            f"eval_args split is {split!r}, but {kind} needs three parts: training, validation and test, such as "
            "[0.7, 0.1, 0.2]; RS can also have two, of which the second both chooses epochs and is reported"
        )
    if kind != "RS" and given.get("group_by") != "user":
        raise ConfigError(f"eval_args has group_by {given.get('group_by')!r}, but {kind} always splits by user: user")
    if kind == "TS" and given.get("order") != "TO":
        raise ConfigError(f"eval_args has order {given.get('order')!r}, but TS splits by time: take TO")


def modes(eval_args: Mapping[str, Any]) -> list[str]:
    """Returns what validation and test rank, such as ``full`` or ``uni100``; each of them once.

    Raises:
        ConfigError: ``mode`` in ``eval_args`` can't be used.
    """
    mode = eval_args.get("mode", "full")
    named = list(mode.values()) if isinstance(mode, dict) else [mode]
    if isinstance(mode, dict) and (not mode or mode.keys() - {"valid", "test"}):
        raise ConfigError(f"mode in eval_args is {mode!r}, but can have the keys valid and test only")
    for name in named:
        if not re.fullmatch(r"full|(uni|pop)[1-9]\d*", str(name)):
            raise ConfigError(
                f"mode in eval_args is {name!r}, but must be full, or uniN or popN for N sampled items, such as uni100"
            )
    return list(dict.fromkeys(named))


def mode_on_test(eval_args: Mapping[str, Any]) -> str:
    """Returns what the test part ranks, such as ``full`` or ``uni100``."""
    mode = eval_args.get("mode", "full")
    return str(mode.get("test", mode.get("valid", "full")) if isinstance(mode, dict) else mode)


def what_is_ranked(mode: str) -> str:
    """Returns a sentence on the items that a mode other than ``full`` ranks; an empty text for ``full``."""
    sampled = sampled_negatives(mode)
    drawn = "in proportion to their popularity" if mode.startswith("pop") else "uniformly"
    of_user = f"{sampled:,} items for each positive one, drawn {drawn}" if sampled is not None else ""
    return f"Not all items are ranked, but {of_user} ({mode})." if of_user else ""


def sampled_negatives(mode: str) -> int | None:
    """Returns how many items a mode such as ``uni100`` draws for each positive one; None where all items are ranked."""
    return None if mode == "full" else int(mode[3:])


def check_training(settings: Mapping[str, Any], model: type) -> None:
    """Checks negative sampling, clipping of gradients and mixed precision.

    Raises:
        ConfigError: one of them can't be used, or a part of it would do nothing.
    """
    _check_negatives(settings["train_neg_sample_args"], model)
    clip = settings.get("clip_grad_norm")
    if clip is not None and not (
        isinstance(clip, dict)
        and "max_norm" in clip
        and clip.keys() <= {"max_norm", "norm_type"}
        and all(type(value) in (int, float) and value > 0 for value in clip.values())
    ):
        raise ConfigError(f"clip_grad_norm is {clip!r}, but must be such as {{max_norm: 5, norm_type: 2}}")
    if settings["enable_scaler"] and not settings["enable_amp"]:
        raise ConfigError("enable_scaler changes nothing without enable_amp=True: give both, or leave it out")


def _check_negatives(given: Any, model: type) -> None:
    name = "train_neg_sample_args"
    if not isinstance(given, dict):
        raise ConfigError(f"{name} is {given!r}, but must be such as {{distribution: uniform, sample_num: 1}}")
    distribution, dynamic = given.get("distribution"), given.get("dynamic")
    if distribution not in DISTRIBUTIONS:
        raise ConfigError(f"distribution in {name} is {distribution!r}, but must be one of "
                          f"{', '.join(DISTRIBUTIONS)}{nearest(str(distribution), DISTRIBUTIONS)}")  # fmt: skip
    needs = getattr(model, "input_type", None) in (InputType.PAIRWISE, InputType.POINTWISE)
    if distribution == "none" and needs:
        raise ConfigError(f"distribution in {name} is 'none', but {model.__name__} learns from negative items")
    for key, least in (("sample_num", 1), ("candidate_num", 0)):
        if type(given.get(key)) is not int or given[key] < least:
            raise ConfigError(f"{key} in {name} is {given.get(key)!r}, but must be a whole number from {least}")
    if type(given.get("alpha")) not in (int, float):
        raise ConfigError(f"alpha in {name} is {given.get('alpha')!r}, but must be a number")
    if type(dynamic) is not bool:
        raise ConfigError(f"dynamic in {name} is {dynamic!r}, but must be True or False")
    if dynamic != (given["candidate_num"] > 0):
        raise ConfigError(f"{name} has dynamic {dynamic} and candidate_num {given['candidate_num']}: dynamic negative "
                          "sampling needs a candidate_num above 0, and nothing else reads it")  # fmt: skip
    if given["alpha"] != 1 and distribution != "popularity":
        raise ConfigError(f"alpha in {name} changes nothing, so leave it out: it is the power of distribution: "
                          "popularity")  # fmt: skip


@contextmanager
def recboles_own_errors(config: Any) -> Iterator[None]:
    """Makes one line of an error inside RecBole, with the data's settings that differ from the defaults."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        usual = config.internal_config_dict
        keys = (*dataset_arguments, "eval_args", "encoding")
        given = [f"{key}={config[key]}" for key in keys if config[key] != usual.get(key)]
        raise DatasetError(
            f"{config['dataset']}: RecBole can't use the data with these settings ({type(error).__name__}: {error}); "
            f"{'mend one of ' + ', '.join(given) if given else 'convert the raw dump again'}"
        ) from error

"""Every setting of RecBole is applied or refused: a wrong value is one error, and never an unchanged result."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config as RecBoleConfig
from recbole.model.general_recommender import BPR
from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_symcere.cli import train
from recbole_symcere.config import Config
from recbole_symcere.data.audit import audit
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.loaders import create_dataset, data_preparation
from recbole_symcere.errors import ConfigError, DatasetError, UserError
from recbole_symcere.model.symcere import SymCERE
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.recbole_settings import UNREAD, read_intervals
from recbole_symcere.recommend import recommend
from tests.conftest import parse_settings, tiny_rows, write_atomic_files

MakeConfig = Callable[..., Config]
RECBOLES = sorted({
    *general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments, "worker", "shuffle",
    "transform", "enable_amp", "enable_scaler", "require_pow", "numerical_features", "discretization", "kg_reverse_r",
    "entity_kg_num_interval", "relation_kg_num_interval", "encoding", "wandb_project",
} - {"config_file", "valid_metric_bigger"})  # fmt: skip
WRONG = ("wrong", -7, ["wrong"], {"wrong": "wrong"})
# Any text is right for these: a name, a folder that is made, or a word in a log.
ANY_TEXT = {"checkpoint_dir", "wandb_project", "gpu_id"}  # a number is read as text


def prepared(make_config: MakeConfig, **settings: Any) -> tuple[Config, Any]:
    """The configuration and the dataloaders of settings, as a run makes them."""
    config = make_config(**settings)
    return config, data_preparation(config, create_dataset(config))


@pytest.fixture
def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a short run of LightGCN."""
    kept = ("dataset", "data_path", "checkpoint_dir", "show_progress", "state")
    return {key: settings[key] for key in kept} | {"model": "LightGCN", "epochs": 1}


@pytest.mark.parametrize("key", RECBOLES)
def test_a_wrong_value_of_any_setting_of_recbole_is_an_error_or_shows_in_the_settings(
    key: str, plain: dict[str, Any]
) -> None:
    for value in WRONG:
        if isinstance(value, str | int) and key in ANY_TEXT:
            continue
        try:
            result = run_recbole_symcere(config_dict=plain | {key: value}, saved=False)
        except UserError as error:
            assert "\n" not in str(error) and (key in str(error) or "wrong" in str(error)), error
        else:
            pytest.fail(f"{key}={value!r} was taken: {result}")


@pytest.mark.parametrize("key", sorted(UNREAD))
def test_what_nothing_reads_is_refused_but_for_its_default_and_classes_of_users(key: str) -> None:
    default = Config("LightGCN", "demo").internal_config_dict.get(key)
    with pytest.raises(ConfigError, match=f"{key} changes nothing, so leave it out: "):
        Config("LightGCN", "demo", config_dict={key: "other"})
    assert Config("LightGCN", "demo", config_dict={key: default})

    class Own(BPR):
        """A class of a user, which may read what it likes."""

    values: dict[str, Any] = {"transform": "mask_itemseq", "discretization": {}, "kg_reverse_r": True}
    assert Config(Own, "demo", config_dict={key: values.get(key, default)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--eval_args={mode: labeled}", "mode in eval_args is 'labeled', but must be full, or uniN or popN"),
        ("--eval_args={mode: {test: uni0}}", "mode in eval_args is 'uni0'"),
        ("--eval_args={mode: {tset: full}}", "but can have the keys valid and test only"),
        ("--eval_args={mode: uni1}", "topk is [10, 20], but mode 'uni1' in eval_args ranks a positive item among 1"),
        ("--eval_args={mode: uni500}", "mode 'uni500' draws 500 items"),
        ("--eval_args={split: {LS: typo}}", "LS must be valid_and_test"),
        ("--eval_args={split: {LS: valid_only}}", "LS must be valid_and_test"),
        ("--eval_args={split: RS}", "split is 'RS', but must be one of RS, LS and TS"),
        ("--eval_args={split: {RS: [a, b, c]}}", "RS needs three parts"),
        ("--eval_args={split: {RS: [0.0, 0.0, 0.0]}}", "RS needs three parts"),
        ("--eval_args={split: {TS: [0.8, 0.1, 0.1]}, order: RO}", "TS splits by time: take TO"),
        ("--eval_args={split: {LS: valid_and_test}, group_by: none}", "LS always splits by user"),
        ("--train_neg_sample_args={sample_num: 0}", "sample_num in train_neg_sample_args is 0"),
        ("--train_neg_sample_args={distribution: unifrom}", "did you mean 'uniform'"),
        ("--train_neg_sample_args={distribution: none}", "LightGCN learns from negative items"),
        ("--train_neg_sample_args={dynamic: True}", "needs a candidate_num above 0"),
        ("--train_neg_sample_args={candidate_num: 3}", "nothing else reads it"),
        ("--train_neg_sample_args={alpha: 0.5}", "alpha in train_neg_sample_args changes nothing"),
        ("--clip_grad_norm={max_nrom: 5}", "clip_grad_norm is {'max_nrom': 5}, but must be such as {max_norm: 5"),
        ("--enable_amp=True", "enable_amp=True needs a GPU"),
        ("--enable_scaler=True", "enable_scaler changes nothing without enable_amp=True"),
        ("--threshold={rating: 100}", "threshold changes nothing, so leave it out: general recommenders take every"),
        ("--threshold={nofield: 4}", "threshold changes nothing"),
        ("--preload_weight={item_id: rating}", "preload_weight changes nothing"),
        ("--additional_feat_suffix=[link]", "additional_feat_suffix changes nothing"),
        ("--discretization={rating: {method: ED, bucket: 3}}", "discretization changes nothing"),
        ("--user_inter_num_interval=14", "user_inter_num_interval is 14, but must be an interval, such as '[5,inf)'"),
        ("--user_inter_num_interval=[20,14]", "no number lies in [20,14]"),
        ("--val_interval={rating: 4}", "val_interval of rating is 4, but must be an interval"),
        (
            "--val_interval={ratign: '[4,5]'}",
            "val_interval of ratign: no such column is loaded; did you mean 'rating'?",
        ),
        ("--val_interval={item_id: '[1,5]'}", "the column holds tokens: give a list of those to keep"),
        ("--val_interval={item_id: [i0, x1]}", "val_interval of item_id: there is no 'x1'"),
        ("--filter_inter_by_user_or_item=False", "filter_inter_by_user_or_item=False changes nothing"),
        (
            "--load_col={inter: [user_id, item_id, ratng, timestamp]}",
            "there is no column 'ratng', which load_col names",
        ),
        ("--load_col={inter: [user_id, item_id, rating]}", "timestamp is not loaded, but order: TO needs it"),
        ("--load_col={inter: '*', item: [item_id]}", "tiny.item: no such file, but load_col names its columns"),
        ("--load_col={itner: '*'}", "load_col names a file .itner; did you mean 'inter'?"),
        ("--unload_col={inter: [rating]}", "give one of them: --load_col=None loads all columns"),
        ("--unused_col={inter: [ratng]}", "unused_col names ratng"),
        ("--benchmark_filename=[train, test]", "name three parts"),
        ("--ITEM_ID_FIELD=user_id", "RecBole can't use the data with these settings (ValueError: "),
        ("--ITEM_ID_FIELD=user_id", "mend one of ITEM_ID_FIELD=user_id"),
        ("--topk=[0]", "topk is [0], but must be whole numbers from 1"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_key_and_the_mend(
    given: str, message: str, plain: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert train([f"--{key}={value}" for key, value in plain.items()] + [given]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0], errors


# What is applied


def test_recboles_own_form_of_an_interval_works_on_the_command_line(make_config: MakeConfig) -> None:
    _, settings = parse_settings(["--user_inter_num_interval=[6,8]"])
    _, (train_data, valid_data, test_data) = prepared(make_config, **settings)
    parts = (train_data, valid_data, test_data)
    users = [user for part in parts for user in part._dataset.inter_feat["user_id"].tolist()]
    assert {users.count(user) for user in set(users)} <= {6, 7, 8}


@given(st.integers(-99, 99), st.integers(-99, 99), st.sampled_from("[("), st.sampled_from("])"))
def test_an_interval_is_read_as_recbole_reads_it_or_refused_where_it_holds_nothing(
    low: int, high: int, left: str, right: str
) -> None:
    text = f"{left}{low},{high}{right}"
    holds = low < high or (low == high and (left, right) == ("[", "]"))
    if holds:
        assert read_intervals("key", text) == text
    else:
        with pytest.raises(ConfigError, match="no number lies in"):
            read_intervals("key", text)


def test_columns_can_be_loaded_by_what_is_left_out(make_config: MakeConfig) -> None:
    config, (train_data, *_) = prepared(make_config, load_col=None, unload_col={"inter": ["rating"]})
    assert "rating" not in train_data._dataset.inter_feat and "review_id" in train_data._dataset.inter_feat
    assert Config(config_dict=config.settings).settings == config.settings


def test_tokens_to_keep_may_be_numbers(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [(user[1:], item[1:], *rest) for user, item, *rest in tiny_rows()]
    write_atomic_files(tmp_path / "own", rows)
    kept = {"item_id": list(range(20))}
    config, loaders = prepared(make_config, dataset="own", data_path=str(tmp_path), val_interval=kept)
    tokens = {str(token) for token in loaders[0]._dataset.field2id_token["item_id"][1:]}
    assert tokens and tokens <= set(map(str, range(20)))
    assert kept == config["val_interval"] == {"item_id": list(range(20))}, "what the caller gave stays as it was"


def test_gradients_are_clipped_and_negatives_are_dynamic(plain: dict[str, Any]) -> None:
    usual = run_recbole_symcere(config_dict=plain, saved=False)["test_result"]
    for changes in (
        {"clip_grad_norm": {"max_norm": 1e-6}, "learner": "sgd"},
        {"train_neg_sample_args": {"dynamic": True, "candidate_num": 5}},
        {"train_neg_sample_args": {"sample_num": 3}},
        {"train_neg_sample_args": {"distribution": "popularity", "alpha": 0.5}},
    ):
        assert run_recbole_symcere(config_dict=plain | changes, saved=False)["test_result"] != usual


def test_negatives_are_those_of_recboles_defaults() -> None:
    ours, theirs = Config("BPR", "demo"), RecBoleConfig("BPR", "demo")
    assert ours["train_neg_sample_args"] == theirs["train_neg_sample_args"]


# Files


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "user_id:token\titem_id:token\trating:float\ttimestamp:token\treview_id:token",
            "timestamp has the type token",
        ),
        ("user_id:float\titem_id:token\trating:float\ttimestamp:float\treview_id:token", "user_id has the type float"),
        ("user_id:token\titem_id:token\trating:float\ttimestamp:float\treview_id:token_seq", "must be review_id:token"),
        ("user_id:token\titem_id:token\trating\ttimestamp:float\treview_id:token", "expected columns `name:type`"),
    ],
)
def test_a_column_of_another_type_is_named(header: str, message: str, make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own", tiny_rows())
    file = folder / "own.inter"
    file.write_text("\n".join([header, *file.read_text().splitlines()[1:], ""]))
    with pytest.raises(DatasetError, match=rf"own\.inter, line 1: .*{message}"):
        ReviewDataset(make_config(dataset="own", data_path=str(tmp_path)))


@pytest.mark.parametrize(("line", "values"), [("u1\ti1\t5.0\t1.0\tr_x\tmore", 6), ("u1\ti1\t5.0\t1.0", 4)])
def test_a_line_of_another_width_is_named(line: str, values: int, make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own", tiny_rows())
    file = folder / "own.inter"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:4], line, *lines[4:], ""]))
    with pytest.raises(DatasetError, match=rf"own\.inter, line 5: {values} values for 5 columns"):
        ReviewDataset(make_config(dataset="own", data_path=str(tmp_path)))


def test_a_byte_order_mark_is_read(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own", tiny_rows())
    file = folder / "own.inter"
    without = create_dataset(make_config(dataset="own", data_path=str(tmp_path))).inter_feat
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert create_dataset(make_config(dataset="own", data_path=str(tmp_path))).inter_feat.equals(without)


def test_a_file_in_another_encoding_is_read_alike(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own", [("ü" + user, *rest) for user, *rest in tiny_rows()])
    file = folder / "own.inter"
    given = {"dataset": "own", "data_path": str(tmp_path)}
    usual = create_dataset(make_config(**given))
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-16")
    other = create_dataset(make_config(**given, encoding="utf-16"))
    assert other.inter_feat.equals(usual.inter_feat)
    assert other.field2id_token["user_id"].tolist() == usual.field2id_token["user_id"].tolist()


def test_items_that_nobody_met_are_counted(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_atomic_files(tmp_path / "own", tiny_rows())
    items = sorted({item for _, item, *_ in tiny_rows()})
    (folder / "own.item").write_text("\n".join(["item_id:token", *items, "new1", "new2", ""]))
    load = {"inter": ["user_id", "item_id", "timestamp", "review_id"], "item": ["item_id"]}
    with caplog.at_level("WARNING"):
        create_dataset(make_config(dataset="own", data_path=str(tmp_path), load_col=load))
    assert f"2 of {len(items) + 2} items in" in caplog.text and "nothing trains them" in caplog.text


def test_a_word_for_a_number_in_the_features_of_items_is_named_with_its_line(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = write_atomic_files(tmp_path / "own", tiny_rows())
    (folder / "own.item").write_text("item_id:token\tprice:float\ni1\t2.5\ni2\tcheap\n")
    with pytest.raises(DatasetError, match=r"own\.item, line 3: price is 'cheap', not a number; mend it"):
        ReviewDataset(make_config(dataset="own", data_path=str(tmp_path), load_col=None))


PARTS = ("train", "valid", "test")


@pytest.fixture
def own_split(tmp_path: Path) -> Path:
    """A split of the user's own, without times."""
    rows = tiny_rows()
    folder = write_atomic_files(tmp_path / "own", rows)
    lines = (folder / "own.inter").read_text().splitlines()
    head, body = lines[0].split("\t"), [line.split("\t") for line in lines[1:]]
    columns = [0, 1, 4]
    for number, part in enumerate(PARTS):
        chosen = [line for place, line in enumerate(body) if min(place % 10, 2) == (2, 0, 1)[number]]
        text = "\n".join("\t".join(line[column] for column in columns) for line in [head, *chosen])
        (folder / f"own.{part}.inter").write_text(text + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"val_interval": {"item_id": ["i1"]}}, "val_interval"),
        ({"user_inter_num_interval": "[2,inf)"}, "user_inter_num_interval"),
        ({"item_inter_num_interval": "[2,inf)"}, "item_inter_num_interval"),
        ({"rm_dup_inter": "last"}, "rm_dup_inter"),
        ({"filter_inter_by_user_or_item": False}, "filter_inter_by_user_or_item"),
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}}, "split in eval_args"),
        ({"eval_args": {"order": "RO"}}, "order in eval_args"),
    ],
)
def test_filters_and_splits_beside_a_split_of_ones_own_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"so {named} would do nothing: filter or split the files"):
        Config("LightGCN", "own", config_dict={"benchmark_filename": list(PARTS), **changes})


def test_a_split_of_ones_own_needs_no_times_and_the_audit_says_that_it_could_not_look(
    plain: dict[str, Any], own_split: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = plain | {"dataset": "own", "data_path": str(own_split), "benchmark_filename": list(PARTS)}
    config = Config(config_dict=settings | {"load_col": {"inter": ["user_id", "item_id"]}, "state": "INFO"})
    with caplog.at_level("INFO"):
        data_preparation(config, create_dataset(config))
    assert "time inversions not checked, since no times are loaded" in caplog.text


# What is said


def test_a_sample_of_items_is_said_with_the_results(plain: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    sampled = plain | {"state": "INFO", "topk": [5], "valid_metric": "NDCG@5"}
    for mode, said in (("uni5", "5 items for each positive one, drawn uniformly (uni5)"), ("full", None)):
        assert train([f"--{key}={value}" for key, value in (sampled | {"eval_args": f"{{mode: {mode}}}"}).items()]) == 0
        output = capfd.readouterr()
        assert ("Not all items are ranked" in output.out + output.err) == (said is not None)
        assert said is None or said in output.out + output.err


def test_users_and_items_that_never_trained_are_counted_and_named(
    plain: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = tiny_rows()
    last = max(time for *_, time, _, _ in rows)
    new = [("u_new", "i1", 5.0, last + 60.0, "r_a", "good"), ("u_new", "i_new", 5.0, last + 120.0, "r_b", "good")]
    write_atomic_files(tmp_path / "own", [*rows, *new])
    settings = plain | {"dataset": "own", "data_path": str(tmp_path), "protocol": "temporal"}
    settings |= {"checkpoint_file": str(tmp_path / "x.pth"), "state": "WARNING"}
    config = Config(config_dict=settings)
    train_part, _, test_part = create_dataset(config).build()
    met = {field: set(train_part.inter_feat[field].tolist()) for field in ("user_id", "item_id")}
    strangers = {field: set(test_part.inter_feat[field].tolist()) - met[field] for field in met}
    found = audit(*create_dataset(config).build())
    told = found.strangers["test"]
    assert (told.users, told.items) == tuple(map(len, strangers.values()))
    assert told.users and told.items and not found.leaks
    assert f"test: {told.users} users (" in str(found)
    run_recbole_symcere(config_dict=settings)
    capfd.readouterr()
    popular = recommend(tmp_path / "x.pth", ["u_new", "u1"], 40)["u_new"]
    output = "".join(capfd.readouterr())
    told_of = "1 of 2 users have no training interaction, so they get the items that were popular recently (half-life "
    assert told_of in output and "days): u_new" in output
    assert "i_new" not in dict(popular), "nobody had met the item before the cut"
    counts = Counter(item for user, item, *_ in rows)
    in_order = [item for item, _ in popular]
    assert sum(counts[item] for item in in_order[:5]) > sum(counts[item] for item in in_order[-5:])
    unlike = {"candidates": "all", "cold_users": "model", "refit": False, "checkpoint_file": str(tmp_path / "y.pth")}
    run_recbole_symcere(config_dict=settings | unlike)
    capfd.readouterr()
    recommend(tmp_path / "y.pth", ["u_new", "u1"], 40)
    output = "".join(capfd.readouterr())
    assert "1 of 2 users have no training interaction, so the model knows nothing of them: u_new" in output
    assert "recommended items have no training interaction" in output


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("yelp", "`symcere prep --dataset yelp --input yelp_dataset.tar --output"),
        ("nothing", "(SOURCE is one of amazon, demo, rakuten-travel, table, yelp)"),
    ],
)
def test_a_dataset_that_is_not_there_comes_with_the_command_that_makes_it(
    plain: dict[str, Any], name: str, command: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        create_dataset(Config(config_dict=plain | {"dataset": name}))
    assert command in str(caught.value)


def test_what_training_a_language_model_costs_is_said_before_it_begins(
    settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    quick = settings | {"epochs": 1, "state": "INFO"}
    for train_text in ("lora", "frozen"):
        run_recbole_symcere(config_dict=quick | {"text_train": train_text})
        output = "".join(capfd.readouterr())
        cost = output.find("text_train=lora trains")
        assert (cost >= 0) == (train_text == "lora")
        if cost >= 0:
            assert cost < output.find("epoch 0 training")
            assert "tokens should take about 00:0" in output and "Much faster: --text_train=frozen" in output


def test_to_say_what_an_epoch_costs_changes_no_result(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = settings | {"epochs": 1, "text_train": "lora", "state": "INFO"}
    said = run_recbole_symcere(config_dict=quick)
    monkeypatch.setattr(SymCERE, "cost_of_an_epoch", lambda self: None)
    assert run_recbole_symcere(config_dict=quick) == said

"""Every interaction keeps its own review, whatever RecBole does to the rows."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recbole.data.utils import create_samplers, get_dataloader, load_split_dataloaders, save_split_dataloaders

import recbole_symcere
from recbole_symcere.config import Config
from recbole_symcere.data import fingerprint
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.fingerprint import source_fingerprint
from recbole_symcere.errors import ConfigError, DatasetError
from recbole_symcere.quick_start import create_dataset, data_preparation
from tests.conftest import START, Row, tiny_rows, write_atomic_files

MakeConfig = Callable[..., Config]


def assert_reviews_belong(part: ReviewDataset) -> None:
    """The tiny dataset's reviews begin with their user and item, so a strayed text shows."""
    feat = part.inter_feat
    users = part.id2token("user_id", feat["user_id"].numpy())
    items = part.id2token("item_id", feat["item_id"].numpy())
    texts = part.review_texts()
    assert len(texts) == len(part) > 0
    for user, item, text, row in zip(users, items, texts, part.review_rows()[feat["review_id"]], strict=True):
        assert text.startswith(f"{user} {item} ")
        assert texts[row] == text


rows_of_any_kind = st.lists(
    st.tuples(
        st.integers(0, 5),  # user
        st.integers(0, 5),  # item
        st.integers(1, 5),  # rating
        st.integers(0, 8),  # seconds after START: many ties
        st.text(st.characters(blacklist_categories=["Cs"]), max_size=8),
    ),
    min_size=12,
    max_size=60,
)


def as_rows(drawn: list[tuple[int, int, int, int, str]]) -> list[Row]:
    return [
        (f"u{user}", f"i{item}", float(rating), float(START + seconds), f"r{number}", f"u{user} i{item} {text}")
        for number, (user, item, rating, seconds, text) in enumerate(drawn)
    ]


@pytest.mark.parametrize("order", ["TO", "RO"])
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=rows_of_any_kind,
    keep=st.sampled_from([None, "first", "last"]),
    filters=st.sampled_from(
        [
            {},
            {"user_inter_num_interval": "[2,inf)"},
            {"val_interval": {"rating": "[2,inf)"}},
            {"unused_col": {"inter": ["rating"]}},
        ]
    ),
    split=st.sampled_from([{"RS": [0.7, 0.1, 0.2]}, {"LS": "valid_and_test"}]),
)
def test_reviews_follow_their_interactions_through_filtering_sorting_and_splitting(
    tmp_path_factory: pytest.TempPathFactory,
    make_config: MakeConfig,
    order: str,
    drawn: list,
    keep: str | None,
    filters: dict[str, Any],
    split: dict[str, Any],
) -> None:
    folder = write_atomic_files(tmp_path_factory.mktemp("drawn") / "drawn", as_rows(drawn))
    changes = filters | {"rm_dup_inter": keep, "eval_args": {"split": split, "order": order}}
    config = make_config(dataset="drawn", data_path=str(folder.parent), **changes)
    try:
        dataset = ReviewDataset(config)
    except DatasetError as error:
        assert "no interaction is left" in str(error)
        return
    parts = dataset.build()
    pickled = pickle.loads(pickle.dumps(parts[0]))  # noqa: S301 - our own
    for part in (*parts, copy.copy(parts[0]), pickled):
        if len(part):
            assert_reviews_belong(part)
    ids = np.concatenate([part.inter_feat["review_id"].numpy() for part in parts])
    assert len(ids) == len(set(ids)) == len(dataset)


def test_training_batches_carry_the_review_of_the_positive(make_config: MakeConfig) -> None:
    config = make_config()
    train_data, _, _ = data_preparation(config, create_dataset(config))
    part = train_data._dataset
    texts, rows = part.review_texts(), part.review_rows()
    for batch in train_data:
        for user, item, review in zip(batch["user_id"], batch["item_id"], batch["review_id"], strict=True):
            expected = f"{part.id2token('user_id', user)} {part.id2token('item_id', item)} "
            assert texts[rows[review]].startswith(expected)


def test_reviews_survive_saved_datasets_and_dataloaders(make_config: MakeConfig, tmp_path: Path) -> None:
    saved = tmp_path / "saved" / "tiny-ReviewDataset.pth"
    create_dataset(make_config(save_dataset=True))
    config = make_config(dataset_save_path=str(saved), trust_pickles=True)
    dataset = create_dataset(config)
    assert dataset.source == source_fingerprint(config), "the pickle was not used"
    parts = dataset.build()
    for part in parts:
        assert_reviews_belong(part)

    samplers = create_samplers(config, dataset, parts)
    loaders = [
        get_dataloader(config, phase)(config, part, sampler)
        for phase, part, sampler in zip(("train", "valid", "test"), parts, samplers, strict=True)
    ]
    save_split_dataloaders(config, loaders)
    for loader in load_split_dataloaders(config):
        assert_reviews_belong(loader._dataset)


@pytest.mark.parametrize("change", ["file", "setting"])
def test_a_stale_saved_dataset_is_not_used(make_config: MakeConfig, tmp_path: Path, change: str) -> None:
    folder = write_atomic_files(tmp_path / "own" / "own", tiny_rows())
    first = make_config(dataset="own", data_path=str(folder.parent), save_dataset=True)
    before = create_dataset(first)
    if change == "file":
        write_atomic_files(folder, tiny_rows(seed=1))
    further = {"trust_pickles": True} | ({"user_inter_num_interval": "[9,inf)"} if change == "setting" else {})
    path = tmp_path / "saved" / "own-ReviewDataset.pth"
    config = make_config(dataset="own", data_path=str(folder.parent), dataset_save_path=str(path), **further)
    assert len(create_dataset(config)) == len(ReviewDataset(config)) != len(before)


def test_a_saved_dataset_is_read_only_where_the_user_says_so(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    for name in ("tiny-ReviewDataset.pth", "tiny-Dataset.pth", "tiny-for-SymCERE-dataloader.pth"):
        (tmp_path / "saved" / name).write_bytes(b"not a pickle")
    config = make_config()
    data_preparation(config, create_dataset(config))


@pytest.mark.parametrize("keep", [None, "first"])  # to remove duplicates sorts the rows as well
def test_events_seconds_apart_stay_in_order_and_ties_keep_the_file_order(
    make_config: MakeConfig, tmp_path: Path, keep: str | None
) -> None:
    rng = np.random.default_rng(0)
    seconds = rng.permutation(np.repeat(np.arange(30), 2))  # each moment twice
    rows = [
        ("u0", f"i{number}", 1.0, float(START + 0.25 * second), f"r{number}", f"u0 i{number} x")
        for number, second in enumerate(seconds)
    ]
    folder = write_atomic_files(tmp_path / "order" / "order", rows)
    changes = {"rm_dup_inter": keep, "tie_break": "file"}
    parts = ReviewDataset(make_config(dataset="order", data_path=str(folder.parent), **changes)).build()
    order = np.concatenate([part.id2token("review_id", part.inter_feat["review_id"]) for part in parts])
    expected = [f"r{number}" for number in np.argsort(seconds, kind="stable")]
    assert order.tolist() == expected


def test_only_the_texts_of_the_part_are_read(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    from recbole_symcere.data import dataset as module

    original = module.read_reviews
    monkeypatch.setattr(module, "read_reviews", lambda path, ids: asked.extend(ids) or original(path, ids))
    train, valid, test = ReviewDataset(make_config()).build()
    train.review_texts()
    held_out = {token for part in (valid, test) for token in part.id2token("review_id", part.inter_feat["review_id"])}
    assert asked and held_out and not held_out & set(asked)
    for part in (valid, test):
        with pytest.raises(IndexError):
            torch.zeros(len(train))[train.review_rows()[part.inter_feat["review_id"][0]]]
        assert (train.review_rows()[part.inter_feat["review_id"]] == len(train)).all()


@pytest.mark.parametrize("model", ["LightGCN", "SymCERE"])
def test_every_model_meets_the_same_split_and_negatives(make_config: MakeConfig, model: str) -> None:
    def first_batches(model: str) -> list[torch.Tensor]:
        config = make_config(model=model)
        loaders = data_preparation(config, create_dataset(config))
        np.random.seed(5)
        batch = next(iter(loaders[0]))
        held_out = [loader._dataset.inter_feat["item_id"] for loader in loaders]
        return [batch["user_id"], batch["item_id"], batch["neg_item_id"], *held_out]

    for ours, theirs in zip(first_batches(model), first_batches("BPR"), strict=True):
        assert torch.equal(ours, theirs)


def test_baselines_need_no_review_file_and_no_review_column(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [line.rsplit("\t", 1)[0] for line in _inter_lines(make_config())]
    folder = tmp_path / "plain" / "plain"
    folder.mkdir(parents=True)
    (folder / "plain.inter").write_text("\n".join(rows) + "\n")
    dataset = ReviewDataset(make_config(model="LightGCN", dataset="plain", data_path=str(folder.parent)))
    train = dataset.build()[0]
    assert not train.has_reviews
    with pytest.raises(DatasetError, match=r"plain\.inter: no column review_id"):
        train.review_texts()


def _inter_lines(config: Config) -> list[str]:
    return (Path(config["data_path"]) / "tiny.inter").read_text().splitlines()


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        (
            3,
            "u0\ti1\t4.0\t1600000000.0\tr0",
            r"own\.inter, line 4: review_id 'r0' is already in \S*own\.inter, line 2",
        ),
        (3, "u0\ti1\t4.0\t1600000000.0\t", r"own\.inter, line 4: no review_id"),
        (3, "u0\ti1\t4.0\t\tr999", r"own\.inter, line 4: no timestamp"),
        (3, "u0\ti1\t4.0\tyesterday\tr999", r"own\.inter, line 4: timestamp is 'yesterday', not a number"),
        (3, '"u0\ti1\t4.0\t1.0\tr999', r"own\.inter, line 4: user_id begins with a quotation mark"),
        (
            0,
            "user_id:token\titem_id:token\trating:float\twhen:float\treview_id:token",
            r"own\.inter, line 1: .*timestamp",
        ),
        (0, "user_id\titem_id\trating\ttimestamp\treview_id", r"own\.inter, line 1: .*name:type"),
    ],
)
def test_unusable_files_are_named_with_their_line(
    make_config: MakeConfig, tmp_path: Path, line: int, replacement: str, message: str
) -> None:
    lines = _inter_lines(make_config())
    lines[line] = replacement
    folder = tmp_path / "own" / "own"
    folder.mkdir(parents=True)
    (folder / "own.inter").write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match=message):
        ReviewDataset(make_config(dataset="own", data_path=str(folder.parent)))


def test_a_missing_dataset_says_how_to_make_it(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nothing\.inter: no such file; .*symcere prep"):
        ReviewDataset(make_config(dataset="nothing", data_path=str(tmp_path)))


def test_a_file_without_rows_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.inter").write_text(_inter_lines(make_config())[0] + "\n")
    with pytest.raises(DatasetError, match=r"own\.inter: a header without a row"):
        ReviewDataset(make_config(dataset="own", data_path=str(tmp_path)))


def write_parts(folder: Path, rows: list[Row], parts: dict[str, slice]) -> None:
    """Writes a dataset that is split already."""
    write_atomic_files(folder, rows)
    whole = folder / f"{folder.name}.inter"
    header, *lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in parts.items():
        (folder / f"{folder.name}.{name}.inter").write_text("".join([header, *lines[part]]), encoding="utf-8")
    whole.unlink()


PARTS = {"train": slice(0, 300), "valid": slice(300, 330), "test": slice(330, None)}


@pytest.mark.parametrize(
    ("part", "number", "line", "message"),
    [
        ("valid", 3, "u0\ti1\tmany\t1600000000.0\tr_a", r"own\.valid\.inter, line 3: rating is 'many'"),
        ("test", 2, "u0\ti1\t4.0\t\tr_a", r"own\.test\.inter, line 2: no timestamp"),
        ("test", 4, "u0\ti1\t4.0\t1600000000.0\tr0", r"own\.test\.inter, line 4: .*own\.train\.inter, line 2"),
        ("valid", 1, "user_id\titem_id", r"own\.valid\.inter, line 1: expected columns"),
    ],
)
def test_a_fault_in_a_part_is_named_with_the_parts_own_file_and_line(
    make_config: MakeConfig, tmp_path: Path, part: str, number: int, line: str, message: str
) -> None:
    write_parts(tmp_path / "own", tiny_rows(), PARTS)
    file = tmp_path / "own" / f"own.{part}.inter"
    lines = file.read_text().splitlines()
    lines[number - 1] = line
    file.write_text("\n".join([*lines, ""]))
    with pytest.raises(DatasetError, match=message):
        create_dataset(make_config(dataset="own", data_path=str(tmp_path), benchmark_filename=list(PARTS)))


def test_a_part_that_is_missing_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    write_parts(tmp_path / "own", tiny_rows(), PARTS)
    config = make_config(dataset="own", data_path=str(tmp_path), benchmark_filename=["train", "vaild", "test"])
    with pytest.raises(DatasetError, match=r"own\.vaild\.inter: no such file, but benchmark_filename names this part"):
        create_dataset(config)


def test_the_fingerprint_does_not_depend_on_the_version(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = source_fingerprint(make_config())
    monkeypatch.setattr(recbole_symcere, "__version__", "99.0")
    assert source_fingerprint(make_config()) == before
    monkeypatch.setattr(fingerprint, "FORMAT", fingerprint.FORMAT + 1)
    assert source_fingerprint(make_config()) != before


@pytest.mark.parametrize("name", ["own", "x[1]", "a*b", "what?"])
def test_a_changed_file_changes_the_fingerprint_whatever_the_dataset_is_called(
    make_config: MakeConfig, tmp_path: Path, name: str
) -> None:
    write_atomic_files(tmp_path / name, tiny_rows())
    config = make_config(dataset=name, data_path=str(tmp_path))
    before = source_fingerprint(config)
    with (tmp_path / name / f"{name}.inter").open("a") as file:
        file.write("u0\ti29\t4.0\t1700000000.0\tr9999\n")
    assert source_fingerprint(config) != before


@pytest.mark.parametrize("names", ["train", ["train", "test"], ["train", "valid", 3]])
def test_a_split_of_other_than_three_parts_is_refused(make_config: MakeConfig, tmp_path: Path, names: Any) -> None:
    write_parts(tmp_path / "own", tiny_rows(), PARTS)
    with pytest.raises(ConfigError, match=r"benchmark_filename is .*name three parts"):
        make_config(dataset="own", data_path=str(tmp_path), benchmark_filename=names)


def test_a_part_without_reviews_is_named_when_reviews_are_asked_for(make_config: MakeConfig, tmp_path: Path) -> None:
    write_parts(tmp_path / "own", tiny_rows(), PARTS)
    for part in PARTS:
        path = tmp_path / "own" / f"own.{part}.inter"
        path.write_text("".join(line.rsplit("\t", 1)[0] + "\n" for line in path.read_text().splitlines()))
    config = make_config(model="LightGCN", dataset="own", data_path=str(tmp_path), benchmark_filename=list(PARTS))
    train = ReviewDataset(config).build()[0]
    with pytest.raises(DatasetError, match=r"own\.train\.inter: no column review_id"):
        train.review_texts()


def test_blank_lines_before_a_fault_count(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own", tiny_rows())
    lines = (folder / "own.inter").read_text().splitlines()
    lines[3] = "\n\nu0\ti1\t4.0\t1600000000.0\t"
    (folder / "own.inter").write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match=r"own\.inter, line 6: no review_id"):
        ReviewDataset(make_config(dataset="own", data_path=str(tmp_path)))


def test_a_folder_beside_the_files_of_a_dataset_is_no_part_of_it(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_atomic_files(tmp_path / "own", tiny_rows())
    config = make_config(dataset="own", data_path=str(tmp_path))
    before = source_fingerprint(config)
    (folder / "own.old").mkdir()
    assert source_fingerprint(config) == before


def test_a_user_who_has_met_every_item_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [row for row in tiny_rows() if row[0] != "u4"]
    rows += [("u4", f"i{n}", 4.0, float(2_000_000_000 + n), f"all{n}", "love it") for n in range(30)]
    folder = write_atomic_files(tmp_path / "own" / "own", rows)
    for loader in ("device", "recbole"):
        config = make_config(dataset="own", data_path=str(folder.parent), loader=loader)
        with pytest.raises(DatasetError, match="no negative item can be drawn for user 'u4', who has met all 30 items"):
            data_preparation(config, create_dataset(config))

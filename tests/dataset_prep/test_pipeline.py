"""What is kept, and in which order."""

import datetime
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import Filters, PreparationError, pipeline, prepare
from dataset_prep.sources import amazon
from tests.dataset_prep.rows import (
    EVERYTHING,
    START,
    Interaction,
    amazon_line,
    amazon_lines,
    read_dataset,
    read_statistics,
    scratch_engine,
    scratch_folder,
)

DAY = 86_400
FIRST_DAY = datetime.datetime.fromtimestamp(START, datetime.timezone.utc).date()

interactions = st.lists(
    st.builds(
        Interaction,
        user=st.sampled_from([*"abcde", *"abcde", ""]),
        item=st.sampled_from([*"vwxyz", *"vwxyz", ""]),
        rating=st.sampled_from([None, 1.0, 4.5]),
        time=st.sampled_from([START, START + 0.001, START + 0.25, START + DAY, START + 2 * DAY]),
        review=st.sampled_from(["", " \u3000\n", "one", "one two", "one\ntwo three", "ひとつ"]),
    ),
    min_size=30,
    max_size=60,
)
filters = st.builds(
    Filters,
    user_core=st.integers(0, 3),
    item_core=st.integers(0, 3),
    duplicates=st.sampled_from(["first", "last", "keep"]),
    missing_text=st.sampled_from(["drop", "keep"]),
    min_words=st.sampled_from([0, 0, 0, 1, 2]),
    start=st.sampled_from([None, FIRST_DAY, FIRST_DAY + datetime.timedelta(days=1)]),
    end=st.sampled_from([None, FIRST_DAY + datetime.timedelta(days=1), FIRST_DAY + datetime.timedelta(days=2)]),
    max_users=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 3),
)


def slow_reference(rows: Sequence[Interaction], keep: Filters) -> list[Interaction]:
    """The promise of ``Filters``, row by row."""
    kept = [row for row in rows if row.user and row.item and _is_wanted(row, keep)]
    if keep.duplicates != "keep":
        by_time = sorted(kept, key=lambda row: row.time)
        pairs = {(row.user, row.item): row for row in (by_time if keep.duplicates == "last" else reversed(by_time))}
        chosen = {id(row) for row in pairs.values()}
        kept = [row for row in kept if id(row) in chosen]
    kept = slow_core(kept, keep)
    if keep.max_users is not None:
        drawn = sorted(
            {row.user for row in kept}, key=lambda user: hashlib.md5(f"{keep.seed}:{user}".encode()).digest()
        )
        kept = slow_core([row for row in kept if row.user in drawn[: keep.max_users]], keep)
    return sorted(kept, key=lambda row: row.time)


def _is_wanted(row: Interaction, keep: Filters) -> bool:
    n_words = len(row.review.split())
    day = datetime.datetime.fromtimestamp(row.time, datetime.timezone.utc).date()
    return (
        (n_words > 0 or keep.missing_text == "keep")
        and n_words >= keep.min_words
        and (keep.start is None or day >= keep.start)
        and (keep.end is None or day <= keep.end)
    )


def slow_core(rows: list[Interaction], keep: Filters) -> list[Interaction]:
    while True:
        users, items = Counter(row.user for row in rows), Counter(row.item for row in rows)
        left = [row for row in rows if users[row.user] >= keep.user_core and items[row.item] >= keep.item_core]
        if len(left) == len(rows):
            return rows
        rows = left


@settings(deadline=None, max_examples=40)
@given(rows=interactions, keep=filters)
def test_what_is_kept_equals_a_slow_reference_row_by_row(rows: list[Interaction], keep: Filters) -> None:
    expected = slow_reference(rows, keep)
    with scratch_folder() as folder:
        raw = folder / "raw.json"
        raw.write_text(amazon_lines(rows), encoding="utf-8")
        if not expected:
            with pytest.raises(PreparationError, match="no interaction is left"):
                prepare(amazon.SOURCE, [raw], folder / "made", filters=keep)
            return
        prepare(amazon.SOURCE, [raw], folder / "made", filters=keep)
        assert read_dataset(folder / "made") == expected


@pytest.mark.parametrize(("duplicates", "kept"), [("first", "b"), ("last", "d"), ("keep", "bcad")])
def test_of_a_repeated_pair_time_and_then_input_order_choose_the_row(
    duplicates: str, kept: str, tmp_path: Path
) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text(
        "".join(amazon_line("u", "i", text, START + later) for text, later in zip("abcd", (1, 0, 0, 1), strict=True))
    )
    keep = Filters(user_core=0, item_core=0, duplicates=duplicates)
    prepare(amazon.SOURCE, [raw], tmp_path / "made", filters=keep)
    assert "".join(row.review for row in read_dataset(tmp_path / "made")) == kept


def test_drawn_users_are_whole_and_the_k_core_is_theirs(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text("".join(amazon_line(user, item) for user in "abcdef" for item in (f"{user}2", f"{user}2", "all")))
    drawn = set()
    for seed in range(5):
        keep = Filters(user_core=1, item_core=2, duplicates="keep", max_users=1, seed=seed)
        prepare(amazon.SOURCE, [raw], tmp_path / "made", filters=keep)
        rows = read_dataset(tmp_path / "made")
        assert [row.item for row in rows] == [f"{rows[0].user}2"] * 2  # the item that all share has one row left
        drawn.add(rows[0].user)
    assert len(drawn) > 1


def test_a_chain_in_which_each_loss_causes_the_next_is_peeled_to_its_end(tmp_path: Path) -> None:
    links = [(f"u{n}", f"i{n + step}") for n in range(30) for step in (0, 1)]  # u0-i0 hangs on one thread
    square = [(f"s{n}", f"t{m}") for n in range(2) for m in range(2)]
    raw = tmp_path / "raw.json"
    raw.write_text("".join(amazon_line(user, item) for user, item in (*links, *square)))
    prepare(amazon.SOURCE, [raw], tmp_path / "made", filters=Filters(user_core=2, item_core=2))
    assert sorted((row.user, row.item) for row in read_dataset(tmp_path / "made")) == square


def test_each_step_takes_what_the_one_before_gave(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    rows = [amazon_line("u", "i", text, START + n) for n, text in enumerate(["", "one", "one two", "one two", "a b c"])]
    raw.write_text(
        "".join(rows) + amazon_line("", "i") + amazon_line("v", "i", "one two three", START + 9 * DAY) + "{\n"
    )
    keep = Filters(
        user_core=1, item_core=1, min_words=2, start=FIRST_DAY, end=FIRST_DAY + datetime.timedelta(days=1), max_users=1
    )
    statistics = prepare(amazon.SOURCE, [raw], tmp_path / "made", filters=keep, skip_broken=True)
    passed = [step["rows_in"] for step in statistics["steps"]] + [statistics["reviews"]]
    assert passed[1:] == [step["rows_out"] for step in statistics["steps"]]
    # read, sound, with user and item, with text, with two words, since the first day, until the last, first of a pair
    assert passed[:8] == [8, 7, 6, 5, 4, 4, 3, 1]


def test_an_empty_result_says_which_step_took_the_rows(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text(amazon_line("u", "i") + amazon_line("v", "i"))
    with pytest.raises(
        PreparationError, match=r"no interaction is left \(.*k-core, users 5, items 5: 2 -> 0\); loosen"
    ):
        prepare(amazon.SOURCE, [raw], tmp_path / "made")


def test_ties_in_time_keep_the_order_of_the_files_and_of_their_rows(tmp_path: Path) -> None:
    first, second = tmp_path / "z.json", tmp_path / "a.json"
    first.write_text("".join(amazon_line(f"u{n}", "i") for n in range(3000)))
    second.write_text("".join(amazon_line(f"v{n}", "i") for n in range(3000)) + amazon_line("w", "i", time=START - 1))
    prepare(amazon.SOURCE, [first, second], tmp_path / "made", filters=EVERYTHING)
    users = [row.user for row in read_dataset(tmp_path / "made")]
    assert users == ["w", *(f"u{n}" for n in range(3000)), *(f"v{n}" for n in range(3000))]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"duplicates": "some"}, "duplicates is 'some'; choose one of first, last, keep"),
        ({"missing_text": "no"}, "missing_text is 'no'"),
        ({"user_core": -1}, "user_core is -1"),
        ({"max_users": 0}, "max_users is 0"),
        ({"start": FIRST_DAY, "end": FIRST_DAY - datetime.timedelta(days=1)}, "is after the last"),
    ],
)
def test_filters_out_of_range_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(PreparationError, match=message):
        Filters(**wrong)


def test_statistics_count_what_the_files_hold(tmp_path: Path) -> None:
    rows = [
        Interaction("a", "x", 5.0, START, "one two"),
        Interaction("a", "y", None, START, "one two"),
        Interaction("a", "x", 1.0, START + 0.5, ""),
        Interaction("b", "x", 2.0, START, "one\ntwo three four"),
    ]
    raw = tmp_path / "raw.json"
    raw.write_text(amazon_lines(rows))
    made = prepare(amazon.SOURCE, [raw], tmp_path / "made", filters=EVERYTHING)
    assert made == read_statistics(tmp_path / "made")
    counts = {"users": 2, "items": 2, "reviews": 4, "density": 1.0, "repeated_pairs": 1, "repeated_texts": 1}
    counts |= {"empty_texts": 1, "time_ties": 2, "first_time": START, "last_time": START + 0.5}
    assert {name: made[name] for name in counts} == counts
    assert made["words"] == {"mean": 2.0, "p5": 0, "p25": 0, "p50": 2, "p75": 2, "p95": 4, "p100": 4}
    assert made["characters"]["p100"] == len(rows[-1].review)


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_lengths_have_the_mean_and_the_percentiles_of_their_list(lengths: list[int]) -> None:
    with scratch_engine() as engine:
        engine.execute("CREATE TABLE interactions AS SELECT unnest($1::BIGINT[]) AS n", [lengths])
        found = pipeline._lengths(engine, "n")
        mean, values = engine.execute(
            "SELECT avg(n), quantile_disc(n, [0.05, 0.25, 0.5, 0.75, 0.95, 1]) FROM interactions"
        )[0]
    assert list(found.values()) == [round(mean, 2), *values]
    assert list(found) == ["mean", "p5", "p25", "p50", "p75", "p95", "p100"]

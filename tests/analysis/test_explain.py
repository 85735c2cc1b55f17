"""Explanations of a pair: the reviews near it, its rank, and what is printed only where it was asked for."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_symcere.analysis import __main__ as command
from recbole_symcere.analysis.explain import TEXT_WIDTH, _opening, near_reviews, rank
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.quick_start import run_recbole_symcere
from tests.conftest import WORDS, tiny_rows


@pytest.fixture
def checkpoint(settings: dict[str, Any], tmp_path: Path) -> Path:
    """Of a short run on the tiny data, whose tokens are u0, i0, r0 and so on."""
    run_recbole_symcere(config_dict=settings | {"checkpoint_file": str(tmp_path / "tiny.pth")})
    return tmp_path / "tiny.pth"


def pairs_of(trained: TrainedModel, together: bool) -> tuple[str, str]:
    """Tokens of a user and an item that were a training interaction, or that were none."""
    users, items = (numbers.tolist() for numbers in trained.pairs())
    met = set(zip(users, items, strict=True))
    user = users[0]
    item = next(item for item in sorted(set(items)) if ((user, item) in met) == together)
    return str(trained.user_tokens()[user]), str(trained.item_tokens()[item])


@given(st.integers(1, 15), st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_reviews_around_a_pair_are_those_of_a_slow_loop(n: int, seed: int, length: float) -> None:
    random = torch.Generator().manual_seed(seed)
    reviews = torch.randn(n, 4, generator=random).double() * length
    pair = torch.randn(4, generator=random).double()
    users, items = torch.randint(1, 4, (2, n), generator=random)
    found = near_reviews(pair, reviews, users, items)
    cosines = []
    for review in reviews.tolist():
        dot = sum(x * y for x, y in zip(review, pair.tolist(), strict=True))
        cosines.append(dot / math.hypot(*review) / math.hypot(*pair.tolist()))
    order = sorted(range(n), key=lambda row: -found.sort("row")["cosine"][row])
    assert found["row"].to_list() == order
    assert found["cosine"].to_list() == pytest.approx([cosines[row] for row in order])
    assert found["above mean"].to_list() == pytest.approx([cosines[row] - sum(cosines) / n for row in order])
    assert found["user"].to_list() == users[order].tolist() and found["item"].to_list() == items[order].tolist()


def test_the_percentile_is_the_share_of_reviews_as_near_or_farther() -> None:
    reviews = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [5.0, 0.0]])
    found = near_reviews(torch.tensor([2.0, 0.0]), reviews, torch.ones(4), torch.arange(4)).sort("row")
    assert found["percentile"].to_list() == [100, 50, 25, 100]
    assert found["above mean"].to_list() == [0.75, -0.25, -1.25, 0.75]


def test_a_pairs_rank_is_among_the_items_that_the_user_has_not_met(checkpoint: Path) -> None:
    trained = TrainedModel(checkpoint)
    with torch.no_grad():
        users, items = (vectors.numpy() for vectors in trained.model.ranking_vectors())
    trained_users, trained_items = (numbers.numpy() for numbers in trained.pairs())
    for user in (1, 5):
        met = set(trained_items[trained_users == user].tolist())
        for item in range(1, len(items)):
            candidates = [other for other in range(1, len(items)) if other not in met or other == item]
            scores = {other: float(users[user] @ items[other]) for other in candidates}
            score, place, among = rank(trained, user, item)
            assert score == pytest.approx(scores[item], abs=1e-5)
            assert place == 1 + sum(other > scores[item] + 1e-6 for other in scores.values())
            assert among == len(candidates)


def test_the_vectors_compared_are_those_that_training_aligned(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = TrainedModel(checkpoint)
    user, item = pairs_of(trained, together=False)
    assert command.main(["explain", "--checkpoint", str(checkpoint), "--user", user, "--item", item, "--k", "99"]) == 0
    printed = capsys.readouterr().out
    numbers = trained.train.field2token_id["user_id"][user], trained.train.field2token_id["item_id"][item]
    graph = (trained.nodes[0][numbers[0]] + trained.nodes[1][numbers[1]]) / 2
    cosines = torch.cosine_similarity(trained.review_vectors(), graph[None]).numpy()
    of_user, of_item = ((part == number).numpy() for part, number in zip(trained.pairs(), numbers, strict=True))
    for title, which in (("The user's", of_user & ~of_item), ("Other users'", of_item & ~of_user)):
        table = re.search(rf"{title}.*?: (\d+) of (\d+)\n((?:\|.*\n?)+)", printed)
        assert table is not None
        assert table[1] == table[2] == str(which.sum())
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[3].splitlines()[2:]]
        assert [float(row[2]) for row in rows] == pytest.approx(sorted(cosines[which], reverse=True), abs=6e-4)
        assert [float(row[3]) for row in rows] == pytest.approx(
            np.sort(cosines[which])[::-1] - cosines.mean(), abs=6e-4
        )
        if title == "The user's":
            assert {row[1] for row in rows} == set(trained.item_tokens()[trained.pairs()[1][which]])
        else:
            assert {int(row[1]) for row in rows} == set(np.flatnonzero(which))


def test_neither_texts_nor_users_are_printed_unless_asked_for(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    user, item = pairs_of(TrainedModel(checkpoint), together=True)
    texts = {review_id: text for *_, review_id, text in tiny_rows()}
    arguments = ["explain", "--checkpoint", str(checkpoint), "--user", user, "--item", item, "--k", "99"]

    def printed(*options: str) -> str:
        assert command.main([*arguments, *options]) == 0
        return capsys.readouterr().out

    def shown_words(page: str) -> set[str]:
        return set(re.findall(r"[a-z]+", page)) & {"gasket", "string", "tuner", "cable", "strap", "pedal", "love"}

    def shown_users(page: str) -> set[str]:
        return set(re.findall(r"\b[ur]\d+\b", page))

    plain = printed()
    assert not shown_words(plain) and not shown_users(plain)
    users = printed("--show-users")
    assert not shown_words(users)
    assert {user} < {token for token in shown_users(users) if token[0] == "u"}
    ids = {token for token in shown_users(users) if token[0] == "r"}
    with_text = printed("--show-text", "--show-users")
    assert all(texts[review_id] in with_text for review_id in ids)
    assert len(ids) > 5
    assert set(WORDS) & shown_words(printed("--show-text"))


def test_a_review_is_printed_by_its_opening() -> None:
    assert _opening("a\n  b\tc") == "a b c"
    assert _opening("春" * TEXT_WIDTH) == "春" * TEXT_WIDTH
    assert _opening("春" * 999) == "春" * TEXT_WIDTH + "…"


@pytest.mark.parametrize("together", [True, False])
def test_a_pair_that_trained_is_told_and_its_own_review_left_out(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], together: bool
) -> None:
    user, item = pairs_of(TrainedModel(checkpoint), together)
    own = next(review_id for u, i, *_, review_id, _ in tiny_rows() if (u, i) == (user, item)) if together else "none"
    options = ["--show-users", "--k", "99"]
    assert command.main(["explain", "--checkpoint", str(checkpoint), "--user", user, "--item", item, *options]) == 0
    printed = capsys.readouterr().out
    assert ("The pair itself was a training interaction" in printed) == together
    assert not re.search(rf"\b{own}\b", printed)


def test_review_ids_belong_to_their_interactions(checkpoint: Path) -> None:
    trained = TrainedModel(checkpoint)
    users, items = trained.pairs()
    names = zip(trained.review_ids("train"), trained.user_tokens()[users], trained.item_tokens()[items], strict=True)
    assert set(names) < {(review_id, user, item) for user, item, *_, review_id, _ in tiny_rows()}


def test_errors_name_the_mend_and_no_other_user(
    checkpoint: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str) -> str:
        assert command.main(["explain", "--checkpoint", *arguments]) == 2
        output = capsys.readouterr()
        assert not output.out and output.err.count("\n") == 1
        return output.err

    unknown = error(str(checkpoint), "--user", "u999", "--item", "i1")
    assert "tiny has no user 'u999'\n" in unknown, "a suggestion is another user's token"
    assert "did you mean 'u" in error(str(checkpoint), "--user", "u999", "--item", "i1", "--show-users")
    assert "tiny has no item 'i1O'; did you mean" in error(str(checkpoint), "--user", "u1", "--item", "i1O")
    graph = str(checkpoint.with_name("graph.pth"))
    run_recbole_symcere(config_dict=settings | {"checkpoint_file": graph, "cross_weight": 0, "alpha_text": 0})
    assert "trained without reviews" in error(graph, "--user", "u1", "--item", "i1")


def test_the_score_of_symcereplus_is_the_sum_of_what_its_evidence_adds(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plus.pth"
    run_recbole_symcere(config_dict=settings | {"model": "SymCEREPlus", "checkpoint_file": str(file)})
    user, item = pairs_of(TrainedModel(file), together=False)
    capsys.readouterr()
    assert command.main(["explain", "--checkpoint", str(file), "--user", user, "--item", item]) == 0
    told = capsys.readouterr().out
    score = float(re.search(r"Score (\S+):", told)[1])  # type: ignore[index]
    rows = re.findall(r"^\| (\w+) +\| +([+-][\d.]+) +\| +([+-][\d.]+) +\|$", told, re.M)
    assert sorted(name for name, _, _ in rows) == sorted(TrainedModel(file).config["evidence"])
    assert sum(float(added) for _, _, added in rows) == pytest.approx(score, abs=0.004)
    assert [float(added) for _, _, added in rows] == sorted((float(added) for _, _, added in rows), reverse=True)
    assert "Other users' training reviews of the item" in told and "Sentences" not in told
    assert command.main(["explain", "--checkpoint", str(file), "--user", user, "--item", item, "--show-text"]) == 0
    sentences = capsys.readouterr().out.split("Sentences that are nearest")[1].split("Cosines are of reviews")[0]
    assert "| the user's own" in sentences and "| others' on the item" in sentences


def test_symcereplus_places_the_reviews_that_trained_it_and_no_others(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plus.pth"
    run_recbole_symcere(config_dict=settings | {"model": "SymCEREPlus", "checkpoint_file": str(file)})
    output = ["--checkpoint", str(file), "--output", str(tmp_path / "out")]
    assert command.main(["geometry", *output, "--part=train", "--points=50"]) == 0
    for told in (["geometry", *output, "--part=test"], ["anchoring", *output]):
        assert command.main(told) == 2
        assert "look into a checkpoint of SymCERE" in capsys.readouterr().err

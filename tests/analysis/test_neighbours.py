"""Neighbours of items: who they are, which words tell them, and what is never printed."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from recbole_symcere.analysis import __main__ as command
from recbole_symcere.analysis import neighbours
from recbole_symcere.analysis.neighbours import (
    TellingWords,
    item_profiles,
    log_odds,
    nearest_items,
)
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.analysis.words import Occurrences, occurrences
from recbole_symcere.data.tokens import tokenise
from recbole_symcere.quick_start import run_recbole_symcere
from tests.conftest import Row, write_atomic_files

TASTE_WORDS = (("gasket", "tuner"), ("pedal", "strap"))
N_ITEMS, N_USERS = 20, 24


def planted_rows() -> list[Row]:
    """Users and items of two kinds, even and odd, each with its words; the item ``late`` is everyone's last."""
    random = np.random.default_rng(0)
    rows: list[Row] = []
    for user in range(N_USERS):
        kind = user % 2
        items = [f"i{item}" for item in 2 * random.choice(N_ITEMS // 2, size=8, replace=False) + kind]
        for item in [*items, "late"] if user < 6 else items:
            words = " ".join(random.permutation([*TASTE_WORDS[kind], "the", "great"]))
            rows.append((f"u{user}", item, 4.0, 1.6e9 + 100 * len(rows), f"r{len(rows)}", f"{words} u{user}"))
    return rows


@pytest.fixture
def planted(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Settings of a run over ``planted_rows`` whose checkpoint is there."""
    write_atomic_files(tmp_path / "dataset" / "planted", planted_rows())
    of_planted = {"dataset": "planted", "data_path": str(tmp_path / "dataset"), "topk": [10], "valid_metric": "NDCG@10"}
    given = {
        "checkpoint_file": str(tmp_path / "planted.pth"),
        "epochs": 20,
        "learning_rate": 0.02,
        "beta": 1.0,
        "n_layers": 3,
    }
    run_recbole_symcere(config_dict=settings | of_planted | given)
    return settings | of_planted | given


def tables(printed: str) -> list[list[list[str]]]:
    """The cells of each Markdown table, without its header."""
    found = re.findall(r"(?:^\|.*\|\n?)+", printed, re.M)
    return [[[cell.strip() for cell in line.split("|")[1:-1]] for line in one.splitlines()[2:]] for one in found]


@given(st.integers(2, 12), st.integers(1, 15), st.integers(0, 2**32 - 1))
def test_neighbours_are_those_of_a_slow_loop(n: int, k: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, 3, generator=random).double() * torch.rand(n, 1, generator=random) * 9
    candidates = torch.rand(n, generator=random) < 0.7
    item = seed % n

    def cosine(a: Tensor, b: Tensor) -> float:
        return (
            sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / math.dist(a, 0 * a) / math.dist(b, 0 * b)
        )

    slow = {other: cosine(vectors[item], vectors[other]) for other in range(n) if other != item and candidates[other]}
    best = sorted(slow, key=lambda other: -slow[other])[:k]
    found = nearest_items(vectors, item, candidates, k)
    assert [other for other, _ in found] == best
    assert [value for _, value in found] == pytest.approx([slow[other] for other in best])


def test_planted_neighbours_and_words_are_found_on_both_sides(
    planted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["neighbours", "--checkpoint", planted["checkpoint_file"], "--item", "i3", "--k", "5"]) == 0
    printed = capsys.readouterr().out
    by_graph, by_text = tables(printed)
    trained = TrainedModel(planted["checkpoint_file"])
    met, item = torch.from_numpy(trained.popularity > 0), trained.train.field2token_id["item_id"]["i3"]
    for found, vectors in ((by_graph, trained.nodes[1]), (by_text, item_profiles(trained))):
        cosines = [cosine for _, cosine in nearest_items(vectors, item, met, 5)]
        assert [float(cosine) for _, _, cosine, *_ in found] == pytest.approx(cosines, abs=6e-4)
        assert all(int(item[1:]) % 2 for _, item, *_ in found), "an item of the other kind"
        assert all(set(words.split(", ")) == {"pedal", "strap"} for *_, words in found)
    assert set(re.findall(r"Words that tell i3: (.*)", printed)[0].split(", ")) == {"pedal", "strap"}
    assert not re.search(r"\bu\d+\b|\br\d+\b", printed), "a user"


def test_an_item_that_training_never_met_is_no_neighbour_and_has_none(
    planted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["neighbours", "--checkpoint", planted["checkpoint_file"], "--item", "i3", "--k", "99"]) == 0
    printed = capsys.readouterr().out
    assert "of 19 others" in printed and "(1 were not)" in printed
    for found in tables(printed):
        assert {item for _, item, *_ in found} == {f"i{item}" for item in range(N_ITEMS) if item != 3}
    assert command.main(["neighbours", "--checkpoint", planted["checkpoint_file"], "--item", "late"]) == 2
    assert "item 'late' has no training interaction" in capsys.readouterr().err


def test_an_unknown_item_is_one_line_with_the_nearest_name(
    planted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["neighbours", "--checkpoint", planted["checkpoint_file"], "--item", "lat"]) == 2
    output = capsys.readouterr()
    assert not output.out
    assert re.fullmatch(r"error: planted has no item 'lat'; did you mean 'late'\?\n", output.err)
    assert command.main(["neighbours", "--checkpoint", planted["checkpoint_file"], "--item", "[PAD]"]) == 2
    assert "planted has no item '[PAD]'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["neighbours", "--checkpoint", planted["checkpoint_file"], "--item", "i3", "--k", "0"])


def test_a_model_without_text_has_the_graphs_neighbours(
    planted: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(tmp_path / "graph.pth")
    run_recbole_symcere(config_dict=planted | {"cross_weight": 0, "alpha_text": 0, "checkpoint_file": checkpoint})
    assert command.main(["neighbours", "--checkpoint", checkpoint, "--item", "i3", "--k", "4"]) == 0
    printed = capsys.readouterr().out
    (by_graph,) = tables(printed)
    assert len(by_graph) == 4
    assert re.search(r"By the text: none\. .*trained without reviews", printed)


def test_text_profiles_are_means_of_unit_vectors_seen_from_their_mean(planted: dict[str, Any]) -> None:
    trained = TrainedModel(planted["checkpoint_file"], {"normalize": False})  # raw vectors: of other lengths
    reviews = trained.review_vectors()
    assert not torch.allclose(reviews.norm(dim=1), torch.ones(len(reviews)))
    reviews = reviews / reviews.norm(dim=1, keepdim=True)
    _, items = trained.pairs()
    profiles = item_profiles(trained)
    for item in items.unique():
        centred = reviews[items == item].mean(0) - reviews.mean(0)
        torch.testing.assert_close(profiles[item], centred / centred.norm(), atol=1e-3, rtol=0)


# Telling words


def words_of(folder: Path, texts: list[str]) -> Occurrences:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder).backend_tokenizer
    return occurrences(tokenise(texts, tokenizer, 32, Path("cache")), tokenizer)


def test_a_word_counts_once_in_a_review(tiny_encoder: Path) -> None:
    # Counted by occurrences, gasket would tell item 1
    words = words_of(tiny_encoder, ["gasket gasket gasket pedal", "gasket gasket pedal", "gasket", "gasket pedal"])
    telling = TellingWords(words, np.arange(4), np.array([1, 1, 2, 2]))
    assert telling.of_item(1) == ["pedal"]
    assert telling.of_item(2) == ["gasket"]


def test_log_odds_of_a_hand_computed_case() -> None:
    # With the prior, (4, 8) in the part and (2, 16) in the rest: odds of 1/2 and 1/8, of 2 and 8
    expected = [math.log(4) / math.sqrt(1 / 4 + 1 / 2), math.log(1 / 4) / math.sqrt(1 / 8 + 1 / 16)]
    assert log_odds(np.array([1, 0]), np.array([3, 8])) != pytest.approx(expected)
    assert log_odds(np.array([2, 0]), np.array([2, 8])) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=2, max_size=9))
def test_what_tells_a_part_from_the_rest_tells_the_rest_from_it(counts: list[tuple[int, int]]) -> None:
    part, rest = np.array(counts).T
    corpus = part + rest
    forth, back = log_odds(part, corpus), log_odds(rest, corpus)
    assert forth == pytest.approx(-back)
    assert log_odds(rest, 2 * rest) == pytest.approx(np.zeros(len(part)))


def test_a_word_of_one_writer_is_never_told(tiny_encoder: Path) -> None:
    texts = ["love gasket", "love gasket", "gasket cable", "pedal strap", "pedal"]
    users, items = np.array([1, 1, 2, 3, 4]), np.array([1, 1, 1, 2, 2])
    telling = TellingWords(words_of(tiny_encoder, texts), users, items)
    assert telling.of_item(1) == ["gasket"], "love is user 1's alone, cable user 2's"
    assert telling.of_item(2) == ["pedal"]
    assert telling.of_item(3) == []


def test_telling_words_are_those_of_a_slow_count(tiny_encoder: Path) -> None:
    random = np.random.default_rng(3)
    words = ["gasket", "string", "tuner", "cable", "strap", "pedal"]
    chosen = [random.choice(words, size=3, replace=False).tolist() for _ in range(60)]
    items = random.integers(1, 5, 60)
    telling = TellingWords(words_of(tiny_encoder, [" ".join(one) for one in chosen]), np.arange(60), items)
    corpus = Counter(word for one in chosen for word in one)
    for item in range(1, 5):
        part = Counter(word for one, of in zip(chosen, items, strict=True) if of == item for word in one)
        total, total_part = sum(corpus.values()), sum(part.values())
        scores = {}
        for word in words:
            inside, outside = part[word] + corpus[word], 2 * corpus[word] - part[word]
            odds = inside / (total_part + total - inside), outside / (2 * total - total_part - outside)
            scores[word] = (math.log(odds[0]) - math.log(odds[1])) / math.sqrt(1 / inside + 1 / outside)
        expected = sorted((word for word in words if scores[word] > 0 and part[word] > 1), key=lambda w: -scores[w])
        assert telling.of_item(item) == expected
        assert telling.of_item(item, 1) == expected[:1]


def test_stop_words_and_numbers_tell_nothing(tiny_encoder: Path) -> None:
    words = words_of(tiny_encoder, ["the gasket 7", "the gasket 7", "pedal", "pedal"])
    telling = TellingWords(words, np.arange(4), np.array([1, 1, 2, 2]), frozenset({"the"}))
    assert telling.of_item(1) == ["gasket"]


def test_stop_words_are_of_the_language_of_most_reviews(
    planted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "languages_of", lambda texts: ["en", *["de"] * (len(texts) - 1)])
    monkeypatch.setattr(neighbours, "lexicons", lambda language: (frozenset(), frozenset({"de": ["pedal"]}[language])))
    trained = TrainedModel(planted["checkpoint_file"])
    item = trained.train.field2token_id["item_id"]["i3"]
    found = neighbours.telling_words(trained).of_item(item)
    assert "strap" in found and "pedal" not in found

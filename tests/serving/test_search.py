"""Searching by words: BM25 and cosines against slow versions, and what a person adds."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_symcere import cli
from recbole_symcere.data.tokens import WholeTexts, words_of
from recbole_symcere.errors import UserError
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.serving import NewInteraction, Recommender, Request
from recbole_symcere.serving.terms import Terms, appended
from tests.conftest import START
from tests.serving.test_recommender import tokens, training_rows

K1, B = 1.2, 0.75
quick = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def slow_bm25(query: list[str], documents: dict[str, list[str]]) -> dict[str, float]:
    """BM25 of each document that has a word, as the formula has it."""
    documents = {name: words for name, words in documents.items() if words}
    mean_length = sum(map(len, documents.values())) / len(documents)
    score = dict.fromkeys(documents, 0.0)
    for word in query:
        n_with = sum(word in words for words in documents.values())
        idf = math.log(1 + (len(documents) - n_with + 0.5) / (n_with + 0.5))
        for name, words in documents.items():
            n = words.count(word)
            score[name] += idf * n * (K1 + 1) / (n + K1 * (1 - B + B * len(words) / mean_length))
    return score


def words_in(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def standardised(scores: dict[str, float]) -> dict[str, float]:
    values = np.array(list(scores.values()))
    return {name: (value - values.mean()) / values.std() for name, value in scores.items()}


@pytest.mark.parametrize("text", ["great gasket", "I17 u3 love LOVE love", "nothing known here"])
def test_scores_are_bm25_beside_the_cosine_of_the_text(checkpoint: Path, recommender: Recommender, text: str) -> None:
    documents: dict[str, list[str]] = {}
    for _, item, _, review in training_rows(checkpoint):
        documents[item] = documents.get(item, []) + words_in(review)
    found = recommender.search(text, k=100, why=True)
    assert {best.item for best in found} == documents.keys()
    texts = recommender._statistics.texts
    assert texts.mean is not None
    vector = F.normalize((recommender._texts.encode([text])[0] - texts.mean) @ texts.to_words, dim=0)
    cosine = {item: float(texts.words[recommender.columns[item]] @ vector) for item in documents}
    expected = {"meaning": standardised(cosine)}
    if any(word in words for words in documents.values() for word in words_in(text)):
        expected["terms"] = standardised(slow_bm25(words_in(text), documents))
    for best in found:
        for part, scores in expected.items():
            assert best.why[part] == pytest.approx(scores[best.item], abs=1e-3), best.item
        assert best.score == pytest.approx(sum(best.why.values()), abs=1e-4)
        assert best.why.keys() == {"terms", "meaning"}
    assert [best.score for best in found] == sorted((best.score for best in found), reverse=True)


letters = st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=1, max_size=5)


def counted(documents: list[list[str]]) -> dict[str, Tensor]:
    """The counts of documents whose words are letters, as ``count_words`` has them."""
    words = sorted({word for document in documents for word in document})
    counts = [Counter(document) for document in documents]
    rows = [[(words.index(word), counter[word]) for word in sorted(counter)] for counter in counts]
    return {
        "word": torch.tensor([ord(word) for word in words], dtype=torch.int64),
        "start": torch.tensor([0, *np.cumsum([len(row) for row in rows])]),
        "column": torch.tensor([column for row in rows for column, _ in row], dtype=torch.int32),
        "count": torch.tensor([count for row in rows for _, count in row], dtype=torch.int16),
    }


@given(documents=letters, more=letters, query=st.lists(st.sampled_from("abcdefxy"), max_size=4))
@quick
def test_appended_documents_count_as_if_they_had_always_been_there(
    documents: list[list[str]], more: list[list[str]], query: list[str]
) -> None:
    flat = [(place, ord(word)) for place, document in enumerate(more) for word in document]
    item, word = np.array(flat, np.int64).reshape(-1, 2).T
    asked = np.zeros(len(query), np.int64), np.array([ord(word) for word in query], np.int64)
    found = Terms(appended(counted(documents), item, word, len(more))).scores(*asked, 1)[0]
    together = documents + more
    assert torch.allclose(found, Terms(counted(together)).scores(*asked, 1)[0], atol=1e-5)
    if any(together):
        expected = slow_bm25(query, {str(n): document for n, document in enumerate(together)})
        for number in range(len(together)):
            assert float(found[number]) == pytest.approx(expected.get(str(number), 0.0), abs=1e-4)


@given(
    texts=st.lists(st.lists(st.sampled_from(["great", "Great", "gasket", "i17", "i1", "it"]), max_size=5), max_size=4)
)
@quick
def test_the_words_of_texts_are_told_apart_whatever_their_tokens_and_case(
    recommender: Recommender, texts: list[list[str]]
) -> None:
    recommender._texts.encode(["great"])
    encoder = recommender._texts._loaded()
    owner, word = words_of(WholeTexts(encoder.fast_tokenizer).reviews([" ".join(words) for words in texts]))
    written = [(number, one.lower()) for number, words in enumerate(texts) for one in words]
    assert owner.tolist() == [number for number, _ in written]
    hashes = dict(zip((one for _, one in written), word.tolist(), strict=True))
    assert [hashes[one] for _, one in written] == word.tolist()
    assert len(set(hashes.values())) == len(hashes)


def test_a_person_draws_the_list_to_what_the_person_likes(recommender: Recommender) -> None:
    own = {best.item: best.score for best in recommender.recommend("u0", k=100)}
    plain, blended = (recommender.search("great", user, k=100, why=True) for user in (None, "u0"))
    by_item = {best.item: best for best in blended}
    for best in plain:
        parts = by_item[best.item].why
        assert {part: parts[part] for part in best.why} == pytest.approx(dict(best.why), abs=1e-4)
    inside = [item for item in own if item in by_item]
    assert sorted(inside, key=lambda item: -by_item[item].why["person"]) == inside, "in the order of the own list"
    assert len(by_item) > len(own), "what a person has met can be found"


def test_many_texts_at_once_find_what_each_finds_alone(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_symcere.serving.recommender.SCORES_AT_ONCE", 70)  # two texts at a time
    texts, people = ["great", "i3 gasket", "love"], [Request(), Request("u0"), Request(history=["i7"])]
    together = recommender.search_many(texts, people, k=5)
    for text, person, found in zip(texts, people, together, strict=True):
        alone = recommender.search(text, person.user, history=person.history, k=5)
        assert tokens(alone) == tokens(found)
        assert [best.score for best in alone] == pytest.approx([best.score for best in found], abs=1e-4)


def test_a_new_item_is_found_by_its_text(recommender: Recommender) -> None:
    later = recommender.with_items({"fresh": ["u777 u777 a tuner"]}, listed=START + 9000.0)
    later = later.with_interactions([NewInteraction("u0", "other", START + 9001.0, "u888 pedal u888")])
    assert later.search("u777", k=1)[0].item == "fresh" and later.search("u777", k=1)[0].is_new
    assert later.search("u888", k=1)[0].item == "other"


def test_the_meaning_of_a_new_item_counts_twice_in_place_of_its_words(recommender: Recommender) -> None:
    text = "great tuner"
    later = recommender.with_items({"fresh": ["a great tuner for i3"]})
    (cosines,) = later.search_parts([text], [Request()])[0]["meaning"]
    found = {best.item: best for best in later.search(text, k=100, why=True)}
    assert found["fresh"].why == {"terms": 0, "meaning": pytest.approx(2 * float(cosines[later.columns["fresh"]]))}
    for item in recommender.items[1:]:
        if item in found:
            assert found[item].why["meaning"] == pytest.approx(float(cosines[later.columns[item]]))
    assert any(best.why["terms"] for best in found.values())


def test_a_model_without_texts_can_not_search(plus_settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "shuffled.pth"
    run_recbole_symcere(
        config_dict=plus_settings | {"text_source": "shuffled", "checkpoint_file": str(path), "epochs": 10}
    )
    with pytest.raises(UserError, match="trained with shuffled or random texts"):
        Recommender.load(path).search("great")


def test_the_command_prints_a_list_for_each_text(
    checkpoint: Path, recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--text", "great gasket", "love", "--user", "u0", "--k", "3", "--why", "--format", "json"]
    assert cli.main(["search", "--checkpoint", str(checkpoint), *arguments]) == 0
    lists = json.loads(capsys.readouterr().out)
    assert list(lists) == ["great gasket", "love"]
    for text, rows in lists.items():
        expected = recommender.search(text, "u0", k=3, why=True)
        assert [row["item"] for row in rows] == [best.item for best in expected]
        for row, best in zip(rows, expected, strict=True):
            assert row["why"] == pytest.approx(dict(best.why), abs=1e-4)
    assert cli.main(["search", "--checkpoint", str(checkpoint), "--text", " "]) == 2
    assert "a text is empty" in capsys.readouterr().err

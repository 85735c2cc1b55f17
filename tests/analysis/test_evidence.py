"""Why SymCEREPlus recommends what it does: what is added to scores, and the sentences that are nearest."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from recbole_symcere.analysis import __main__ as command
from recbole_symcere.analysis.evidence.measuring import draw_evidence
from recbole_symcere.analysis.evidence.sentences import (
    OF_HISTORY,
    OF_ITEM,
    OF_USER,
    speaking_sentences,
    split_sentences,
)
from recbole_symcere.analysis.figures import COLOURS
from recbole_symcere.analysis.report.analyses import evidence
from recbole_symcere.analysis.report.page import Figures
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.data.tokens import tokenise
from recbole_symcere.model.symcere_plus import SymCEREPlus
from recbole_symcere.quick_start import run_recbole_symcere
from tests.conftest import WORDS, tiny_rows


@pytest.fixture
def checkpoint(settings: dict[str, Any], tmp_path: Path) -> Path:
    """Of a short run of SymCEREPlus on the tiny data, whose tokens are u0, i0, r0 and so on."""
    file = tmp_path / "plus.pth"
    run_recbole_symcere(config_dict=settings | {"model": "SymCEREPlus", "checkpoint_file": str(file)})
    return file


def test_sentences_end_where_they_do_in_any_language() -> None:
    text = "Fits well. Sounds 3.5 times  better!\nWould I buy it again? Yes… 音が良い。また買う！\n\n"
    sentences = ["Fits well.", "Sounds 3.5 times better!", "Would I buy it again?", "Yes…", "音が良い。", "また買う！"]
    assert split_sentences(text) == sentences


@given(st.text(alphabet="ab .!?。\n", max_size=40))
@example(" . ")
def test_sentences_hold_all_of_a_text_and_are_never_empty(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence.strip() == sentence != "" for sentence in sentences)


@torch.no_grad()
def test_the_nearest_sentences_are_those_of_a_slow_loop(checkpoint: Path, tmp_path: Path) -> None:
    trained = TrainedModel(checkpoint)
    model = trained.model
    assert isinstance(model, SymCEREPlus)
    users, items = (numbers.tolist() for numbers in trained.pairs())
    reviews, texts = trained.train.review_texts(), model.statistics.texts
    mean = trained.encoder_vectors().mean(0)
    to_words, nearest = texts.to_words.numpy(), model.statistics.nearest.to_dense().numpy()

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector / max(float(np.linalg.norm(vector)), 1e-12)

    def placed(sentence: str) -> np.ndarray:
        encoder = trained.encoder
        tokens = tokenise([sentence], encoder.fast_tokenizer, encoder.max_length, tmp_path, False, encoder.prompt)
        return unit((encoder.embed(tokens, np.zeros(1, int), 0.0, 0)[0] - mean.numpy()) @ to_words)

    user = users[0]
    for item in sorted(set(items))[:3]:
        met = {other for person, other in zip(users, items, strict=True) if person == user} - {item}
        counted = sorted((other for other in met if nearest[other, item] > 0), key=lambda other: -nearest[other, item])
        of_item, of_user = texts.words[item].numpy(), unit(texts.of_users[user].numpy() @ to_words)
        sources = {OF_USER: (lambda u, i, item=item: u == user and i != item, of_item)}
        sources[OF_ITEM] = (lambda u, i, item=item: u != user and i == item, of_user)
        for other in counted[:2]:
            name = OF_HISTORY.format(trained.item_tokens()[other])
            sources[name] = (lambda u, i, other=other: u != user and i == other, of_item)
        found = speaking_sentences(trained, user, item, 2)
        assert {each.source for each in found} <= set(sources)
        for source, (belongs, direction) in sources.items():
            rows = [row for row, pair in enumerate(zip(users, items, strict=True)) if belongs(*pair)]
            sentences = {sentence for row in rows for sentence in split_sentences(reviews[row])}
            cosines = {sentence: float(placed(sentence) @ direction) for sentence in sentences}
            shown = [each for each in found if each.source == source]
            assert [each.cosine for each in shown] == pytest.approx(sorted(cosines.values())[::-1][:2], abs=1e-4)
            assert all(each.cosine == pytest.approx(cosines[each.text], abs=1e-4) for each in shown)


def run(checkpoint: Path, folder: Path, *options: str) -> dict[str, Any]:
    assert command.main(["evidence", "--checkpoint", str(checkpoint), "--output", str(folder), *options]) == 0
    content: dict[str, Any] = json.loads((folder / "evidence.json").read_text())
    return content


@torch.no_grad()
def test_the_best_unmet_items_are_shown_with_parts_that_sum_to_their_scores(checkpoint: Path, tmp_path: Path) -> None:
    content = run(checkpoint, tmp_path, "--user", "u0", "u3", "--k", "4", "--show-users")
    trained = TrainedModel(checkpoint)
    assert [each["user"] for each in content["recommended"]] == ["u0", "u3"]
    tokens = list(trained.item_tokens())
    for of_user in content["recommended"]:
        user = trained.number_of("user", of_user["user"])
        ranked = [tokens.index(each["item"]) for each in of_user["items"]]
        scores = sum(part[0] for part in trained.model.contributions(torch.tensor([user])).values())
        users, items = trained.pairs()
        met = {0, *items[users == user].tolist()}
        best = sorted((item for item in range(len(tokens)) if item not in met), key=lambda item: -float(scores[item]))
        assert [float(scores[item]) for item in ranked] == pytest.approx([float(scores[item]) for item in best[:4]])
        for each, item in zip(of_user["items"], ranked, strict=True):
            assert sum(each["added"].values()) == pytest.approx(each["score"], abs=1e-5) == float(scores[item])
    assert content["weights"] == trained.model.learned()


def test_neither_texts_nor_users_are_shown_unless_asked_for(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {text for *_, text in tiny_rows()}

    def written(*options: str) -> str:
        run(checkpoint, tmp_path, "--users", "2", *options)
        pages = [(tmp_path / f"evidence.{suffix}").read_text() for suffix in ("json", "md")]
        return capsys.readouterr().out + "".join(pages)

    plain = written()
    assert not re.findall(r"\bu\d+\b", plain) and "user 2" in plain and "user 3" not in plain
    assert not any(text in plain for text in texts)
    assert re.findall(r"\bu\d+\b", written("--show-users"))
    with_text = written("--show-text")
    assert any(sentence in with_text for text in texts for sentence in split_sentences(text))
    assert set(WORDS) & set(re.findall(r"\w+", with_text))


def test_a_bar_has_the_parts_of_its_item_and_what_speaks_against_it_to_the_left() -> None:
    added = {"trend": 1.0, "newness": -0.5, "graph": 2.0, "own_words": -0.25}
    recommended = [{"user": "user 1", "items": [{"item": "i1", "score": 2.25, "added": added}], "sentences": []}]
    with draw_evidence(recommended) as drawn:
        bars = [
            (bar.get_x(), bar.get_x() + bar.get_width(), to_hex(bar.get_facecolor())) for bar in drawn.axes[0].patches
        ]
    assert bars == [(0, 1, COLOURS[0]), (0, -0.5, COLOURS[1]), (1, 3, COLOURS[2]), (-0.5, -0.75, COLOURS[3])]


def test_a_report_reads_what_was_written(checkpoint: Path, tmp_path: Path) -> None:
    run(checkpoint, tmp_path, "--users", "1", "--show-text")
    figures = Figures()
    shown = evidence(tmp_path, figures)
    assert shown is not None and list(figures.sizes) == ["figure-evidence"]
    captions = [grid.caption for grid in shown["grids"]]
    assert captions[:2] == ["Weights and their standard errors", "What the evidence adds for user 1"]
    assert captions[2].startswith("Sentences near i")


def test_another_model_has_no_named_evidence(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "graph.pth")
    run_recbole_symcere(config_dict=settings | {"checkpoint_file": file})
    capsys.readouterr()
    assert command.main(["evidence", "--checkpoint", file, "--output", str(tmp_path / "out")]) == 2
    assert "holds SymCERE, which has no named evidence; name one of SymCEREPlus" in capsys.readouterr().err

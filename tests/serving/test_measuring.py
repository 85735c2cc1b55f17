"""``symcere analyse search``: who is asked for what, the ranks, and the table."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_symcere import cli
from recbole_symcere.analysis.search.measuring import METHODS, _encoder_alone, _ranks, queries, without_name
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.serving import Recommender, Request
from tests.conftest import for_model, tiny_rows, write_atomic_files


@given(
    text=st.lists(st.sampled_from(["The", "memento", "Memento's", "was", "2000", "fun"]), max_size=6).map(" ".join),
    name=st.sampled_from(["Memento 2000", "The_Others", "B00AR51Y5I", "a"]),
)
def test_no_word_of_the_name_is_left_in_the_query(text: str, name: str) -> None:
    left = re.findall(r"\w+", without_name(text, name).lower())
    named = {word for word in re.findall(r"[a-z0-9]+", name.lower()) if len(word) >= 3}
    assert not named & set(left)
    assert [word for word in re.findall(r"\w+", text.lower()) if word not in named] == left


@pytest.fixture(scope="module")
def trained(plus_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A model of a dataset whose last reviews are also of items that nobody had met before."""
    folder = tmp_path_factory.mktemp("new") / "arriving"
    rows = tiny_rows()
    times = sorted(row[3] for row in rows)
    late = times[int(0.85 * len(times))]
    new = {"i1": "n1", "i2": "n2"}  # what these are called from then on
    rows = [(u, new.get(i, i) if time >= late else i, r, time, rid, text) for u, i, r, time, rid, text in rows]
    write_atomic_files(folder, rows)
    path = tmp_path_factory.mktemp("run") / "plus.pth"
    own = {"dataset": "arriving", "data_path": str(folder.parent), "checkpoint_file": str(path)}
    run_recbole_symcere(config_dict=plus_settings | own)
    return TrainedModel(path)


def test_the_first_review_of_a_new_item_describes_it_and_is_no_query(trained: TrainedModel) -> None:
    known = {f"i{n}" for n in range(30)}
    warm, new, described = queries(trained, "test", known, 1000, 0)
    assert described.keys() == {"n1", "n2"} and {query.item for query in new} <= {"n1", "n2"} and new
    assert {query.item for query in warm} <= known
    held = trained.parts["test"]
    assert len(warm) + len(new) + len(described) == len(held)
    assert not {described[query.item] for query in new} & {query.text for query in new}
    some = queries(trained, "test", known, 5, 1)[0]
    assert len(some) == 5 and set(some) <= set(warm) and some != queries(trained, "test", known, 5, 2)[0]


@torch.no_grad()
def test_ranks_are_those_of_the_lists(trained: TrainedModel) -> None:
    recommender = Recommender.load(trained.path)
    warm, new, described = queries(trained, "test", set(recommender.items), 12, 0)
    later = recommender.with_items({item: [text] for item, text in described.items()})
    ranks = _ranks(later, _encoder_alone(trained, later, described), [*warm, *new])
    reviews = trained.train.review_texts()
    of_items = [str(trained.item_tokens()[item]) for item in trained.train.inter_feat["item_id"].tolist()]
    means = {
        item: recommender.encode([t for t, i in zip(reviews, of_items, strict=True) if i == item]).mean(0)
        for item in set(of_items)
    } | {item: recommender.encode([text])[0] for item, text in described.items()}
    for number, query in enumerate([*warm, *new]):
        user = query.user if query.user in recommender.users else None
        for method, request in (("search", Request()), ("search, with the person", Request(user))):
            (found,) = later.search_many([query.text], [request], k=100)
            rank = 1 + [best.item for best in found].index(query.item)
            assert ranks[method][number] == rank, method
        vector = recommender.encode([query.text])[0]
        cosines = {
            item: float(torch.cosine_similarity(vector.double(), mean.double(), dim=0)) for item, mean in means.items()
        }
        at_least, at_most = (
            sum(cosine > cosines[query.item] + slack for cosine in cosines.values()) for slack in (3e-7, -3e-7)
        )
        assert at_least <= ranks["encoder alone"][number] - 1 <= at_most
    assert ranks.keys() == set(METHODS)


def test_the_command_tells_both_groups(trained: TrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analyse", "search", "--checkpoint", f"ours={trained.path}", "--queries", "20"]) == 0
    shown = capsys.readouterr().out
    assert "# Search by ours" in shown and "queries for items nobody had met" in shown
    told = json.loads(Path("analysis/search.json").read_text())
    for group in told["groups"].values():
        for values in group["methods"].values():
            assert 0 < values["MRR"] <= 1 and 0 <= values["Recall@10"] <= 1
        for name, compared in group["differences"].items():
            ours, _, peer = name.partition(" against ")
            difference = group["methods"][ours]["MRR"] - group["methods"][peer]["MRR"]
            assert compared["difference"] == pytest.approx(difference)
            low, high = compared["interval"]
            assert low <= difference <= high
    again = Path("analysis/search.json").read_bytes()
    cli.main(["analyse", "search", "--checkpoint", f"ours={trained.path}", "--queries", "20"])
    assert Path("analysis/search.json").read_bytes() == again


def test_what_can_not_be_measured_is_refused(
    trained: TrainedModel, plus_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["analyse", "search", "--checkpoint", str(trained.path), "--part", "valid"]) == 2
    assert "was trained on the validation part, too" in capsys.readouterr().err
    other = {"model": "SymCERE", "text_train": "frozen", "checkpoint_file": "symcere.pth", "epochs": 1}
    settings = {key: value for key, value in plus_settings.items() if key != "evidence_weights"}
    run_recbole_symcere(config_dict=for_model(settings | other))
    assert cli.main(["analyse", "search", "--checkpoint", "symcere.pth"]) == 2
    assert "holds SymCERE, which can't search" in capsys.readouterr().err

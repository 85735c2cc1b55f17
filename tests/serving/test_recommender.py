"""From a checkpoint alone, known users get what the whole model ranks for them, and anybody else is placed alike."""

import logging
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_symcere.checkpoint import load_checkpoint, save_checkpoint
from recbole_symcere.errors import CheckpointError, UserError
from recbole_symcere.quick_start import load_data_and_model, recommend, run_recbole_symcere
from recbole_symcere.serving import Recommendation, Recommender, Request
from recbole_symcere.serving.texts import Texts
from tests.conftest import START, for_model

quick = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tokens(found: list[Recommendation]) -> list[str]:
    return [best.item for best in found]


def training_rows(checkpoint: Path) -> list[tuple[str, str, float, str]]:
    """User, item, time and review of what the model of the checkpoint was trained on."""
    _, _, dataset, train_data, _, _ = load_data_and_model(checkpoint)
    part = train_data._dataset
    users, items = (dataset.id2token(field, part.inter_feat[field].numpy()) for field in ("user_id", "item_id"))
    times = part.inter_feat["timestamp"].double().tolist()
    return list(zip(map(str, users), map(str, items), times, part.review_texts(), strict=True))


@pytest.mark.parametrize("protocol", ["temporal", "strict"])
def test_users_of_the_data_get_what_the_test_part_was_ranked_by(
    plus_settings: dict[str, Any], checkpoint: Path, tmp_path: Path, protocol: str
) -> None:
    if protocol == "strict":
        checkpoint = tmp_path / "strict.pth"
        run_recbole_symcere(
            config_dict=plus_settings | {"protocol": protocol, "checkpoint_file": str(checkpoint), "epochs": 10}
        )
    expected = recommend(checkpoint, k=8)
    recommender = Recommender.load(checkpoint)
    n_words = sum(len(re.findall(r"\w+", text)) for *_, text in training_rows(checkpoint))
    assert int(recommender._record["words"]["count"].sum()) == n_words, "words of reviews that train, and no others"
    found = recommender.recommend_many([Request(user) for user in expected], k=8)
    assert [tokens(of_user) for of_user in found] == [[item for item, _ in items] for items in expected.values()]
    for of_user, items in zip(found, expected.values(), strict=True):
        assert [best.score for best in of_user] == pytest.approx([score for _, score in items], abs=1e-4)


def test_somebody_else_with_the_history_and_the_reviews_of_a_user_gets_the_same(
    checkpoint: Path, recommender: Recommender
) -> None:
    rows = training_rows(checkpoint)
    for user in recommender.users[:10]:
        own = [row for row in rows if row[0] == user]
        twin = Request(None, [(item, time) for _, item, time, _ in own], [text for *_, text in own])
        (known, other), n = recommender.recommend_many([Request(user), twin], k=8, why=True), len(own)
        assert tokens(known) == tokens(other), f"{user}, who has {n} interactions"
        for one, same in zip(known, other, strict=True):
            assert dict(one.why) == pytest.approx(dict(same.why), abs=1e-4)


def test_nothing_but_the_checkpoint_is_read(
    checkpoint: Path, recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "moved.pth"
    stored = load_checkpoint(checkpoint)
    nowhere = dict.fromkeys(("data_path", "text_cache_dir", "checkpoint_dir"), "/nowhere")
    save_checkpoint(stored | {"config": stored["config"] | nowhere}, elsewhere)
    found = Recommender.load(elsewhere).recommend(history=["i3", "i7"], k=3)
    assert tokens(found) == tokens(recommender.recommend(history=["i3", "i7"], k=3))


def test_a_person_is_answered_without_a_word_of_what_pytorch_thinks_of_its_matrices(checkpoint: Path) -> None:
    script = "import sys; from recbole_symcere.serving import Recommender; "
    script += "print(Recommender.load(sys.argv[1]).recommend(history=['i3'], k=1)[0].item)"
    ran = subprocess.run([sys.executable, "-c", script, checkpoint], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("i") and not ran.stderr


def test_what_was_met_is_left_out_and_an_answer_depends_on_each_part_of_the_request(recommender: Recommender) -> None:
    def why(**request: Any) -> dict[str, dict[str, float]]:
        return {best.item: dict(best.why) for best in recommender.recommend(k=100, why=True, **request)}

    nobody, items, words = why(), why(history=["i3", "i7"]), why(reviews=["u1 i3 great gasket"])
    assert nobody.keys() - items.keys() == {"i3", "i7"} and words.keys() == nobody.keys()
    pieces = ("recent", "graph", "nearby_texts")
    assert all(parts[name] == 0 for parts in nobody.values() for name in (*pieces, "own_words"))
    assert all(parts["own_words"] == 0 for parts in items.values())
    assert any(parts["graph"] for parts in items.values())
    assert all(parts[name] == 0 for parts in words.values() for name in pieces)
    assert any(parts["own_words"] for parts in words.values())
    later = why(history=["i3", "i7"], at=START + 1e7)
    assert later.keys() == items.keys()
    assert {item: parts["trend"] for item, parts in later.items()} != {i: parts["trend"] for i, parts in items.items()}


def test_without_a_moment_the_last_one_that_is_known_is_asked_for(recommender: Recommender) -> None:
    def trend(history: list[Any], at: float | None) -> dict[str, float]:
        return {best.item: best.why["trend"] for best in recommender.recommend(history=history, at=at, k=100, why=True)}

    last, later = max(recommender._statistics.moment.tolist()), START + 1e7
    assert trend(["i3"], None) == trend(["i3"], last) != trend(["i3"], later)
    assert trend([("i3", later)], None) == trend(["i3"], later)


@given(
    history=st.lists(st.sampled_from([f"i{n}" for n in range(20)]), max_size=4),
    order=st.randoms(use_true_random=False),
)
@quick
def test_with_moments_the_order_of_a_history_does_not_matter(
    recommender: Recommender, history: list[str], order: Any
) -> None:
    timed = [(item, float(START + 50 * place)) for place, item in enumerate(history) if item in recommender.items]
    shuffled = order.sample(timed, len(timed))
    one, other = (recommender.recommend(history=met, k=5) for met in (timed, shuffled))
    assert tokens(one) == tokens(other)


def test_many_at_once_get_what_each_gets_alone_in_any_thread(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(user) for user in recommender.users[:6]]
    requests += [Request(history=["i3", ("i7", START)]), Request(reviews=["i9 love"], at=START), Request()]
    monkeypatch.setattr("recbole_symcere.serving.recommender.SCORES_AT_ONCE", 70)  # two people at a time
    together = recommender.recommend_many(requests, k=4)
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda n: recommender.recommend_many([requests[n % len(requests)]], k=4)[0], range(90)))
    for number, found in enumerate(alone):
        assert tokens(found) == tokens(together[number % len(requests)])
    assert recommender.recommend_many([]) == []


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        ({"user": "u999"}, "there is no user 'u999'"),
        ({"history": ["i3x"]}, r"there is no item 'i3x'; did you mean 'i3'\?"),
        ({"history": [("i3", math.nan)]}, "a moment of the history is not a number"),
        ({"at": math.inf}, "at is not a number"),
        ({"reviews": ["fine", " "]}, "a text is empty"),
        ({"k": 0}, "k is 0, but must be at least 1"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    recommender: Recommender, request_of: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        recommender.recommend(**request_of)


def test_no_text_is_logged_or_stored(
    recommender: Recommender, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.DEBUG):
        recommender.recommend(reviews=["gasket secretsecret"])
    assert "secret" not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_texts_of_a_model_that_read_none_are_refused(
    plus_settings: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "random.pth"
    run_recbole_symcere(
        config_dict=plus_settings | {"text_source": "random", "checkpoint_file": str(path), "epochs": 10}
    )
    found = Recommender.load(path)
    assert found.recommend(history=["i3"], k=2)
    with pytest.raises(UserError, match="trained with shuffled or random texts"):
        found.recommend(reviews=["great"])


def test_an_encoder_of_another_width_is_refused(checkpoint: Path) -> None:
    encoder = load_checkpoint(checkpoint)["serving"]["encoder"]
    with pytest.raises(UserError, match="makes vectors of 16 numbers here, but made 8 in training"):
        Texts(encoder, 8).encode(["great"])


def test_a_checkpoint_that_can_not_serve_says_why(
    plus_settings: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "lightgcn.pth"
    other = for_model(plus_settings | {"model": "LightGCN", "checkpoint_file": str(path), "epochs": 2})
    run_recbole_symcere(config_dict=other)
    with pytest.raises(CheckpointError, match="LightGCN knows only users of its dataset; train SymCEREPlus"):
        Recommender.load(path)
    stored = load_checkpoint(checkpoint)
    del stored["serving"]
    save_checkpoint(stored, path)
    with pytest.raises(CheckpointError, match="its run has not finished, or an older version made it"):
        Recommender.load(path)


def test_a_checkpoint_still_holds_no_code(checkpoint: Path) -> None:
    assert torch.load(checkpoint, weights_only=True)["serving"]["users"][1:]

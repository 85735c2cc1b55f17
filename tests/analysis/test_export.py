"""Exported vectors: they rank as the model does, load without pickle, and can leave users out."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from transformers import AutoModel

from recbole_symcere.analysis import __main__ as command
from recbole_symcere.analysis import export
from recbole_symcere.analysis.trained import TrainedModel
from recbole_symcere.quick_start import run_recbole_symcere
from tests.conftest import tiny_rows

ITEM_OF_REVIEW = {review_id: item for _, item, *_, review_id, _ in tiny_rows()}


def train(settings: dict[str, Any], **changes: Any) -> Path:
    """The checkpoint of a short run on the tiny data, whose tokens are u0, i0, r0 and so on."""
    checkpoint = Path(settings["checkpoint_dir"]) / "tiny.pth"
    run_recbole_symcere(config_dict=settings | changes | {"checkpoint_file": str(checkpoint)})
    return checkpoint


def exported(checkpoint: Path, *options: str) -> Path:
    """The folder that the command wrote."""
    assert command.main(["export", "--checkpoint", str(checkpoint), "--output", "vectors", *options]) == 0
    return Path("vectors")


def read(folder: Path, file_format: str) -> tuple[dict[str, np.ndarray], dict[str, dict[str, list[str]]]]:
    """Vectors and tokens of both formats alike."""
    if file_format == "safetensors":
        tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        return load_file(folder / "vectors.safetensors"), tokens
    frames = {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}
    vectors = {name: frame["vector"].to_numpy() for name, frame in frames.items()}
    assert all(frame.schema["vector"] == pl.Array(pl.Float32, vectors[name].shape[1]) for name, frame in frames.items())
    return vectors, {name: frame.drop("vector").to_dict(as_series=False) for name, frame in frames.items()}


@pytest.mark.parametrize("file_format", export.FORMATS)
@pytest.mark.parametrize("changes", [{}, {"score_norm": 0.5}], ids=["cosines", "with lengths"])
def test_dot_products_of_exported_vectors_are_the_models_scores(
    settings: dict[str, Any], changes: dict[str, Any], file_format: str
) -> None:
    checkpoint = train(settings, **changes)
    folder = exported(checkpoint, "--format", file_format)
    vectors, tokens = read(folder, file_format)
    trained = TrainedModel(checkpoint)
    model = trained.model
    with torch.no_grad():
        scores = model.full_sort_predict({model.USER_ID: torch.arange(trained.dataset.user_num)})
    scores = scores.view(trained.dataset.user_num, -1).numpy()
    assert tokens["users"]["user"] == trained.user_tokens()[1:].tolist()
    assert tokens["items"]["item"] == trained.item_tokens()[1:].tolist()
    assert all(part.dtype == np.float32 for part in vectors.values())
    np.testing.assert_allclose(vectors["users"] @ vectors["items"].T, scores[1:, 1:], atol=1e-5)
    lengths = np.linalg.norm(vectors["items"], axis=1)
    assert np.allclose(lengths, 1) == (not changes)


@pytest.mark.parametrize("file_format", export.FORMATS)
def test_review_vectors_are_the_training_reviews_beside_their_tokens(
    settings: dict[str, Any], file_format: str
) -> None:
    checkpoint = train(settings)
    vectors, tokens = read(exported(checkpoint, "--format", file_format), file_format)
    trained = TrainedModel(checkpoint)
    ids, items = tokens["reviews"]["review_id"], tokens["reviews"]["item"]
    assert [ITEM_OF_REVIEW[review_id] for review_id in ids] == items
    assert len(ids) == len(trained.train) < len(ITEM_OF_REVIEW)
    number = trained.train.field2token_id["review_id"]
    rows = trained.train.review_rows()[[number[review_id] for review_id in ids]]
    np.testing.assert_allclose(vectors["reviews"], trained.review_vectors().numpy()[rows], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors["reviews"], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("file_format", export.FORMATS)
def test_without_users_nothing_names_one_or_tells_whose_reviews_lie_together(
    settings: dict[str, Any], file_format: str
) -> None:
    checkpoint = train(settings)
    whole, whole_tokens = read(exported(checkpoint, "--format", file_format), file_format)
    Path("vectors").rename("whole")
    folder = exported(checkpoint, "--format", file_format, "--without-users")
    vectors, tokens = read(folder, file_format)
    assert vectors.keys() == tokens.keys() == {"items", "reviews"}
    assert tokens["reviews"].keys() == {"item"}
    for path in folder.iterdir():
        assert not re.search(rb'"[ur]\d+"', path.read_bytes()), path
    # The same reviews, in an order that who wrote them has no part in
    rows = np.column_stack([whole_tokens["reviews"]["item"], whole["reviews"][:, 0]])
    order = sorted(range(len(rows)), key=lambda row: (rows[row][0], whole["reviews"][row, 0]))
    assert tokens["reviews"]["item"] == [whole_tokens["reviews"]["item"][row] for row in order]
    np.testing.assert_array_equal(vectors["reviews"], whole["reviews"][order])


def test_the_adapter_comes_along_and_loads_with_peft(settings: dict[str, Any], tiny_encoder: Path) -> None:
    checkpoint = train(settings, text_train="lora", text_learning_rate=0.01)
    folder = exported(checkpoint)
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_encoder), folder / "adapter")
    saved = load_tensors(folder / "adapter" / "adapter_model.safetensors")
    trained = TrainedModel(checkpoint).encoder.state_dict()
    assert len(saved) == len(trained) > 0
    second = [name for name in adapted.state_dict() if "lora_B" in name]
    assert any(adapted.state_dict()[name].abs().sum() for name in second), "as if it had never trained"
    for name in second:
        torch.testing.assert_close(adapted.state_dict()[name], trained[f"model.{name}"].cpu())


def test_a_model_without_text_exports_users_and_items(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(train(settings, cross_weight=0, alpha_text=0))
    assert "no reviews" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"vectors.safetensors", "tokens.json", "export.json"}
    assert load_file(folder / "vectors.safetensors").keys() == {"users", "items"}


def test_the_description_holds_what_made_the_vectors_and_no_folder_of_this_machine(settings: dict[str, Any]) -> None:
    checkpoint = train(settings)
    folder = exported(checkpoint)
    text = (folder / "export.json").read_text(encoding="utf-8")
    held = json.loads(text)
    assert (held["model"], held["dataset"], held["settings"]["seed"]) == ("SymCERE", "tiny", 2020)
    assert held["settings"]["text_encoder"] == Path(settings["text_encoder"]).name
    vectors = load_file(folder / "vectors.safetensors")
    assert held["shapes"] == {name: list(part.shape) for name, part in vectors.items()}
    assert not {"data_path", "checkpoint_dir", "checkpoint_file", "text_cache_dir"} & held["settings"].keys()
    assert {"recbole_symcere", "torch"} <= held["versions"].keys()
    for path in (Path.cwd(), Path(settings["data_path"]), Path(settings["text_encoder"]).parent, Path.home()):
        assert str(path) not in text
    assert not re.search(r'"(/|~|[A-Z]:\\)', text)
    before = held["fingerprints"]
    Path("vectors").rename("first")
    changed = torch.load(checkpoint, weights_only=True)
    changed["epoch"] += 1
    torch.save(changed, checkpoint)
    after = json.loads((exported(checkpoint) / "export.json").read_text(encoding="utf-8"))["fingerprints"]
    assert after["data"] == before["data"] and after["checkpoint"] != before["checkpoint"]


def test_a_folder_in_use_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("used").mkdir()
    Path("used/kept.txt").write_text("kept")
    for output in ("used", "used/kept.txt"):
        assert command.main(["export", "--checkpoint", "none.pth", "--output", output]) == 2
        assert re.fullmatch(r"error: --output: .* exists and is not empty; .*\n", capsys.readouterr().err)
    assert command.main(["export", "--checkpoint", "none.pth", "--output", "used/kept.txt/vectors"]) == 2
    assert "--output: the folder" in capsys.readouterr().err
    assert [path.name for path in Path("used").iterdir()] == ["kept.txt"]


def test_an_export_that_fails_leaves_nothing(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = train(settings)
    before = sorted(path.name for path in Path.cwd().iterdir())

    def full_disk(*arguments: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(export, "describe", full_disk)
        with pytest.raises(OSError, match="no space"):
            exported(checkpoint)
    assert sorted(path.name for path in Path.cwd().iterdir()) == before
    Path("vectors").mkdir()  # an empty one is as good as none
    assert (exported(checkpoint) / "export.json").is_file()


def example() -> str:
    """The program in the page of everyday commands."""
    page = (Path(__file__).parents[2] / "docs" / "everyday.md").read_text(encoding="utf-8")
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "vectors.safetensors" in block]
    return program


def test_the_documented_program_finds_the_models_neighbours_and_recommendations(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = train(settings)
    exported(checkpoint)
    capsys.readouterr()
    exec(compile(example(), "example", "exec"), {})
    near, best = capsys.readouterr().out.splitlines()
    trained = TrainedModel(checkpoint)
    item, user = trained.train.field2token_id["item_id"]["i7"], trained.train.field2token_id["user_id"]["u0"]
    items, tokens = trained.nodes[1], trained.item_tokens()
    cosines = torch.cosine_similarity(items, items[item][None])
    nearest = [tokens[row] for row in (-cosines).argsort() if row not in (0, item)]
    assert near == f"near i7: {[str(token) for token in nearest[:10]]}"
    with torch.no_grad():
        scores = trained.model.full_sort_predict({trained.model.USER_ID: torch.tensor([user])})
    ranked = [str(tokens[row]) for row in (-scores).argsort() if row]
    assert best == f"for u0: {ranked[:10]}"

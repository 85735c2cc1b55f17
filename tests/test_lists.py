"""The lists that a checkpoint gives alone: those that its model gives with its dataset."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import BPR
from torch import Tensor

from recbole_symcere.checkpoint import load_checkpoint, save_checkpoint
from recbole_symcere.errors import CheckpointError, UserError
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.recommend import recommend
from tests.conftest import for_model, tiny_rows, write_atomic_files

ALONE = [
    *["SymCERE", "LightGCN", "NGCF", "SGL", "BPR", "XSimGCL", "SMORE", "AlphaRec", "RLMRec", "TextProfile"],
    "SymCEREPlus",
]


def trained(settings: dict[str, Any], **changes: Any) -> Path:
    """The checkpoint of a run on a dataset in the folder ``own``, whose last reviews are of an item that is new then.

    The users of the last reviews are new, too.
    """
    rows = tiny_rows()
    late = sorted(row[3] for row in rows)[int(0.85 * len(rows))]
    rows = [(u, "n1" if i == "i1" and time >= late else i, r, time, n, text) for u, i, r, time, n, text in rows]
    write_atomic_files(Path("own/own"), rows)
    own = {"dataset": "own", "data_path": "own", "checkpoint_file": "run.pth", "epochs": 2}
    run_recbole_symcere(config_dict=for_model(settings | own | changes))
    return Path("run.pth")


def without_lists(path: Path) -> Path:
    """A copy of a checkpoint as a run leaves it that is killed at its end."""
    checkpoint = load_checkpoint(path)
    del checkpoint["lists"]
    save_checkpoint(checkpoint, Path("killed.pth"))
    return Path("killed.pth")


@pytest.mark.parametrize("protocol", ["strict", "temporal"])
@pytest.mark.parametrize("model", ALONE)
def test_a_checkpoint_alone_gives_the_lists_of_its_model(
    settings: dict[str, Any], model: str, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = trained(settings, model=model, protocol=protocol)
    killed = without_lists(path)
    said = []
    found = []
    for file in (killed, path):
        if file is path:
            shutil.rmtree("own")
        caplog.clear()
        logging.getLogger().addHandler(caplog.handler)  # the run has taken it away
        logging.getLogger().setLevel(logging.WARNING)
        found.append(recommend(file, k=100))
        said.append([record.message for record in caplog.records if "no training interaction" in record.message])
    expected, alone = found
    assert alone.keys() == expected.keys() and len(alone) == 40
    for user, items in expected.items():
        assert [item for item, _ in alone[user]] == [item for item, _ in items]
        assert [score for _, score in alone[user]] == pytest.approx([score for _, score in items], rel=1e-4, abs=1e-6)
    assert said[0] == said[1] and len(said[0]) == (protocol == "temporal")
    assert recommend(path, ["u3", "u3", "u1"], k=1).keys() == {"u3", "u1"}
    with pytest.raises(UserError, match="own has no user 'u33x'; did you mean 'u33'"):
        recommend(path, "u33x")


def test_a_setting_that_changes_asks_the_dataset(settings: dict[str, Any]) -> None:
    path = trained(settings, model="BPR", protocol="temporal")
    every = recommend(path, k=100, config_dict={"candidates": "all"})
    assert max(map(len, every.values())) > max(map(len, recommend(path, k=100).values()))
    shutil.rmtree("own")
    assert recommend(path, "u1", config_dict={"show_progress": False, "state": "ERROR", "use_gpu": False})
    with pytest.raises(CheckpointError, match="the dataset own is not the one"):
        recommend(path, "u1", config_dict={"candidates": "all"})


@pytest.mark.parametrize("model", ["Pop", "ItemKNN", "NeuMF", "EASE", "RecentPop"])
def test_a_model_without_vectors_reads_its_dataset(settings: dict[str, Any], model: str) -> None:
    path = trained(settings, model=model)
    assert "lists" not in load_checkpoint(path) and len(recommend(path, "u1")["u1"]) == 10
    shutil.rmtree("own")
    with pytest.raises(CheckpointError, match="the dataset own is not the one"):
        recommend(path, "u1")


class Cosine(BPR):  # type: ignore[misc]
    """A model whose scores are not the dot products of its vectors."""

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        users, items = (
            torch.nn.functional.normalize(table, dim=1)
            for table in (self.user_embedding.weight, self.item_embedding.weight)
        )
        return (users[interaction[self.USER_ID]] @ items.T).view(-1)


def test_vectors_whose_dot_products_are_not_the_scores_are_not_taken(settings: dict[str, Any]) -> None:
    assert "lists" not in load_checkpoint(trained(settings, model=Cosine))


def test_many_users_at_once_get_what_each_gets_alone(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained(settings, model="LightGCN", protocol="temporal")
    together = recommend(path, k=5)
    monkeypatch.setattr("recbole_symcere.lists.SCORES_AT_ONCE", 100)  # three users at a time
    apart = recommend(path, k=5)
    for user, items in together.items():
        assert [item for item, _ in apart[user]] == [item for item, _ in items]


def test_lists_from_a_checkpoint_load_no_recbole(settings: dict[str, Any]) -> None:
    """It takes seconds to import, and whoever asks for one user would wait for it."""
    path = trained(settings, model="LightGCN")
    script = (
        "import sys; from recbole_symcere.recommend import recommend; print(*recommend(sys.argv[1], 'u1', 3)['u1']); "
    )
    script += "print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    items, modules = ran.stdout.splitlines()
    assert items == " ".join(map(str, recommend(path, "u1", 3)["u1"]))
    assert not {"recbole", "pandas", "polars", "sklearn", "transformers"} & set(modules.split())

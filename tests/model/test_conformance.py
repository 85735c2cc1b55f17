"""Our models, some of RecBole's, and the documentation's example pass the suite that anybody can inherit."""

import runpy
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import InputType

from recbole_symcere.config import Config
from recbole_symcere.data.loaders import DataLoaders
from recbole_symcere.model.graph import GRAPH_ENCODERS
from recbole_symcere.model.loss import CONTRASTS
from recbole_symcere.model.recommender import VectorRecommender
from recbole_symcere.model.registry import our_models
from recbole_symcere.run import build_model
from recbole_symcere.testing import ModelSuite

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "own_model.py"
FROZEN = {"text_train": "frozen", "text_max_length": 16, "embedding_size": 8, "n_layers": 2}


class OfReviews(ModelSuite):
    """A suite whose models read reviews by the tiny encoder."""

    @pytest.fixture(autouse=True)
    def _tiny_encoder(self, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        own = {"text_encoder": str(tiny_encoder), "text_precision": "fp32", "text_cache_dir": str(tmp_path / "text")}
        monkeypatch.setattr(type(self), "settings", {**own, **type(self).settings}, raising=False)


class TestSymCERE(OfReviews):
    model = "SymCERE"
    settings: ClassVar = FROZEN


class TestSymCEREWithLoRA(OfReviews):
    model = "SymCERE"
    settings: ClassVar = FROZEN | {"text_train": "lora"}


class TestSymCEREWithNGCF(OfReviews):
    model = "SymCERE"
    settings: ClassVar = FROZEN | {"graph_encoder": "NGCF", "contrast": "infonce"}


class TestSymCEREPlus(OfReviews):
    model = "SymCEREPlus"
    settings: ClassVar = FROZEN


class TestSMORE(OfReviews):
    model = "SMORE"
    settings: ClassVar = {"text_max_length": 16, "embedding_size": 8, "text_knn_k": 5}


class TestAlphaRec(OfReviews):
    model = "AlphaRec"
    settings: ClassVar = {"text_max_length": 16, "embedding_size": 8, "hidden_size": 24, "n_negatives": 10}


class TestRLMRec(OfReviews):
    model = "RLMRec"
    settings: ClassVar = {"text_max_length": 16, "embedding_size": 8}


class TestCEASE(OfReviews):
    model = "CEASE"
    settings: ClassVar = {"text_max_length": 16}


class TestTextProfile(OfReviews):
    model = "TextProfile"
    settings: ClassVar = {"text_max_length": 16}


class TestXSimGCL(ModelSuite):
    model = "XSimGCL"
    settings: ClassVar = {"embedding_size": 8}


class TestRepurchase(ModelSuite):
    model = "Repurchase"


class TestRecentPop(ModelSuite):
    model = "RecentPop"


class TestLaterPopularity(ModelSuite):
    model = "LaterPopularity"


class TestEASE(ModelSuite):
    model = "EASE"
    settings: ClassVar = {"reg_weight": 5.0}


class TestRP3beta(ModelSuite):
    model = "RP3beta"
    settings: ClassVar = {"k": 5}


class TestTurboCF(ModelSuite):
    model = "TurboCF"


class TestDirectedRP3(ModelSuite):
    model = "DirectedRP3"
    settings: ClassVar = {"history_decay": 0.01}


class TestSLIMElastic(ModelSuite):
    model = "SLIMElastic"
    settings: ClassVar = {"alpha": 0.01}


class TestLightGCN(ModelSuite):
    model = "LightGCN"
    waits = True


class TestBPR(ModelSuite):
    model = "BPR"
    waits = True


class TestItemKNN(ModelSuite):
    model = "ItemKNN"


class TestMultiVAE(ModelSuite):
    model = "MultiVAE"
    waits = True


class TestOwnModel(OfReviews):
    settings: ClassVar = FROZEN

    @pytest.fixture(autouse=True)
    def _example(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(type(self), "model", runpy.run_path(str(EXAMPLE))["OwnModel"], raising=False)
        yield
        GRAPH_ENCODERS.pop("Teleport")
        CONTRASTS.pop("sigmoid")


def test_every_model_of_this_package_has_its_suite() -> None:
    suites = [value for value in vars(sys.modules[__name__]).values() if isinstance(value, type)]
    assert set(our_models()) <= {vars(suite).get("model") for suite in suites}


class Changes(VectorRecommender):
    """A model whose vectors are its two parameters."""

    input_type = InputType.PAIRWISE
    defaults: ClassVar = {"width": 4}

    def __init__(self, config: Config, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.users, self.items = (torch.nn.Embedding(n, config["width"]) for n in (self.n_users, self.n_items))

    def ranking_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.users.weight, self.items.weight


class TestKeptVectors(ModelSuite):
    """What can change the weights makes the kept vectors be forgotten, also in eval mode."""

    model = Changes
    waits = True

    @pytest.fixture
    def fitted(self, config: Config, loaders: DataLoaders) -> Changes:
        return build_model(config, loaders[0]._dataset).eval()

    test_each_term_of_the_loss_is_a_finite_number_with_a_name = None

    def test_a_move_to_another_type_of_numbers(self, fitted: Changes) -> None:
        one = Interaction({"user_id": torch.tensor([1])})
        with torch.no_grad():
            assert fitted.full_sort_predict(one).dtype == torch.float32
            assert fitted.to(torch.float64).full_sort_predict(one).dtype == torch.float64
            assert fitted.to("meta").full_sort_predict(one.to(torch.device("meta"))).device.type == "meta"

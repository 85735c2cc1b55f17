"""What only a GPU can show: a training step never waits for it, and runs end there as they do on the CPU."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_symcere.config import Config
from recbole_symcere.quick_start import create_dataset, data_preparation
from recbole_symcere.run import build_trainer

MakeConfig = Callable[..., Config]

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.fixture
def _refuses_to_wait() -> Iterator[Callable[[str], None]]:
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        *[("SymCERE", {"text_train": train}) for train in ("frozen", "lora", "full")],
        ("SymCERE", {"graph_encoder": "NGCF"}),
        ("SymCERE", {"contrast": "infonce", "contrast_batch_size": 16}),
        ("SymCEREPlus", {"contrasted": 16}),
        ("SMORE", {}),
        ("AlphaRec", {}),
        ("RLMRec", {}),
        ("XSimGCL", {}),
    ],
)
def test_a_step_never_waits_for_the_gpu(
    make_config: MakeConfig, _refuses_to_wait: Callable[[str], None], model: str, changes: dict[str, Any]
) -> None:
    config = make_config(model=model, clip_grad_norm={"max_norm": 1.0}, **changes)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    trainer = build_trainer(config, train_data)
    trainer.model.train()
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    train_data.get_model(trainer.model)
    batches = iter(train_data)
    for mode in ("default", "error"):  # the first step may set up what is kept
        _refuses_to_wait(mode)
        batch = next(batches)
        assert {field for field in batch.interaction if batch[field].device.type == "cpu"} <= {
            *trainer.model.host_fields
        }
        trainer._train_step(batch, trainer.model.calculate_loss, scaler)


@pytest.mark.parametrize("model", ["RecentPop", "LaterPopularity", "Repurchase", "EASE", "ItemKNN", "TurboCF"])
def test_models_that_train_nothing_rank_on_the_gpu_as_on_the_cpu(make_config: MakeConfig, model: str) -> None:
    config = make_config(model=model)
    train = create_dataset(config).build()[0]
    built, users = config.model_class(config, train), torch.arange(train.user_num)
    expected = built.scores(users)
    found = built.cuda().scores(users.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("text_train", ["frozen", "lora"])
def test_torchrun_on_one_gpu_over_nccl_gives_the_run_of_one_process(
    make_config: MakeConfig, tmp_path: Path, text_train: str
) -> None:
    config = make_config(text_train=text_train)
    results = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]):
        result = tmp_path / f"{len(launcher)}.json"
        settings = {key: config[key] for key in ("text_encoder", "embedding_size", "train_batch_size")}
        settings |= {"data_path": Path(config["data_path"]).parent, "text_cache_dir": tmp_path / "text"}
        settings |= {
            "text_train": text_train,
            "epochs": 3,
            "checkpoint_dir": result.with_suffix(""),
            "result_file": result,
        }
        given = [f"--{key}={value}" for key, value in settings.items()]
        command = [
            sys.executable,
            *launcher,
            "-m",
            "recbole_symcere.cli",
            "train",
            "--model=SymCERE",
            "--dataset=tiny",
            *given,
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        results.append(json.loads(result.read_text())["test_result"])
    assert results[1] == pytest.approx(results[0], abs=0.05)  # sums over edges have no fixed order on a GPU

"""Work survives faults from outside: kills at any moment, full disks, clocks that go back.

The tests use real processes and real signals.

``FAULT_KILLS=15 pytest tests/test_faults.py`` kills each kind of work 15 times; ``SOAK_EPOCHS=20000`` trains for long.
"""

import functools
import gc
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
from filelock import FileLock, Timeout

from dataset_prep.conversion import prepare
from dataset_prep.errors import PreparationError
from dataset_prep.sources import amazon
from recbole_symcere import cli
from recbole_symcere.checkpoint import lock_path
from recbole_symcere.comparison.comparison import Comparison, Plan
from recbole_symcere.data import embeddings as embeddings_module
from recbole_symcere.data.embeddings import cached_embeddings
from recbole_symcere.errors import CheckpointError, ReviewFileError
from recbole_symcere.model.text.encoder import ReviewEncoder
from recbole_symcere.quick_start import run_recbole_symcere
from recbole_symcere.trainer import Trainer
from tests.conftest import for_model
from tests.dataset_prep.rows import amazon_line
from tests.processes import CONTEXT

Settings = dict[str, Any]
KILLS = int(os.environ.get("FAULT_KILLS", "1"))
SOAK_EPOCHS = int(os.environ.get("SOAK_EPOCHS", "40"))


# The kinds of work: each can be given again in the same folder, and returns what must not depend on the kills.


def train(settings: Settings, folder: Path) -> Any:
    settings = settings | {
        "checkpoint_file": str(folder / "run.pth"),
        "result_file": str(folder / "run.json"),
        "epochs": 30,
    }
    result = run_recbole_symcere(config_dict=settings)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["test_result"] == {name: float(value) for name, value in result["test_result"].items()}
    return record["best_valid_result"], record["test_result"], record["best_epoch"], record["curves"]


def encode(settings: Settings, folder: Path) -> Any:
    with mock.patch.object(embeddings_module, "TEXTS_PER_SHARD", 64):
        return encoded(settings, folder)


def encoded(settings: Settings, folder: Path) -> Any:
    encoder = ReviewEncoder(settings["text_encoder"], train="frozen", max_length=16, precision="fp32")
    texts = [f"u{number} great cable {number % 7}" for number in range(3000)]
    views = cached_embeddings(texts, encoder, 1, 0.2, 0, folder / "text", show_progress=False)
    return [view.tobytes() for view in views], contents(folder / "text")


def convert(settings: Settings, folder: Path) -> Any:
    if not (raw := folder / "raw.json").exists():
        raw.write_text(raw_reviews(), encoding="utf-8")
    prepare(amazon.SOURCE, [raw], folder / "dataset" / "made")
    return contents(folder / "dataset" / "made")


@functools.cache
def raw_reviews() -> str:
    rng = random.Random(0)
    pairs = ((f"u{rng.randrange(900)}", f"i{rng.randrange(90)}") for _ in range(30_000))
    return "".join(amazon_line(user, item, "fine " * 9, row) for row, (user, item) in enumerate(pairs))


def compare(settings: Settings, folder: Path) -> Any:
    common = for_model(settings | {"model": "Pop", "epochs": 10})
    given = {key: value for key, value in common.items() if key not in ("model", "dataset", "state")}
    plan = Plan(["Pop", "LightGCN"], ["tiny"], [], 3, 2, given, folder / "comparison")
    comparison = Comparison(plan, ["strict"])
    comparison.work()
    comparison.write_tables()
    return pl.read_csv(folder / "comparison" / "strict" / "accuracy.csv").drop("seconds").rows()


WORK = (train, encode, convert, compare)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".tmp"}


def start(work: Callable[..., Any], *arguments: Any) -> Any:
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_work_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(
    settings: Settings, tmp_path: Path, work: Callable[[Settings, Path], Any]
) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "raw.json").write_text(raw_reviews(), encoding="utf-8")
        return tmp_path / name

    start(len, "").join()  # the server has imported all there is
    unbroken, broken = folder("unbroken"), folder("broken")
    begun = time.monotonic()
    process = start(work, settings, unbroken)
    process.join()
    seconds = time.monotonic() - begun
    assert process.exitcode == 0
    delays = random.Random(work.__name__)
    killed = ended = 0
    while killed < KILLS:
        process = start(work, settings, broken)
        process.join(delays.uniform(0.0, 0.9) * seconds)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed += 1
        else:  # it had come to its end, sooner than was thought: on with new work
            assert work(settings, broken) == work(settings, unbroken)
            ended += 1
            broken = folder(f"broken, {ended}")
    assert work(settings, broken) == work(settings, unbroken)


def _limited(size: int, work: Callable[..., Any], *arguments: Any) -> None:
    """Limits every file to ``size`` bytes, as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    work(*arguments)


def _expects_checkpoint_error(settings: Settings, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run\.(resume\.)?pth: can't be written .*free disk space"):
        train(settings, folder)


def _expects_review_file_error(settings: Settings, folder: Path) -> None:
    with pytest.raises(ReviewFileError, match=r"text/.*: can't be written .*free disk space.*text_cache_dir"):
        encode(settings, folder)


def _expects_preparation_error(settings: Settings, folder: Path) -> None:
    with pytest.raises(PreparationError, match="free disk space"):
        convert(settings, folder)


@pytest.mark.parametrize(
    ("work", "expects", "size"),
    [
        (train, _expects_checkpoint_error, 2000),
        (encode, _expects_review_file_error, 4000),
        (convert, _expects_preparation_error, 100_000),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_full_disk_is_one_error_and_the_work_goes_on_where_there_is_room(
    settings: Settings, tmp_path: Path, work: Any, expects: Any, size: int
) -> None:
    settings = for_model(settings | {"model": "BPR"}) if work is train else settings
    for name in ("full", "roomy"):
        (tmp_path / name).mkdir()
    if work is convert:  # the raw file itself was there before
        convert(settings, tmp_path / "roomy")
        (tmp_path / "full" / "raw.json").write_bytes((tmp_path / "roomy" / "raw.json").read_bytes())
    process = start(_limited, size, expects, settings, tmp_path / "full")
    process.join()
    assert process.exitcode == 0
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file() and path.stat().st_size == size]
    assert work(settings, tmp_path / "full") == work(settings, tmp_path / "roomy")


def test_a_cache_folder_that_cannot_be_written_is_one_error(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings |= {"text_cache_dir": "/proc/nowhere"}
    assert cli.train([f"--{key}={value}" for key, value in settings.items()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "/proc/nowhere" in line and "text_cache_dir" in line


def test_a_second_run_on_the_checkpoint_of_one_that_trains_is_refused(settings: Settings, tmp_path: Path) -> None:
    usual = train(settings, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pth")}
    with (
        FileLock(lock_path(tmp_path / "run.pth")),
        pytest.raises(CheckpointError, match=r"run\.pth belongs to a run"),
    ):
        train(settings, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pth")} == before
    assert train(settings, tmp_path) == usual


def test_a_run_holds_the_lock_of_its_checkpoint_while_it_trains(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, refused = Trainer._valid_epoch, []

    def meanwhile(trainer: Any, *arguments: Any, **options: Any) -> Any:
        with pytest.raises(Timeout), FileLock(lock_path(tmp_path / "run.pth"), timeout=0):
            pass
        refused.append(True)
        return validate(trainer, *arguments, **options)

    monkeypatch.setattr(Trainer, "_valid_epoch", meanwhile)
    train(settings, tmp_path)
    assert refused


def test_a_clock_that_goes_back_changes_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("usual", "back"):
        (tmp_path / name).mkdir()
    usual = train(settings, tmp_path / "usual"), compare(settings, tmp_path / "usual")
    now = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert (train(settings, tmp_path / "back"), compare(settings, tmp_path / "back")) == usual


def test_long_training_keeps_memory_and_files_as_they_are(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, int]] = []
    validate = Trainer._valid_epoch

    def observed(trainer: Any, *arguments: Any, **options: Any) -> Any:
        result = validate(trainer, *arguments, **options)
        if len(trainer.curves) % 10 == 0:
            gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append((pages * resource.getpagesize(), len(list(Path("/proc/self/fd").iterdir()))))
        return result

    monkeypatch.setattr(Trainer, "_valid_epoch", observed)
    run_recbole_symcere(
        config_dict=settings | {"epochs": SOAK_EPOCHS, "stopping_step": SOAK_EPOCHS, "text_train": "lora"}
    )
    memory, files = np.array(used).T
    early, late = memory[len(memory) // 4 : len(memory) // 2], memory[-len(memory) // 4 :]
    assert len(used) == SOAK_EPOCHS
    assert np.median(late) - np.median(early) < 4 * 2**20
    assert files[-1] <= files[len(files) // 4]

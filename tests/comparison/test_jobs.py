"""Several processes of one command share a comparison: the same numbers, and nothing is lost where one ends."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dataset_prep.command import INTERRUPTED
from recbole_symcere.comparison import jobs
from recbole_symcere.comparison.__main__ import main
from recbole_symcere.comparison.comparison import Comparison
from recbole_symcere.comparison.entry import Entry
from recbole_symcere.comparison.work import time_left

pytestmark = pytest.mark.slow  # each job is a new process, which imports PyTorch


@pytest.fixture
def arguments(tiny_dataset: Path) -> Callable[..., list[str]]:
    def make(*changes: str) -> list[str]:
        given = ["--models", "Pop", "LightGCN", "--ours", "LightGCN", "--datasets", "tiny", "--trials=2", "--seeds=2"]
        return [*given, f"--data_path={tiny_dataset.parent}", "--epochs=2", "--embedding_size=8", *changes]

    return make


@pytest.fixture
def at_message(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[jobs.Job]]:
    """Calls a function with the job whenever a job says that it does a certain thing; returns all jobs."""

    def watch(words: str, do: Callable[[jobs.Job], None]) -> list[jobs.Job]:
        started: list[jobs.Job] = []
        start, hear = jobs._start, jobs._hear

        def starting(*given: Any) -> jobs.Job:
            started.append(start(*given))
            return started[-1]

        def hearing(running: dict[Any, jobs.Job], connection: Any, *rest: Any) -> None:
            job = running[connection]
            hear(running, connection, *rest)
            if connection in running and words in job.line.desc:
                do(job)

        monkeypatch.setattr(jobs, "_start", starting)
        monkeypatch.setattr(jobs, "_hear", hearing)
        return started

    return watch


def kill(job: jobs.Job) -> None:
    assert job.process.pid
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.join()


def numbers(output: str) -> pl.DataFrame:
    return pl.read_csv(f"{output}/strict/accuracy.csv").drop("seconds")


def test_jobs_make_the_tables_of_one_process_although_one_is_killed(
    arguments: Callable[..., list[str]],
    at_message: Callable[..., list[jobs.Job]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed: list[jobs.Job] = []
    sharing: list[int] = []

    def left(entries: Sequence[Entry], n_jobs: int) -> str:
        sharing.append(n_jobs)
        return time_left(entries, n_jobs)

    def kill_the_first(job: jobs.Job) -> None:
        if not killed:
            killed.append(job)
            kill(job)

    assert main(arguments("--output=alone")) == 0
    expected = capsys.readouterr().out
    started = at_message("LightGCN: trial", kill_the_first)
    monkeypatch.setattr(jobs, "time_left", left)
    assert main(arguments("--output=shared", "--jobs=2")) == 0
    shown = capsys.readouterr()
    assert shown.out == expected and numbers("shared").equals(numbers("alone"))
    assert f"job {killed[0].number} was ended (signal SIGKILL); the other jobs go on, and nothing is lost" in shown.err
    assert len(started) == 2 and "7/7" in shown.err
    assert sharing[0] == 2 and 1 in sharing, "the time left is that of the jobs that go on"
    assert not list(Path("shared").rglob("*.pth"))


def test_an_interrupt_ends_all_jobs(
    arguments: Callable[..., list[str]],
    at_message: Callable[..., list[jobs.Job]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(job: jobs.Job) -> None:
        raise KeyboardInterrupt

    started = at_message("tiny", interrupt)
    assert main(arguments("--jobs=2")) == INTERRUPTED
    assert len(started) == 2 and not any(job.process.is_alive() for job in started)
    assert "Traceback" not in capsys.readouterr().err


def test_jobs_that_have_all_ended_are_an_error(
    arguments: Callable[..., list[str]],
    at_message: Callable[..., list[jobs.Job]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_message("tiny", kill)
    assert main(arguments("--jobs=2", "--trials=0")) == 2
    error = capsys.readouterr().err
    assert "no other job is left, and nothing is lost" in error
    assert "error: all jobs have ended, and 4 trials and runs are left: give the same command again" in error


def test_an_error_of_a_job_is_the_error_of_the_command(
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Comparison, "check_inputs", lambda self: None)
    given = [argument for argument in arguments("--jobs=2") if not argument.startswith("--data_path")]
    assert main([*given, f"--data_path={tmp_path}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "tiny.inter: no such file" in error


def test_a_run_that_cannot_be_trained_is_told_once_though_several_jobs_share_the_work(
    arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("--jobs=2", "--trials=0", "--learning_rate=1e30")) == 2
    error = capsys.readouterr().err
    assert "error: runs that can't be trained: 2; all others are done." in error
    assert error.count("tiny, LightGCN, seed 2020: the loss is not finite") == 1
    assert len(list(Path("comparison").rglob("run.json"))) == 2


def test_a_job_has_one_thread_and_the_environment_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    handler = signal.getsignal(signal.SIGINT)
    with jobs._environment_of_jobs():
        assert {os.environ[name] for name in jobs.THREADS} == {"1"}
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ
    assert signal.getsignal(signal.SIGINT) is handler

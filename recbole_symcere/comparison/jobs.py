"""Several processes of one command share the work of a comparison; this process shows what they do.

The processes take their tasks as processes that are started by hand do, through locks on disk. A process that is
killed therefore loses nothing: another one goes on with its trial or run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread
from typing import Any

from tqdm import tqdm

from recbole_symcere.comparison.comparison import Comparison, Plan
from recbole_symcere.comparison.entry import Entry
from recbole_symcere.comparison.work import check_failures, finish_bar, n_left, progress_bar, time_left, work
from recbole_symcere.errors import TrainingError, UserError

CONTEXT = multiprocessing.get_context("spawn")  # a fork would inherit PyTorch's threads and could not use a GPU
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS")


@dataclass(frozen=True)
class Failure:
    """A run that can't be trained; ``row`` is the place of its entry among all entries."""

    row: int
    seed: int
    why: str


@dataclass(frozen=True)
class Fatal:
    """An error that ends the whole comparison, such as a full disk."""

    message: str


@dataclass(frozen=True)
class Job:
    """A process of this command, its number from 1, the connection to it, and the line that shows what it does."""

    number: int
    process: SpawnProcess
    connection: Connection
    line: Any


def work_in_jobs(comparison: Comparison, n_jobs: int) -> None:
    """Does all trials and runs that are left in several processes with one thread each, with one progress display.

    Raises:
        DatasetError, ReviewFileError, EncoderError: the data or an encoder can't be used.
        TrainingError: some runs on test can't be trained, which is raised once everything else is done; or all
            processes have ended before their work was done.
        UserError: what else has ended a process.
    """
    comparison.check_inputs()
    entries = comparison.entries
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(entries))
        _show(bar, entries, n_jobs)
        running: dict[Connection, Job] = {}
        stack.callback(_end_all, running)
        with _environment_of_jobs():
            for number in range(1, min(n_jobs, n_left(entries)) + 1):
                line = stack.enter_context(tqdm(bar_format="{desc}", position=number, leave=False))
                job = _start(comparison, number, line)
                running[job.connection] = job
        while running:
            for connection in wait([*running]):
                _hear(running, connection, entries, bar)
            _show(bar, entries, len(running))
        finish_bar(bar, entries)
    check_failures(entries)
    if left := n_left(entries):
        raise TrainingError(f"all jobs have ended, and {left} trials and runs are left: give the same command again")


def _start(comparison: Comparison, number: int, line: Any) -> Job:
    ours, theirs = CONTEXT.Pipe()
    protocols = [part.protocol for part in comparison.parts]
    process = CONTEXT.Process(target=_job, args=(comparison.plan, protocols, theirs), name=f"job {number}")
    process.start()
    theirs.close()  # so that the end of the process is the end of the connection
    line.set_description_str(f"job {number}: starting")
    return Job(number, process, ours, line)


def _hear(running: dict[Connection, Job], connection: Any, entries: Sequence[Entry], bar: Any) -> None:
    """Reads one message of a job, or notices its end.

    Raises:
        UserError: the job tells of an error that ends the whole comparison.
    """
    job = running[connection]
    try:
        message = connection.recv()
    except (EOFError, ConnectionResetError):
        del running[connection]
        job.process.join()
        job.line.set_description_str(f"job {job.number}: ended")
        if job.process.exitcode and n_left(entries):
            others = "the other jobs go on" if running else "no other job is left"
            told = f"job {job.number} was ended ({_how(job.process.exitcode)}); {others}, and nothing is lost"
            bar.write(told, file=sys.stderr)
        return
    match message:
        case Fatal(why):
            raise UserError(why)
        case Failure(row, seed, why):
            entries[row].failures[seed] = why
            for other in running.values():
                _tell(other.connection, message)
        case str():
            job.line.set_description_str(f"job {job.number}: {message}")


def _how(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _tell(connection: Connection, message: Failure) -> None:
    try:
        connection.send(message)
    except OSError:  # the job has just ended, which the main loop will notice
        return


def _show(bar: Any, entries: Sequence[Entry], n_jobs: int) -> None:
    bar.n = bar.total - n_left(entries)
    bar.set_postfix_str(time_left(entries, max(1, n_jobs)))


def _end_all(running: dict[Connection, Job]) -> None:
    for job in running.values():
        job.process.terminate()
    for job in running.values():
        job.process.join()


@contextmanager
def _environment_of_jobs() -> Iterator[None]:
    """Processes that are started in the body have one thread each, and leave Ctrl-C to this process."""
    before = {name: os.environ.get(name) for name in THREADS}
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a new process inherits this
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.signal(signal.SIGINT, handler)


def _job(plan: Plan, protocols: Sequence[str], connection: Connection) -> None:
    """Works as one of several processes, tells the main process what it does, and ends with it."""
    Thread(target=_end_with_parent, daemon=True).start()
    told: set[tuple[int, int]] = set()

    def exchange(entries: Sequence[Entry], doing: str) -> None:
        while connection.poll():
            failure = connection.recv()
            entries[failure.row].failures[failure.seed] = failure.why
            told.add((failure.row, failure.seed))
        for row, entry in enumerate(entries):
            for seed, why in entry.failures.items():
                if (row, seed) not in told:
                    told.add((row, seed))
                    connection.send(Failure(row, seed, why))
        connection.send(doing)

    try:
        entries = Comparison(plan, protocols).entries
        work(entries, lambda doing: exchange(entries, doing))
        exchange(entries, "done")
    except UserError as error:
        connection.send(Fatal(str(error)))


def _end_with_parent() -> None:
    """Ends this process as soon as the main process has ended, in whatever way."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)

"""Benchmarks the time and the memory of converting raw reviews."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from benchmarks.graph import random_interactions
from benchmarks.measure import REPEATS, Options, Row

CLONE = "git clone https://github.com/RUCAIBox/RecSysDatasets, and name its folder with --recsysdatasets"
KEEP_ALL = ("--user-core", "0", "--item-core", "0", "--duplicates", "keep", "--missing-text", "keep")

VOCABULARY, WORDS = 5_000, 50  # the number of different words, and the mean number of words of a review
CHUNK = 10_000  # the number of reviews that are drawn at once
EPOCH = datetime.datetime(1970, 1, 1)  # without a time zone, because Yelp's dates have none

# A program that runs the command in its arguments and prints the seconds and the peak memory that the command took. The
# benchmark does not start the command itself, because on Linux the peak memory of a new process begins at that of its
# parent, and the benchmark has imported torch.
WATCH = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
MAXRSS_PER_GIB = 2**30 if sys.platform == "darwin" else 2**20


@dataclass(frozen=True)
class Dump:
    """A kind of review file that both converters read.

    Attributes:
        peer: the peer's name for the kind.
        file: the name of the file that the peer looks for.
        ours: the arguments of ``dataset_prep`` that name the kind and its fields.
        line: makes the JSON object of a review from its number, user, item, stars, seconds since 1970 and text.
        columns: the names of the columns for user, item, rating and time in the peer's interaction file.
    """

    peer: str
    file: str
    ours: tuple[str, ...]
    line: Callable[[int, int, int, int, int, str], dict[str, Any]]
    columns: tuple[str, ...]


COLUMNS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")  # of our interaction file
YELP = Dump(
    peer="yelp",
    file="yelp_academic_dataset_review.json",
    ours=("yelp",),
    line=lambda number, user, item, stars, seconds, text: {
        "review_id": f"r{number:021}",
        "user_id": f"u{user:021}",
        "business_id": f"b{item:021}",
        "stars": float(stars),
        "useful": 0,
        "funny": 0,
        "cool": 0,
        "text": text,
        "date": (EPOCH + datetime.timedelta(seconds=seconds)).isoformat(" "),
    },
    columns=("user_id:token", "business_id:token", "stars:float", "date:float"),
)
EPINIONS = Dump(
    peer="epinions",
    file="epinions.json",
    ours=("table", "--user", "user", "--item", "item", "--text", "review", "--time", "time", "--rating", "stars"),
    line=lambda number, user, item, stars, seconds, text: {
        "item": f"b{item:021}",
        "user": f"u{user:021}",
        "review": text,
        "paid": 1.0,
        "time": seconds,
        "stars": float(stars),
    },
    columns=COLUMNS,
)

AMAZON = Dump(
    peer="amazon",
    file="Made_Up.jsonl",
    ours=("amazon",),
    line=lambda number, user, item, stars, seconds, text: {
        "rating": float(stars),
        "title": text[:20],
        "text": text,
        "images": [],
        "asin": f"B{item:09}",
        "parent_asin": f"B{item:09}",
        "user_id": f"u{user:021}",
        "timestamp": 1000 * seconds,
        "helpful_vote": 0,
        "verified_purchase": True,
    },
    columns=COLUMNS,
)


def conversion(options: Options) -> Iterator[Row]:
    """Measures the conversion of a dump of reviews to an interaction file that keeps all rows.

    The peer reads JSON lines with review texts for two of its sources, Yelp and Epinions, and both are measured. Both
    converters have code for Yelp; the peer reads it in a special loop, which holds one line at a time. The peer reads
    Epinions with pandas, in the general conversion that ten of its other sources use too. (Its Amazon classes read
    another file than ours, with ratings but without texts.)

    In the measured time our conversion also checks the file, counts words, sorts by time and writes the texts. It may
    use all cores, while the peer uses one.

    The peer is not part of this repository; ``--recsysdatasets`` names the folder of a clone. Without it, rows have no
    ratio. The benchmark takes ten minutes, and 10 GB in the folder for temporary files.
    """
    peer = _peer(options.recsysdatasets)
    n, repeats = (1_000, 1) if options.small else (1_000_000, REPEATS)
    peaks: dict[str, float] = {}
    for dump in (YELP, EPINIONS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_dump(dump, folder / dump.file, n)
            commands = [_our_command(dump, folder)]
            if peer:
                commands.append(_their_command(dump, folder, peer))
            for command in commands:
                command.run()
            if peer:
                _check_same(commands[0].output, commands[1].output, dump.columns)
            ours, *others = alternately(commands, repeats)
            peaks[dump.peer] = commands[0].peak
            note = "; ".join(f"peak of {command.name}: {command.peak:.3f} GiB" for command in commands)
        case = f"{n:,} reviews, {dump.peer}, {os.cpu_count()} cores"
        theirs = others[0] if others else None
        yield Row("conversion", case, "RecSysDatasets", ours, theirs, 10.0, unit="s", note=note)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dump(YELP, folder / YELP.file, 5 * n)
        command = _our_command(YELP, folder)
        command.run()
    case = f"{5 * n:,} reviews, {YELP.peer}, peak memory"
    yield Row("conversion", case, f"ours, {n:,} reviews", command.peak, peaks[YELP.peer], unit="GiB")


@dataclass
class Command:
    """A conversion that runs in a new process.

    Attributes:
        name: the name of the converter in notes and errors.
        arguments: the arguments of Python.
        folder: the working directory of the process.
        output: the interaction file that the conversion writes; its folder is deleted before each run.
        seconds: the seconds that each run took.
        peak: the highest peak memory of all runs, in GiB.
    """

    name: str
    arguments: Sequence[str]
    folder: Path
    output: Path
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0

    def run(self) -> None:
        shutil.rmtree(self.output.parent, ignore_errors=True)  # else our conversion compares old and new files
        done = subprocess.run(
            [sys.executable, "-c", WATCH, sys.executable, *self.arguments],
            cwd=self.folder,
            env=os.environ | {"TZ": "UTC"},  # the peer reads dates as local time
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} failed:\n{done.stderr}")
        seconds, peak = map(float, done.stdout.split())
        self.seconds.append(seconds)
        self.peak = max(self.peak, peak / MAXRSS_PER_GIB)


def _our_command(dump: Dump, folder: Path) -> Command:
    output = folder / "ours" / "converted"
    arguments = ("-m", "dataset_prep", *dump.ours, "--input", str(folder / dump.file), "--output", str(output))
    root = Path(__file__).parents[1]
    return Command("ours", (*arguments, *KEEP_ALL), root, output / "converted.inter")


def _their_command(dump: Dump, folder: Path, peer: Path) -> Command:
    output = folder / "theirs"
    arguments = ("run.py", "--dataset", dump.peer, "--input_path", str(folder), "--output_path", str(output))
    return Command("theirs", (*arguments, "--convert_inter"), peer, output / f"{dump.peer}.inter")


def _peer(checkout: Path | None) -> Path | None:
    """Returns the folder of the peer's ``run.py``, or None if there is no clone of the peer.

    Raises:
        FileNotFoundError: ``checkout`` is not a clone of the peer.
    """
    if checkout is None:
        tqdm.write(f"conversion: only our conversion is measured; to measure the peer too, {CLONE}", file=sys.stderr)
        return None
    tools = checkout.absolute() / "conversion_tools"
    if not (tools / "run.py").is_file():
        raise FileNotFoundError(f"{checkout} has no conversion_tools/run.py; {CLONE}")
    return tools


def alternately(commands: Sequence[Command], repeats: int) -> list[float]:
    """Runs the commands in turn, ``repeats`` times, and returns the median seconds of these runs of each command."""
    for _ in range(repeats):
        for command in commands:
            command.run()
    return [statistics.median(command.seconds[-repeats:]) for command in commands]


def _check_same(ours: Path, theirs: Path, their_columns: Sequence[str]) -> None:
    """Raises ``AssertionError`` unless both files hold the same interactions; their order may differ."""
    tables = []
    for path, columns in ((ours, COLUMNS), (theirs, their_columns)):
        table = pl.read_csv(path, separator="\t", quote_char=None, columns=list(columns), infer_schema=False)
        numbers = pl.col("rating:float", "timestamp:float").cast(pl.Float64)
        tables.append(table.rename(dict(zip(columns, COLUMNS, strict=True))).select(COLUMNS).with_columns(numbers))
    if not tables[0].sort(COLUMNS).equals(tables[1].sort(COLUMNS)):
        raise AssertionError(f"{ours.name} and {theirs.name} hold different interactions")


def write_dump(dump: Dump, path: Path, n: int, odd: Sequence[str] = ()) -> None:
    """Writes ``n`` reviews of made-up words, some common and some rare, with a paragraph break now and then.

    Args:
        odd: words that are added to the rare ones.
    """
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    vocabulary = np.array(["".join(rng.choice(letters, 1 + rng.poisson(3.5))) for _ in range(VOCABULARY)])
    vocabulary[rng.integers(20, VOCABULARY, VOCABULARY // 20)] = ".\n\n"
    vocabulary = np.array([*vocabulary[: VOCABULARY - len(odd)], *odd])
    users, items, _, _ = random_interactions(n)
    with path.open("w") as file:
        for first in tqdm(range(0, n, CHUNK), desc=f"writing {n:,} reviews", leave=False, disable=None):
            rows = range(first, min(first + CHUNK, n))
            lengths = 1 + rng.poisson(WORDS - 1, len(rows))
            words = vocabulary[rng.zipf(1.3, lengths.sum()) % VOCABULARY].tolist()
            stars = rng.integers(1, 6, len(rows)).tolist()
            seconds = rng.integers(1_100_000_000, 1_600_000_000, len(rows)).tolist()
            ends = lengths.cumsum().tolist()
            for row, star, second, length, end in zip(rows, stars, seconds, lengths.tolist(), ends, strict=True):
                text = " ".join(words[end - length : end])
                line = dump.line(row, int(users[row]), int(items[row]), star, second, text)
                file.write(json.dumps(line) + "\n")

"""Damaged files of every kind are read, or refused by an error of our own: never a crash, a hang or a full memory."""

import gzip
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError, prepare
from dataset_prep.containers import zstd
from dataset_prep.source import Source
from dataset_prep.sources import amazon, rakuten_travel, table, yelp
from recbole_symcere.checkpoint import load_checkpoint
from recbole_symcere.comparison.results import read_results
from recbole_symcere.comparison.runs import is_complete
from recbole_symcere.config import Config
from recbole_symcere.data.dataset import ReviewDataset
from recbole_symcere.data.reviews import read_reviews
from recbole_symcere.errors import CheckpointError, ConfigError, DatasetError, ReviewFileError, RunsError
from recbole_symcere.properties import load_yaml, parse_value
from tests.conftest import START
from tests.dataset_prep.rows import EVERYTHING

Damage = Callable[[bytes], bytes]
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Draws damaged copies of a file: pieces are cut out, doubled, or replaced by other bytes."""
    pieces = draw(
        st.lists(
            st.tuples(
                st.floats(0, 1),
                st.integers(0, 40),
                st.one_of(
                    st.binary(max_size=12),
                    st.sampled_from(
                        [b"\n", b"\r", b'"', b"\t", b"\0", b"{", b"[" * 3000, b"nan", b"1e999", b"-", b"&a *a"]
                    ),
                ),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def damage(content: bytes) -> bytes:
        for place, length, new in pieces:
            start = int(place * len(content))
            content = content[:start] + new + content[start + length :]
        return content

    return damage


def either(read: Callable[[], Any], error: type[Exception]) -> None:
    """Asserts that ``read`` works, or raises ``error`` with a message of one line."""
    try:
        read()
    except error as refusal:
        assert str(refusal).strip() and len(str(refusal)) < 3000


@FUZZ
@given(damage=damages())
@example(damage=lambda content: LAUGHS.encode())
@example(damage=lambda content: b"a: " + b"[" * 100_000)
@example(damage=lambda content: b"? [a]\n: b\n")
@example(damage=lambda content: b"a: !!python/object/apply:os.system [ls]")
def test_property_files(damage: Damage) -> None:
    file = Path("mine.yaml")
    file.write_bytes(damage(b"learning_rate: 0.01\neval_args:\n  split: {RS: [0.8, 0.1, 0.1]}\ntopk: [10, 20]\n"))
    either(lambda: load_yaml(file), ConfigError)
    either(lambda: Config("BPR", "demo", [file]), ConfigError)


@FUZZ
@given(value=st.one_of(st.text(), st.text(alphabet="[]{}:,*&!?|>-'\"#% 1.e\n")))
@example(value="[" * 100_000)
def test_values_of_the_command_line(value: str) -> None:
    either(lambda: parse_value(value), ConfigError)


@FUZZ
@given(damage=damages())
def test_atomic_files(damage: Damage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz" / "fuzz.inter"
        path.parent.mkdir()
        rows = [f"u{row % 5}\ti{row % 7}\t4.0\t{START + row}.0\tr{row}\n" for row in range(40)]
        header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\treview_id:token\n"
        path.write_bytes(damage((header + "".join(rows)).encode()))
        config = Config("BPR", "fuzz", config_dict={"data_path": folder})
        either(lambda: ReviewDataset(config).build(), DatasetError)


@FUZZ
@given(damage=damages())
@example(damage=lambda content: b"\x1f\x8b" + content)
@example(damage=lambda content: b"\x28\xb5\x2f\xfd" + content)
def test_review_files(damage: Damage) -> None:
    file = Path("fuzz.review.jsonl")
    lines = [json.dumps({"review_id": f"r{row}", "review": "très bon 良い"}) + "\n" for row in range(9)]
    file.write_bytes(damage("".join(lines).encode()))
    either(lambda: read_reviews(file, ["r0", "r8"]), ReviewFileError)


def tar(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("yelp_academic_dataset_review.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def parquet(table: pl.DataFrame) -> bytes:
    packed = io.BytesIO()
    table.write_parquet(packed)
    return packed.getvalue()


ROWS = pl.DataFrame([[f"u{n % 5}", f"i{n % 7}", 'très, "bon" 良い\n', START + n, 4.5] for n in range(40)], orient="row")


def rows_of(*names: str) -> pl.DataFrame:
    return ROWS.rename(dict(zip(ROWS.columns, names, strict=True)))


MINE = table.source("who", "what", "said", "at")
MY_ROWS = rows_of("who", "what", "said", "at", "stars")
AMAZON = rows_of("reviewerID", "asin", "reviewText", "unixReviewTime", "overall").write_ndjson().encode()
YELP = rows_of("user_id", "business_id", "text", "date", "stars").with_columns(date=pl.lit("2020-09-13 12:26:40"))
RAKUTEN = "".join("\t".join([f"u{n}", "2019-01-02 03:04:05", "i1", *13 * ["5"], "良い", ""]) + "\n" for n in range(40))
DUMPS: dict[str, tuple[Source, str, bytes]] = {
    "amazon": (amazon.SOURCE, "amazon.json", AMAZON),
    "gzip": (amazon.SOURCE, "amazon.json.gz", gzip.compress(AMAZON)),
    "zstd": (MINE, "mine.jsonl.zst", zstd.compress(MY_ROWS.write_ndjson().encode())),
    "tar": (yelp.SOURCE, "yelp_dataset.tar", tar(YELP.write_ndjson().encode())),
    "csv": (MINE, "mine.csv", MY_ROWS.write_csv().encode()),
    "parquet": (MINE, "mine.parquet", parquet(MY_ROWS)),
    "rakuten": (rakuten_travel.source(encoding="cp932"), "reviews.tsv", RAKUTEN.encode("cp932")),
}


@pytest.mark.parametrize("name", DUMPS)
@settings(FUZZ, max_examples=25)
@given(damage=damages(), skip_broken=st.booleans())
@example(damage=bytes, skip_broken=False)
@example(damage=lambda content: b"[" * 5000 + content, skip_broken=False)
def test_raw_dumps(name: str, damage: Damage, skip_broken: bool) -> None:
    source, file, content = DUMPS[name]
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / file, Path(folder) / "dataset"
        path.write_bytes(damage(content))
        given = {"filters": EVERYTHING, "skip_broken": skip_broken, "memory": "200MB"}
        either(lambda: prepare(source, [path], output, **given), PreparationError)
        assert {entry.name for entry in Path(folder).iterdir()} <= {file, "dataset"}, "nothing half-made is left"
        assert output.exists() or damage is not bytes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("checkpoint") / "run.pth"
    torch.save({"format": 2, "state_dict": {"weight": torch.arange(9.0)}, "config": {"topk": [10]}}, file)
    return file.read_bytes()


@FUZZ
@given(damage=damages())
def test_checkpoints(damage: Damage, checkpoint: bytes) -> None:
    Path("run.pth").write_bytes(damage(checkpoint))
    either(lambda: load_checkpoint("run.pth"), CheckpointError)


def test_a_checkpoint_that_unpacks_to_far_more_than_its_size_is_refused() -> None:
    torch.save({"format": 2}, "small.pth")
    with zipfile.ZipFile("small.pth") as small, zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in small.namelist():
            bomb.writestr(name, small.read(name))
        bomb.writestr("archive/data/0", bytes(50 * 2**20))
    with pytest.raises(CheckpointError, match=r"bomb\.pth"):
        load_checkpoint("bomb.pth")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    from recbole_symcere.comparison import runs

    folder = tmp_path_factory.mktemp("comparison")
    config = Config("Pop", "tiny", config_dict={"data_path": str(tiny_dataset.parent), "checkpoint_dir": str(folder)})
    runs.run_on_test(config.settings, folder / "runs" / "strict" / "tiny" / "Pop" / "seed-2020")
    return folder


@FUZZ
@given(damage=damages(), name=st.sampled_from(["run.json", "users.parquet"]))
def test_result_files(damage: Damage, name: str, run_folder: Path) -> None:
    file = next(run_folder.rglob(name))
    content = file.read_bytes()
    try:
        file.write_bytes(damage(content))
        either(lambda: read_results(run_folder, "strict", ours=()), RunsError)
        either(lambda: is_complete(file.parent, {"model": "Pop", "dataset": "tiny"}), RunsError)
    finally:
        file.write_bytes(content)

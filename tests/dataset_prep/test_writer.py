"""A dataset is in place whole, or what stood there before is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset_prep import PreparationError, prepare, writer
from dataset_prep.sources import amazon
from tests.dataset_prep.rows import EVERYTHING, START, amazon_line, contents, read_dataset


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.json"
    path.write_text("".join(amazon_line(f"u{n}", f"i{n}", f"text {n}", START + n) for n in range(20)))
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.json"
    path.write_text(amazon_line("another", "one"))
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "dataset" / "made"


def convert(raw: Path, output: Path) -> None:
    prepare(amazon.SOURCE, [raw], output, filters=EVERYTHING)


def full_disk() -> OSError:
    return OSError(28, "No space left on device")


def test_three_files_and_nothing_else_are_made(raw: Path, output: Path) -> None:
    convert(raw, output)
    assert set(contents(output.parent)) == {
        f"made/made{suffix}" for suffix in (".inter", ".review.jsonl", ".stats.json")
    }
    header = (output / "made.inter").read_text().split("\n", 1)[0]
    assert header == "user_id:token\titem_id:token\trating:float\ttimestamp:float\treview_id:token"


@pytest.mark.parametrize("error", [KeyboardInterrupt, full_disk, MemoryError])
@pytest.mark.parametrize("step", ["write_interactions", "write_reviews", "write_statistics"])
@pytest.mark.parametrize("exists", [True, False])
def test_whatever_ends_a_conversion_leaves_things_as_they_were(
    raw: Path,
    other: Path,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], BaseException],
    step: str,
    exists: bool,
) -> None:
    if exists:
        convert(other, output)
    before = contents(output.parent)

    def fail(*_: object) -> None:
        raise error()

    monkeypatch.setattr(writer, step, fail)
    with pytest.raises(PreparationError if error is full_disk else type(error())):
        convert(raw, output)
    assert contents(output.parent) == before
    assert [path.name for path in output.parent.iterdir()] == ["made"] * exists


def test_broken_input_leaves_the_dataset_as_it_was(raw: Path, output: Path) -> None:
    convert(raw, output)
    before = contents(output.parent)
    raw.write_text(raw.read_text() + "{broken\n")
    with pytest.raises(PreparationError):
        convert(raw, output)
    assert contents(output.parent) == before


def test_a_dataset_is_replaced_whole(raw: Path, other: Path, output: Path) -> None:
    convert(other, output)
    convert(raw, output)
    assert len(read_dataset(output)) == 20
    assert [path.name for path in output.parent.iterdir()] == ["made"]


def test_a_failed_replacement_puts_the_old_dataset_back(
    raw: Path, other: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(other, output)
    before = contents(output)
    replace = Path.replace

    def fails_to_arrive(self: Path, target: Path) -> Path:
        if target == output and self.name == output.name:
            raise PermissionError(13, "Permission denied", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails_to_arrive)
    with pytest.raises(PreparationError, match="made: Permission denied"):
        convert(raw, output)
    assert contents(output) == before


def test_the_same_dataset_is_left_alone(raw: Path, output: Path) -> None:
    convert(raw, output)
    before = [path.stat() for path in sorted(output.iterdir())]
    convert(raw, output)
    assert [path.stat().st_ino for path in sorted(output.iterdir())] == [status.st_ino for status in before]


def test_two_runs_may_make_the_same_dataset_at_once(raw: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def second(self: Path, target: Path) -> Path:
        if target == output:
            shutil.copytree(self, target)  # the other run comes first
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", second)
    convert(raw, output)
    assert len(read_dataset(output)) == 20
    assert [path.name for path in output.parent.iterdir()] == ["made"]


def test_a_folder_with_other_files_is_refused_before_work_starts(raw: Path, output: Path) -> None:
    output.mkdir(parents=True)
    (output / "made.item").write_text("mine")
    (output / "made.inter").write_text("old")
    before = contents(output.parent)
    with pytest.raises(PreparationError, match=r"made: the folder holds other files \(made\.item\)"):
        convert(raw, output)
    assert contents(output.parent) == before


def test_a_file_in_the_datasets_place_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(PreparationError, match="taken: there is a file of this name"):
        convert(raw, tmp_path / "taken")
    with pytest.raises(PreparationError, match="give the folder of the dataset"):
        convert(raw, Path("/"))


def test_a_link_to_a_dataset_stays_a_link(raw: Path, other: Path, output: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(output)
    for source, rows in ((other, 1), (raw, 20)):
        convert(source, link)
        assert link.is_symlink()
        assert len(read_dataset(link)) == rows
    assert {path.name for path in output.parent.iterdir()} == {"made"}


@pytest.mark.parametrize("name", ["new", "replaced", "spill", "input-0"])
def test_any_name_will_do(name: str, raw: Path, tmp_path: Path) -> None:
    for _ in range(2):
        convert(raw, tmp_path / name)
    assert len(read_dataset(tmp_path / name)) == 20


def test_names_with_odd_characters_work(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's [a] *star?"
    folder.mkdir()
    odd = folder / "r[a]w*'.json"
    odd.write_text(raw.read_text())
    convert(odd, folder / "m'a[d]e")
    assert len(read_dataset(folder / "m'a[d]e")) == 20

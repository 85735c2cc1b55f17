"""Datasets by name: their files say how to get and prepare them, and commands say how to make one that is missing."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from recbole_symcere import properties
from recbole_symcere.cli import main
from recbole_symcere.commands import prep
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError, PreparationError
from recbole_symcere.named import NamedDataset, dataset_names, named_dataset

CATEGORIES = (
    "automotive", "beauty-and-personal-care", "cds-and-vinyl", "cell-phones-and-accessories",
    "clothing-shoes-and-jewelry", "health-and-household", "office-products", "patio-lawn-and-garden", "pet-supplies",
    "sports-and-outdoors", "tools-and-home-improvement", "toys-and-games", "video-games",
)  # fmt: skip
AMAZON = [f"amazon-{category}" for category in CATEGORIES]
TABLE_1 = [*AMAZON, "yelp", "travel"]
RAW = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/review_categories/"


def dataset(name: str) -> NamedDataset:
    found = named_dataset(name)
    assert found is not None
    return found


def property_file(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    """The property file of a dataset ``mine``, in a folder of property files that has no others."""
    monkeypatch.setattr(properties, "FOLDER", folder)
    path = folder / "dataset" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return path


def error_of(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Runs a command that fails, and returns the one line that says why."""
    assert main(arguments) == 2
    output = capfd.readouterr().err
    assert "Traceback" not in output
    line = output.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("name", TABLE_1)
def test_every_dataset_of_table_1_says_how_it_is_prepared_and_read(name: str) -> None:
    core = 0 if name == "travel" else 5
    assert dataset(name).options == {"user_core": core, "item_core": core}
    encoder = "sbintuitions/sarashina2.2-0.5b-instruct" if name == "travel" else "hyp1231/blair-roberta-base"
    config = Config("SymCERE", name)
    assert (config["text_encoder"], config["text_max_length"]) == (encoder, 128)


@pytest.mark.parametrize("name", AMAZON)
def test_amazon_comes_from_its_publisher_and_the_address_names_the_category(name: str) -> None:
    found = dataset(name)
    assert (found.source, found.agreement) == ("amazon", "")
    assert found.address == f"{RAW}{found.file}"
    assert found.file.removesuffix(".jsonl.gz").lower().replace("_", "-") == name.removeprefix("amazon-")
    assert found.command == f"symcere prep --dataset {name} --download"


@pytest.mark.parametrize(
    ("name", "source", "file", "where"),
    [
        ("yelp", "yelp", "yelp_dataset.tar", "https://business.yelp.com/data/resources/open-dataset/"),
        ("travel", "rakuten-travel", "01_Travel_Review.2019.tsv", "https://rit.rakuten.com/data_release/"),
    ],
)
def test_what_needs_an_agreement_has_no_address_but_says_where_it_is(
    name: str, source: str, file: str, where: str
) -> None:
    found = dataset(name)
    assert (found.source, found.file, found.address) == (source, file, None)
    assert where in found.agreement
    assert found.command == f"symcere prep --dataset {name} --input {file}"


def test_the_datasets_by_name_are_those_of_table_1_and_the_three_of_the_results() -> None:
    assert dataset_names() == sorted([*TABLE_1, "gift-cards", "magazine-subscriptions", "musical-instruments"])
    assert named_dataset("demo") is None, "its file has settings only"
    assert named_dataset("nowhere") is None


@pytest.mark.parametrize("name", dataset_names())
def test_the_command_of_every_dataset_is_accepted_and_has_the_options_of_its_file(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[argparse.Namespace] = []
    fetched: list[tuple[Any, ...]] = []
    monkeypatch.setattr(prep.sources, "make", made.append)
    monkeypatch.setattr(prep, "download", lambda *given: fetched.append(given))
    found = dataset(name)
    program, *arguments = shlex.split(found.command)
    Path(found.file).touch()
    assert (program, main(arguments)) == ("symcere", 0)
    raw = Path("raw", found.file) if found.address else Path(found.file)
    assert fetched == ([(found.address, raw)] if found.address else [])
    assert [(given.source, given.input, given.output) for given in made] == [
        (found.source, [raw], Path("dataset", name))
    ]
    assert {key: getattr(made[0], key) for key in found.options} == found.options


@pytest.mark.parametrize("name", ["yelp", "amazon-pet-supplies"])
@pytest.mark.parametrize("folder", [None, "my data"])
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--model=LightGCN", "--dataset=NAME"],
        ["compare", "--models", "Pop", "--datasets", "NAME", "--trials=0"],
        ["prep", "stats", "NAME"],
    ],
    ids=lambda command: command[0],
)
def test_commands_name_the_line_that_makes_a_known_dataset_where_it_is_looked_for(
    command: list[str],
    folder: str | None,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    option = "--data-path" if command[0] == "prep" else "--data_path"
    given = [argument.replace("NAME", name) for argument in command] + ([f"{option}={folder}"] if folder else [])
    said = error_of(given, capfd)
    place = Path(folder or "dataset", name)
    assert f"{place / name}.inter: no such file; make it with `symcere prep --dataset {name} " in said
    program, *line = shlex.split(re.findall("`(.+?)`", said)[0])
    assert program == "symcere" and ("--output" in line) == (folder is not None)
    made: list[argparse.Namespace] = []
    monkeypatch.setattr(prep.sources, "make", made.append)
    monkeypatch.setattr(prep, "download", lambda *_: None)
    Path("yelp_dataset.tar").touch()
    assert main(line) == 0
    assert [given.output for given in made] == [place]


def test_a_dataset_of_another_name_is_made_from_a_raw_dump(capfd: pytest.CaptureFixture[str]) -> None:
    said = error_of(["train", "--model=Pop", "--dataset=mine"], capfd)
    assert "convert a raw dump with `symcere prep SOURCE --input FILE --output dataset/mine` (SOURCE is one of " in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prepare: amazon\n", "prepare must be a block with the key source"),
        ("prepare: {address: https://a/b}\n", "prepare must be a block with the key source"),
        (
            "prepare: {source: amazn, address: https://a/b}\n",
            "there is no source 'amazn' of raw files; did you mean 'amazon'",
        ),
        ("prepare: {source: demo, file: none}\n", "there is no source 'demo' of raw files"),
        ("prepare: {source: amazon, user_core: 5}\n", "prepare has neither an address nor the name of a file"),
        ("prepare: {source: amazon, address: https://a/}\n", "prepare has neither an address nor the name of a file"),
        ("prepare: {source: amazon\n", "line 2: "),
    ],
)
def test_a_property_file_that_can_not_work_is_named(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = property_file(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")):
        named_dataset("mine")


def test_an_unknown_option_in_a_property_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = property_file(tmp_path, monkeypatch, "prepare: {source: amazon, address: https://a/b.gz, usr_core: 5}\n")
    with pytest.raises(ConfigError, match=f"^{path}: amazon has no option --usr-core$"):
        prep.prepare_named("mine")


def test_the_file_of_an_address_can_have_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "prepare: {source: amazon, address: 'https://a/get.php?id=7', file: mine.jsonl}\n"
    property_file(tmp_path, monkeypatch, text)
    assert dataset("mine").file == "mine.jsonl"
    with pytest.raises(
        PreparationError, match=r"^raw/mine\.jsonl: no such file; add --download to fetch https://a/get"
    ):
        prep.prepare_named("mine")


def test_the_name_of_a_file_is_taken_from_the_path_of_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    property_file(tmp_path, monkeypatch, "prepare: {source: amazon, address: 'https://a/b/c.json.gz?version=2'}\n")
    assert dataset("mine").file == "c.json.gz"

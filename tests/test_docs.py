"""Every command and program in the README and the docs runs; those that can't be run here are named and still parsed.

bash reads each block, so that loops, variables and && mean what they mean for a reader. However, ``python``,
``symcere``, ``torchrun`` and ``curl`` are functions that hand their arguments to this process, which has PyTorch
imported.
The blocks of a page run in order, in a folder of its own that is like a checkout, with

- ``epochs: 1`` in ``properties/overall.yaml``,
- a tiny random encoder under the name of each real one,
- 40 users' generated rows, some twice, under the name of each raw dump,
- fewer trials, seeds, jobs, points and reviews (``LIMITS``, ``APPENDED``),
- one ``saved/text`` for all pages, so that the demo's reviews are encoded once.

A service that a page starts runs until the page ends, at a free port; ``curl`` asks it.
"""

from __future__ import annotations

import configparser
import contextlib
import csv
import gzip
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.request import urlopen

import pytest
import torch
import uvicorn
from torch import Tensor
from torch.distributed.run import get_args_parser
from torch.nn.functional import softplus

import dataset_prep.cli
import recbole_symcere.analysis.__main__ as analysis
import recbole_symcere.cli
import recbole_symcere.comparison.__main__ as comparison
from benchmarks import __main__ as benchmarks
from benchmarks.service import running
from dataset_prep.sources import kinds
from dataset_prep.sources.rakuten_travel import FIELDS
from recbole_symcere import properties, quick_start
from recbole_symcere.analysis.cli import ANALYSES
from recbole_symcere.comparison.comparison import Comparison
from recbole_symcere.config import Config
from recbole_symcere.errors import ConfigError
from recbole_symcere.metrics import METRICS
from recbole_symcere.model import baselines
from recbole_symcere.model.graph import GRAPH_ENCODERS
from recbole_symcere.model.loss import CONTRASTS
from recbole_symcere.model.registry import MODELS
from recbole_symcere.properties import properties_folder
from recbole_symcere.quick_start import create_dataset, load_data_and_model, recommend, run_recbole_symcere
from recbole_symcere.serving import service
from tests.conftest import tiny_rows

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]

# Commands that are not run, with the reason. What they name must exist all the same.
NOT_RUN = {
    "pip": "installs packages: .ci/run does, in a fresh environment",
    "python3": "makes a virtual environment: .ci/run does",
    ".": "enters the virtual environment: .ci/run does",
    "pytest": "is what runs this",
}
# Pages whose commands are read by their own parsers, their settings checked, and not run.
ONLY_READ = {
    "results/README.md": "a day on real data",
    "results/anchoring.md": "hours on real data",
    "results/lora.md": "hours on real data",
    "results/paper.md": "hours on real data",
    "results/ablation.md": "hours on real data",
    "results/duplicates.md": "hours on real data",
    "results/ties.md": "hours on real data",
    "results/strangers.md": "hours on real data",
    "results/rolling.md": "hours on real data",
    "results/search.md": "hours on real data",
    "results/temporal/README.md": "hours on real data",
    "results/strict/README.md": "hours on real data",
    "results/untouched.md": "hours on real data",
    "benchmarks/README.md": "hours; tests/test_benchmarks.py runs the parts on small inputs",
}

START, DAY = 1_580_000_000, 86_400  # seconds; January 2020
ENCODERS = ("all-MiniLM-L6-v2", "hyp1231/blair-roberta-base", "sbintuitions/sarashina2.2-0.5b-instruct")
LIMITS = {"--trials": 1, "--seeds": 1, "--jobs": 1, "--search-seeds": 2, "--tie-seeds": 2}  # a job is another process
APPENDED = {
    "anchoring": ["--reviews=20", "--lime=1", "--perturbations=50"],
    "geometry": ["--points=100"],
}

SERVICES = contextlib.ExitStack()  # the running one
ADDRESS = "http://127.0.0.1:8000/"  # of a service, as the pages have it
PORT: list[int] = []  # where it is instead


def start_service(arguments: Sequence[str]) -> int:
    """Does what the command of the service does, but returns once the service is there."""
    servers: list[uvicorn.Server] = []
    with patch.object(uvicorn.Server, "run", lambda server: servers.append(server)):
        status = service.main(arguments)
    PORT[:] = [SERVICES.enter_context(running(server)) for server in servers]
    return status


def ask_service(arguments: Sequence[str]) -> int:
    """Does what curl does with ``ADDRESS… --json BODY``, and prints the answer; another status than 200 is an error."""
    address, option, body = arguments
    assert address.startswith(ADDRESS) and option == "--json", f"curl {' '.join(arguments)}: another form"
    with urlopen(f"http://127.0.0.1:{PORT[0]}/{address.removeprefix(ADDRESS)}", body.encode(), timeout=20) as answer:
        print(answer.read().decode())
    return 0


PROGRAMS: dict[str, Callable[[Sequence[str]], int]] = {
    "symcere": lambda arguments: recbole_symcere.cli.main([*arguments[:1], *faster(arguments[1:])]),
    "curl": ask_service,
}


MODULES: dict[str, Callable[[Sequence[str]], int]] = {
    "dataset_prep": dataset_prep.cli.main,
    "recbole_symcere.comparison": comparison.main,
    "recbole_symcere.analysis": analysis.main,
    "benchmarks": benchmarks.main,
    "recbole_symcere.serving.service": start_service,
}
# The number of arguments and these, each ended by NUL; a line with the exit status comes back.
SHELL = """
set -euo pipefail
ask() {{ printf '%s\\0' "$#" "$@" >&{ask}; local status; read -r status <&{answer}; return "$status"; }}
for name in python symcere torchrun curl {not_run}; do eval "function $name {{ ask $name \\"\\$@\\"; }}"; done
{code}
"""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def blocks(page: str, text: str | None = None) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.M | re.S)
    return [Block(page, text[: match.start()].count("\n") + 1, *match.groups()) for match in found]


def run_block(block: Block) -> None:
    """Runs a block in the current folder; a block of YAML is written to the file that its first line names."""
    if block.language == "bash":
        run_shell(block)
    elif block.language == "python" and (name := re.match(r"# (\S+\.py)\n", block.code)):
        write_module(Path(name[1]), block.code)
    elif block.language == "python":
        exec(compile(block.code, str(block), "exec"), {"__name__": "__main__"})
    elif block.language == "yaml":
        name = re.match(r"# (\S+\.yaml)\n", block.code)
        assert name, f"{block}: the first line must be a comment with the file's name"
        Path(name[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(name[1]).write_text(block.code, encoding="utf-8")
    else:
        assert block.language == "text", f"{block}: bash, python and yaml are run, text is read; what is this?"


def write_module(path: Path, code: str) -> None:
    """Puts a module where the page says; a test is run in the checkout, a module of the package can be imported."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    if path.parts[0] == "tests":
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    elif path.parent.parts:
        package = import_module(".".join(path.parent.parts))
        package.__path__.append(str(path.parent.absolute()))


def run_shell(block: Block) -> None:
    ask, answer = os.pipe(), os.pipe()
    code = SHELL.format(ask=ask[1], answer=answer[0], not_run=" ".join(NOT_RUN), code=block.code)
    with subprocess.Popen(["bash", "-c", code], pass_fds=(ask[1], answer[0]), stdin=subprocess.DEVNULL) as bash:
        os.close(ask[1])
        os.close(answer[0])
        with open(ask[0], "rb") as asked, open(answer[1], "w") as answered:  # noqa: PTH123 - descriptors
            while (count := until_nul(asked)) is not None:
                arguments = [until_nul(asked) or "" for _ in range(int(count))]
                try:
                    status = run_command(arguments)
                except BaseException:
                    bash.kill()
                    raise
                assert status == 0, f"{block}: exit status {status} of {' '.join(arguments)}"
                print(status, file=answered, flush=True)
    assert bash.returncode == 0, f"{block}: exit status {bash.returncode}"


def until_nul(stream: io.BufferedReader) -> str | None:
    read = b"".join(iter(lambda: stream.read(1).replace(b"\0", b""), b""))
    return read.decode() or None


def run_command(arguments: Sequence[str]) -> int:
    """Does what the program in ``arguments[0]`` would do, and returns its exit status."""
    match list(arguments):
        case ["python", "-m", "pip", *rest] | ["pip", *rest]:
            check_installation(rest)
        case ["python3", "-m", "venv", _] | [".", _] | ["pytest"]:
            pass
        case ["torchrun", *rest]:  # alone: tests/test_distributed.py has processes
            launched = get_args_parser().parse_args(rest)
            return run_command(["python", launched.training_script, *launched.training_script_args])
        case ["symcere" | "curl" as program, *rest]:
            return PROGRAMS[program](rest)
        case ["python", "-m", "mkdocs", *_]:
            return subprocess.run([sys.executable, *arguments[1:]], check=False).returncode
        case ["python", "-c", program]:
            exec(program, {"__name__": "__main__"})
        case ["python", "-m", module, *rest]:
            return MODULES[module](faster(rest))
        case ["python", script, *rest]:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(sys, "argv", [script, *rest])
                try:
                    runpy.run_path(script, run_name="__main__")
                except SystemExit as end:
                    return int(end.code or 0)
        case _:
            pytest.fail(f"{' '.join(arguments)}: neither run nor listed in NOT_RUN")
    return 0


def faster(arguments: Sequence[str]) -> list[str]:
    fewer = list(arguments)
    for option, limit in LIMITS.items():
        if option in fewer:
            place = fewer.index(option) + 1
            fewer[place] = str(min(int(fewer[place]), limit))
    return fewer + APPENDED.get(" ".join(fewer[:1]), [])


def check_installation(arguments: Sequence[str]) -> None:
    match list(arguments):
        case ["install", "-c", constraints, "-e", what]:
            assert (ROOT / constraints).is_file()
        case ["install", what]:
            pass
        case _:
            pytest.fail(f"pip {' '.join(arguments)}: another form")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    target, extras = re.fullmatch(r"([^\[]+)(?:\[(.+)\])?", what).groups()  # type: ignore[union-attr]
    assert target in (".", setup["metadata"]["name"])
    assert set((extras or "").split(",")) - {""} <= set(setup["options.extras_require"])


# Stand-ins for raw dumps


def write_dumps(folder: Path) -> None:
    """Generated rows under the names that the pages have."""
    given = [(user, item, int(rating), text) for user, item, rating, _, _, text in tiny_rows()]
    rows = [(*row, START + DAY * number) for number, row in enumerate(given + given[::10])]  # every tenth again
    amazon = [
        {"user_id": user, "parent_asin": item, "rating": rating, "timestamp": time * 1000, "text": text}
        for user, item, rating, text, time in rows
    ]
    with gzip.open(folder / "Musical_Instruments.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in amazon)
    yelp = [
        {"user_id": user, "business_id": item, "stars": rating, "date": f"{day(time)} 12:00:00", "text": text}
        for user, item, rating, text, time in rows
    ]
    review = "".join(json.dumps(row) + "\n" for row in yelp).encode()
    with tarfile.open(folder / "yelp_dataset.tar", "w") as archive:
        member = tarfile.TarInfo("yelp_academic_dataset_review.json")
        member.size = len(review)
        archive.addfile(member, io.BytesIO(review))
    with (folder / "01_Travel_Review.2019.tsv").open("w", encoding="utf-8") as file:
        for user, item, rating, text, time in rows:
            fields = dict.fromkeys(FIELDS, "") | {"投稿者ID": user, "施設ID": item, "評価７（総合）": str(rating)}
            fields |= {"投稿日時": f"{day(time)} 12:00:00", "ユーザ投稿本文": text}
            file.write("\t".join(fields.values()) + "\n")
    with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("customer", "product", "stars", "date", "review"))
        table.writerows((user, item, rating, day(time), text) for user, item, rating, text, time in rows)


def day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")


@pytest.fixture(scope="module")
def text_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.fixture
def checkout(tmp_path: Path, tiny_encoder: Path, text_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run commands in, as the module's docstring describes it."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("benchmarks", "dataset_prep", "docs", "properties", "recbole_symcere", "results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("README.md", "constraints.txt", "mkdocs.yml", "run_recbole_symcere.py", "setup.cfg"):
        shutil.copy(ROOT / name, tmp_path)
    overall = tmp_path / "properties" / "overall.yaml"
    text, changed = re.subn(
        r"^epochs: {default: \d+", "epochs: {default: 1", overall.read_text(encoding="utf-8"), flags=re.M
    )
    assert changed == 1
    overall.write_text(text, encoding="utf-8")
    monkeypatch.setattr(properties, "FOLDER", tmp_path / "properties")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for module in ("my_models", "my_metrics"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for registry in (GRAPH_ENCODERS, CONTRASTS, METRICS, MODELS):  # what a page registers is taken out afterwards
        for name in (*registry, "LastLayer", "Teleport", "margin", "sigmoid", "first", "NarrowBPR"):
            monkeypatch.setitem(registry, name, registry.get(name))
            if registry[name] is None:
                del registry[name]
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__])
    for name in ENCODERS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tiny_encoder, target_is_directory=True)
    write_dumps(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "text").symlink_to(text_cache, target_is_directory=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))  # RecBole changes it
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_program_of_a_page_runs(page: str, checkout: Path) -> None:
    with SERVICES:
        for block in blocks(page):
            run_block(block)


@pytest.fixture
def without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands parse their arguments and check their settings, and do nothing."""

    def check(config_file_list: Sequence[str], config_dict: dict[str, Any]) -> None:
        Config(config_file_list=config_file_list, config_dict=config_dict)

    nothing = {"users": 0, "items": 0, "reviews": 0, "density": 0.0, "first_time": 0, "last_time": 0}
    monkeypatch.setattr(quick_start, "run_recbole_symcere", check)
    monkeypatch.setattr(dataset_prep.cli, "prepare", lambda *_, **__: nothing)
    monkeypatch.setattr(Comparison, "work", lambda self: None)
    monkeypatch.setattr(Comparison, "write_tables", lambda self: "")
    for module, _ in ANALYSES.values():
        monkeypatch.setattr(import_module(module), "run", lambda *_: None)
    monkeypatch.setattr(benchmarks, "PARTS", dict.fromkeys(benchmarks.PARTS, lambda _: iter(())))


@pytest.mark.parametrize("page", ONLY_READ)
def test_commands_that_take_too_long_are_read_without_an_error(page: str, checkout: Path, without_work: None) -> None:
    for block in blocks(page):
        run_block(block)


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options of all commands, and all settings of all models."""
    commands: list[tuple[Callable[[Sequence[str]], int], list[str]]] = [(recbole_symcere.cli.train, [])]
    commands += [(dataset_prep.cli.main, [source]) for source in kinds()]
    commands += [(analysis.main, [command]) for command in ANALYSES]
    commands += [(comparison.main, []), (benchmarks.main, []), (recbole_symcere.cli.main, ["recommend"])]
    commands += [(service.main, []), (recbole_symcere.cli.main, ["prep", "--dataset", "yelp"])]
    known: set[str] = set()
    for main, arguments in commands:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([*arguments, "--help"])
        known |= set(re.findall(OPTION, shown.getvalue()))
    models = [path.stem for path in (properties_folder() / "model").glob("*.yaml")]
    for model in models:
        known |= Config(model, "demo").known_keys
    return known


OPTION = r"(?<![\w-])--(?:[A-Za-z]\w*\.)?([a-zA-Z][\w-]*)"  # also as --MODEL.key, which is for one model
OF_OTHER_PROGRAMS = (
    {"width"}  # of the example of a baseline
    | {"dry-run", "only-binary"}  # of pip
    | {"json"}  # of curl
    | {"strict"}  # of mkdocs
    | {  # of torchrun
        option.removeprefix("--") for action in get_args_parser()._actions for option in action.option_strings
    }
)


@pytest.mark.parametrize("page", [*PAGES, *ONLY_READ])
def test_every_option_and_file_that_a_page_names_exists(page: str, options: set[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(OPTION, text))
    assert named <= options | OF_OTHER_PROGRAMS
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    paths = re.findall(
        r"`((?:properties|results|docs|benchmarks|recbole_symcere|dataset_prep|tests)/[a-z][\w./-]*)`", prose
    )
    missing = [path for path in paths if not (ROOT / path).exists() and not re.search("[A-Z]{4}", path)]
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    missing += [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_the_docs_build_without_a_warning_and_need_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*command, "--site-dir", str(tmp_path / "site")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES) - 1 and (tmp_path / "site" / "search" / "search_index.json").is_file()
    for page in pages:
        fetched = re.findall(
            r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"([^\"]+)", page.read_text(encoding="utf-8")
        )
        assert fetched and not [link for link in fetched if "//" in link], page.name
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


# The worked example

EXAMPLE = ROOT / "docs" / "examples" / "own_model.py"


def test_the_worked_example_is_short() -> None:
    assert EXAMPLE.read_text(encoding="utf-8").count("\n") < 65


def test_the_example_of_a_metric_is_as_its_page_shows_it() -> None:
    names = (ROOT / "docs" / "examples" / "own_metric.py").read_text(encoding="utf-8")
    (block,) = (block.code for block in blocks("docs/extending.md") if "class First(TopkMetric)" in block.code)
    assert re.search(r"register\(Metric\(.*\)\)", block)[0] in names  # type: ignore[index]


@pytest.fixture
def own_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    for registry, name, other in ((GRAPH_ENCODERS, "Teleport", "LightGCN"), (CONTRASTS, "sigmoid", "sincere")):
        monkeypatch.setitem(registry, name, registry[other])  # so that it is taken out afterwards
    return runpy.run_path(str(EXAMPLE))["OwnModel"]


def test_the_worked_example_trains_with_its_own_encoder_and_loss(settings: dict[str, Any], own_model: Any) -> None:
    own = {key: value for key, value in settings.items() if key != "model"} | {"checkpoint_file": "own.pth"}
    losses = []

    class Observed(own_model):
        def cross_modal(self, *batch: Tensor) -> Tensor:
            losses.append(super().cross_modal(*batch))
            return losses[-1]

    result = run_recbole_symcere(Observed, config_dict=own | {"teleport": 1.0, "learning_rate": 0.01})
    assert result["test_result"]["hit@10"] > 0
    assert losses[-1] < losses[0]
    _, model, *_ = load_data_and_model("own.pth", {"model": Observed})
    users, items = model(model.graph.adjacency())
    assert torch.equal(torch.cat([users, items]), model.graph_encoder.embedding.weight), "all teleport, no propagation"
    assert recommend("own.pth", ["u1"], config_dict={"model": Observed})["u1"]
    with pytest.raises(ConfigError, match="teleport is 2, but must be between 0 and 1"):
        run_recbole_symcere(own_model, config_dict=own | {"teleport": 2})


def test_the_examples_loss_is_a_sigmoid_for_every_pair_but_known_ones(settings: dict[str, Any], own_model: Any) -> None:
    config = Config(config_dict=settings | {"model": own_model})
    train = create_dataset(config).build()[0]
    model = own_model(config, train)
    users, items = train.inter_feat["user_id"][:20], train.inter_feat["item_id"][:20]
    graph, text = torch.randn(2, 20, 8)
    met = set(zip(train.inter_feat["user_id"].tolist(), train.inter_feat["item_id"].tolist(), strict=True))
    expected, left_out = 0.0, 0
    for i, user in enumerate(users.tolist()):
        for j, item in enumerate(items.tolist()):
            if i != j and (user, item) in met:
                left_out += 1
                continue
            for anchor, candidate in ((graph[i], text[j]), (text[i], graph[j])):
                score = float(anchor @ candidate) / config["tau_cross"] - 5.0
                expected += float(softplus(torch.tensor(-score if i == j else score))) / 40
    assert left_out > 20
    assert float(model.cross_modal(graph, text, users, items)) == pytest.approx(expected, rel=1e-5)

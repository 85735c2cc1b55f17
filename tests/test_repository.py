"""The files around the code say what the code says."""

import configparser
import re
from pathlib import Path
from typing import Any

import yaml

import recbole_symcere

ROOT = Path(__file__).parents[1]


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", encoding="utf-8")
    return found


def test_the_workflow_tests_the_pythons_that_the_package_names() -> None:
    tested = load(".github/workflows/ci.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Python :: (3\.\d+)", setup()["metadata"]["classifiers"])
    assert tested == named
    assert setup()["options"]["python_requires"] == f">={named[0]}"


def test_the_workflow_runs_what_must_pass_and_builds_wheel_and_docs() -> None:
    jobs = load(".github/workflows/ci.yml")["jobs"]
    commands = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    assert all(command in commands for command in ("bash .ci/run", "python -m build", "mkdocs build --strict"))


def test_the_hooks_run_the_tools_of_ci() -> None:
    hooks = [hook["entry"] for repository in load(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [re.sub(r" --\w+$", "", hook) for hook in hooks] == ["ruff check", "ruff format", "mypy"]
    assert all(re.search(rf"^{re.sub(r' --fix$', '', hook)}\b", script, re.M) for hook in hooks)


def test_the_citation_is_of_this_version_and_names_the_papers_authors() -> None:
    citation = load("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and {"title", "message", "authors"} <= citation.keys()
    assert str(citation["version"]) == recbole_symcere.__version__
    authors = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert authors == ["Suzumura", "Ikari", "Kanezashi", "Rahman", "Hirate"]


def test_each_template_asks_for_something() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        template = load(str(path.relative_to(ROOT)))
        assert template["name"] and template["description"] and template["body"], path.name

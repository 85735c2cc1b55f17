"""The package installs from a wheel and works away from the checkout, with just the dependencies that it declares."""

import ast
import configparser
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("recbole_symcere", "dataset_prep")
SERVICE = {ROOT / "recbole_symcere" / "serving" / "service.py"}
SPARK = {ROOT / "dataset_prep" / name for name in ("spark.py", "spark_parsing.py")}


def run(command: list[str | Path], cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a wheel of the checkout installs; the checkout itself stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*PACKAGES, "properties"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder], source)
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    run([*pip, "--target", folder / "installed", wheel], folder)
    return folder / "installed"


def test_every_module_and_property_file_is_installed(installed: Path) -> None:
    modules = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    properties = {"recbole_symcere" / path.relative_to(ROOT) for path in (ROOT / "properties").rglob("*.yaml")}
    assert properties
    for file in modules | properties:
        assert (installed / file).is_file(), f"{file} is missing: see packages and package_data in setup.cfg"


def test_the_package_finds_its_properties_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = """
from recbole_symcere.config import Config, properties_folder
print(properties_folder())
print(Config("LightGCN", "demo", config_dict={"state": "ERROR"})["protocol"])
"""
    folder, protocol = run([sys.executable, "-c", program], tmp_path, PYTHONPATH=str(installed)).split()
    assert Path(folder) == installed / "recbole_symcere" / "properties"
    assert protocol == "strict"


@pytest.mark.parametrize(
    "command",
    [("bin/recbole-symcere",), ("bin/symcere-prep",), ("bin/symcere",), (sys.executable, "-m", "dataset_prep")],
)
def test_the_commands_start_away_from_the_checkout(installed: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    program = [str(installed / command[0]), *command[1:], "--help"]
    assert "usage:" in run(program, tmp_path, PYTHONPATH=str(installed))


def test_what_the_code_imports_is_what_setup_cfg_declares() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = {name_of(line) for line in requirements(setup["options"]["install_requires"])}
    extra = {name_of(line) for line in requirements(setup["options.extras_require"]["analysis"])}
    analysis = set((ROOT / "recbole_symcere" / "analysis").rglob("*.py"))
    # Spark's engine has an extra that the tests may lack, and the suite for users' own models needs pytest.
    others = {*SERVICE, *SPARK, ROOT / "recbole_symcere" / "testing.py"}
    # pandas imports these two to write Markdown and LaTeX.
    assert imported_distributions(sources() - analysis - others) | {"jinja2", "tabulate"} == declared
    # captum's linear models are scikit-learn's
    assert imported_distributions(analysis) - declared == extra - {"scikit-learn"}
    service = {name_of(line) for line in requirements(setup["options.extras_require"]["service"])}
    assert imported_distributions(SERVICE) - declared == service


def requirements(lines: str) -> list[str]:
    return [line for line in lines.strip().splitlines() if line and not line.startswith("#")]


def name_of(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def sources() -> set[Path]:
    return {path for name in PACKAGES for path in (ROOT / name).rglob("*.py")}


def imported_distributions(files: set[Path]) -> set[str]:
    """Returns the distributions of the modules that the files import, except imports for type checkers alone."""
    nodes = [node for path in files for node in executed(ast.parse(path.read_text(encoding="utf-8")))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) if node.module and not node.level}
    tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {*PACKAGES, "compression"}
    by_module = metadata.packages_distributions()
    return {canonicalize_name(distribution) for top in tops for distribution in by_module[top]}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yields a node and all below it, without the bodies of ``if TYPE_CHECKING:``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from executed(child)


def test_what_runs_on_spark_imports_its_extra() -> None:
    pytest.importorskip("pyspark")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = {name_of(line) for line in requirements(setup["options.extras_require"]["spark"])}
    imported = imported_distributions(SPARK)
    assert imported == declared | {"py4j"}  # PySpark's own way to Java


def test_constraints_name_every_dependency() -> None:
    lines = requirements((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert all("==" in line for line in lines)
    constrained = {name_of(line) for line in lines}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    pending = requirements(setup["options"]["install_requires"])
    pending += [line for extra in setup["options.extras_require"].values() for line in requirements(extra)]
    seen: set[str] = set()
    while pending:
        requirement = Requirement(pending.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in seen:
            seen.add(requirement.name)
            try:
                pending += metadata.requires(requirement.name) or []
            except metadata.PackageNotFoundError:
                assert requirement.name in ("pyspark", "pyarrow")  # the extra that the tests may lack
    assert {canonicalize_name(name) for name in seen} <= constrained

"""Data goes one way: no module imports, over others, one that imports it; and none is too long to see."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("recbole_symcere", "dataset_prep")
LONGEST = 400  # lines


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules that a module imports, wherever the import stands, but for those that only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner if inner <= known else inner | {node.module}  # a package is not read for its modules
    return names & known


def test_no_module_imports_itself_over_others() -> None:
    known = modules()
    graph = {name: imported(path, set(known)) - {name} for name, path in known.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_the_configuration_imports_no_model() -> None:
    known = modules()
    reached, front = set(), {"recbole_symcere.config"}
    while front:
        reached |= front
        front = set().union(*(imported(known[name], set(known)) for name in front)) - reached
    models = {name for name in reached if name.startswith("recbole_symcere.model.")}
    assert models == {f"recbole_symcere.model.{name}" for name in ("parts", "recommender", "registry")}


def test_preparation_imports_nothing_of_the_recommender() -> None:
    known = modules()
    names = {name for name in known if name.startswith("dataset_prep")}
    assert all(imported(known[name], set(known)) <= names for name in names)


def test_no_module_is_too_long() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}

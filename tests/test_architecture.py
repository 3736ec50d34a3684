"""The order of the rooms: a room imports only rooms above it, wherever in a file the import stands."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import shortlist

ROOT = Path(shortlist.__file__).parent
ROOMS = [
    "errors", "config", "expressions", "schema", "batch", "candidates", "forms", "artifact", "tables", "events",
    "features", "dataset", "index", "store", "metrics", "models", "training", "experiments", "traffic", "funnel",
    "evaluation", "serving", "feedback", "simulation", "dashboard", "cli",
]  # fmt: skip
FILES = sorted(file for file in ROOT.rglob("*.py") if file != ROOT / "__init__.py")
# folders whose files a project names with `use = "..."`, or a shell by its command
REGISTRIES = [
    "models/recall", "models/coarse", "models/rank", "funnel/sources", "funnel/filters", "funnel/mergers",
    "funnel/selectors", "traffic",
    "dataset/splits", "features/kinds", "index/kinds", "cli",
]  # fmt: skip


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def rooms_read(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, room) of every import, and of every text that is a module's whole name (parts are found by such)."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = re.findall(r"^shortlist(?:\.(?!toml$)[a-z_0-9]+)+$", node.value)
        for name in names:
            head, _, rest = name.partition(".")
            if head == "shortlist" and rest not in ("", "now") and not rest.startswith("__"):
                yield getattr(node, "lineno", 0), rest.partition(".")[0]


def test_every_room_is_on_the_list() -> None:
    found = {room_of(file) for file in FILES}
    assert found <= set(ROOMS), f"rooms without a place in the order: {sorted(found - set(ROOMS))}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_only_rooms_above_it(file: Path) -> None:
    mine = ROOMS.index(room_of(file))
    wrong = [
        f"line {line}: {room}"
        for line, room in rooms_read(ast.parse(file.read_text(encoding="utf-8")))
        if room not in ROOMS or ROOMS.index(room) > mine
    ]
    assert not wrong, f"{room_of(file)} may not read rooms below it: {wrong}"


def test_the_check_sees_what_it_should() -> None:
    tree = ast.parse(
        "import shortlist.events.log\n"
        "def f():\n    from shortlist.dataset import interactions\n"
        "from shortlist import serving, now, __version__\n"
        "PACKAGE = 'shortlist.traffic'\n"
        "FILE = 'shortlist.toml'\n"
        "'shortlist.errors is mentioned here'\n"
    )
    assert sorted(rooms_read(tree)) == [(1, "events"), (3, "dataset"), (4, "serving"), (5, "traffic")]


@pytest.mark.parametrize("folder", REGISTRIES)
def test_a_file_that_can_be_named_exports_one_thing(folder: str) -> None:
    for file in sorted((ROOT / folder).glob("*.py")):
        if file.name.startswith("_"):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        exports = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        assert len(exports) == 1, f"{file.name} says in __all__ what it exports"
        assert len(exports[0]) == 1, f"{file.name} exports {exports[0]}"
        assert ast.get_docstring(tree), f"{file.name} says what it is"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_unpickles_or_runs_text(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {a.name for a in node.names} & {"pickle", "marshal", "shelve", "dill", "joblib"}
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("pickle", "marshal", "shelve", "dill", "joblib")
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "os.system"), f"line {node.lineno}"
            allowed = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
            assert not allowed, f"line {node.lineno}"


# asked for by name at run time: uvicorn takes the first two, duckdb hands rows over through the third, torch writes
# ONNX with the last two
PLUGINS = {"uvloop", "httptools", "pyarrow", "onnx", "onnxscript"}
# engines that a room will use when it has an occupant for them; the names of their extras are settled already
NAMED = {"sharded", "text", "track", "docs"}
# what works only in an environment of its own, installed without what it asks for: docs/decisions/torch-pin.md
ELSEWHERE = {"torchrec"}
# extras that need not be installed here: the module and its package
APART = {"annoy": "annoy", "pyspark": "pyspark", "scann": "scann", "sklearn": "scikit-learn"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(x for name, e in project["optional-dependencies"].items() if name not in {"dev", *NAMED} for x in e),
    ]
    declared = {re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines}
    owners = {
        module: {name.lower().replace("_", "-") for name in names} for module, names in packages_distributions().items()
    }
    imported: set[str] = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"shortlist"}
    owners = {module: {package} for module, package in APART.items()} | owners
    imported -= ELSEWHERE
    undeclared = sorted(module for module in imported if not owners.get(module, set()) & declared)
    assert not undeclared, f"imported and not in pyproject.toml: {undeclared}"
    used = set().union(*(owners[module] for module in imported))
    assert declared - used == PLUGINS


BLOCKED = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("shortlist.training", "shortlist.dataset", "shortlist.tables")):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Blocker())
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(found.name)
        print(found.name)
"""


def test_serving_starts_without_training_dataset_and_tables() -> None:
    """All of serving, and every part a release can name, import where those rooms do not exist."""
    packages = ["shortlist.serving", "shortlist.funnel", "shortlist.traffic", "shortlist.experiments"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *packages], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"shortlist.funnel.pipeline", "shortlist.traffic.boost"} <= set(done.stdout.split())

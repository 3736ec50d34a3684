"""Adding a part is dropping a file: done here, on a copy of the package, with the files of docs/adding.md."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shortlist

ROOT = Path(__file__).parent.parent
SHOWN = re.compile(r"```python\n# ([a-z_/]+\.py)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """Path inside the package -> text of each file shown in docs/adding.md."""
    text = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    return {match[1]: match[2] for match in SHOWN.finditer(text)}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]) -> Path:
    """A copy of the package with those files dropped in, and nothing else changed."""
    place = tmp_path_factory.mktemp("copy")
    package = Path(shortlist.__file__).parent
    shutil.copytree(package, place / "shortlist", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files.items():
        (place / "shortlist" / name).write_text(text, encoding="utf-8")
    return place


def run(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=copy, capture_output=True, text=True, timeout=900, check=False
    )


def test_the_documented_files_are_a_filter_a_model_a_source_and_a_feature(files: dict[str, str]) -> None:
    folders = {name.rpartition("/")[0] for name in files}
    assert folders == {"funnel/filters", "models/recall", "funnel/sources", "features/kinds"}


def test_dropped_files_are_listed_with_what_they_are(copy: Path, files: dict[str, str]) -> None:
    found = run(copy, "-c", "from shortlist.cli import main; main(['models', '--json'])")
    assert found.returncode == 0, found.stderr
    listed = json.loads(found.stdout)
    for name, text in files.items():
        stem = name.rpartition("/")[2].removesuffix(".py")
        row = next(row for row in listed if row["name"] == stem)
        assert row["what"] == text.split('"""')[1].splitlines()[0]


def test_dropped_files_are_contract_tested(copy: Path, files: dict[str, str]) -> None:
    names = [name.rpartition("/")[2].removesuffix(".py") for name in files]
    contracts = ROOT / "tests" / "contracts"
    settings = ["-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    tests = [str(contracts / "test_models.py"), str(contracts / "test_parts.py")]
    found = run(copy, "-m", "pytest", "-q", *settings, "-k", " or ".join(names), *tests)
    assert found.returncode == 0, found.stdout + found.stderr
    passed = re.search(r"(\d+) passed", found.stdout)
    # a model has seven contract tests, a filter and a source one each
    assert passed is not None
    assert int(passed[1]) >= 8


def test_a_project_uses_them_by_name(copy: Path, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from shortlist.cli import main
place = Path({str(tmp_path)!r})
sizes = ["--users", "60", "--items", "40", "--days", "20"]
assert main(["simulate", str(place / "log"), *sizes]) == 0
assert main(["init", str(place / "log"), "--project", str(place / "shortlist.toml")]) == 0
file = place / "shortlist.toml"
text = file.read_text()
text += '[[recall]]\\nname = "fresh"\\nuse = "newest"\\n[[feature]]\\nname = "had"\\nuse = "revisit"\\n'
file.write_text('filters = ["seen", {{ use = "short", minutes = 20 }}]\\n' + text)
for command in (["import"], ["train"], ["evaluate"], ["publish"]):
    assert main([*command, "--project", str(file)]) == 0
assert main(["recommend", "3", "--project", str(file), "--json"]) == 0
"""
    found = run(copy, "-c", script)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1])["items"]
    assert "fresh" in found.stdout

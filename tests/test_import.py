"""`import shortlist` is light: what it, the command line and the server may load is fixed here."""

import subprocess
import sys

HEAVY = ["torch", "polars", "numpy", "pydantic", "scipy", "pyarrow", "faiss", "numba", "starlette", "click", "rich"]


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing_heavy() -> None:
    assert not loaded("import shortlist") & set(HEAVY)


def test_the_command_line_loads_no_command_and_nothing_heavy() -> None:
    found = loaded("import shortlist.cli")
    assert not found & {"torch", "polars", "numpy", "pydantic", "starlette"}


def test_serving_loads_neither_models_nor_compilers() -> None:
    found = loaded("import shortlist.serving.http, shortlist.funnel.recipes")
    assert "starlette" in found
    assert not found & {"torch", "numba", "pyarrow", "altair", "duckdb"}


def test_the_check_sees_what_is_loaded() -> None:
    assert "numpy" in loaded("import shortlist, numpy")

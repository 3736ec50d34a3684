"""What benchmarks share: the data folder, the table, the JSON, and where a number came from."""

__all__ = ["data_folder", "table", "write", "origin", "peak_mb", "resident_mb"]

import json
import os
import platform
import resource
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shortlist.errors import DataError


def data_folder() -> Path:
    """The folder of public data sets. Raises DataError when SHORTLIST_DATA does not name one."""
    value = os.environ.get("SHORTLIST_DATA", "")
    if not value or not Path(value).is_dir():
        raise DataError(
            "no folder of public data sets", where="SHORTLIST_DATA", hint="set it to the folder that holds ml-1m/"
        )
    return Path(value)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text, columns as in the first row."""
    names = list(rows[0])
    cells = [names, *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def origin(**facts: Any) -> dict[str, Any]:
    """The recipe of a run: machine, versions, and what the benchmark adds (seed, command, sizes)."""
    packages = {name: version(name) for name in ("shortlist", "numpy", "scipy", "polars", "numba")}
    return {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), **packages, **facts}


def write(out: Path | None, result: Mapping[str, Any]) -> None:
    """JSON to `out`, if it is given."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def peak_mb() -> float:
    """The most memory this process ever held. Not getrusage, which keeps what the parent held before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def resident_mb() -> float:
    """The memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20

"""What this machine and this installation are: versions, threads, accelerator, data, project."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import click

from shortlist import __version__
from shortlist.cli._talk import emit, json_option, project_option
from shortlist.config import load
from shortlist.errors import ShortlistError

__all__ = ["command"]


@click.command()
@project_option
@json_option
def command(project_file: str, as_json: bool) -> int:
    """Say what is installed and what can be reached. Exit status 1 when something needed is absent."""
    report = {
        "shortlist": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        **_torch(),
        "data": _data(),
        "project": _project(Path(project_file)),
    }
    packages = _packages()
    missing = sorted(name for name, found in packages[""].items() if found is None)
    if as_json:
        emit({**report, "packages": packages, "missing": missing})
        return int(bool(missing))
    for name, value in report.items():
        print(f"{name:<12}{value}")
    for extra, found in packages.items():
        shown = ", ".join(f"{name} {version or 'ABSENT'}" for name, version in found.items())
        print(f"{f'[{extra}]' if extra else 'needs':<12}{shown}")
    print(f"FAIL: {', '.join(missing)} must be installed" if missing else "PASS")
    return int(bool(missing))


def _packages() -> dict[str, dict[str, str | None]]:
    """Versions of what the package declares, by extra ("" is always needed); None where absent."""
    packages: dict[str, dict[str, str | None]] = {"": {}}
    for line in importlib.metadata.requires("shortlist") or ():
        name = re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if name != "shortlist":
            packages.setdefault(extra.group(1) if extra else "", {})[name] = _version(name)
    return packages


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"threads": None, "accelerator": f"torch does not import: {error}"}
    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {"threads": torch.get_num_threads(), "accelerator": ", ".join(names) or "none: everything runs on the CPU"}


def _data() -> str:
    folder = os.environ.get("SHORTLIST_DATA")
    if not folder:
        return "SHORTLIST_DATA is not set: generated data is used"
    return folder if Path(folder).is_dir() else f"SHORTLIST_DATA={folder} is not a folder"


def _project(file: Path) -> str:
    if not file.exists():
        return f"no project at {file}"
    try:
        project = load(file)
    except ShortlistError as error:
        return f"{error}"
    state = "with a release" if (project.home / "releases" / "current").exists() else "nothing published yet"
    return f"{project.file}: {len(project.config.recall)} channels, {state}"

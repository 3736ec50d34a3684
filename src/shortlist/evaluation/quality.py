"""Named sets of projects, trained and measured one after the other, with the recipe of every number.

A run is a project file under one seed. A finished one is not made again unless its recipe changed: the configuration,
the seed, the part, the scene, or the files of its log. R runs.
"""

import glob
import hashlib
import json
import os
import platform
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shortlist import __version__
from shortlist.config import Project, build, frozen, load, nearest, plain
from shortlist.errors import ConfigError, ShortlistError
from shortlist.evaluation.project import Outcome, evaluate, open_data, train, trained
from shortlist.events.workspace import import_log

__all__ = ["Run", "Set", "figures", "markdown", "open_set", "run_set", "rows"]

FILE = "quality.json"
SHOWN = ("page.ndcg", "page.recall", "rank.auc", "rank.gauc", "rank.logloss")  # of a set that names no figures
APART = ("seed", "serve", "tune", "log", "experiment")  # keys of a project that no figure depends on, or named beside


@frozen
class Set:
    """What is run: project files (paths from the set's own folder, with `*`), under each of the `seeds` (without one
    each file's own), judged on a part. `figures` are what the table shows, by name: `page.ndcg@10`, `rank.click.auc`.
    """

    configs: tuple[str, ...]
    title: str = ""
    seeds: tuple[int, ...] = ()
    on: Literal["valid", "test"] = "test"
    scene: str | None = None
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One project under one seed. `figures` by name, or `why` there are none."""

    config: str
    seed: int
    recipe: str
    digest: str
    commit: str = ""
    machine: str = ""
    wall_s: float = 0.0
    load: float = 0.0
    snapshot: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    why: str = ""


def open_set(word: str, folder: Path) -> tuple[Set, Path]:
    """A set by its file, or by its name among `configs/sets/` of a folder. Raises ConfigError."""
    place = folder / "configs" / "sets"
    file = Path(word) if word.endswith(".toml") else place / f"{word}.toml"
    known = sorted(path.stem for path in place.glob("*.toml"))
    if not file.is_file():
        raise ConfigError("no such set", where=str(file), hint=nearest(Path(word).stem, known))
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"not TOML: {error}", where=str(file), hint="correct the line it names") from None
    return build(Set, table, file.name), file


def configs(found: Set, file: Path) -> list[Path]:
    """The project files of a set, each once, in order. Raises ConfigError for a pattern that fits none."""
    out: list[Path] = []
    for n, pattern in enumerate(found.configs):
        fits = sorted(glob.glob(str(file.parent / pattern)))
        if not fits:
            where = f"{file.name}.configs[{n}]"
            raise ConfigError(f"no file is called {pattern!r}", where=where, hint="paths are from the set's own folder")
        out += [path for path in map(Path, fits) if path not in out]
    return out


def run_set(
    found: Set,
    file: Path,
    work: Path,
    seeds: Sequence[int] = (),
    *,
    again: bool = False,
    created_ms: int,
    say: Callable[[str], None],
) -> list[Run]:
    """Make the runs that are missing, into `work`, and tell of all; every one is on disk as soon as it is made.

    One that fails keeps its reason and is tried again the next time. Raises ConfigError for a project that does not
    fit, before the first run.
    """
    wanted = list(asked(found, file, work, seeds))
    work.mkdir(parents=True, exist_ok=True)
    done = {(run.config, run.seed): run for run in kept(work)}
    out: list[Run] = []
    for n, (project, name, seed, digest) in enumerate(wanted, start=1):
        recipe = _sealed([digest, seed, found.on, found.scene, _files(project)])
        old = done.get((name, seed))
        if old is not None and old.recipe == recipe and not old.why and not again:
            say(f"{n} of {len(wanted)}: {name}, seed {seed}: done already")
            out.append(old)
            continue
        say(f"{n} of {len(wanted)}: {name}, seed {seed}")
        started = time.perf_counter()
        blank = Run(name, seed, recipe, digest, commit(file.parent), machine())
        try:
            made, snapshot = measured(project, recipe, found, created_ms, say)
            run = replace(blank, figures=made, snapshot=snapshot)
        except ShortlistError as error:
            say(f"{name}, seed {seed}: {error}")
            run = replace(blank, why=str(error))
        run = replace(run, wall_s=round(time.perf_counter() - started, 2), load=round(os.getloadavg()[0], 2))
        out.append(run)
        done[name, seed] = run
        keep(work, list(done.values()))
    return out


def asked(found: Set, file: Path, work: Path, seeds: Sequence[int]) -> Iterator[tuple[Project, str, int, str]]:
    """(project, its name, seed, digest of its configuration) of every run of a set."""
    made = []
    for path in configs(found, file):
        project = load(path)
        name = os.path.relpath(path, file.parent).removeprefix("../").removesuffix(".toml")
        words = {key: value for key, value in plain(project.config).items() if key not in APART}
        for seed in tuple(seeds) or found.seeds or (project.config.seed,):
            home = work / name.replace(os.sep, "-")
            config = replace(project.config, seed=seed)
            made.append((replace(project, config=config, kept=home), name, seed, _sealed(words)[:12]))
    yield from made


def measured(
    project: Project, recipe: str, found: Set, created_ms: int, say: Callable[[str], None]
) -> tuple[dict[str, float], str]:
    """Import unless that was done, train for the part, and measure: figures by name, and the log's snapshot."""
    files, mark = _files(project), project.home / "imported.json"
    before = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
    now = [files, plain(project.config.data), project.config.schema]
    if before != json.loads(json.dumps(now)):
        project.home.mkdir(parents=True, exist_ok=True)
        import_log(project, say, created_ms, fresh=before is not None)
        mark.write_text(json.dumps(now), encoding="utf-8")
    data = open_data(project)
    if trained(data, found.on) is None:
        train(data, found.on, created_ms=created_ms)
    return figures(evaluate(data, found.on, found.scene)), data.snapshot[:12]


def figures(outcome: Outcome) -> dict[str, float]:
    """`page.ndcg@10` and its like of every list, `rank.click.auc` of a stage's scores, without what is unknown."""
    out: dict[str, float] = {}
    for listed in outcome.measured.listed:
        for metric, column in listed.columns.items():
            if np.isfinite(column).any():
                out[f"{listed.name}.{metric}"] = float(np.nanmean(column))
        out |= {f"{listed.name}.coverage@{k}": float(value) for k, value in listed.coverage.items()}
        for metric, column in outcome.sampled.get(listed.name, {}).items():
            out[f"{listed.name}.sampled_{metric}"] = float(np.nanmean(column))
    for judged in () if outcome.staged is None else outcome.staged.judged:
        name = judged.score if judged.score.endswith(f".{judged.label}") else f"{judged.score}.{judged.label}"
        out |= {f"{name}.{metric}": float(v) for metric, v in judged.metrics.items() if np.isfinite(v)}
    return out


# ------------------------------------------------------------------------------------------ what is shown


def shown(found: Set, runs: Sequence[Run]) -> list[str]:
    """The figures of the table: those that the set names, else the page's and the ranker's. Raises ConfigError for a
    name that no run has."""
    known = list(dict.fromkeys(name for run in runs for name in run.figures))
    for n, name in enumerate(found.figures):
        if known and name not in known:
            raise ConfigError(f"no run has the figure {name!r}", where=f"figures[{n}]", hint=nearest(name, known))
    if found.figures:
        return list(found.figures)
    return [name for name in known if _stem(name) in SHOWN]


def _stem(name: str) -> str:
    """`page.ndcg@10` -> `page.ndcg`, `rank.click.auc` -> `rank.auc`."""
    first, *_, last = name.partition("@")[0].split(".")
    return f"{first}.{last}"


def rows(found: Set, runs: Sequence[Run]) -> list[list[str]]:
    """A line for each project, the head above: each figure as the mean over seeds, with the standard deviation where
    there are several; then where the numbers come from."""
    names = shown(found, runs)
    out = [["config", *names, "seeds", "wall s", "digest", "commit"]]
    for config in dict.fromkeys(run.config for run in runs):
        mine = [run for run in runs if run.config == config]
        good = [run for run in mine if not run.why]
        cells = [_cell([run.figures[name] for run in good if name in run.figures]) for name in names]
        wall = f"{np.mean([run.wall_s for run in good]):.1f}" if good else "–"
        seeds = " ".join(str(run.seed) for run in good) or "–"
        commits = " ".join(dict.fromkeys(run.commit for run in good if run.commit)) or "–"
        out.append([config, *cells, seeds, wall, mine[0].digest, commits])
    return out


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    text = f"{np.mean(values):.4f}"
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.4f}"


def markdown(found: Set, file: Path, runs: Sequence[Run], command: str) -> str:
    """The table with its recipe, as Markdown."""
    table = rows(found, runs)
    lines = [f"# {found.title or file.stem}", ""]
    lines += [f"| {' | '.join(row)} |" for row in table[:1]]
    lines += ["|" + "---|" * len(table[0])]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table[1:]]
    lines += ["", f"`{command}`, {found.on} part" + (f", scene {found.scene}" if found.scene else "") + "."]
    lines += [
        "Figures are means over the seeds, ± their standard deviation. Wall is training and measuring of one run."
    ]
    lines += [f"Machine: {each}." for each in dict.fromkeys(run.machine for run in runs)]
    failed = [run for run in runs if run.why]
    lines += ["", *(f"- {run.config}, seed {run.seed}, did not run: {run.why}" for run in failed)] if failed else []
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------ where it was made


def kept(work: Path) -> list[Run]:
    """The runs on disk. Raises ConfigError for a file that holds none."""
    file = work / FILE
    if not file.is_file():
        return []
    try:
        return [Run(**row) for row in json.loads(file.read_text(encoding="utf-8"))["runs"]]
    except (ValueError, KeyError, TypeError):
        raise ConfigError("these are no runs", where=str(file), hint="remove it, or choose another --work") from None


def keep(work: Path, runs: Sequence[Run]) -> None:
    """Write all runs, in one step."""
    scratch = work / f".{FILE}"
    scratch.write_text(json.dumps({"runs": [plain(run) for run in runs]}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(work / FILE)


def machine() -> str:
    """What it ran on, without names."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "polars"))
    cores = len(os.sched_getaffinity(0))
    return (
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {packages}, shortlist {__version__}"
    )


def commit(folder: Path) -> str:
    """The commit of the tree, with a plus where it has changed since; nothing where there is no git."""
    try:
        head = _git(folder, "rev-parse", "--short", "HEAD")
        return head + ("+" if head and _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except OSError:
        return ""


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _files(project: Project) -> list[list[Any]]:
    """Size and time of every file that a project's log is read from."""
    out: list[list[Any]] = []
    for name in ("events", "items", "users"):
        word = getattr(project.config.data, name)
        if word is None:
            continue
        place = project.folder / word
        for path in sorted(place.iterdir()) if place.is_dir() else [place]:
            if path.is_file():
                found = path.stat()
                out.append([name, path.name, found.st_size, found.st_mtime_ns])
    return out


def _sealed(words: Any) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()

"""What a person can type, or have, wrong about logs, stores and times, and the exact words of the commands.

Ids, units, zones, vectors, time travel and changed schemas are in `tests/events/test_commands.py`; what goes wrong in
learning is in `test_learning_input.py`. Here: files that are something else, odd ids, stores, disks, numbers.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.exceptions import ComputeError
from tests.store.servers import Server

from shortlist import cli
from shortlist.cli import main

T = 1_700_000_000_000  # 14 November 2023, in ms
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200)
EMOJI, RTL, NUL, HALF = "🎬🎬", "\u202eabc", "a\0b", "\ud800"
PROJECT = """
[data]
events = "events.parquet"

[schema]
items.genre = "sparse"

[[recall]]
name = "hot"
use = "hot"

[[feature]]
name = "clicks"
use = "count"
by = "item.genre"
actions = ["click"]
windows = ["1h"]

[serve]
store = "lmdb:"
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, list[str]]:
    """Status, what came out, and the last three lines of what was said."""
    capsys.readouterr()
    status = main(list(words))
    out = capsys.readouterr()
    return status, out.out, out.err.splitlines()[-3:]


def said(what: str, where: str, hint: str) -> list[str]:
    return [f"error: {what}", f"  where: {where}", f"  next: {hint}"]


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A release of a log whose users and items have odd names."""
    rows = [(user, f"i{n}", T + n) for user in ("ann", EMOJI, RTL, NUL) for n in range(6)] + [("ann", EMOJI, T + 9)]
    pl.DataFrame(rows, schema=["user", "item", "time_ms"], orient="row").write_parquet(tmp_path / "events.parquet")
    items = pl.DataFrame({"item": [*(f"i{n}" for n in range(6)), EMOJI], "genre": ["war"] * 7})
    items.write_parquet(tmp_path / "items.parquet")
    text = PROJECT.replace("[schema]", 'items = "items.parquet"\n\n[schema]')
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    for command in ("import", "publish", "backfill"):
        assert main([command, "--project", str(tmp_path)]) == 0
    capsys.readouterr()
    return tmp_path


# ---------------------------------------------------------------------------------------------- files


DAMAGED = "is it damaged, or of another kind than its name says?"
ONE = "a log has at least one event"
FILES: dict[str, tuple[bytes, str, str]] = {
    "png.parquet": (PNG, "cannot be read: parquet: File out of specification: The file must end with PAR1 or PARE",
                    DAMAGED),
    "png.csv": (PNG, "cannot be read: its first line is no text", DAMAGED),
    "png.jsonl": (PNG, "cannot be read: stream did not contain valid UTF-8 at line 0", DAMAGED),
    "log.png": (PNG, "cannot tell what a .png file is", "known: .parquet, .csv, .tsv, .jsonl, .ndjson"),
    "wide.csv": (f"user,item,time_ms\nu,a,{T}\n".encode("utf-16"), "cannot be read: its first line is no text",
                 DAMAGED),
    "semicolons.csv": (f"user;item;time_ms\nu;a;{T}\n".encode(),
                       "its first line has no commas, but semicolons: 'user;item;time_ms'", "write it with commas"),
    "tabs.csv": (f"user\titem\ttime_ms\nu\ta\t{T}\n".encode(),
                 "its first line has no commas, but tabs: 'user\\titem\\ttime_ms'", "name it .tsv"),
    "commas.tsv": (f"user,item,time_ms\nu,a,{T}\n".encode(),
                   "its first line has no tabs, but commas: 'user,item,time_ms'", "name it .csv"),
    "twice.csv": (f"user,item,user,time_ms\nu,a,v,{T}\n".encode(), "two columns are called 'user'", "rename one"),
    "empty.parquet": (b"", "the file is empty", ONE),
    "empty.csv": (b"", "the file is empty", ONE),
    "empty.jsonl": (b"", "the file is empty", ONE),
    "blank.csv": (b"\n\n\n", "the file is empty", ONE),
    "blank.jsonl": (b"\n \n\n", "the file is empty", ONE),
    "head.csv": (b"user,item,time_ms\n", "the log is empty", ONE),
    "array.jsonl": (f'[{{"user":"u","item":"a","time_ms":{T}}}]'.encode(),
                    "cannot be read: NDJSON line expected to contain JSON object: list[struct[3]]", DAMAGED),
    "half.jsonl": (f'{{"user":"\\ud83c\\udfac","item":"a","time_ms":{T}}}\n'
                   f'{{"user":"u\\ud83c","item":"a","time_ms":{T}}}\n'.encode(),
                   "line 2 holds half of a surrogate pair, which is no character",
                   "write text as UTF-8, or escape both halves"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, what, hint = FILES[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "shortlist.toml").write_text(f'data.events = "{name}"\n', encoding="utf-8")
    status, _, told = run(capsys, "import", "--project", str(tmp_path))
    assert (status, told) == (2, said(what, f"{tmp_path}/{name}", hint))
    status, out, _ = run(capsys, "check", "--project", str(tmp_path), "--json")
    (found,) = json.loads(out)
    assert (status, found["status"]) == (1, "FAIL")
    assert found["what"] == f"{tmp_path}/{name}: {what} ({hint})"


def test_escaped_pairs_and_escaped_escapes_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        r'{"user":"\ud83c\udfac","item":"\\ud83c","time_ms":%d}',
        r'{"user":"a\u0000b","item":"\\\\","time_ms":%d}',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(line % T for line in lines), encoding="utf-8")
    (tmp_path / "shortlist.toml").write_text('data.events = "log.jsonl"\n', encoding="utf-8")
    status, out, _ = run(capsys, "import", "--project", str(tmp_path))
    assert (status, out.splitlines()[0]) == (0, "2 rows: 2 added, 0 known, 0 duplicates dropped")


PATHS = [
    ("a\\u0000b.csv", "no name of a file: embedded null byte", "project.data.events", "correct the path"),
    ("x" * 300, "no name of a file: File name too long", "project.data.events", "correct the path"),
    ("folder.parquet", "the folder holds no data file", "FOLDER/folder.parquet",
     "known: .parquet, .csv, .tsv, .jsonl, .ndjson"),
    ("/dev/null", "neither a file nor a folder", "/dev/null", "copy what it gives into a file"),
    ("loop.csv", "no name of a file: Symlink loop from 'FOLDER/loop.csv'", "project.data.events", "correct the path"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "what", "where", "hint"), PATHS)
def test_a_path_to_no_file_is_named(
    path: str, what: str, where: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "shortlist.toml").write_text(f'data.events = "{path}"\n', encoding="utf-8")
    status, _, told = run(capsys, "import", "--project", str(tmp_path))
    assert (status, told) == (2, [line.replace("FOLDER", str(tmp_path)) for line in said(what, where, hint)])


def test_a_project_that_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, told = run(capsys, "import", "--project", "a\0b")
    assert (status, told) == (2, said("no name of a file: embedded null byte", r"'a\x00b'", "correct --project"))
    status, _, told = run(capsys, "follow", "--project", "x" * 300)
    assert (status, told) == (2, said("cannot be read: File name too long", "x" * 300, "allow reading it"))


def test_a_var_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"user": ["u"], "item": ["i"], "time_ms": [T]}).write_csv(tmp_path / "log.csv")
    (tmp_path / "shortlist.toml").write_text('data.events = "log.csv"\n', encoding="utf-8")
    (tmp_path / "var").write_text("", encoding="utf-8")
    hint = "it is the project's own folder: check it and its permissions"
    status, _, told = run(capsys, "import", "--project", str(tmp_path))
    assert (status, told) == (2, said("cannot be written to: File exists", f"{tmp_path}/var", hint))


# ---------------------------------------------------------------------------------------------- ids


LOG = "ids are as the log has them"
SIZE = "an id has 1 to 256 bytes, this one {}"


@pytest.mark.parametrize("id", ["nobody", "", HALF, "x" * 300])
def test_ids_that_nobody_has(id: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--project", str(project))
    for entity in ("user", "item"):
        status, out, told = run(capsys, "store", "get", entity, id, *at)
        assert (status, out) == (2, "")
        assert told[:2] == said(f"no {entity} has the id {id!r}", f"{entity} id", "")[:2]
    status, out, told = run(capsys, "store", "get", "value", id, *at)
    assert (status, told) == (2, said(f"{id!r} is no value of a field", "value", "write item.genre=VALUE"))
    status, _, told = run(capsys, "erase", id, *at)
    assert (status, told[0]) == (2, f"error: no user is called {id!r}")
    status, out, told = run(capsys, "recommend", id, *at)
    if id == "nobody":  # a stranger gets what is popular, and the answer says so
        assert (status, told[-1]) == (0, "degraded: unknown_user")
        assert out.splitlines()[0].endswith("(popular)")
        return
    want = said("not valid Unicode", "user", "send ids as UTF-8")
    if id != HALF:
        want = said(SIZE.format(len(id)), "user", "shorten or hash it" if id else "send one")
    assert (status, told) == (2, want)
    status, _, told = run(capsys, "recommend", "ann", "--exclude", id, *at)
    assert (status, told) == (2, [want[0], "  where: exclude[0]", want[2]])


def test_a_value_that_is_no_text(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = f"item.genre={HALF}"
    status, _, told = run(capsys, "store", "get", "value", value, "--project", str(project))
    assert (status, told[0]) == (2, f"error: no value has the id {value!r}")


@pytest.mark.parametrize("id", [EMOJI, RTL, NUL])
def test_odd_ids_are_ids(id: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--project", str(project))
    status, out, _ = run(capsys, "store", "get", "user", id, "--json", *at)
    found = json.loads(out)
    assert (status, found["id"]) == (0, id)
    assert [event["item"] for event in found["history"]] == [f"i{n}" for n in range(6)]
    status, out, told = run(capsys, "recommend", id, *at)
    assert status == 0
    # all but the emoji were seen
    shown = EMOJI if EMOJI.isprintable() else json.dumps(EMOJI)
    assert out.splitlines()[0].split()[:2] == ["1", shown]
    assert run(capsys, "erase", id, *at)[0] == 0
    status, _, told = run(capsys, "erase", id, *at)
    assert (status, told[0]) == (2, f"error: no user is called {id!r}")


# ---------------------------------------------------------------------------------------------- stores


NEEDY = [
    ["follow", "--once"], ["backfill"], ["store", "get", "user", "ann"], ["store", "sizes"], ["recommend", "ann"],
    ["explain", "ann", "i1"], ["serve", "--port", "0"],
]  # fmt: skip


def test_a_redis_that_was_killed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "redis").mkdir()
    server = Server(project / "redis")
    try:
        text = (project / "shortlist.toml").read_text(encoding="utf-8").replace("lmdb:", server.url)
        (project / "shortlist.toml").write_text(text, encoding="utf-8")
        at = ("--project", str(project))
        assert run(capsys, "follow", "--once", *at)[0] == 0
        assert run(capsys, "recommend", "ann", *at)[0] == 0
        server.kill()
        down = f"cannot reach {server.url}: Error 111 connecting to 127.0.0.1:{server.port}. Connection refused."
        want = said(down, "store", "start it, or correct serve.store; what was missed follows from the log")
        for words in NEEDY:
            status, _, told = run(capsys, *words, *at)
            assert (status, told) == (2, want), words
        # what does not need the store goes on
        for words in (["import"], ["erase", EMOJI], ["compact"]):
            assert run(capsys, *words, *at)[0] == 0, words
        server.start()
        assert run(capsys, "follow", "--once", *at)[0] == 0
        assert run(capsys, "recommend", "ann", *at)[0] == 0
    finally:
        server.kill()


def test_a_store_of_other_features_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ours,) = (project / "var" / "store").iterdir()
    text = (project / "shortlist.toml").read_text(encoding="utf-8")
    (project / "shortlist.toml").write_text(text.replace('"1h"', '"1d"'), encoding="utf-8")
    at = ("--project", str(project))
    for command in ("publish", "backfill"):
        assert run(capsys, command, *at)[0] == 0
    theirs = next(folder for folder in (project / "var" / "store").iterdir() if folder != ours)
    shutil.rmtree(theirs)
    ours.rename(theirs)
    what = f"a store of other features: {ours.name}, not {theirs.name}"
    want = said(what, str(theirs), "delete the folder, then run `shortlist backfill`")
    for words in (
        ["follow", "--once"],
        ["backfill"],
        ["store", "sizes"],
        ["recommend", "ann"],
        ["serve", "--port", "0"],
    ):
        status, _, told = run(capsys, *words, *at)
        assert (status, told) == (2, want), words


FORMS = "write memory:, lmdb:, lmdb:PATH or redis://HOST:PORT/DB"
STORES = [
    ("mem", "no store is called 'mem'", FORMS),
    ("lmdb:a\\u0000b", r"no store is called 'lmdb:a\x00b'", FORMS),
    ("redis://127.0.0.1:99999/0", "not an address: Port out of range 0-65535", FORMS),
    ("redis://127.0.0.1:1/x", "not the address of a Redis: 'redis://127.0.0.1:1/x'",
     "write redis://HOST:PORT/DB, or redis://HOST:PORT/DB?ttl_days=30"),
]  # fmt: skip


@pytest.mark.parametrize(("store", "what", "hint"), STORES)
def test_words_that_mean_no_store(
    store: str, what: str, hint: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "shortlist.toml").read_text(encoding="utf-8").replace("lmdb:", store)
    (project / "shortlist.toml").write_text(text, encoding="utf-8")
    for words in (
        ["follow", "--once"],
        ["backfill"],
        ["store", "sizes"],
        ["recommend", "ann"],
        ["serve", "--port", "0"],
    ):
        status, _, told = run(capsys, *words, "--project", str(project))
        assert (status, told) == (2, said(what, "serve.store", hint)), words


# ---------------------------------------------------------------------------------------------- disks


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ""),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"), "  where: /x/y\n"),
        (ComputeError("parquet: underlying IO error: No space left on device (os error 28)"), ""),
    ],
)
def test_a_full_disk_is_said_whoever_meets_it(
    error: Exception, where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli.commands, "main", fail)
    assert main(["import"]) == 2
    want = f"error: the disk is full\n{where}  next: free some space, then do it again\n"
    assert capsys.readouterr().err == want


def test_other_errors_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(cli.commands, "main", fail)
    with pytest.raises(OSError, match="Input/output error"):
        main(["import"])


SMALL = r"""
import json, shutil, sys
from pathlib import Path
from shortlist.cli import main

disk, project = Path(sys.argv[1]), Path(sys.argv[2])
for name in ("shortlist.toml", "events.parquet", "items.parquet"):
    shutil.copy(project / name, disk / name)
at = ("--project", str(disk))
made = {"before": [main([word, *at]) for word in ("import", "publish", "backfill")]}
with open(disk / "filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(1024))
    except OSError:
        pass
words = (["import"], ["publish"], ["backfill"], ["follow", "--once"], ["erase", "ann"], ["compact"],
         ["simulate", str(disk / "world")], ["init", str(disk / "events.parquet"), "--project", str(disk / "x.toml")])
made["full"] = [main([*some, *(at if some[0] not in ("simulate", "init") else ())]) for some in words]
(disk / "filler").unlink()
made["after"] = [main([*some, *at]) for some in (["import"], ["recommend", "ann"], ["publish"], ["backfill"])]
print("MADE" + json.dumps(made))
"""


def test_commands_on_a_full_disk(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On a disk of 3 MB that only this test sees, where the system lets anybody have one."""
    disk = tmp_path_factory.mktemp("disk")
    shell = 'mount -t tmpfs -o size=3m tmpfs "$1" && exec "$2" -c "$3" "$1" "$4"'
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*own, 'mount -t tmpfs tmpfs "$1"', "sh", disk]).returncode:
        pytest.skip("no disk of its own can be had here")
    done = subprocess.run(
        [*own, shell, "sh", str(disk), sys.executable, SMALL, str(project)], capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    made = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("MADE"))[4:])
    assert made == {"before": [0] * 3, "full": [2] * 8, "after": [0] * 4}
    assert done.stderr.count("error: the disk is full") == 8


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("n", ["0", "-1", "100000000000", "9" * 30])
def test_how_many_items(n: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["recommend", "ann"], ["explain", "ann", "i1"]):
        status, _, told = run(capsys, *words, "-n", n, "--project", str(project))
        assert (status, told) == (2, said(f"n is {n}", "n", "ask for 1 to 500 items"))


NUMBERS: list[tuple[list[str], str]] = [
    (["backfill", "--chunk", "0"], "'--chunk': 0 is not in the range x>=1."),
    (["backfill", "--chunk", "x"], "'--chunk': 'x' is not a valid integer range."),
    (["simulate", "W", "--days", "-3"], "'--days': -3 is not in the range x>=1."),
    (["simulate", "W", "--users", "0"], "'--users': 0 is not in the range x>=1."),
    (["simulate", "W", "--items", "-1"], "'--items': -1 is not in the range x>=1."),
    (["simulate", "W", "--seed", "-1"], "'--seed': -1 is not in the range x>=0."),
    (["serve", "--port", "-1"], "'--port': -1 is not in the range 0<=x<=65535."),
    (["serve", "--port", "99999"], "'--port': 99999 is not in the range 0<=x<=65535."),
    (["recommend", "u", "-n", "ten"], "'-n': 'ten' is not a valid integer."),
    (["train", "--for", "tomorrow"], "'--for': 'tomorrow' is not one of 'valid', 'test', 'release'."),
]


@pytest.mark.parametrize(("words", "what"), NUMBERS)
def test_numbers_out_of_range(words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, told = run(capsys, *words)
    assert (status, out, told[-1]) == (2, "", f"Error: Invalid value for {what}")


def test_a_size_and_a_folder_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, told = run(capsys, "simulate", str(tmp_path / "w"), "--size", "huge")
    assert (status, told) == (2, said("no size is called 'huge'", "--size", "known: L, M, S, XL, tiny"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, _, told = run(capsys, "simulate", str(tmp_path / "file"))
    assert (status, told[-1]) == (
        2, f"Error: Invalid value for 'FOLDER': Directory '{tmp_path / 'file'}' is a file.",
    )  # fmt: skip

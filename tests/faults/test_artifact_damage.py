"""Damage to an artifact or a release is refused, whatever it is, and the release that is live stays so."""

import json
import shutil
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shortlist import artifact
from shortlist.artifact import Releases
from shortlist.errors import ArtifactError
from shortlist.forms import Lists
from shortlist.schema import Catalogue, Keys

LISTS = Lists(
    np.arange(40),
    np.arange(0, 82, 2),
    np.arange(80),
    np.tile(np.array([0.5, 0.25], dtype=np.float32), 40),
    tuple(f"tag {n}" for n in range(40)),
)
AGAIN = "(train and publish again)"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "cf"
    artifact.save(folder, kind="recall", name="cf", form=LISTS, metrics={"recall": 0.5}, created_ms=1)
    return folder


def flip(file: Path, byte: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << bit
    file.write_bytes(content)


def test_any_flipped_bit_of_any_file_is_refused(made: Path) -> None:
    rng = np.random.default_rng(7)
    for file in sorted(made.iterdir()):
        content = file.read_bytes()
        for byte in rng.choice(len(content), size=40, replace=False):
            flip(file, int(byte), int(rng.integers(8)))
            with pytest.raises(ArtifactError):
                artifact.load(made)
            file.write_bytes(content)
    artifact.load(made)  # whole again


def test_a_file_cut_at_any_length_is_refused(made: Path) -> None:
    for file in sorted(made.iterdir()):
        content = file.read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:length])
            with pytest.raises(ArtifactError):
                artifact.load(made, verify=False)  # sizes are checked always
        file.write_bytes(content)


def test_what_is_damaged_is_named(made: Path) -> None:
    items = made / "form.items.npy"
    flip(items, 200, 0)
    with pytest.raises(ArtifactError) as caught:
        artifact.load(made)
    assert str(caught.value) == f"{items}: the content has changed since it was written {AGAIN}"
    # 80 int64 behind 128 bytes of header
    items.write_bytes(items.read_bytes()[:100])
    with pytest.raises(ArtifactError) as caught:
        artifact.load(made)
    assert str(caught.value) == f"{items}: has 100 bytes, the manifest says 768 {AGAIN}"
    items.unlink()
    with pytest.raises(ArtifactError) as caught:
        artifact.load(made)
    assert str(caught.value) == f"{items}: a file is missing {AGAIN}"
    items.mkdir()
    with pytest.raises(ArtifactError) as caught:
        artifact.load(made)
    assert str(caught.value) == f"{items}: not a plain file {AGAIN}"


def test_a_link_is_refused_even_to_the_right_content(made: Path, tmp_path: Path) -> None:
    items = made / "form.items.npy"
    shutil.move(items, tmp_path / "elsewhere.npy")
    items.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(ArtifactError) as caught:
        artifact.load(made)
    assert str(caught.value) == f"{items}: not a plain file {AGAIN}"
    (made / "manifest.json").rename(tmp_path / "manifest.json")
    (made / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(ArtifactError, match="not a manifest: a link, a folder or too large"):
        artifact.load(made)


def reseal(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Write a manifest that somebody forged with care: changed, and with a right checksum of its own."""
    table = json.loads((folder / "manifest.json").read_text())
    del table["seal"]
    change(table)
    (folder / "manifest.json").write_text(json.dumps({**table, "seal": artifact._seal(table)}))


@pytest.mark.parametrize(
    "name", ["../secret.npy", "/etc/hostname", "a/b.npy", "..", ".", "", ".hidden", "a\0b", "manifest.json"]
)
def test_a_manifest_that_names_a_path_is_refused(made: Path, name: str) -> None:
    (made.parent / "secret.npy").write_bytes(b"x")
    reseal(made, lambda t: t.update(files={name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(ArtifactError) as caught:
        artifact.load(made)
    assert str(caught.value) == f"{made}/manifest.json: unsafe file name {name!r} {AGAIN}"


def test_an_unknown_format_says_what_to_do(made: Path) -> None:
    reseal(made, lambda t: t.update(format=2))
    with pytest.raises(ArtifactError) as caught:
        artifact.load(made)
    hint = "(this version reads format 1; use the version that wrote it, or train and publish again)"
    assert str(caught.value) == f"{made}/manifest.json: unknown format 2 {hint}"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop("kind"), "manifest.json.kind: the manifest is damaged: this key is required"),
        (lambda t: t.update(extra=1), "manifest.json: the manifest is damaged: unknown key 'extra'"),
        (lambda t: t.update(created_ms="x"), "created_ms: the manifest is damaged: should be a whole number"),
        (lambda t: t.update(files=[1]), "files: the manifest is damaged: should be"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(
    made: Path, change: Callable[[dict[str, object]], object], what: str
) -> None:
    reseal(made, change)
    with pytest.raises(ArtifactError) as caught:
        artifact.load(made)
    assert what in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"format": 1}'])
def test_a_manifest_that_is_no_manifest_is_refused(made: Path, content: bytes) -> None:
    (made / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError):
        artifact.load(made)


def test_arrays_that_are_pickles_are_not_opened(made: Path) -> None:
    evil = made.parent / "evil.npy"
    np.save(evil, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    shutil.copy(evil, made / "form.items.npy")
    entry = artifact._entry(evil)
    reseal(made, lambda t: t["files"].update({"form.items.npy": {"sha256": entry.sha256, "bytes": entry.bytes}}))  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match=r"form\.items\.npy: not an array"):
        artifact.load(made).form()


def publish(made: Path, n: int) -> str:
    return Releases(made.parent / "releases").publish(
        f"r{n}", {"cf": made}, {"n": n}, Keys(["u"]), Keys(["i"]), Catalogue.empty(),
        {"history": pl.DataFrame({"user": [0]})}, created_ms=1_767_225_600_000 + n,
    )  # fmt: skip


def test_every_damaged_file_of_a_release_is_refused_and_the_live_one_stays(made: Path) -> None:
    releases = Releases(made.parent / "releases")
    first, second = publish(made, 1), publish(made, 2)
    assert releases.rollback() == first
    files = [path for path in (releases.folder / second).rglob("*") if path.is_file()]
    assert len(files) == 6 + 6  # manifest, 2 keys, 2 profiles, 1 table; manifest and 5 of the form
    for file in files:
        content = file.read_bytes()
        flip(file, len(content) // 2, 3)
        with pytest.raises(ArtifactError):
            releases.rollback(second)
        assert releases.current() == first
        assert releases.load().id == first
        file.write_bytes(content)
    assert releases.rollback(second) == second


def test_an_artifact_of_another_release_is_refused(made: Path) -> None:
    releases = Releases(made.parent / "releases")
    first = publish(made, 1)
    artifact.save(made, kind="recall", name="cf", form=LISTS, metrics={"recall": 0.7}, created_ms=2)
    second = publish(made, 2)
    part = releases.folder / second / "artifacts" / "000"
    shutil.rmtree(part)
    shutil.copytree(releases.folder / first / "artifacts" / "000", part)
    with pytest.raises(ArtifactError) as caught:
        releases.load(second)
    assert str(caught.value) == f"{part}/manifest.json: belongs to another release {AGAIN}"


def test_a_renamed_release_is_refused(made: Path) -> None:
    releases = Releases(made.parent / "releases")
    first = publish(made, 1)
    (releases.folder / first).rename(releases.folder / "mine")
    with pytest.raises(ArtifactError) as caught:
        releases.load("mine")
    hint = "(the folder was renamed; name it so again)"
    assert str(caught.value) == f"{releases.folder}/mine: this is release {first} {hint}"


def publish_for_ever(made: str, begun: Connection) -> None:
    n = 0
    while True:
        n += 1
        publish(Path(made), n)
        begun.send(n)


def test_publishers_killed_at_random_points_leave_a_whole_current_release(made: Path, forks: ForkServerContext) -> None:
    releases = Releases(made.parent / "releases")
    rng = np.random.default_rng(11)
    for _ in range(10):
        mine, theirs = forks.Pipe(duplex=False)
        publisher = forks.Process(target=publish_for_ever, args=(str(made), theirs))
        publisher.start()
        theirs.close()
        assert mine.poll(120)
        time.sleep(float(rng.uniform(0, 0.05)))
        publisher.kill()
        publisher.join()
        for summary in releases.list():  # all that is listed is whole
            release = releases.load(summary.id)
            assert summary.id.endswith(f"-r{release.document['n']}")
            assert isinstance(release.artifact("cf").form(), Lists)
        assert releases.load().id in [summary.id for summary in releases.list()]
    assert len(releases.list()) >= 10


def test_a_publisher_that_was_killed_leaves_nothing_that_is_read(made: Path) -> None:
    releases = Releases(made.parent / "releases")
    first = publish(made, 1)
    # what a kill leaves behind: a half-built folder and a link not yet renamed
    shutil.copytree(releases.folder / first, releases.folder / ".building-20260101T000000002-000")
    (releases.folder / f".current-1-{first}").symlink_to(first)
    assert [summary.id for summary in releases.list()] == [first]
    second = publish(made, 2)
    assert second == "20260101T000000002-001-r2"
    assert releases.current() == second

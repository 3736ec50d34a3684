"""Every way to a public data set gives the same tables, and none is trusted."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shortlist.errors import DataError
from shortlist.events import sources
from shortlist.events.adapters import ml_100k
from shortlist.events.sources import Public, Wheel, content, fetch, member

GENRE_NAMES = ml_100k.GENRES
TITLES = ["Über (1995)", "No Year", "Twice (1994) (V)", "Bars, The (2001)"]
PLAIN = [("Über", "1995"), ("No Year", "No Year"), ("Twice (1994)", "V"), ("Bars, The", "2001")]
GENRES = [["Action", "War"], ["unknown"], ["Children's"], ["Film-Noir", "Sci-Fi"]]


def rows() -> pl.DataFrame:
    """Generated ratings in the shape of the log."""
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user_id": pl.Series(rng.integers(1, 4, 30), dtype=pl.Int32),
            "item_id": pl.Series(rng.integers(1, 5, 30), dtype=pl.Int32),
            "rating": pl.Series(rng.integers(1, 6, 30), dtype=pl.UInt8),
            "timestamp": pl.Series(rng.integers(880_000_000, 890_000_000, 30), dtype=pl.Int32),
        }
    )


USERS = [(1, 24, "M", "writer", "85711"), (2, 53, "F", "other", "94043"), (3, 23, "F", "artist", "T8H1N")]


def official_zip(ratings: pl.DataFrame) -> bytes:
    """The layout of the archive of 1998."""
    flags = ["|".join("1" if name in mine else "0" for name in GENRE_NAMES) for mine in GENRES]
    films = [f"{n + 1}|{title}|01-Jan-1995||http://x|{flags[n]}" for n, title in enumerate(TITLES)]
    people = ["|".join(map(str, user)) for user in USERS]
    return zipped(
        {
            "ml-100k/u.data": ratings.write_csv(separator="\t", include_header=False).encode(),
            "ml-100k/u.item": ("\n".join(films) + "\n").encode("latin-1"),
            "ml-100k/u.user": ("\n".join(people) + "\n").encode("latin-1"),
        }
    )


def carrier(ratings: pl.DataFrame) -> bytes:
    """A wheel with atomic files."""
    inter = ratings.rename({"user_id": "user_id:token", "item_id": "item_id:token", "rating": "rating:float"})
    films = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    films += [f"{n + 1}\t{title}\t{year}\t{' '.join(GENRES[n])}" for n, (title, year) in enumerate(PLAIN)]
    people = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    people += ["\t".join(map(str, user)) for user in USERS]
    base, info = "recbole/dataset_example/ml-100k/ml-100k", "recbole-1.2.1.dist-info"
    return zipped(
        {
            f"{base}.inter": inter.rename({"timestamp": "timestamp:float"}).write_csv(separator="\t").encode(),
            f"{base}.item": "\n".join(films).encode(),
            f"{base}.user": "\n".join(people).encode(),
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
    )


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine over `tmp_path/web`."""
    (tmp_path / "web").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def generated(url: str = "") -> Public:
    """ml-100k, but with the generated rows' content and addresses."""
    return replace(ml_100k.PUBLIC, content=content(rows()), url=url, wheel=None)


def told(public: Public, environ: dict[str, str]) -> tuple[dict[str, pl.DataFrame], list[str]]:
    said: list[str] = []
    return fetch(public, said.append, environ), said


def test_content_does_not_depend_on_order_or_type() -> None:
    table = rows()
    assert content(table.sample(fraction=1, shuffle=True, seed=1).cast(pl.Int64)) == content(table)
    changed = table.with_columns(pl.Series("rating", [*table["rating"][:-1], table["rating"][-1] % 5 + 1]))
    assert content(changed.cast(pl.Int64)) != content(table)


def test_content_by_hand() -> None:
    # Two rows sorted, eight bytes a number, the low byte first.
    table = pl.DataFrame({"a": [2, 1], "b": [3, 0]})
    bytes_ = b"".join(n.to_bytes(8, "little") for n in (1, 0, 2, 3))
    assert content(table) == hashlib.sha256(bytes_).hexdigest()


def test_the_official_archive_and_the_package_give_the_same_tables() -> None:
    with zipfile.ZipFile(io.BytesIO(official_zip(rows()))) as archive:
        official = ml_100k.official(archive)
    with zipfile.ZipFile(io.BytesIO(carrier(rows()))) as archive:
        carried = ml_100k.atomic(archive)
    for table in ("ratings", "items", "users"):
        assert_frame_equal(official[table], carried[table])
    assert_frame_equal(official["ratings"], rows())
    assert official["items"]["class"].to_list() == ["Action War", "unknown", "Children's", "Film-Noir Sci-Fi"]
    assert official["items"]["movie_title"][0] == "Über"


def test_the_official_archive_is_downloaded_verified_and_cached(tmp_path: Path, served: str) -> None:
    (tmp_path / "web" / "ml-100k.zip").write_bytes(official_zip(rows()))
    public = generated(f"{served}/ml-100k.zip")
    environ = {"SHORTLIST_CACHE": str(tmp_path / "cache")}
    first, said = told(public, environ)
    assert said == [f"ml-100k: asking {served}/ml-100k.zip"]
    (tmp_path / "web" / "ml-100k.zip").unlink()
    again, said = told(public, environ)
    assert said == [f"ml-100k: from the cache, {tmp_path}/cache/ml-100k"]
    for table in ("ratings", "items", "users"):
        assert_frame_equal(first[table], again[table])


def test_an_archive_put_into_the_cache_by_hand_is_used(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(official_zip(rows()))
    frames, said = told(generated("http://127.0.0.1:9/ml-100k.zip"), {"SHORTLIST_CACHE": str(tmp_path)})
    assert said == [f"ml-100k: reading {tmp_path}/ml-100k.zip"]
    assert_frame_equal(frames["ratings"], rows())


def test_a_damaged_cache_is_said_and_replaced(tmp_path: Path, served: str) -> None:
    (tmp_path / "web" / "ml-100k.zip").write_bytes(official_zip(rows()))
    public = generated(f"{served}/ml-100k.zip")
    environ = {"SHORTLIST_CACHE": str(tmp_path / "cache")}
    told(public, environ)
    file = tmp_path / "cache" / "ml-100k" / "users.parquet"
    file.write_bytes(file.read_bytes()[:-10])
    _, said = told(public, environ)
    wrong = f"{file}: its checksum is not the one expected (get the file again)"
    assert said == [f"ml-100k: the cache is damaged, {wrong}", f"ml-100k: asking {served}/ml-100k.zip"]
    assert told(public, environ)[1] == [f"ml-100k: from the cache, {tmp_path}/cache/ml-100k"]


def test_other_ratings_are_refused_and_not_cached(tmp_path: Path, served: str) -> None:
    (tmp_path / "web" / "ml-100k.zip").write_bytes(official_zip(rows()[:-1]))
    said: list[str] = []
    with pytest.raises(DataError) as caught:
        fetch(generated(f"{served}/ml-100k.zip"), said.append, {"SHORTLIST_CACHE": str(tmp_path / "cache")})
    assert said[1] == (
        "ml-100k: the official archive did not serve, the official archive: "
        "the ratings are not those of the published data set (get it from another place)"
    )
    assert str(caught.value) == (
        "tried SHORTLIST_DATA, the cache, the official archive: ml-100k cannot be had "
        "(set SHORTLIST_DATA to a folder with ml-100k/ holding ratings.parquet, items.parquet, users.parquet; "
        f"or put {served}/ml-100k.zip as ml-100k.zip into {tmp_path}/cache)"
    )
    assert not (tmp_path / "cache" / "ml-100k").exists()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "is not a zip archive (download it again)"),
        (zipped({"x": b""}), "no member is called 'ml-100k/u.data' (this is not the archive expected)"),
        (official_zip(rows())[:-200], "is not a zip archive (download it again)"),
    ],
)
def test_what_is_no_archive_is_said(tmp_path: Path, served: str, body: bytes, reason: str) -> None:
    (tmp_path / "web" / "ml-100k.zip").write_bytes(body)
    said: list[str] = []
    with pytest.raises(DataError):
        fetch(generated(f"{served}/ml-100k.zip"), said.append, {"SHORTLIST_CACHE": str(tmp_path)})
    assert said[-1].startswith("ml-100k: the official archive did not serve, ")
    assert said[-1].endswith(reason)


def test_an_absent_archive_says_what_the_server_answered(tmp_path: Path, served: str) -> None:
    said: list[str] = []
    with pytest.raises(DataError):
        fetch(generated(f"{served}/ml-100k.zip"), said.append, {"SHORTLIST_CACHE": str(tmp_path)})
    assert said[-1] == (f"ml-100k: the official archive did not serve, {served}/ml-100k.zip: answered 404 (try later)")


def test_no_network_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(DataError):
        fetch(generated("http://127.0.0.1:9/ml-100k.zip"), said.append, {"SHORTLIST_CACHE": str(tmp_path)})
    assert "http://127.0.0.1:9/ml-100k.zip: cannot be reached: " in said[-1]
    assert said[-1].endswith("(is there a network?)")


def test_a_huge_member_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 999)
    with zipfile.ZipFile(io.BytesIO(zipped({"big": b"0" * 1000}))) as archive, pytest.raises(DataError) as caught:
        member(archive, "big")
    assert str(caught.value) == "archive: big has 1000 bytes (this is not the archive expected)"


def test_a_huge_download_is_cut_off(tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_ARCHIVE_BYTES", 100)
    (tmp_path / "web" / "ml-100k.zip").write_bytes(b"0" * 1000)
    said: list[str] = []
    with pytest.raises(DataError):
        fetch(generated(f"{served}/ml-100k.zip"), said.append, {"SHORTLIST_CACHE": str(tmp_path)})
    assert said[-1].endswith("sent more than 100 bytes (this is not the archive expected)")


def packaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A generated package that pip finds in a folder, and nothing else."""
    folder.mkdir()
    data = carrier(rows())
    (folder / "recbole-1.2.1-py3-none-any.whl").write_bytes(data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Wheel("recbole==1.2.1", hashlib.sha256(data).hexdigest(), ml_100k.atomic)


def test_the_package_is_downloaded_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = replace(generated(), wheel=packaged(tmp_path / "index", monkeypatch))
    frames, said = told(public, {"SHORTLIST_CACHE": str(tmp_path / "cache")})
    assert said == ["ml-100k: downloading recbole==1.2.1, which carries it (read, not installed)"]
    assert_frame_equal(frames["ratings"], rows())
    assert told(public, {"SHORTLIST_CACHE": str(tmp_path / "cache")})[1][0].startswith("ml-100k: from the cache")


def test_another_package_of_that_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = replace(packaged(tmp_path / "index", monkeypatch), sha256="0" * 64)
    said: list[str] = []
    with pytest.raises(DataError):
        fetch(replace(generated(), wheel=wheel), said.append, {"SHORTLIST_CACHE": str(tmp_path / "cache")})
    assert said[-1] == (
        "ml-100k: the package that carries it did not serve, recbole==1.2.1: "
        "its checksum is not the one expected (is the index to be trusted?)"
    )


def test_a_folder_that_lacks_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ml-100k").mkdir()
    with pytest.raises(DataError) as caught:
        told(generated(), {"SHORTLIST_DATA": str(tmp_path)})
    assert str(caught.value) == f"{tmp_path}/ml-100k/ratings.parquet: no such file (ml-100k needs it)"


def test_a_file_with_another_checksum_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ml-100k").mkdir()
    rows().write_parquet(tmp_path / "ml-100k" / "ratings.parquet")
    with pytest.raises(DataError) as caught:
        told(generated(), {"SHORTLIST_DATA": str(tmp_path)})
    file = tmp_path / "ml-100k" / "ratings.parquet"
    assert str(caught.value) == f"{file}: its checksum is not the one expected (get the file again)"


def test_the_real_package_and_the_real_folder_agree(tmp_path: Path, data_folder: Path | None) -> None:
    if data_folder is None:
        pytest.skip("SHORTLIST_DATA is not set: generated tables above stand in")
    folder, said = told(ml_100k.PUBLIC, {"SHORTLIST_DATA": str(data_folder)})
    assert said == [f"ml-100k: from SHORTLIST_DATA, {data_folder}"]
    try:
        carried, _ = told(replace(ml_100k.PUBLIC, url=""), {"SHORTLIST_CACHE": str(tmp_path)})
    except DataError as error:
        pytest.skip(f"the package cannot be had here: {error}")
    for table in ("ratings", "items", "users"):
        assert_frame_equal(folder[table], carried[table])
    assert len(folder["ratings"]) == 100_000

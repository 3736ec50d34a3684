"""How much of a user is kept, and how long lists are told, as the project says."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving import world as serving
from tests.store.test_served_lists import bring, hot

from shortlist.cli import main
from shortlist.config import Project, load, parse
from shortlist.errors import ConfigError
from shortlist.feedback.live import meaning, open_engine
from shortlist.store.lists import kept
from shortlist.store.opening import open_lists

NOW, HOUR_MS = serving.NOW, 3_600_000


def project(folder: Path, words: str) -> Project:
    text = f'[serve]\nstore = "lmdb:"\ndeadline_ms = 20000.0\n{words}'
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    return load(folder)


def test_as_much_of_a_user_is_kept_as_the_project_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = serving.World(tmp_path / "var")
    with closing(world.log):
        document = world.releases.load(world.publish()).document
    here = ["--project", str(tmp_path / "shortlist.toml")]
    # ann clicked war0, war1, war2; 8 bytes of head, 4 of counts, 30 an event
    for words, items, most in (("", [0, 1, 2], 60_012), ("history = 2\nshown = 5\n", [1, 2], 12 + 7 * 30)):
        own = project(tmp_path, words)
        with open_engine(own) as engine:
            state = engine.live.users(np.array([0]), np.array([NOW]))
        assert state.history.items.tolist() == items
        capsys.readouterr()
        assert main(["store", "sizes", *here, "--json"]) == 0
        user = json.loads(capsys.readouterr().out)["namespaces"]["user"]
        # seven users did something, each three things: of 12 bytes and 30 an event
        assert (user["keys"], user["bytes"], user["most"]) == (7, 7 * (12 + 30 * len(items)), most)
    names = {file.parent.name for file in (tmp_path / "var" / "store").glob("*/data.mdb")}
    prints = {meaning(document, parse({"serve": {"history": n, "shown": m}}).serve)[1].fingerprint[:12]
              for n, m in ((1000, 1000), (2, 5))}  # fmt: skip
    assert names == prints
    assert main(["compact", *here]) == 0  # no release means the first one any more
    left = {file.parent.name for file in (tmp_path / "var" / "store").glob("*/data.mdb")}
    assert left == {meaning(document, load(tmp_path).config.serve)[1].fingerprint[:12]}


def test_lists_are_told_as_long_as_the_project_says(tmp_path: Path) -> None:
    world = serving.World(tmp_path / "var")
    own = project(tmp_path, 'lists = "store"\nlists_ttl_hours = 1.5\n')
    with closing(world.log):
        release = world.releases.load(world.publish(popular=hot(1)))
        assert bring(own, world.log, release, None) == ("similar", "popular")

        def ends() -> set[int | None]:
            blobs = open_lists(own.config.serve, own.home, world.log.identity, write=False)
            assert blobs is not None
            with closing(blobs):
                return {version.expires_ms for version in kept(blobs)}

        assert ends() == {NOW + 3 * HOUR_MS // 2}
        asked: dict[str, Any] = {"user": "ann", "now": NOW, "preview": True}
        with open_engine(own) as engine:  # by its clock, months later
            over = engine.recommend(**asked)
        assert {reason for shown in over.items for reason in shown.reasons} == {"popular, to fill the page"}
        own = project(tmp_path, 'lists = "store"\n')
        assert bring(own, world.log, release, None) == ()  # nothing is written, but they are told from now on
        assert ends() == {None}
        with open_engine(own) as engine:
            again = engine.recommend(**asked)
        assert again.items[0].reasons == ["because of War part 2"]


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [("history", "0", "at least 1"), ("shown", "-1", "at least 1"), ("lists_ttl_hours", "0.0", "more than 0.0")],
)
def test_words_that_are_refused(tmp_path: Path, name: str, value: str, want: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, f"{name} = {value}\n")
    assert str(caught.value) == f"shortlist.toml.serve.{name}: should be {want}, got {value} (correct the value)"

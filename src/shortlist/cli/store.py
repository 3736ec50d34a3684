"""Look into the store: what it says of one user or item, and how large it is."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, project_option, say, table
from shortlist.config import Project, load
from shortlist.errors import ConfigError

if TYPE_CHECKING:
    from shortlist.store.states import States

__all__ = ["command"]

EMPTY = "nothing is kept yet: import the log, then `shortlist backfill`"


@click.group()
def command() -> None:
    """Look into the store of the current release."""


@command.command()
@click.argument("entity", type=click.Choice(["user", "item", "value"]))
@click.argument("id")
@project_option
@json_option
def get(entity: str, id: str, project_file: str, as_json: bool) -> None:
    """Print the state of a user, an item, or a value of a field (item.genre=Drama) as JSON: history and counters."""
    import json

    from shortlist.events.opening import open_log
    from shortlist.feedback.inspect import told

    project = load(project_file)
    with closing(open_log(project)) as log, _opened(project) as store:
        store.check(log.identity)
        found = told(store, log, entity, id, now())  # type: ignore[arg-type]
    if not found["offset"]:
        say(EMPTY)
    if as_json:
        emit(found)
    else:
        print(json.dumps(found, ensure_ascii=False, indent=2))


@command.command()
@project_option
@json_option
def sizes(project_file: str, as_json: bool) -> None:
    """Keys and bytes by namespace, and bytes a key, on average and at most: the blobs alone, without what the home adds
    to each."""
    from shortlist.features.state import max_bytes

    with _opened(load(project_file)) as store:
        found, offset, service = store.blobs.sizes(), store.offset, store.service
    most = {name: max_bytes(service.counters, service.caps, name) for name in service.namespaces}
    rows = {
        name: {"keys": keys, "bytes": size, "each": size / keys, "most": most.get(name)}
        for name, (keys, size) in found.items()
    }
    if as_json:
        emit({"offset": offset, "namespaces": rows})
    else:
        body = [
            [
                name,
                f"{row['keys']:,}",
                f"{row['bytes']:,}",
                f"{row['each']:,.0f}",
                f"{most[name]:,}" if name in most else "",
            ]
            for name, row in rows.items()
        ]
        table([["namespace", "keys", "bytes", "bytes each", "at most"], *body])
        say(f"at offset {offset:,}" if offset else EMPTY)


@command.command()
@project_option
@json_option
def lists(project_file: str, as_json: bool) -> None:
    """Recall channels whose lists are served from the store: the versions kept, by release, and their size."""
    from shortlist.events import workspace
    from shortlist.store.lists import kept
    from shortlist.store.opening import open_lists

    project = load(project_file)
    blobs = open_lists(project.config.serve, project.home, workspace.identity(project), write=False)
    if blobs is None:
        hint = 'write lists = "store" under [serve], then publish'
        raise ConfigError("lists are served from the release", where="serve.lists", hint=hint)
    with closing(blobs):
        found = kept(blobs)
    if as_json:
        emit({"lists": [version._asdict() for version in found]})
    else:
        body = [[v.channel, v.version, "read" if v.current else "", f"{v.rows:,}", f"{v.bytes:,}"] for v in found]
        table([["channel", "version", "", "lists", "bytes"], *body])


@contextmanager
def _opened(project: Project) -> "Iterator[States]":
    from shortlist.artifact import Releases
    from shortlist.feedback.live import states

    releases = Releases(project.home / "releases")
    release = None if releases.current() is None else releases.load()
    store = states(project, release, write=False)
    with closing(store.blobs):
        yield store

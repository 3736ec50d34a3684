"""Stores beside the one that is followed: those that earlier releases filled and may want again after a rollback."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from shortlist.artifact import Releases, load
from shortlist.config import Project, ServeConfig
from shortlist.errors import ArtifactError, DataError
from shortlist.events.base import Log
from shortlist.features.state import Service
from shortlist.feedback.live import meaning
from shortlist.schema import Catalogue
from shortlist.store.lists import erase, erased, fingerprint
from shortlist.store.lmdb import remove
from shortlist.store.opening import NAME, folders, open_lists, open_store, shared
from shortlist.store.states import States

__all__ = ["tidy"]


def tidy(project: Project, log: Log) -> None:
    """Take erased users out of stores in the project's folder and out of lists, wherever these are served from, and
    remove the stores that no release means any more.

    One that has a writer is left to it. What cannot be opened stays, for who wants to open it to say so. Raises
    DataError where there is something to be taken out of lists, and their store cannot be had.
    """
    words, home = project.config.serve.store, project.home
    _lists(project, log)
    found = folders(words, home)
    if not found:
        return
    meant = {service.fingerprint[:NAME]: service for service in _services(home, project.config.serve)}
    for name, folder in found.items():
        if name in meant:
            with (
                suppress(DataError, ArtifactError),
                closing(open_store(words, home, meant[name].fingerprint, write=True)) as blobs,
            ):
                store = States(blobs, meant[name], Catalogue.empty())
                number, users = log.erased(store.erased)
                if len(users):
                    store.erase(users, number)
        elif meant and name != fingerprint(log.identity)[:NAME]:
            with suppress(OSError):
                remove(folder)


def _lists(project: Project, log: Log) -> None:
    """Take erased users out of lists that are served from the store the project names now."""
    config = project.config.serve
    if config.lists == "release" or not shared(config.store) or not len(log.erased(0)[1]):
        return
    blobs = open_lists(config, project.home, log.identity, write=True)
    assert blobs is not None
    with closing(blobs):
        number, users = log.erased(erased(blobs))
        if len(users):
            erase(blobs, users, number)


def _services(home: Path, config: ServeConfig) -> Iterator[Service]:
    """What the releases that are there mean by state."""
    for release in Releases(home / "releases").list():
        with suppress(ArtifactError):
            document = load(home / "releases" / release.id, verify=False).manifest.config["document"]
            yield meaning(document, config)[1]

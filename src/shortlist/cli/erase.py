"""Erase a user."""

import contextlib

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, project_option
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.argument("user")
@json_option
def command(project_file: str, user: str, as_json: bool) -> None:
    """Erase USER, an id as the log has it: hidden from every reader at once, and taken out of all files by
    `shortlist compact`, or by a running server within log.erase_within_hours. There is no way back. Of one who asked
    and did nothing, what was served goes at once.
    """
    from shortlist.errors import DataError
    from shortlist.events.erase import stranger
    from shortlist.events.event import bad_id
    from shortlist.events.opening import open_log
    from shortlist.schema import MISSING

    project = load(project_file)
    with contextlib.closing(open_log(project)) as log:
        alone = log.key("user", user) == MISSING and not bad_id(user, "user id")
        if alone and (rows := stranger(project.home, log, user, now())):
            if as_json:
                emit({"number": 0, "key": MISSING, "erased_within_hours": 0.0, "rows": rows})
            else:
                print(f"erased: {rows} slates and rows of a user of whom the log has no event")
            return
        erasure = log.erase(user, now())
        if not erasure.number:
            hint = "ids are as they were sent; one that was erased is known no more"
            raise DataError(f"no user is called {user!r}", where=str(log.path), hint=hint)
    hours = project.config.log.erase_within_hours
    if as_json:
        emit({"number": erasure.number, "key": erasure.user, "erased_within_hours": hours})
    else:
        print(f"hidden; a running server takes it out of all files within {hours:g} h, `shortlist compact` does now")

"""The command line: one file per command, found by name and imported only when it is asked for."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from shortlist import __version__
from shortlist.config import catalogue, nearest
from shortlist.errors import ShortlistError

__all__ = ["main", "commands"]

INTERRUPTED = 130  # what a shell reports for Ctrl-C
FULL = os.strerror(errno.ENOSPC)


class Commands(click.Group):
    """Files of this package as commands: `train.py` is `train`, `import_.py` is `import`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(name.removesuffix("_") for name in catalogue(__name__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for file in catalogue(__name__):
            if file.removesuffix("_") == cmd_name:
                command = importlib.import_module(f"{__name__}.{file}").command
                return command if isinstance(command, click.Command) else None
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx):
            raise click.UsageError(f"no command is called {args[0]!r}; {nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def commands() -> None:
    """An interaction log and a catalogue become a measured, explained recommender.

    Results go to stdout, talk goes to stderr; --json prints a result as JSON.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 (it found a problem), 2 (a user error), 130 (Ctrl-C)."""
    try:
        status = commands.main(list(argv) if argv is not None else None, "shortlist", standalone_mode=False)
    except ShortlistError as error:
        lines = [("error", error.what), ("  where", error.where), ("  next", error.hint)]
        for title, text in lines:
            if text:
                print(f"{title}: {text}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "shortlist":
            raise
        hint = "pip install 'shortlist[serve]'; `shortlist doctor` lists what is absent"
        print(f"error: {error.name} is not installed\n  next: {hint}", file=sys.stderr)
        return 2
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # what libraries raise of it are many types
        if FULL not in str(error):
            raise
        where = f"\n  where: {error.filename}" if isinstance(error, OSError) and error.filename else ""
        print(f"error: the disk is full{where}\n  next: free some space, then do it again", file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0

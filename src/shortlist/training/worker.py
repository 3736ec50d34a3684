"""A process beside the one that leads a training: `python -m shortlist.training.worker RANK PROCESSES PORT`."""

import sys

from shortlist.training.distributed import follow
from shortlist.training.scale import work

__all__ = ["main"]


def main(rank: int, ranks: int, port: int | None = None) -> int:
    """Do what the leader says until it has no more; the exit status."""
    return follow(rank, ranks, port, work)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

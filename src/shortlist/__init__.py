"""shortlist: an interaction log and a catalogue become a measured, explained, multi-stage recommender.

The names below are found on first use: importing the package loads nothing else.
"""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shortlist.config import load
    from shortlist.evaluation.project import evaluate, open_data, publish, train
    from shortlist.events.workspace import import_log
    from shortlist.feedback.live import open_engine
    from shortlist.funnel.scoring import open_scoring

__all__ = ["load", "import_log", "open_data", "train", "evaluate", "publish", "open_engine", "open_scoring", "now"]
__version__ = "0.1.0"

_WHERE = {
    "load": "config",
    "import_log": "events.workspace",
    "open_data": "evaluation.project",
    "train": "evaluation.project",
    "evaluate": "evaluation.project",
    "publish": "evaluation.project",
    "open_engine": "feedback.live",
    "open_scoring": "funnel.scoring",
}


def now() -> int:
    """The time in UTC epoch milliseconds, as everything here counts it."""
    return time.time_ns() // 1_000_000


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'shortlist' has no attribute {name!r}")
    return getattr(importlib.import_module(f"shortlist.{_WHERE[name]}"), name)

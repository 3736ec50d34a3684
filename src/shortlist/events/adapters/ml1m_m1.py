"""MovieLens 1M in the split of LCFN (Yu and Qin, ICML 2020), "Movielens1M_m1" of RecZoo: 6,022 users, 3,043 films.

796,244 pairs to learn from and 99,455 to test on, without times. The split's own validation part, a tenth, is not
among the published files. Terms: research, no redistribution.
"""

from typing import Any, ClassVar

from shortlist.events.adapters.gowalla import pairs
from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, fetch

__all__ = ["Ml1mM1", "PUBLIC"]

PUBLIC = Public(
    name="ml1m-m1",
    files={
        "train": "1ef8e3ca3b199456777424cfabfa5f99925e6e7433ca3471d5e825a62d5b75c8",
        "test": "732ecc57c94695b5c10dc1ce24ca7221dd9676a6d1390589e2aba315b35ed4fa",
    },
)


class Ml1mM1:
    """`data.adapter = "ml1m_m1"`."""

    split: ClassVar[str] = 'use = "published"'
    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "item_id",
        "time_unit": "none",
        "actions": {"rate": {}},
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        return pairs(fetch(PUBLIC, say), self.schema)

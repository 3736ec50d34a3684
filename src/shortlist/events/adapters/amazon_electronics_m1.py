"""Amazon Electronics, small, in the split of NBPO (Yu and Qin, SIGIR 2020), "AmazonElectronics_m1" of RecZoo: 1,435
users, 1,522 products; 31,887 pairs to learn from and 4,044 to test on, without times. Terms: research."""

from typing import Any, ClassVar

from shortlist.events.adapters.gowalla import pairs
from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, fetch

__all__ = ["AmazonElectronicsM1", "PUBLIC"]

PUBLIC = Public(
    name="amazon-electronics-m1",
    files={
        "train": "eec91148463d8165a420697c5f302b80d20c924adfcd16bff60a85516740c59d",
        "test": "af4492735ee632281d00ce1fcb1424f45905128e944a07f018b2df845933e34c",
    },
)


class AmazonElectronicsM1:
    """`data.adapter = "amazon_electronics_m1"`."""

    split: ClassVar[str] = 'use = "published"'
    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "item_id",
        "time_unit": "none",
        "actions": {"review": {}},
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        return pairs(fetch(PUBLIC, say), self.schema)

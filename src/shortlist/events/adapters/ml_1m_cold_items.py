"""MovieLens 1M in the cold-item split of Zhu et al. (SIGIR 2021): 6,018 users, 3,018 films with titles and genres.

529,952 pairs on 1,811 films to learn from; 106,695 pairs on 302 films and 296,870 on 905 others are held out for
validation and test, films that have no pair to learn from. Ids are the split's own. Terms: research, no
redistribution.
"""

from typing import Any, ClassVar

from shortlist.events.adapters.citeulike_a import parts
from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, fetch

__all__ = ["Ml1mColdItems", "PUBLIC"]

PUBLIC = Public(
    name="ml-1m-cold-items",
    files={
        "train": "f11fe327a4c09fc90217a76931d439651bc1279d3ccd978bb59dd483f9230de1",
        "cold_valid": "d402949fb8934a4727f71891373e2493a1c540f9d060cf735344d0fd1af2dac5",
        "cold_test": "66cbc9e4340a121a5d5cfd2c523d8fc21a930baee3a0cc569eaff06ba6faa54d",
        "items": "52d77ff71729125168e4ed2709976fe48a0db5f1efc56bf2c6cbb347e9ec4407",
    },
)


class Ml1mColdItems:
    """`data.adapter = "ml_1m_cold_items"`."""

    split: ClassVar[str] = 'use = "published"'
    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "item_id",
        "time_unit": "none",
        "actions": {"rate": {}},
        "items": {"title": "text", "genres": {"kind": "varlen", "split": "|"}},
        "title": "title",
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        tables = fetch(PUBLIC, say)
        return parts(tables, tables["items"], self.schema)

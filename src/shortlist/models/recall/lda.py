"""LDA: users as documents of items, mixtures of topics (Blei, Ng, Jordan, JMLR 2003; online: Hoffman, Bach, Blei, NIPS
2010). U users, I items, K topics.

Reads who took what how often. Lists: topic -> items by p(item | topic); beside them `topics`: p(item | topic) of every
item, as vectors [I, K]."""

__all__ = ["Lda"]

import importlib.util
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy import sparse

from shortlist.config import Count, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import Built, Lists, Vectors
from shortlist.models.blocks.limits import fits, learnable
from shortlist.models.blocks.topics import counted
from shortlist.schema import Catalogue, Schema

HALF = 0.5  # of an event: what an item must have of a topic to be in its list, or else it is in that of its best


class Lda:
    """theta_u ~ Dirichlet(alpha), phi_k ~ Dirichlet(eta); every event draws a topic z ~ theta_u and an item ~ phi_z, so
    p(i | u) is the sum over k of theta_uk phi_ki. Fitted by variational Bayes (scikit-learn). An item is in the lists
    of topics that at least half of one of its events belongs to, and in that of its best topic.

    A user's theta is worked out from the history at hand, phi as it is (source `topics`): a new user needs no training.
    An item that nobody took is in no list. Numbers of topics mean nothing from one training to the next.
    """

    source: ClassVar[str] = "topics"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """`alpha` and `eta` are 1 / `topics` where they are not set. Of a user's events on one item at most `cap`
        count. `keep` items of each topic. `online` learns from `batch_size` users at a time, for logs that `batch` is
        slow on."""

        topics: Count = 50
        alpha: Positive | None = None
        eta: Positive | None = None
        passes: Count = 20
        cap: Count | None = 5
        keep: Count = 500
        learn: Literal["batch", "online"] = "batch"
        batch_size: Count = 256
        seed: Annotated[int, Ge(0)] = 0
        budget_bytes: Count = 4 * 2**30

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.reads: tuple[str, ...] = ("actions",)
        if importlib.util.find_spec("sklearn") is None:
            hint = "pip install 'shortlist[sklearn]', or leave this channel out"
            raise ConfigError("sklearn is not installed", where="lda", hint=hint)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Built:
        """Raises CapacityError with the estimate, DataError on an empty log."""
        from sklearn.decomposition import LatentDirichletAllocation

        config, log = self.config, interactions.liked(self.schema.weights)
        learnable(log, "lda")
        keys, users = log.item_keys, len(log.user_keys)
        need = self.estimate(users, len(keys), len(log))
        hint = "raise budget_bytes or lower topics"
        fits(f"{users} users and {len(keys)} items", need, config.budget_bytes, "lda", hint)
        who = np.repeat(np.arange(users), np.diff(log.offsets))
        row, column, count = counted(who, log.columns.astype(np.int64), config.cap)
        documents = sparse.csr_array((count, (row, column)), shape=(users, len(keys)))
        model = LatentDirichletAllocation(
            config.topics, doc_topic_prior=config.alpha, topic_word_prior=config.eta, learning_method=config.learn,
            max_iter=config.passes, batch_size=config.batch_size, random_state=config.seed,
        )  # fmt: skip
        eta = 1 / config.topics if config.eta is None else config.eta
        return _built(keys, np.asarray(model.fit(documents).components_, dtype=np.float64), eta, config.keep)

    def estimate(self, users: int, items: int, events: int) -> int:
        """Bytes at the peak: events as pairs and as a matrix, both sides' pseudo-counts and their copies."""
        return 60 * events + 8 * self.config.topics * (2 * users + 5 * items)


def _built(keys: NDArray[np.int64], pseudo: NDArray[np.float64], eta: float, keep: int) -> Built:
    """From pseudo-counts [K, I], eta and more: scikit-learn does not divide them by their sum."""
    phi = pseudo / pseudo.sum(axis=1, keepdims=True)
    events = pseudo - eta
    there = (events >= HALF) | (events >= events.max(axis=0))
    topic, item = np.nonzero(there)
    lists = Lists.ranked(topic, keys[item], phi[topic, item].astype(np.float32), keep)
    return Built(lists, {"topics": Vectors(keys, np.ascontiguousarray(phi.T).astype(np.float32), "ip")})

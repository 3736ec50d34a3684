"""What the server did so far: Prometheus counters, and rings of the latest times for percentiles.

Bounded: a ring holds `RING` numbers a stage, minutes go back one hour.
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as Total

__all__ = ["Meters", "Latency"]

RING = 2048
MINUTES = 60
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)


@dataclass(frozen=True)
class Latency:
    """Of one stage, in ms, over its latest calls."""

    stage: str
    calls: int
    p50: float
    p99: float


class Meters:
    """Thread-safe. Every instance has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self._http = Total("shortlist_http_requests", "HTTP calls", ["route", "status"], registry=own)
        self._seconds = Histogram(
            "shortlist_http_seconds", "Time of HTTP calls", ["route"], buckets=BUCKETS, registry=own
        )
        self._stage = Histogram(
            "shortlist_stage_seconds", "Time of funnel stages", ["stage"], buckets=BUCKETS, registry=own
        )
        self._slates = Total("shortlist_slates", "Slates answered", ["scene"], registry=own)
        self._degraded = Total("shortlist_degraded", "Slates with a part skipped or replaced", ["note"], registry=own)
        self._fates = Total("shortlist_candidates", "Candidates by where they ended", ["fate"], registry=own)
        self._events = Total("shortlist_events", "Events by what became of them", ["outcome"], registry=own)
        self._dropped = Total("shortlist_served_dropped", "Served slates that were not logged", registry=own)
        self._reloads = Total("shortlist_reloads", "Releases opened, by outcome", ["outcome"], registry=own)
        self._release = Gauge("shortlist_release_info", "1 for the release that is served", ["release"], registry=own)
        self._compactions = Total(
            "shortlist_compactions", "Compactions of the log, by outcome", ["outcome"], registry=own
        )
        self._erasures = Gauge(
            "shortlist_erasures", "Erased users whose traces are still on disk", ["state"], registry=own
        )
        self._lock = threading.Lock()
        self._rings: dict[str, deque[float]] = {}
        self._calls: Counter[str] = Counter()
        self._minutes: deque[tuple[int, str, int]] = deque()
        self.fates: Counter[str] = Counter()
        self.degraded: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.slates = 0
        self.dropped = 0

    def http(self, route: str, status: int, seconds: float) -> None:
        self._http.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def slate(
        self, scene: str, took_ms: Mapping[str, float], fates: Mapping[str, int], notes: list[str], now: int
    ) -> None:
        """One answer."""
        self._slates.labels(scene).inc()
        for stage, ms in took_ms.items():
            self._stage.labels(stage).observe(ms / 1000.0)
        for fate, count in fates.items():
            self._fates.labels(fate).inc(count)
        for note in notes:
            self._degraded.labels(note).inc()
        with self._lock:
            self.slates += 1
            self.fates.update(fates)
            self.degraded.update(notes)
            for stage, ms in took_ms.items():
                self._rings.setdefault(stage, deque(maxlen=RING)).append(ms)
                self._calls[stage] += 1
            self._minute("slates", now, 1)

    def event(self, outcomes: Mapping[str, int], now: int) -> None:
        """One batch of events."""
        for outcome, count in outcomes.items():
            self._events.labels(outcome).inc(count)
        with self._lock:
            self.events.update(outcomes)
            self._minute("events", now, outcomes.get("accepted", 0))

    def drop(self, count: int) -> None:
        """Served slates that could not be logged."""
        self._dropped.inc(count)
        with self._lock:
            self.dropped += count

    def reload(self, outcome: str, release: str | None) -> None:
        self._reloads.labels(outcome).inc()
        if release is not None:
            self._release.clear()
            self._release.labels(release).set(1)

    def compaction(self, outcome: str) -> None:
        self._compactions.labels(outcome).inc()

    def erasures(self, waiting: int, overdue: int) -> None:
        """How many users wait to be erased from files, and how many of them longer than they may."""
        self._erasures.labels("waiting").set(waiting)
        self._erasures.labels("overdue").set(overdue)

    def _minute(self, kind: str, now: int, count: int) -> None:
        minute = now // 60_000
        while self._minutes and self._minutes[0][0] <= minute - MINUTES:
            self._minutes.popleft()
        if self._minutes and self._minutes[-1][:2] == (minute, kind):
            count += self._minutes.pop()[2]
        self._minutes.append((minute, kind, count))
        if len(self._minutes) > 4 * MINUTES:  # two kinds taking turns inside a minute
            self._fold()

    def _fold(self) -> None:
        sums: Counter[tuple[int, str]] = Counter()
        for minute, kind, count in self._minutes:
            sums[minute, kind] += count
        self._minutes = deque((minute, kind, count) for (minute, kind), count in sorted(sums.items()))

    def per_minute(self, kind: str, now: int) -> list[int]:
        """Counts of the last hour by minute, the current minute last."""
        out = [0] * MINUTES
        with self._lock:
            for minute, what, count in self._minutes:
                age = now // 60_000 - minute
                if what == kind and 0 <= age < MINUTES:
                    out[MINUTES - 1 - age] += count
        return out

    def latencies(self) -> list[Latency]:
        """Percentiles by stage, in the order stages were first met."""
        with self._lock:
            rings = {stage: np.array(ring) for stage, ring in self._rings.items()}
            calls = dict(self._calls)
        return [Latency(stage, calls[stage], *_percentiles(ring)) for stage, ring in rings.items()]

    def text(self) -> bytes:
        """The Prometheus page."""
        return bytes(generate_latest(self.registry))


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return float(p50), float(p99)

"""Counts by minute and percentiles stay right and bounded."""

from shortlist.serving.meters import MINUTES, RING, Meters

MINUTE_MS = 60_000


def test_counts_by_minute_forget_after_an_hour() -> None:
    meters = Meters()
    for _ in range(200):  # slates and events taking turns inside one minute
        meters.slate("home", {}, {}, [], 0)
        meters.event({"accepted": 2, "refused": 1}, 0)
    meters.slate("home", {}, {}, [], 3 * MINUTE_MS)
    assert meters.per_minute("slates", 3 * MINUTE_MS)[-4:] == [200, 0, 0, 1]
    assert meters.per_minute("events", 3 * MINUTE_MS)[-4:] == [400, 0, 0, 0]
    assert len(meters._minutes) <= 4 * MINUTES + 1
    assert sum(meters.per_minute("slates", 62 * MINUTE_MS)) == 1
    assert meters.events == {"accepted": 400, "refused": 200}


def test_percentiles_are_of_the_latest_calls() -> None:
    meters = Meters()
    for value in [1000.0] * 10 + [float(n % 101) for n in range(101 * 30)]:
        meters.slate("home", {"total": value}, {}, [], 0)
    (row,) = meters.latencies()
    # the ring holds the last 2048 values of 0, 1, .. 100, again and again: half of them lie below 50
    assert (row.stage, row.calls) == ("total", 10 + 101 * 30)
    assert abs(row.p50 - 50) <= 1
    assert 98 <= row.p99 <= 100
    assert len(meters._rings["total"]) == RING


def test_the_prometheus_page_counts_notes_and_fates() -> None:
    meters = Meters()
    meters.slate("home", {"total": 3.0}, {"selected": 5, "seen": 2}, ["late:similar"], 0)
    meters.drop(2)
    meters.reload("loaded", "r1")
    meters.reload("loaded", "r2")
    text = meters.text().decode()
    for line in (
        'shortlist_candidates_total{fate="seen"} 2.0',
        'shortlist_degraded_total{note="late:similar"} 1.0',
        'shortlist_stage_seconds_bucket{le="0.005",stage="total"} 1.0',
        "shortlist_served_dropped_total 2.0",
        'shortlist_release_info{release="r2"} 1.0',
    ):
        assert line in text
    assert "r1" not in text

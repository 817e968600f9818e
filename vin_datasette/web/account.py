"""The account of one instance, as Prometheus has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from vin_datasette import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from vin_datasette.tally import Times
    from vin_datasette.web.state import State


def exposition(own: State, accept: str) -> tuple[bytes, str]:
    """The account of an instance and its media type: Prometheus's text or OpenMetrics, as the header `Accept` says."""
    registry = CollectorRegistry()
    registry.register(_Account(own))
    ProcessCollector(registry=registry)
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Account(Collector):
    """What the instance has counted, as it stands when it is asked for."""

    def __init__(self, own: State) -> None:
        self._own = own

    def collect(self) -> Iterable[Metric]:
        """Each family once, its labels few and their values known beforehand."""
        own, tally = self._own, self._own.lookup.tally
        yield InfoMetricFamily("vin_datasette", "The version that runs.", {"version": __version__})

        lookups = CounterMetricFamily(
            "vin_datasette_lookups", "VINs answered by routes, by how and with what.", labels=["how", "result"]
        )
        for (how, result), count in tally.lookups.items():
            lookups.add_metric([how, result], count)
        yield lookups

        times = HistogramMetricFamily(
            "vin_datasette_lookup_seconds", "Time to an answer, of lookups of one VIN.", labels=["how"]
        )
        for how, taken in tally.lookup_times.items():
            times.add_metric([how], *_histogram(taken))
        yield times

        records = CounterMetricFamily("vin_datasette_records", "Records that a source gave.", labels=["source"])
        for source, count in tally.records.items():
            records.add_metric([source], count)
        yield records

        calls = CounterMetricFamily(
            "vin_datasette_vpic_calls", "Calls to vPIC, by what came of them.", labels=["outcome"]
        )
        for outcome, count in tally.calls.items():
            calls.add_metric([outcome], count)
        yield calls
        call_times = HistogramMetricFamily("vin_datasette_vpic_call_seconds", "Time that calls to vPIC took.")
        call_times.add_metric([], *_histogram(tally.call_times))
        yield call_times

        breaker = GaugeMetricFamily(
            "vin_datasette_breaker", "1 for the state of the breaker between here and vPIC.", labels=["state"]
        )
        for state in ("closed", "open", "half-open"):
            breaker.add_metric([state], own.lookup.breaker_state == state)
        yield breaker

        questions = GaugeMetricFamily("vin_datasette_questions", "VINs on their way to a source.", labels=["state"])
        questions.add_metric(["waiting"], own.lookup.waiting)
        questions.add_metric(["in_flight"], own.lookup.in_flight)
        yield questions

        under_way = GaugeMetricFamily("vin_datasette_under_way", "Requests that hold a place.", labels=["what"])
        for what, slots in (("lookups", own.asking), ("lists", own.lists), ("exports", own.exports)):
            under_way.add_metric([what], slots.taken)
        yield under_way
        refused = CounterMetricFamily(
            "vin_datasette_refused", "Requests turned away with 429, by what there was too much of.", labels=["what"]
        )
        for what in ("lookups", "queue", "lists", "exports"):
            refused.add_metric([what], tally.refused[what])
        yield refused

        size = GaugeMetricFamily("vin_datasette_cache_bytes", "The size of the cache's files.", labels=["file"])
        for name, count in _sizes(own.lookup.cache.path):
            size.add_metric([name], count)
        yield size


def _histogram(times: Times) -> tuple[list[tuple[str, int]], float]:
    return [*times.buckets()], times.seconds


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    """The files of the cache that are there: itself and its write-ahead log."""
    for name, file in (("database", path), ("wal", path.with_name(f"{path.name}-wal"))):
        try:
            yield name, file.stat().st_size
        except OSError:
            continue

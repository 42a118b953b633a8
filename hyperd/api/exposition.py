"""The text that Prometheus reads: what was counted, and what there is, counted when it is asked for.

Form: the Prometheus text format, or OpenMetrics for who asks for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hyperd import __version__
from hyperd.container.logdrivers import DROPPED
from hyperd.stream.hub import TRAFFIC

if TYPE_CHECKING:
    from hyperd.api.metrics import Metrics, Spread
    from hyperd.engine import Engine


def render(metrics: Metrics, engine: Engine, *, accept: str) -> tuple[bytes, str]:
    """Return the whole text and its content type.

    Args:
        metrics: what was counted. engine: is asked what there is.
        accept: the ``Accept`` header.

    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Source(lambda: _happened(metrics)))
    registry.register(_Source(lambda: _holdings(engine, metrics.own_listeners)))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Source(Collector):
    """A collector that is asked once, and for nothing when it is registered."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def _happened(metrics: Metrics) -> Iterator[Metric]:
    requests = HistogramMetricFamily(
        "hyperd_http_request_duration_seconds",
        "Time until the answer, or until the connection became a stream",
        labels=("method", "route", "code"),
    )
    boots = HistogramMetricFamily(
        "hyperd_vm_boot_seconds", "From the order to the hypervisor until the guest's agent answers", labels=()
    )
    events = CounterMetricFamily("hyperd_events", "Events by type and action", labels=("type", "action"))
    with metrics.lock:
        for (method, route, code), spread in metrics.requests.items():
            _add(requests, (method, route, str(code)), spread)
        _add(boots, (), metrics.boots)
        for kind, number in metrics.events.items():
            events.add_metric(kind, number)
        restarts, pulls, pulled = metrics.restarts, metrics.pulls, metrics.pulled
    yield from (requests, boots, events)
    yield CounterMetricFamily("hyperd_container_restarts", "Restarts of containers by their policies", restarts)
    yield CounterMetricFamily("hyperd_image_pulls", "Images pulled", pulls)
    yield CounterMetricFamily("hyperd_image_pulled_bytes", "Sizes of the images pulled, unpacked", pulled)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], spread: Spread) -> None:
    buckets = [("+Inf" if bound == math.inf else str(bound), number) for bound, number in spread.buckets()]
    family.add_metric(labels, buckets, sum_value=spread.total)


def _holdings(engine: Engine, own_listeners: int) -> Iterator[Metric]:
    yield _by("hyperd_pods", "Pods by state", "state", engine.pods.records.states())
    yield _by("hyperd_containers", "Containers by state", "state", engine.containers.records.states())
    vms = Counter(view.status for view in engine.vms.views())
    yield _by("hyperd_vms", "VMs by state", "state", vms)
    usage = engine.images.totals()
    yield GaugeMetricFamily("hyperd_images", "Images in the store", usage.images)
    store = {"layers": usage.layer_bytes, "blobs": usage.blob_bytes}
    yield _by("hyperd_image_store_bytes", "Size of the image store", "kind", store)
    streams = engine.events.listeners - own_listeners
    yield GaugeMetricFamily("hyperd_event_streams", "Streams of events that are open", streams)
    for name, text, value in _COUNTERS:
        yield CounterMetricFamily(name, text, value())
    yield _by("hyperd_build_info", "Version of the daemon", "version", {__version__: 1})


_COUNTERS: tuple[tuple[str, str, Callable[[], int]], ...] = (
    ("hyperd_log_lines_dropped", "Lines that no syslog or journal took", lambda: DROPPED["lines"]),
    ("hyperd_output_bytes", "Output of containers and execs", lambda: TRAFFIC["output"]),
)


def _by(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in sorted(values.items()):
        family.add_metric([value], number)
    return family

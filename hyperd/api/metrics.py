"""Prometheus metrics: what the daemon has, counted when it is asked, and what has happened, counted when it happens.

Form: the Prometheus text format, or OpenMetrics for who asks for it.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hyperd import __version__
from hyperd.container.logdrivers import DROPPED
from hyperd.event.bus import Event
from hyperd.stream.hub import TRAFFIC

if TYPE_CHECKING:
    from hyperd.engine import Engine

BOOT_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class Metrics:
    """The metrics of one daemon; observing costs microseconds."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Histogram(
            "hyperd_http_request_duration_seconds",
            "Time until the answer, or until the connection became a stream",
            ("method", "route", "code"),
            buckets=REQUEST_BUCKETS,
            registry=self._registry,
        )
        self._boots = Histogram(
            "hyperd_vm_boot_seconds",
            "From the order to the hypervisor until the guest's agent answers",
            buckets=BOOT_BUCKETS,
            registry=self._registry,
        )
        self._events = Counter(
            "hyperd_events", "Events by type and action", ("type", "action"), registry=self._registry
        )
        self._restarts = Counter(
            "hyperd_container_restarts", "Restarts of containers by their policies", registry=self._registry
        )
        self._pulls = Counter("hyperd_image_pulls", "Images pulled", registry=self._registry)
        self._pulled = Counter(
            "hyperd_image_pulled_bytes", "Sizes of the images pulled, unpacked", registry=self._registry
        )
        engine.events.subscribe(self._on_event)
        self._registry.register(_Holdings(engine, own_listeners=engine.events.listeners))

    def observe(self, *, method: str, route: str, code: int, seconds: float) -> None:
        """Count a request; ``route`` is the pattern that matched, never a path."""
        self._requests.labels(method, route, str(code)).observe(seconds)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Give the whole text and its content type, as the ``Accept`` header wants it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _on_event(self, event: Event) -> None:
        self._events.labels(event.type, event.action).inc()
        kind = (event.type, event.action)
        if kind == ("vm", "boot"):
            milliseconds = int(event.attributes["create_ms"]) + int(event.attributes["ready_ms"])
            self._boots.observe(milliseconds / 1000)
        elif kind == ("container", "restart") and event.attributes.get("by") == "policy":
            self._restarts.inc()
        elif kind == ("image", "pull"):
            self._pulls.inc()
            self._pulled.inc(int(event.attributes.get("size", "0")))


class _Holdings(Collector):
    """What there is: counted from the database and the services at every scrape."""

    def __init__(self, engine: Engine, *, own_listeners: int) -> None:
        self._engine = engine
        self._own_listeners = own_listeners

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing is asked before the engine is open

    def collect(self) -> Iterable[Metric]:
        engine = self._engine
        yield _by("hyperd_pods", "Pods by state", "state", engine.pods.records.states())
        yield _by("hyperd_containers", "Containers by state", "state", engine.containers.records.states())
        vms = Tally(view.status for view in engine.vms.views())
        yield _by("hyperd_vms", "VMs by state", "state", vms)
        usage = engine.images.disk_usage()
        yield GaugeMetricFamily("hyperd_images", "Images in the store", usage["images"])
        store = {"layers": usage["layer_bytes"], "blobs": usage["blob_bytes"]}
        yield _by("hyperd_image_store_bytes", "Size of the image store", "kind", store)
        streams = engine.events.listeners - self._own_listeners
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

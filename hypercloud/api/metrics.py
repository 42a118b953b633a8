"""Figures for Prometheus at ``/metrics``: for administrators and service keys."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from hypercloud.api.context import address, cloud
from hypercloud.db.models import ActionRow, ContainerRow, ServiceRow
from hypercloud.engine.service import capacity
from hypercloud.errors import CloudError


class _Figures(Collector):
    """What is true at the moment."""

    def collect(self) -> Iterator[Metric]:
        """Yield all figures."""
        up = GaugeMetricFamily("hypercloud_engine_up", "Whether an engine answers.", labels=["engine"])
        cpus = GaugeMetricFamily("hypercloud_engine_cpus", "CPUs of an engine.", labels=["engine"])
        memory = GaugeMetricFamily("hypercloud_engine_memory_bytes", "Memory of an engine.", labels=["engine"])
        ping = GaugeMetricFamily("hypercloud_engine_ping_seconds", "Time of the last ping.", labels=["engine"])
        for engine in cloud().engines.engines():
            name = [engine.spec.name]
            up.add_metric(name, float(engine.up))
            cpus.add_metric(name, capacity(engine)[0])
            memory.add_metric(name, capacity(engine)[1] * 2**20)
            ping.add_metric(name, engine.facts.response_time)
        yield from (up, cpus, memory, ping)
        running = GaugeMetricFamily("hypercloud_containers_running", "Containers that run, of anybody.")
        running.add_metric([], sum(one.running for one in cloud().engines.containers()))
        yield running
        yield from self._tables()
        watchers = GaugeMetricFamily("hypercloud_event_watchers", "Clients that follow events.")
        watchers.add_metric([], cloud().bus.watchers)
        yield watchers

    def _tables(self) -> Iterator[Metric]:
        with cloud().database.reading() as session:
            for name, table in (("services", ServiceRow), ("service_containers", ContainerRow), ("actions", ActionRow)):
                family = GaugeMetricFamily(f"hypercloud_{name}", f"Number of {name} by state.", labels=["state"])
                for state, count in session.execute(select(table.state, func.count()).group_by(table.state)).all():
                    family.add_metric([state], count)
                yield family


def make() -> Blueprint:
    """Make the blueprint."""
    blueprint = Blueprint("metrics", __name__)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures())

    def metrics() -> Response:
        if not _allowed():
            return Response("unauthorized\n", 401, {"WWW-Authenticate": "Basic"}, mimetype="text/plain")
        return Response(generate_latest(registry), mimetype="text/plain; version=0.0.4")

    blueprint.add_url_rule("/metrics", view_func=metrics, methods=["GET"])
    return blueprint


def _allowed() -> bool:
    try:
        if key := request.headers.get("X-Service-Key"):
            return cloud().keys.service_key(key).is_admin
        given = base64.b64decode(request.headers.get("Authorization", "").partition(" ")[2]).decode()
        username, _, secret = given.partition(":")
        return cloud().accounts.basic(username, secret, address()).is_admin
    except (CloudError, ValueError):
        return False

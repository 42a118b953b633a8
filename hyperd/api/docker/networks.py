"""Networks: list, create, inspect, connect, disconnect, remove, prune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from flask import Response

from hyperd.api.context import engine
from hyperd.api.docker import answers, params, schema
from hyperd.api.docker.create import read_endpoint
from hyperd.api.docker.lookup import container, has_ipv6, network_of
from hyperd.api.docker.network_views import network_object
from hyperd.api.docker.params import Filters
from hyperd.api.docker.routes import blueprint
from hyperd.errors import Conflict, Forbidden, InvalidInput, NotFound, NotSupported
from hyperd.network.model import Network, NetworkSpec

_CREATE, _CONNECT, _DISCONNECT = schema.NetworkCreate(), schema.NetworkConnect(), schema.NetworkDisconnect()
_LIST_KEYS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PRUNE_KEYS = ("label", "label!", "until")


@blueprint.get("/networks")
def list_networks() -> Response:
    """List networks."""
    filters = params.filters(_LIST_KEYS)
    found = [one for one in engine().networks.all() if _passes(one, filters)]
    return answers.as_json([network_object(one, engine(), detailed=False) for one in found])


def _passes(network: Network, filters: Filters) -> bool:
    return all(_fits(network, key, values) for key, values in filters.items())


def _fits(network: Network, key: str, values: Sequence[str]) -> bool:
    if key == "driver":
        return _driver_word(network) in values
    if key == "id":
        return any(network.id.startswith(value) for value in values)
    if key == "name":
        return any(value in network.name for value in values)
    if key == "label":
        return params.has_labels(network.labels, values)
    if key == "scope":
        return "local" in values
    if key == "type":
        return ("builtin" if network.builtin else "custom") in values
    unused = not network.builtin and not network.attachments
    return str(unused).lower() in values or str(int(unused)) in values


def _driver_word(network: Network) -> str:
    return "null" if network.driver == "none" else str(network.driver)


@blueprint.get("/networks/<name>")
def inspect_network(name: str) -> Response:
    """Describe a network and who is on it."""
    return answers.as_json(network_object(network_of(name), engine(), detailed=True))


@blueprint.post("/networks/create")
def create_network() -> Response:
    """Make a network."""
    given = schema.load(_CREATE, params.body_object())
    made = engine().networks.create(_spec(given))
    return answers.as_json({"Id": made.id, "Warning": " ".join(_warnings(given))}, 201)


_MTU, _BRIDGE = "com.docker.network.driver.mtu", "com.docker.network.bridge.name"
_MASQUERADE, _ICC = "com.docker.network.bridge.enable_ip_masquerade", "com.docker.network.bridge.enable_icc"
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


def _spec(given: dict[str, Any]) -> NetworkSpec:
    _refuse(given)
    ipam, ipv6 = given["IPAM"], given["EnableIPv6"]
    pool = _only([pool for pool in ipam["Config"] if not _is_ipv6(pool)], "subnet")
    pools6 = [pool for pool in ipam["Config"] if _is_ipv6(pool)]
    pool6 = _only(pools6, "IPv6 subnet") if ipv6 else {}
    if pool6.get("AuxiliaryAddresses"):
        raise NotSupported("an IPv6 subnet has no auxiliary addresses here")
    options = given["Options"]
    mtu = options.get(_MTU, "0")
    if not (mtu.isascii() and mtu.isdigit() and len(mtu) < 6):
        raise InvalidInput(f"invalid value {mtu[:40]!r} for {_MTU}: it must be a number")
    return NetworkSpec(
        name=given["Name"],
        subnet=pool.get("Subnet", ""),
        gateway=pool.get("Gateway", ""),
        ip_range=pool.get("IPRange", ""),
        reserved=pool.get("AuxiliaryAddresses", {}),
        unused_pools=() if ipv6 else tuple(_texts_of(one) for one in pools6),
        ipv6=ipv6,
        subnet6=pool6.get("Subnet", ""),
        gateway6=pool6.get("Gateway", ""),
        ip_range6=pool6.get("IPRange", ""),
        internal=given["Internal"],
        labels=given["Labels"],
        options=options,
        bridge=options.get(_BRIDGE, ""),
        mtu=int(mtu),
        masquerade=_truth(options, _MASQUERADE),
        isolated=not _truth(options, _ICC),
    )


def _only(pools: Sequence[Mapping[str, Any]], what: str) -> Mapping[str, Any]:
    """Return the one pool that there is, an empty one when there is none. Errors: InvalidInput."""
    if len(pools) > 1:
        raise InvalidInput(f"a network can have one {what} here", details=f"{len(pools)} were given")
    return pools[0] if pools else {}


def _is_ipv6(pool: Mapping[str, Any]) -> bool:
    """Return whether a pool has an IPv6 subnet: without ``EnableIPv6`` it is kept and means nothing, as in Docker."""
    try:
        return ip_network(pool["Subnet"], strict=False).version == 6
    except ValueError:
        return False  # said by who reads it


def _texts_of(pool: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in pool.items() if value and isinstance(value, str)}


def _refuse(given: dict[str, Any]) -> None:
    """Refuse what no network here can have. Errors: NotSupported, InvalidInput."""
    if given["Driver"] not in ("bridge", "default", ""):
        raise NotSupported(
            f"could not find plugin {given['Driver'][:60]} in v1 plugin registry: plugin not found",
            resolution="use the driver bridge",
        )
    if given["Ingress"]:
        raise NotSupported("ingress networks belong to swarm mode, which is not supported")
    if not given["EnableIPv4"]:
        raise NotSupported("networks without IPv4 are not supported", resolution="leave EnableIPv4 out")
    if given["ConfigOnly"] or given["ConfigFrom"]["Network"]:
        raise NotSupported("configurations of networks (ConfigOnly, ConfigFrom) are not supported")
    ipam = given["IPAM"]
    if ipam["Driver"] not in ("", "default"):
        raise NotSupported(f"IPAM driver {ipam['Driver'][:60]} is not supported")
    if ipam["Options"]:
        raise NotSupported(f"the IPAM option {next(iter(ipam['Options']))[:60]} is not supported")


def _truth(options: Mapping[str, str], key: str) -> bool:
    """Return an option that is yes or no, yes unless it is given. Errors: InvalidInput."""
    word = options.get(key, "true").lower()
    if word not in (*_TRUE, *_FALSE):
        raise InvalidInput(f"invalid value {word[:40]!r} for {key}: it must be true or false")
    return word in _TRUE


def _warnings(given: dict[str, Any]) -> Iterator[str]:
    """Yield a warning for each setting that has no effect here."""
    if given["Attachable"]:
        yield "Attachable belongs to swarm mode and was discarded: containers can be put on every network."
    for pool in given["IPAM"]["Config"]:
        if _is_ipv6(pool) and not given["EnableIPv6"]:
            yield f"IPv6 is not enabled: the subnet {pool['Subnet'][:60]} was discarded."
    for key in given["Options"]:
        if key not in (_MTU, _BRIDGE, _MASQUERADE, _ICC):
            yield f"The option {key[:100]} has no effect here."


@blueprint.post("/networks/<name>/connect")
def connect(name: str) -> Response:
    """Put a container on a network, also while it runs."""
    given = schema.load(_CONNECT, params.body_object())
    network, found = network_of(name), container(given["Container"])
    point = given["EndpointConfig"]
    if point["DriverOpts"]:  # this answer has no place for a warning
        raise NotSupported(
            f"DriverOpts of the endpoint on {network.name} have no effect",
            details=", ".join(point["DriverOpts"])[:200],
            resolution="leave them out",
        )
    known = network.subnet6 or network.unused_pools  # else its creation has told that
    if point["IPAMConfig"]["IPv6Address"] and not known:
        raise NotSupported(f"the network {network.name} has no IPv6", details=point["IPAMConfig"]["IPv6Address"][:60])
    engine().pods.net.attachments.connect(found.pod_id, read_endpoint(network.name, point, ipv6=has_ipv6))
    return answers.empty(200)


@blueprint.post("/networks/<name>/disconnect")
def disconnect(name: str) -> Response:
    """Take a container off a network."""
    given = schema.load(_DISCONNECT, params.body_object())
    network = network_of(name)
    try:
        found = container(given["Container"])
    except NotFound:
        if not given["Force"]:
            raise
        engine().networks.forget(network.id, given["Container"])
    else:
        engine().pods.net.attachments.disconnect(found.pod_id, network.id)
    return answers.empty(200)


@blueprint.delete("/networks/<name>")
def remove_network(name: str) -> Response:
    """Remove a network that nobody is on."""
    network = network_of(name)
    try:
        engine().networks.remove(network.id)
    except Conflict as error:
        raise Forbidden(
            f"error while removing network: network {network.name} id {network.id} has active endpoints"
        ) from error
    return answers.empty()


@blueprint.post("/networks/prune")
def prune_networks() -> Response:
    """Remove the networks that nobody is on."""
    filters = params.filters(_PRUNE_KEYS)
    until = params.moment(filters["until"][0]) if "until" in filters else None

    def chosen(network: Network) -> bool:
        return (
            params.has_labels(network.labels, filters.get("label", ()))
            and not any(params.has_labels(network.labels, (entry,)) for entry in filters.get("label!", ()))
            and (until is None or network.created_at.timestamp() < until)
        )

    removed = engine().networks.prune(chosen)
    return answers.as_json({"NetworksDeleted": [network.name for network in removed] or None})

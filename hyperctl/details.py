"""What lists show beyond the rows of `GET /list`: image, age, ports, address and labels, asked for pod by pod."""

from __future__ import annotations

from hyperctl import output, units
from hyperctl.api.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from hyperctl.api.client import Client


def add(client: Client, item: str, rows: Sequence[dict[str, Any]]) -> None:
    """Add the fields `Image`, `Created`, `Ports`, `IP` and `Labels` to rows; of what has just gone they are empty."""
    for row in rows:
        name = str(row["ID"])
        try:
            info = client.pod_info(name) if item == "pod" else client.container_info(name)
        except NotFound:
            info = {}
        described = info.get("spec" if item == "pod" else "container") or {}
        containers = described.get("containers") or [] if item == "pod" else [described]
        row["Image"] = ", ".join(dict.fromkeys(str(one.get("image", "")) for one in containers))
        row["Created"] = info.get("createdAt") or 0
        row["Ports"] = _ports(client, name) if item == "pod" else ""
        addresses = (info.get("status") or {}).get("podIP") or []
        row["IP"] = ", ".join(str(address).partition("/")[0] for address in addresses)
        row["Labels"] = described.get("labels") or {}


def _ports(client: Client, pod: str) -> str:
    try:
        rules = client.portmappings(pod)
    except NotFound:
        return ""
    return ", ".join(port(rule) for rule in rules)


def port(rule: Mapping[str, Any]) -> str:
    """Return a published port as `8080->80/tcp`, with the host's address where it is not all of them."""
    ip = f"{rule['hostIP']}:" if rule.get("hostIP") else ""
    return f"{ip}{rule.get('hostPort', '')}->{rule.get('containerPort', '')}/{rule.get('protocol', 'tcp')}"


def fits(row: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> bool:
    """Say whether a row with these fields is what the filters `image` and `label` want; every label must be there."""
    images = str(row["Image"]).split(", ")
    if "image" in wanted and not any(
        image == value or image.rpartition(":")[0] == value for value in wanted["image"] for image in images
    ):
        return False
    for text in wanted.get("label", ()):
        key, equals, value = text.partition("=")
        if key not in row["Labels"] or (equals and row["Labels"][key] != value):
            return False
    return True


def created(seconds: object) -> str:
    """Return an age, as `5 minutes ago`."""
    return f"{units.age(float(seconds))} ago" if isinstance(seconds, int | float) and seconds else ""


def label_text(labels: object) -> str:
    """Return labels as `a=1,b=2`."""
    pairs = sorted(labels.items()) if isinstance(labels, dict) else []
    return output.clean(",".join(f"{key}={value}" for key, value in pairs))

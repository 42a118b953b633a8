"""Version, state and settings of the runtime."""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path

from hyperd import __version__
from hyperd.api.cri.call import Call, Method
from hyperd.api.cri.specs import HANDLERS
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.errors import Conflict, InvalidInput

KUBELET_VERSION = "0.1.0"  # the only one that kubelet accepts


def version(call: Call, _request: pb.VersionRequest) -> pb.VersionResponse:
    """Tell who answers."""
    return pb.VersionResponse(
        version=KUBELET_VERSION,
        runtime_name="hyperd",
        runtime_version=__version__,
        runtime_api_version=call.api_version,
    )


def status(call: Call, request: pb.StatusRequest) -> pb.StatusResponse:
    """Tell whether pods can be run now."""
    info = call.engine.system.info()
    runtime = pb.RuntimeCondition(type="RuntimeReady", status=info.guest != "none")
    if not runtime.status:
        runtime.reason, runtime.message = "NoGuest", "there is no kernel to boot: run hyperd build-guest"
    verbose = {"accelerator": info.hypervisor.accelerator, "driver": info.hypervisor.driver, "guest": info.guest}
    return pb.StatusResponse(
        status=pb.RuntimeStatus(conditions=[runtime, _network(call)]),
        # A read-only path of the host is one file system in the guest, with all that is mounted below it on the host.
        runtime_handlers=[
            pb.RuntimeHandler(name=name, features=pb.RuntimeHandlerFeatures(recursive_read_only_mounts=True))
            for name in HANDLERS
        ],
        features=pb.RuntimeFeatures(supplemental_groups_policy=True),
        info={"hyperd": json.dumps(verbose)} if request.verbose else {},
    )


def _network(call: Call) -> pb.RuntimeCondition:
    """Return whether pods get addresses that this host reaches."""
    bridge = call.engine.config.network.bridge
    found = pb.RuntimeCondition(type="NetworkReady")
    if call.engine.cni.configured:
        found.message = call.engine.cni.reason()
        found.reason = "NoNetworkConfiguration" if found.message else ""
        found.status = not found.message
        return found
    if not bridge:
        found.reason, found.message = "NoBridge", "user-mode networking gives pods no reachable address"
        return found
    try:
        socket.if_nametoindex(bridge)
    except OSError as error:
        found.reason, found.message = "NoBridge", f"the bridge {bridge}: {error}"
        return found
    found.status = True
    return found


def runtime_config(_call: Call, _request: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse:
    """Tell which driver of control groups kubelet is to use: that of the host's init."""
    driver = pb.SYSTEMD if Path("/run/systemd/system").is_dir() else pb.CGROUPFS
    return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))


def update_runtime_config(call: Call, request: pb.UpdateRuntimeConfigRequest) -> pb.UpdateRuntimeConfigResponse:
    """Take the node's range of addresses, which must be the one that is configured.

    Where plugins (CNI) give addresses their own configuration says from where. Errors: InvalidInput, Conflict.
    """
    given = request.runtime_config.network_config.pod_cidr
    if given and not call.engine.cni.configured:
        own = call.engine.config.network.subnet
        try:
            same = ipaddress.ip_network(given) == ipaddress.ip_network(own, strict=False)
        except ValueError as error:
            raise InvalidInput(f"bad pod_cidr {given[:60]!r}", details=str(error)) from error
        if not same:
            raise Conflict(
                f"pods have addresses of {own}, not of {given}",
                resolution=f'set subnet = "{given}" in [network] of the configuration and start hyperd again',
            )
    return pb.UpdateRuntimeConfigResponse()


METHODS: dict[str, Method] = {
    "Version": version,
    "Status": status,
    "RuntimeConfig": runtime_config,
    "UpdateRuntimeConfig": update_runtime_config,
}

"""Schemas of what Docker's clients send to create and update containers (Docker Engine API v1.47).

Unknown keys are ignored, as dockerd does; known keys must have the documented type, and null means "not given".
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, cast

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load

from hyperd.errors import InvalidInput
from hyperd.spec.model import MAX_EXPANDED_PORTS

MAX_ITEMS = 4096  # of a list or map, each of which takes microseconds


class _Words(fields.Field[list[str]]):
    """A list of texts; one text alone is a list of one, as old clients send it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:  # noqa: ARG002 - as Field has it
        if isinstance(value, str):
            return [value] if value else []
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ValidationError("must be a list of strings")
        return value


class _Texts(fields.Field[dict[str, str]]):
    """A map of texts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, str]:  # noqa: ARG002 - as Field has it
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise ValidationError("must be a map of strings")
        return value


class _Names(fields.Field[tuple[str, ...]]):
    """The keys of a map whose values are empty objects (``{"80/tcp": {}}``)."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:  # noqa: ARG002 - as Field has it
        if not isinstance(value, dict):
            raise ValidationError("must be a map")
        return tuple(value)


class _Many(fields.List[Any]):
    """A list that is looked at only when it is not too long, and that holds objects where it should."""

    def __init__(self, inner: fields.Field[Any], *, limit: int = MAX_ITEMS, **options: Any) -> None:
        super().__init__(inner, **options)
        self._limit = limit

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            _check_size(value, self._limit)
            if isinstance(self.inner, fields.Nested) and not all(isinstance(item, Mapping) for item in value):
                raise ValidationError("must be a list of objects")
        return super()._deserialize(value, attr, data, **kwargs)


class _Map(fields.Dict):
    """A map that is looked at only when it is not too large."""

    def __init__(self, *, limit: int = MAX_ITEMS, **options: Any) -> None:
        super().__init__(**options)
        self._limit = limit

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, Mapping):
            _check_size(value, self._limit)
        return super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call]  # marshmallow gives it no types


def _check_size(value: Sized, limit: int) -> None:
    if len(value) > limit:
        raise ValidationError(f"has over {limit} entries")


class _Flag(fields.Boolean):
    """A truth value of JSON, nothing that only looks like one."""

    truthy = {True}  # noqa: RUF012 - marshmallow's own way
    falsy = {False}  # noqa: RUF012 - the same


class Wire(Schema):
    """Base: unknown keys are ignored, null is the same as a key that is not there.

    Keys are known in any case, as Go reads them: docker-py sends ``detachKeys`` of an exec.
    """

    class Meta:
        unknown = EXCLUDE

    @pre_load
    def _drop_nulls(self, data: Any, **_kwargs: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        known = {name.lower(): name for name in self.fields}
        return {known.get(key.lower(), key): value for key, value in data.items() if value is not None}


def _nested(schema: type[Wire]) -> fields.Nested:
    """Return an object that has its defaults when it is left out."""
    return fields.Nested(schema, load_default=lambda: schema().load({}))


class Health(Wire):
    """``Healthcheck``: times in nanoseconds."""

    Test = _Words(load_default=list)
    Interval = fields.Integer(strict=True, load_default=0)
    Timeout = fields.Integer(strict=True, load_default=0)
    StartPeriod = fields.Integer(strict=True, load_default=0)
    StartInterval = fields.Integer(strict=True, load_default=0)
    Retries = fields.Integer(strict=True, load_default=0)


class Policy(Wire):
    """``RestartPolicy``."""

    Name = fields.String(load_default="")
    MaximumRetryCount = fields.Integer(strict=True, load_default=0)


class Binding(Wire):
    """One entry of ``PortBindings``."""

    HostIp = fields.String(load_default="")
    HostPort = fields.Raw(load_default="")


class LogConfig(Wire):
    """``LogConfig``."""

    Type = fields.String(load_default="")
    Config = _Texts(load_default=dict)


class UlimitEntry(Wire):
    """One entry of ``Ulimits``."""

    Name = fields.String(required=True)
    Soft = fields.Integer(strict=True, load_default=0)
    Hard = fields.Integer(strict=True, load_default=0)


class Device(Wire):
    """One entry of ``Devices``."""

    PathOnHost = fields.String(load_default="")
    PathInContainer = fields.String(load_default="")
    CgroupPermissions = fields.String(load_default="rwm")


class BindOptions(Wire):
    """``BindOptions`` of a mount."""

    Propagation = fields.String(load_default="")
    NonRecursive = _Flag(load_default=False)
    ReadOnlyNonRecursive = _Flag(load_default=False)
    ReadOnlyForceRecursive = _Flag(load_default=False)
    CreateMountpoint = _Flag(load_default=False)


class DriverConfig(Wire):
    """``DriverConfig`` of a volume."""

    Name = fields.String(load_default="")
    Options = _Texts(load_default=dict)


class VolumeOptions(Wire):
    """``VolumeOptions`` of a mount."""

    NoCopy = _Flag(load_default=False)
    Labels = _Texts(load_default=dict)
    DriverConfig = _nested(DriverConfig)
    Subpath = fields.String(load_default="")


class TmpfsOptions(Wire):
    """``TmpfsOptions`` of a mount."""

    SizeBytes = fields.Integer(strict=True, load_default=0)
    Mode = fields.Integer(strict=True, load_default=0)


class Mount(Wire):
    """One entry of ``Mounts``."""

    Type = fields.String(load_default="volume")
    Source = fields.String(load_default="")
    Target = fields.String(load_default="")
    ReadOnly = _Flag(load_default=False)
    Consistency = fields.String(load_default="")
    BindOptions = _nested(BindOptions)
    VolumeOptions = _nested(VolumeOptions)
    TmpfsOptions = _nested(TmpfsOptions)


class Resources(Wire):
    """What ``/containers/X/update`` takes, and the same keys of ``HostConfig``."""

    Memory = fields.Integer(strict=True, load_default=0)
    MemorySwap = fields.Integer(strict=True, load_default=0)
    MemoryReservation = fields.Integer(strict=True, load_default=0)
    NanoCpus = fields.Integer(strict=True, load_default=0)
    CpuShares = fields.Integer(strict=True, load_default=0)
    CpuPeriod = fields.Integer(strict=True, load_default=0)
    CpuQuota = fields.Integer(strict=True, load_default=0)
    CpusetCpus = fields.String(load_default="")
    CpusetMems = fields.String(load_default="")
    PidsLimit = fields.Integer(strict=True, load_default=0)
    BlkioWeight = fields.Integer(strict=True, load_default=0)
    Devices = _Many(fields.Nested(Device), load_default=list)
    DeviceRequests = _Many(fields.Raw(), load_default=list)
    DeviceCgroupRules = _Words(load_default=list)
    CgroupParent = fields.String(load_default="")
    OomKillDisable = _Flag(load_default=False)
    MemorySwappiness = fields.Integer(strict=True, load_default=None, allow_none=True)
    KernelMemory = fields.Integer(strict=True, load_default=0)
    CpuRealtimePeriod = fields.Integer(strict=True, load_default=0)
    CpuRealtimeRuntime = fields.Integer(strict=True, load_default=0)
    BlkioWeightDevice = _Many(fields.Raw(), load_default=list)
    BlkioDeviceReadBps = _Many(fields.Raw(), load_default=list)
    BlkioDeviceWriteBps = _Many(fields.Raw(), load_default=list)
    BlkioDeviceReadIOps = _Many(fields.Raw(), load_default=list)
    BlkioDeviceWriteIOps = _Many(fields.Raw(), load_default=list)
    Ulimits = _Many(fields.Nested(UlimitEntry), load_default=list)
    RestartPolicy = fields.Nested(Policy, load_default=None, allow_none=True)


class HostConfig(Resources):
    """``HostConfig``: what of a container concerns the host it is on."""

    Binds = _Words(load_default=list)
    Mounts = _Many(fields.Nested(Mount), load_default=list)
    Tmpfs = _Texts(load_default=dict)
    PortBindings = _Map(
        keys=fields.String(),
        values=_Many(fields.Nested(Binding), allow_none=True),
        load_default=dict,
        limit=MAX_EXPANDED_PORTS,
    )
    PublishAllPorts = _Flag(load_default=False)
    NetworkMode = fields.String(load_default="")
    AutoRemove = _Flag(load_default=False)
    VolumesFrom = _Words(load_default=list)
    VolumeDriver = fields.String(load_default="")
    Links = _Words(load_default=list)
    Dns = _Words(load_default=list)
    DnsOptions = _Words(load_default=list)
    DnsSearch = _Words(load_default=list)
    ExtraHosts = _Words(load_default=list)
    CapAdd = _Words(load_default=list)
    CapDrop = _Words(load_default=list)
    Privileged = _Flag(load_default=False)
    SecurityOpt = _Words(load_default=list)
    ReadonlyRootfs = _Flag(load_default=False)
    MaskedPaths = _Words(load_default=None, allow_none=True)
    ReadonlyPaths = _Words(load_default=None, allow_none=True)
    GroupAdd = _Words(load_default=list)
    Sysctls = _Texts(load_default=dict)
    ShmSize = fields.Integer(strict=True, load_default=0)
    Init = _Flag(load_default=False)
    LogConfig = _nested(LogConfig)
    IpcMode = fields.String(load_default="")
    PidMode = fields.String(load_default="")
    UTSMode = fields.String(load_default="")
    UsernsMode = fields.String(load_default="")
    CgroupnsMode = fields.String(load_default="")
    Cgroup = fields.String(load_default="")
    Runtime = fields.String(load_default="")
    Isolation = fields.String(load_default="")
    StorageOpt = _Texts(load_default=dict)
    OomScoreAdj = fields.Integer(strict=True, load_default=0)
    ConsoleSize = _Many(fields.Integer(strict=True), load_default=list)
    ContainerIDFile = fields.String(load_default="")
    Annotations = _Texts(load_default=dict)


class IpamConfig(Wire):
    """``IPAMConfig`` of an endpoint."""

    IPv4Address = fields.String(load_default="")
    IPv6Address = fields.String(load_default="")
    LinkLocalIPs = _Words(load_default=list)


class Endpoint(Wire):
    """``EndpointSettings``: how a container is on a network."""

    IPAMConfig = _nested(IpamConfig)
    Links = _Words(load_default=list)
    Aliases = _Words(load_default=list)
    MacAddress = fields.String(load_default="")
    DriverOpts = _Texts(load_default=dict)


class Networking(Wire):
    """``NetworkingConfig``."""

    EndpointsConfig = _Map(keys=fields.String(), values=fields.Nested(Endpoint, allow_none=True), load_default=dict)


class Create(Wire):
    """The body of ``/containers/create``: ``Config`` with ``HostConfig`` and ``NetworkingConfig`` in it."""

    Image = fields.String(load_default="")
    Hostname = fields.String(load_default="")
    Domainname = fields.String(load_default="")
    User = fields.String(load_default="")
    AttachStdin = _Flag(load_default=False)
    AttachStdout = _Flag(load_default=True)
    AttachStderr = _Flag(load_default=True)
    Tty = _Flag(load_default=False)
    OpenStdin = _Flag(load_default=False)
    StdinOnce = _Flag(load_default=False)
    Env = _Words(load_default=list)
    Cmd = _Words(load_default=None, allow_none=True)
    Entrypoint = _Words(load_default=None, allow_none=True)
    WorkingDir = fields.String(load_default="")
    Labels = _Texts(load_default=dict)
    StopSignal = fields.String(load_default="")
    StopTimeout = fields.Integer(strict=True, load_default=None, allow_none=True)
    ExposedPorts = _Names(load_default=tuple)
    Volumes = _Names(load_default=tuple)
    Healthcheck = fields.Nested(Health, load_default=None, allow_none=True)
    NetworkDisabled = _Flag(load_default=False)
    MacAddress = fields.String(load_default="")
    HostConfig = _nested(HostConfig)
    NetworkingConfig = _nested(Networking)


class NetworkPool(Wire):
    """One entry of ``IPAM.Config``."""

    Subnet = fields.String(load_default="")
    IPRange = fields.String(load_default="")
    Gateway = fields.String(load_default="")
    AuxiliaryAddresses = _Texts(load_default=dict)


class Ipam(Wire):
    """``IPAM`` of a network."""

    Driver = fields.String(load_default="default")
    Config = _Many(fields.Nested(NetworkPool), load_default=list)
    Options = _Texts(load_default=dict)


class ConfigFrom(Wire):
    """``ConfigFrom`` of a network."""

    Network = fields.String(load_default="")


class NetworkCreate(Wire):
    """The body of ``/networks/create``."""

    Name = fields.String(required=True)
    Driver = fields.String(load_default="bridge")
    Internal = _Flag(load_default=False)
    Attachable = _Flag(load_default=False)
    Ingress = _Flag(load_default=False)
    EnableIPv4 = _Flag(load_default=True)
    EnableIPv6 = _Flag(load_default=False)
    ConfigOnly = _Flag(load_default=False)
    ConfigFrom = _nested(ConfigFrom)
    IPAM = _nested(Ipam)
    Options = _Texts(load_default=dict)
    Labels = _Texts(load_default=dict)


class NetworkConnect(Wire):
    """The body of ``/networks/X/connect``."""

    Container = fields.String(required=True)
    EndpointConfig = _nested(Endpoint)


class NetworkDisconnect(Wire):
    """The body of ``/networks/X/disconnect``."""

    Container = fields.String(required=True)
    Force = _Flag(load_default=False)


class VolumeCreate(Wire):
    """The body of ``/volumes/create``."""

    Name = fields.String(load_default="")
    Driver = fields.String(load_default="local")
    DriverOpts = _Texts(load_default=dict)
    Labels = _Texts(load_default=dict)


class ExecCreate(Wire):
    """The body of ``/containers/X/exec``."""

    AttachStdin = _Flag(load_default=False)
    AttachStdout = _Flag(load_default=False)
    AttachStderr = _Flag(load_default=False)
    DetachKeys = fields.String(load_default="")
    Tty = _Flag(load_default=False)
    Env = _Words(load_default=list)
    Cmd = _Words(load_default=list)
    Privileged = _Flag(load_default=False)
    User = fields.String(load_default="")
    WorkingDir = fields.String(load_default="")
    ConsoleSize = _Many(fields.Integer(strict=True), load_default=list)


class ExecStart(Wire):
    """The body of ``/exec/X/start``."""

    Detach = _Flag(load_default=False)
    Tty = _Flag(load_default=False)
    ConsoleSize = _Many(fields.Integer(strict=True), load_default=list)


def spelled(schema: Schema, data: Any) -> Any:
    """Return a body with its keys as the schema spells them, those of nested objects too; other keys stay."""
    if not isinstance(data, Mapping):
        return data
    known = {name.lower(): name for name in schema.fields}
    found = {}
    for key, value in data.items():
        name = str(known.get(key.lower(), key))
        field = schema.fields.get(name)
        found[name] = spelled(field.schema, value) if isinstance(field, fields.Nested) else value
    return found


def load(schema: Schema, data: object) -> dict[str, Any]:
    """Read a body with a schema; every key of the schema is there afterwards.

    Errors: InvalidInput that names the key.
    """
    try:
        return dict(schema.load(cast("Any", data)))
    except ValidationError as error:
        path, message = _first(error.messages)
        raise InvalidInput(f"invalid JSON: {path}: {message}" if path else f"invalid JSON: {message}") from None


def _first(messages: object) -> tuple[str, str]:
    """Find the first message in marshmallow's nested answer and the path to it."""
    path: list[str] = []
    while isinstance(messages, (dict, list)) and messages:
        if isinstance(messages, list):
            messages = messages[0]
            continue
        key, messages = next(iter(messages.items()))
        if key != "_schema":
            path.append(str(key)[:80])
    return ".".join(path), str(messages).rstrip(".")

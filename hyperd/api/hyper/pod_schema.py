"""marshmallow schemas of the pod specification: JSON types, key names and bounds of single fields.

JSON is read as Go's ``encoding/json`` reads it, because the clients' pods were written for that: keys match
without regard to case, unknown keys are ignored, ``null`` leaves the default, a wrong JSON type is an error. Rules
that join several fields are in ``hyperd.api.hyper.pod_spec``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, pre_load, validate

from hyperd.api.hyper import pod_checks as checks
from hyperd.container.model import ContainerUpdate
from hyperd.errors import InvalidInput
from hyperd.spec import model
from hyperd.spec.limits import IDENTIFIER, MAX_MEMORY, MAX_VCPU

Validator = Callable[[Any], Any]
MAX_TEXT = 4096
MAX_ARGUMENT = 131_072 - 1  # Linux MAX_ARG_STRLEN with its NUL
MAX_ITEMS = 1024
MAX_SECONDS = 7 * 86_400
MAX_CONTAINERS = 128
MAX_FILE_CONTENT = 8 * 2**20
MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){0,30}")
_SURROGATES = re.compile("[\ud800-\udfff]")


def _messages(messages: dict[str, str]) -> dict[str, str | list[Any] | dict[Any, Any]]:
    return dict(messages)


class Text(fields.String):
    """A string without NUL, at most ``limit`` characters; lone surrogates become U+FFFD, as Go does."""

    default_error_messages = _messages(
        {
            "invalid": "must be a string",
            "null": "must be a string",
            "required": "is missing",
        }
    )

    def __init__(self, check: Validator | None = None, *, limit: int = MAX_TEXT, **options: Any) -> None:
        super().__init__(validate=[check] if check else None, **options)
        self._checked = checks.text(limit)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:  # noqa: ARG002 - as Field has it
        if not isinstance(value, str):
            raise self.make_error("invalid")
        self._checked(value)  # before anything is looked for in it: it may have megabytes
        return _SURROGATES.sub("\ufffd", value)


class Flag(fields.Boolean):
    """A JSON boolean; nothing else is taken for one."""

    default_error_messages = _messages({"invalid": "must be true or false"})

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:  # noqa: ARG002 - as Field has it
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Whole(fields.Integer):
    """A JSON integer from ``low`` to ``high``."""

    default_error_messages = _messages(
        {
            "invalid": "must be an integer",
            "too_large": "is too large",
            "required": "is missing",
        }
    )

    def __init__(self, low: int, high: int, **options: Any) -> None:
        error = f"must be from {low} to {high}"
        super().__init__(strict=True, validate=validate.Range(low, high, error=error), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:  # noqa: ARG002 - as Field has it
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Many(fields.List[Any]):
    """A JSON array that becomes a tuple; ``null`` as an item of a list of strings is the empty string."""

    default_error_messages = _messages({"invalid": "must be an array"})

    def __init__(self, item: fields.Field[Any], *, limit: int = MAX_ITEMS, **options: Any) -> None:
        super().__init__(item, **options)
        self._limit = limit

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise self.make_error("invalid")
        if len(value) > self._limit:  # before its items are looked at: there may be millions
            raise ValidationError(f"has over {self._limit} items")
        if isinstance(self.inner, Text):
            value = ["" if item is None else item for item in value]
        return tuple(super()._deserialize(value, attr, data, **kwargs))


class Table(fields.Dict):
    """A JSON object of strings; ``null`` as a value is the empty string."""

    default_error_messages = _messages({"invalid": "must be an object"})

    def __init__(self, *, key: Validator | None = None, limit: int = MAX_ITEMS, **options: Any) -> None:
        super().__init__(keys=Text(key, limit=1024), values=Text(limit=65_536), **options)
        self._limit = limit

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, Mapping):
            raise self.make_error("invalid")
        if len(value) > self._limit:
            raise ValidationError(f"has over {self._limit} entries")
        filled = {name: "" if item is None else item for name, item in value.items()}
        try:
            return super()._deserialize(filled, attr, data, **kwargs)  # type: ignore[no-untyped-call]
        except ValidationError as error:
            # marshmallow says {name: {"key" or "value": messages}}; the path shall end with the name.
            if not isinstance(error.messages, dict):
                raise
            raise ValidationError(
                {name: next(iter(kinds.values())) for name, kinds in error.messages.items()}
            ) from None


class Port(fields.Field[str]):
    """A port or a range as text; ``numbers``: a JSON integer is taken too (container ports)."""

    default_error_messages = _messages({"required": "is missing"})

    def __init__(self, *, numbers: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.numbers = numbers

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:  # noqa: ARG002 - as Field has it
        if self.numbers and isinstance(value, int) and not isinstance(value, bool):
            value = str(value) if value else ""
        if not isinstance(value, str):
            raise ValidationError("must be a number or a string" if self.numbers else "must be a string")
        value = value.strip()
        if self.required and not value:
            raise ValidationError("is missing")
        if value:
            try:
                ports = model.parse_ports(value)
            except InvalidInput as error:
                raise ValidationError(str(error)) from None
            # Host ports may be a wide range: one of them is chosen.
            if self.required and len(ports) > model.MAX_EXPANDED_PORTS:
                raise ValidationError(f"bad port range {value!r}: over {model.MAX_EXPANDED_PORTS} ports")
        return str(value)


def one(schema: type[Schema], **options: Any) -> fields.Nested:
    """Field for a nested object."""
    messages = _messages({"type": "must be an object", "null": "must be an object"})
    return fields.Nested(schema(), error_messages=messages, **options)


class Wire(Schema):
    """Base: Go's key matching and one value object per JSON object."""

    class Meta:
        unknown = EXCLUDE

    builds: ClassVar[type]
    aliases: ClassVar[Mapping[str, str]] = {}

    @pre_load
    def match_keys(self, data: Any, **_: Any) -> Any:
        """Rename keys to the schema's spelling; drop nulls and unknown keys. Errors: ValidationError."""
        if not isinstance(data, Mapping):
            raise ValidationError("must be an object")
        known = {(field.data_key or name).lower(): field.data_key or name for name, field in self.fields.items()}
        known.update(self.aliases)
        out: dict[str, Any] = {}
        for key, value in data.items():
            name = known.get(key.lower()) if isinstance(key, str) else None
            if name is not None and value is not None:
                out[name] = value
        return out

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the value object."""
        return self.builds(**data)


class OptionSchema(Wire):
    """volumes[].option."""

    builds = model.VolumeOption
    user = Text()
    keyring = Text()
    monitors = Many(Text(), limit=32)


class VolumeSchema(Wire):
    """An element of volumes, or a reference's detail; ``driver`` is the old name of ``format``."""

    builds = model.VolumeSpec
    aliases: ClassVar[Mapping[str, str]] = {"driver": "format"}
    name = Text(checks.optional(checks.pattern(IDENTIFIER, "a volume name")))
    source = Text(checks.single_line)
    format = Text()
    fstype = Text(checks.pattern(re.compile(r"[a-z0-9_]{0,32}"), "a file system type"))
    cache = Text()
    option = one(OptionSchema, allow_none=True)


class FileSchema(Wire):
    """An element of files, or a reference's detail."""

    builds = model.FileSpec
    name = Text(limit=255)
    encoding = Text(checks.choice("", "raw", "base64"))
    uri = Text(checks.uri)
    content = Text(limit=MAX_FILE_CONTENT)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the value object; base64 is checked here, where the field's path is known."""
        data["encoding"] = data.get("encoding") or "raw"
        if data["encoding"] == "base64":
            try:
                base64.b64decode("".join(data.get("content", "").split()), validate=True)
            except (ValueError, binascii.Error):
                raise ValidationError("is not base64", "content") from None
        return self.builds(**data)


class VolumeRefSchema(Wire):
    """containers[].volumes[]."""

    builds = model.VolumeRef
    path = Text(checks.mount_path, required=True)
    volume = Text(checks.optional(checks.pattern(IDENTIFIER, "a volume name")))
    read_only = Flag(data_key="readOnly")
    detail = one(VolumeSchema, allow_none=True)


class FileRefSchema(Wire):
    """containers[].files[]; the permission is checked with the pod's other rules."""

    builds = model.FileRef
    path = Text(checks.mount_path, required=True)
    filename = Text(limit=255)
    perm = Text(limit=16)
    user = Text(checks.account)
    group = Text(checks.account)
    detail = one(FileSchema, allow_none=True)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the value object; an empty permission is the default."""
        data["perm"] = data.get("perm") or "0755"
        return self.builds(**data)


class UserSchema(Wire):
    """containers[].user."""

    builds = model.UserSpec
    name = Text(checks.account)
    group = Text(checks.account)
    additional_groups = Many(Text(checks.account), limit=64, data_key="additionalGroups")


class UlimitSchema(Wire):
    """containers[].ulimits[]."""

    builds = model.Ulimit
    name = Text(checks.choice(*checks.RLIMITS), data_key="Name", required=True)
    hard = Whole(-1, 2**63 - 1, data_key="Hard", load_default=0)
    soft = Whole(-1, 2**63 - 1, data_key="Soft", load_default=0)


class PortSchema(Wire):
    """portmappings[]."""

    builds = model.PortSpec
    container_port = Port(data_key="containerPort", required=True)
    host_port = Port(data_key="hostPort")
    host_ip = Text(checks.optional(checks.address), data_key="hostIP")
    protocol = Text(limit=32)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the value object; the protocol is compared in lower case."""
        data["protocol"] = data.get("protocol", "").lower() or "tcp"
        if data["protocol"] not in ("tcp", "udp"):
            # The original's spelling of the message.
            raise ValidationError(checks.Verbatim(f"unrecongnized protocol {data['protocol']}"), "protocol")
        return self.builds(**data)


class ContainerPortSchema(PortSchema):
    """containers[].ports[]: numbers on the wire."""

    container_port = Port(numbers=True, data_key="containerPort", required=True)
    host_port = Port(numbers=True, data_key="hostPort")


class EnvField(fields.Field[tuple[str, str]]):
    """One element of envs: ``{"env": name, "value": text}`` to a pair."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - as Field has it
        return {"env": value[0], "value": value[1]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, str]:  # noqa: ARG002 - as Field has it
        pair = EnvSchema().load(value)
        return pair["env"], pair["value"]


class EnvSchema(Wire):
    """containers[].envs[]."""

    builds = dict
    env = Text(checks.env_name, required=True, limit=MAX_ARGUMENT)
    value = Text(limit=MAX_ARGUMENT, load_default="")


class LimitsSchema(Wire):
    """containers[].limits: bytes, microseconds; cpus in billionths of a CPU."""

    builds: ClassVar[type] = model.Limits
    memory = Whole(0, 2**62)
    memory_reservation = Whole(0, 2**62, data_key="memoryReservation")
    memory_swap = Whole(-1, 2**62, data_key="memorySwap")
    cpus = Whole(0, 2**40, data_key="nanoCpus")
    cpu_shares = Whole(0, 262144, data_key="cpuShares")
    cpu_period = Whole(0, 1_000_000, data_key="cpuPeriod")
    cpu_quota = Whole(-1, 2**40, data_key="cpuQuota")
    cpuset = Text(checks.single_line, limit=256, data_key="cpusetCpus")
    pids = Whole(-1, 2**22)


class SecuritySchema(Wire):
    """containers[].security."""

    builds = model.Security
    privileged = Flag()
    cap_add = Many(Text(checks.word), limit=64, data_key="capAdd")
    cap_drop = Many(Text(checks.word), limit=64, data_key="capDrop")
    seccomp = Text(limit=MAX_ARGUMENT)
    no_new_privileges = Flag(data_key="noNewPrivileges")
    masked_paths = Many(Text(checks.guest_path), limit=64, data_key="maskedPaths", allow_none=True)
    readonly_paths = Many(Text(checks.guest_path), limit=64, data_key="readonlyPaths", allow_none=True)
    group_add = Many(Text(checks.account), limit=64, data_key="groupAdd")


class Mode(Text):
    """Permission bits in octal digits."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str:  # noqa: ARG002 - as Field has it
        return f"{value:04o}"


class TmpfsSchema(Wire):
    """containers[].tmpfs[]: ``size`` in bytes, ``mode`` in octal digits."""

    builds = model.Tmpfs
    path = Text(checks.mount_path, required=True)
    size = Whole(0, 2**62)
    mode = Mode(checks.pattern(re.compile(r"[0-7]{1,4}"), "a mode in octal digits"))
    options = Many(Text(checks.word), limit=16)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the value object."""
        data["mode"] = int(data.get("mode") or "1777", 8)
        return self.builds(**data)


class DeviceSchema(Wire):
    """containers[].devices[]: of the guest."""

    builds = model.DeviceSpec
    source = Text(checks.guest_path, required=True)
    target = Text(checks.optional(checks.guest_path))
    permissions = Text(checks.pattern(re.compile(r"[rwm]{0,3}"), "permissions of r, w and m"), load_default="rwm")


class HealthcheckSchema(Wire):
    """containers[].healthcheck: times in seconds, 0 = the default."""

    builds = model.Healthcheck
    argv = Many(Text(limit=MAX_ARGUMENT), limit=MAX_TEXT, data_key="command")
    shell = Flag()
    disabled = Flag()
    interval = Whole(0, MAX_SECONDS)
    timeout = Whole(0, MAX_SECONDS)
    start_period = Whole(0, MAX_SECONDS, data_key="startPeriod")
    start_interval = Whole(0, MAX_SECONDS, data_key="startInterval")
    retries = Whole(0, 1000)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the value object; a shell runs one text."""
        if data.get("shell") and len(data.get("argv", ())) != 1:
            raise ValidationError("must be one text for the shell", "command")
        times = ("interval", "timeout", "start_period", "start_interval")
        return self.builds(**{**data, **{name: float(data[name]) for name in times if name in data}})


class ContainerSchema(Wire):
    """An element of containers; the body of /container/create."""

    builds = model.ContainerSpec
    name = Text(checks.optional(checks.pattern(re.compile(f"/?(?:{IDENTIFIER.pattern})"), "a container name")))
    id = Text(checks.optional(checks.pattern(IDENTIFIER, "an id")))
    image = Text(checks.not_blank, limit=1024, required=True)
    command = Many(Text(limit=MAX_ARGUMENT), limit=MAX_TEXT)
    entrypoint = Many(Text(limit=MAX_ARGUMENT), limit=MAX_TEXT)
    workdir = Text(checks.optional(checks.guest_path))
    envs = Many(EnvField(error_messages={"null": "must be an object"}), limit=MAX_TEXT)
    tty = Flag(allow_none=True)
    user = one(UserSchema)
    volumes = Many(one(VolumeRefSchema), limit=128)
    files = Many(one(FileRefSchema), limit=128)
    ports = Many(one(ContainerPortSchema))
    labels = Table()
    sysctl = Table(key=checks.sysctl)
    restart_policy = Text(checks.restart_policy, data_key="restartPolicy")
    stop_signal = Text(checks.stop_signal, limit=32, data_key="StopSignal")
    ulimits = Many(one(UlimitSchema), limit=32)
    log_path = Text(checks.optional(checks.guest_path), data_key="logPath")
    read_only = Flag(data_key="readOnly")
    cache = Text()
    init = Flag()
    pid_namespace = Text(checks.choice("", "pod"), data_key="pidNamespace")
    limits = one(LimitsSchema)
    security = one(SecuritySchema)
    tmpfs = Many(one(TmpfsSchema), limit=64)
    devices = Many(one(DeviceSchema), limit=64)
    shm_size = Whole(0, 2**62, data_key="shmSize")
    oom_score_adj = Whole(-1000, 1000, data_key="oomScoreAdj")
    healthcheck = one(HealthcheckSchema, allow_none=True)
    restart_max = Whole(0, 2**31 - 1, data_key="restartMax")
    auto_remove = Flag(data_key="autoRemove")
    stop_timeout = Whole(-1, MAX_SECONDS, data_key="stopTimeout", allow_none=True)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the value object; a leading slash of the name is Docker's habit and no part of it."""
        data["name"] = data.get("name", "").removeprefix("/")
        if data.get("stop_timeout") is not None:
            data["stop_timeout"] = float(data["stop_timeout"])
        return self.builds(**data)


class ContainerUpdateSchema(LimitsSchema):
    """The body of /container/update: limits, and what else can be changed; what is missing stays as it is."""

    builds: ClassVar[type] = ContainerUpdate
    restart_policy = Text(checks.restart_policy, data_key="restartPolicy")
    restart_max = Whole(0, 2**31 - 1, data_key="restartMax")
    labels = Table()

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the value object."""
        own = {key: data.pop(key) for key in ("restart_policy", "restart_max", "labels") if key in data}
        return self.builds(limits=data, **own)


class ResourceSchema(Wire):
    """resource."""

    builds = model.Resource
    vcpu = Whole(0, MAX_VCPU)
    memory = Whole(0, MAX_MEMORY)


class InterfaceSchema(Wire):
    """interfaces[]."""

    builds = model.InterfaceSpec
    id = Text(checks.optional(checks.pattern(IDENTIFIER, "an id")))
    bridge = Text(checks.optional(checks.device))
    ip = Text(checks.optional(checks.cidr_list))
    ifname = Text(checks.optional(checks.device))
    mac = Text(checks.optional(checks.pattern(MAC, "a MAC address")))
    mtu = Whole(0, 65_535)
    gateway = Text(checks.optional(checks.address))


class LinkSchema(Wire):
    """networks[].links[]."""

    builds = tuple
    container = Text(limit=256, required=True)
    alias = Text(checks.optional(checks.pattern(HOST_NAME, "a host name")), load_default="")

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the pair; without an alias the container's name is one."""
        return (data["container"], data["alias"] or data["container"])


class AttachmentSchema(Wire):
    """networks[]."""

    builds = model.NetworkAttachment
    network = Text(limit=128, required=True)
    names = Many(Text(checks.pattern(HOST_NAME, "a host name")), limit=64, data_key="aliases", attribute="aliases")
    links = Many(one(LinkSchema), limit=64)
    ipv4 = Text(checks.optional(checks.address), data_key="ip")
    ipv6 = Text(checks.optional(checks.address), data_key="ip6")
    mac = Text(checks.optional(checks.pattern(MAC, "a MAC address")))


class HostSchema(Wire):
    """extraHosts[]."""

    builds = tuple
    name = Text(checks.pattern(HOST_NAME, "a host name"), required=True)
    ip = Text(checks.address, required=True)

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """Make the pair."""
        return (data["name"], data["ip"])


class ServiceHostSchema(Wire):
    """services[].hosts[]."""

    builds = model.ServiceHost
    host_ip = Text(checks.address, data_key="hostIP", required=True)
    host_port = Whole(1, 65_535, data_key="hostPort", required=True)


class ServiceSchema(Wire):
    """services[]."""

    builds = model.ServiceSpec
    service_ip = Text(checks.address, data_key="serviceIP", required=True)
    service_port = Whole(1, 65_535, data_key="servicePort", required=True)
    protocol = Text(limit=32)
    hosts = Many(one(ServiceHostSchema), limit=256)
    build = PortSchema.build


class WhiteListsSchema(Wire):
    """portmappingWhiteLists."""

    builds = model.WhiteLists
    internal_networks = Many(Text(checks.cidr), data_key="internalNetworks", limit=256)
    external_networks = Many(Text(checks.cidr), data_key="externalNetworks", limit=256)


class LogSchema(Wire):
    """log."""

    builds = model.LogSpec
    type = Text(checks.choice("", *checks.LOG_DRIVERS))
    config = Table(limit=64)


class PodSchema(Wire):
    """The body of /pod/create."""

    builds = model.PodSpec
    id = Text(checks.optional(checks.pattern(IDENTIFIER, "a pod id")))
    hostname = Text()
    type = Text(checks.single_line, limit=64)
    restart_policy = Text(checks.restart_policy, data_key="restartPolicy")
    tty = Flag()
    labels = Table()
    resource = one(ResourceSchema)
    containers = Many(one(ContainerSchema), limit=MAX_CONTAINERS)
    files = Many(one(FileSchema), limit=256)
    volumes = Many(one(VolumeSchema), limit=256)
    interfaces = Many(one(InterfaceSchema), limit=8)
    networks = Many(one(AttachmentSchema), limit=8)
    extra_hosts = Many(one(HostSchema), limit=256, data_key="extraHosts")
    services = Many(one(ServiceSchema), limit=256)
    portmappings = Many(one(PortSchema))
    portmapping_white_lists = one(WhiteListsSchema, data_key="portmappingWhiteLists")
    dns = Many(Text(), limit=16)
    dns_options = Many(Text(checks.word, limit=255), limit=32, data_key="dnsOptions")
    dns_search = Many(Text(checks.word, limit=255), limit=32, data_key="dnsSearch")
    log = one(LogSchema)

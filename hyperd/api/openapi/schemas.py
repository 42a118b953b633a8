"""JSON Schemas (2020-12, as OpenAPI 3.1 uses them) of what the API answers; what it reads has marshmallow schemas."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
STREAMS_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z$|^$"
TIME: Schema = {"type": "string", "pattern": STREAMS_TIME, "description": "RFC 3339 in UTC; empty = never"}


def ref(name: str) -> Schema:
    """Refer to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def thing(optional: str = "", /, **properties: Schema) -> Schema:
    """Return an object all of whose properties are there, but those named in ``optional`` (separated by blanks)."""
    needed = [name for name in properties if name not in optional.split()]
    found: Schema = {"type": "object", "properties": properties}
    return {**found, "required": needed} if needed else found


def many(item: Schema) -> Schema:
    """Return an array."""
    return {"type": "array", "items": item}


def maybe(schema: Schema) -> Schema:
    """Return a schema that null fits, too."""
    return {"anyOf": [schema, {"type": "null"}]}


_WARNINGS: Schema = {"type": "array", "items": TEXT, "description": "what was ignored; missing where there is none"}
_CODE = thing(
    "Warnings",
    Warnings=_WARNINGS,
    Cause={"type": "string", "description": "empty"},
    Code={"type": "integer", "description": "0: done"},
    ID={"type": "string", "description": "of the object"},
)
_NIC_COUNTERS = {f"{way}_{what}": COUNT for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")}
_DISK_COUNTERS = (
    "capacity usage available reads_completed reads_merged sectors_read read_time writes_completed writes_merged "
    "sectors_written write_time io_in_progress io_time weighted_io_time"
)
_BLOCK_ENTRY = thing(name=TEXT, type=TEXT, source=TEXT, major=COUNT, minor=COUNT, stat=thing(Read=COUNT, Write=COUNT))
_FAULTS = thing(pgfault=COUNT, pgmajfault=COUNT)
_SETTINGS: Schema = {"type": "object", "description": "what else it was asked for, with the names of its creation"}
_NULL: Schema = {"type": "null"}
_TCP_STATES = "Established SynSent SynRecv FinWait1 FinWait2 TimeWait Close CloseWait LastAck Listen Closing"
_CONNECTIONS = thing(**dict.fromkeys(_TCP_STATES.split(), COUNT))

ANSWERS: dict[str, Schema] = {
    "Code": _CODE,
    "Error": thing("kind name", message=TEXT, details=TEXT, resolution=TEXT, code=WHOLE, kind=TEXT, name=TEXT),
    "Empty": {"type": "object", "maxProperties": 0},
    "NewContainer": thing("Warnings", ID=TEXT, Warnings=_WARNINGS),
    "List": thing(
        "podData cData vmData",
        item={"enum": ["pod", "container", "vm"]},
        podData=many({"type": "string", "description": "id:name:VM's id:status"}),
        cData=many({"type": "string", "description": "id:name:pod's id:status"}),
        vmData=many({"type": "string", "description": "id:pod's id:status"}),
    ),
    "Network": thing(
        id={"type": "string", "description": "64 hexadecimal digits"},
        name=TEXT,
        driver={"enum": ["bridge", "host", "none", "user"]},
        created=TIME,
        subnet={"type": "string", "description": "CIDR notation, empty where the driver has none"},
        gateway=TEXT,
        ipRange={"type": "string", "description": "empty = the whole subnet"},
        ipv6={"type": "boolean", "description": "pods have an IPv6 address, too"},
        subnet6={"type": "string", "description": "of these, CIDR notation; empty without"},
        gateway6=TEXT,
        ipRange6={"type": "string", "description": "empty = the whole subnet"},
        internal=FLAG,
        isolated={"type": "boolean", "description": "pods on it do not reach each other"},
        builtin={"type": "boolean", "description": "it is always there and cannot be removed"},
        bridge={"type": "string", "description": "the host's interface"},
        mtu=COUNT,
        labels=TEXTS,
        options=TEXTS,
        pods=many(thing(pod=TEXT, interface=TEXT, addresses=many(TEXT), mac=TEXT, aliases=many(TEXT))),
    ),
    "NamedVolume": thing(
        name=TEXT,
        driver=TEXT,
        kind={"enum": ["directory", "bind", "tmpfs", "nfs"]},
        mountpoint={"type": "string", "description": "where its files are on the host"},
        anonymous={"type": "boolean", "description": "it has no name of its own"},
        created=TIME,
        labels=TEXTS,
        options=TEXTS,
        containers=many({"type": "string", "description": "ids of those that use it"}),
    ),
    "Volume": thing(
        "rbd",
        name=TEXT,
        source=TEXT,
        driver=TEXT,
        rbd=thing(monitors=many(TEXT), image=TEXT, fsType=TEXT, pool=TEXT, user=TEXT),
    ),
    "ContainerObject": thing(
        name={"type": "string", "description": "with a slash before it"},
        containerID=TEXT,
        image=TEXT,
        imageID=TEXT,
        workingDir=TEXT,
        user=TEXT,
        tty=FLAG,
        commands=many(TEXT),
        args=many(TEXT),
        ports=many(thing(name=TEXT, hostPort=COUNT, containerPort=COUNT, protocol=TEXT)),
        env=many(thing(env=TEXT, value=TEXT)),
        volumeMounts=many(thing(name=TEXT, mountPath=TEXT, readOnly=FLAG)),
        labels=TEXTS,
        stopSignal={"type": "string", "description": "such as SIGTERM or SIGRTMIN+3"},
        restartPolicy={"enum": ["never", "onFailure", "always", "unless-stopped"]},
        settings=_SETTINGS,
    ),
    "ContainerStatus": thing(
        name=TEXT,
        containerID=TEXT,
        phase={"enum": ["pending", "running", "succeeded", "failed"]},
        waiting=thing("reason", reason={"enum": ["Pending", "Restarting"]}),
        running=thing("startedAt", startedAt=TIME),
        terminated=thing(
            "exitCode reason message startedAt finishedAt",
            exitCode={"type": "integer", "minimum": 0, "maximum": 255},
            reason={"enum": ["Succeeded", "Failed"]},
            message=TEXT,
            startedAt=TIME,
            finishedAt=TIME,
        ),
        restartCount={"type": "integer", "minimum": 0, "description": "by its policy, since it was last started"},
    ),
    "ContainerInfo": thing(
        container=ref("ContainerObject"),
        createdAt=WHOLE,
        podID=TEXT,
        status=ref("ContainerStatus"),
        warnings=many({"type": "string", "description": "what is not as it was asked for"}),
        pid={"type": "integer", "description": "of the program in its guest, 0 unless it runs"},
        oomKilled=FLAG,
        health=maybe(ref("Health")),
    ),
    "PodInfo": thing(
        podID=TEXT,
        podName=TEXT,
        kind={"const": "Pod"},
        apiVersion=TEXT,
        vm={"type": "string", "description": "its VM's id, empty while it has none"},
        createdAt={"type": "integer", "description": "unix seconds"},
        spec=thing(
            volumes=many(ref("Volume")),
            containers=many(ref("ContainerObject")),
            labels=TEXTS,
            vcpu=WHOLE,
            memory={"type": "integer", "description": "MiB"},
            settings=_SETTINGS,
        ),
        status=thing(
            phase={"enum": ["Pending", "Running", "Paused", "Succeeded", "Failed"]},
            message=TEXT,
            reason=TEXT,
            hostIP=TEXT,
            podIP=many({"type": "string", "description": "address and prefix length"}),
            startTime=TIME,
            finishTime=TIME,
            containerStatus=many(ref("ContainerStatus")),
        ),
    ),
    "CpuStats": thing(
        usage=thing(total=COUNT, per_cpu_usage=maybe(many(COUNT)), user=COUNT, system=COUNT),
        load_average={"type": "integer", "description": "thousandths, over a minute"},
    ),
    "MemoryStats": thing(
        usage=COUNT, working_set=COUNT, failcnt=COUNT, container_data=_FAULTS, hierarchical_data=_FAULTS
    ),
    "BlockStats": thing(
        io_service_bytes_recursive=many(_BLOCK_ENTRY),
        io_serviced_recursive=many(_BLOCK_ENTRY),
        io_queue_recursive=_NULL,
        io_service_time_recursive=_NULL,
        io_wait_time_recursive=_NULL,
        io_merged_recursive=_NULL,
        io_time_recursive=_NULL,
        sectors_recursive=_NULL,
    ),
    "NetworkStats": thing(
        interfaces=many(thing(name=TEXT, **_NIC_COUNTERS)), tcp=maybe(_CONNECTIONS), tcp6=maybe(_CONNECTIONS)
    ),
    "ContainerStats": thing(
        id=TEXT,
        name=TEXT,
        cpu=ref("CpuStats"),
        block=ref("BlockStats"),
        memory=ref("MemoryStats"),
        processes=COUNT,
        network=_NULL,
        filesystem=_NULL,
        timestamp=TIME,
    ),
    "PodStats": thing(
        cpu=ref("CpuStats"),
        block=ref("BlockStats"),
        memory=ref("MemoryStats"),
        network=ref("NetworkStats"),
        filesystem=many(thing(device=TEXT, **dict.fromkeys(_DISK_COUNTERS.split(), COUNT))),
        timestamp=TIME,
        container_stats=many(ref("ContainerStats")),
    ),
    "PortMappings": thing(
        portMappings=many(thing("hostIP", containerPort=TEXT, hostPort=TEXT, protocol=TEXT, hostIP=TEXT))
    ),
    "Done": thing(Result={"const": "success"}),
    "ExitCode": {"type": "integer", "minimum": 0, "maximum": 255},
    "ExecId": {"type": "string", "pattern": "^exec-[A-Za-z]{10}$"},
    "ExecInfo": thing(
        id=TEXT,
        containerID=TEXT,
        command=many(TEXT),
        tty=FLAG,
        privileged=FLAG,
        user=TEXT,
        workdir=TEXT,
        state={"enum": ["created", "running", "exited"]},
        exitCode=maybe(WHOLE),
        pid={"type": "integer", "description": "in the guest; 0 unless it runs"},
        createdAt=TIME,
        startedAt=TIME,
        finishedAt=TIME,
    ),
    "ExecResult": thing(
        stdout=TEXT,
        stderr=TEXT,
        exitCode={"type": "integer", "description": "-1 when it took too long"},
        timedOut=FLAG,
        truncated=FLAG,
    ),
    "Health": thing(
        status={"enum": ["starting", "healthy", "unhealthy"]},
        failingStreak=COUNT,
        log=many(thing(start=TIME, end=TIME, exitCode=WHOLE, output=TEXT)),
    ),
    "Processes": thing(titles=many(TEXT), processes=many(many(TEXT))),
    "Change": thing(path=TEXT, kind={"enum": ["modified", "added", "deleted"]}),
    "PathStat": thing(
        name=TEXT,
        mode={"type": "integer", "description": "st_mode of Linux"},
        size=COUNT,
        mtime=TIME,
        link=TEXT,
        target={"type": "string", "description": "where a link leads, as an absolute path; empty for others"},
    ),
    "WaitResult": thing("exitCode error", exitCode=WHOLE, error=TEXT),
    "Images": thing(
        imagesList=many({"type": "string", "description": "repository:tag:id:created (unix seconds):size (bytes)"})
    ),
    "RemovedImages": thing(imagesList=many(thing("untaged deleted", untaged=TEXT, deleted=TEXT))),
    "Image": thing(
        "",
        **dict.fromkeys(["Id", "Parent", "Comment", "Created", "Author", "Architecture", "Variant", "Os"], TEXT),
        RepoTags=many(TEXT),
        RepoDigests=many(TEXT),
        Config={"type": "object"},
        Size=COUNT,
        DiskSize=COUNT,
        RootFS=thing(Type=TEXT, Layers=many(TEXT)),
    ),
    "ImageStep": thing(Id=TEXT, Created=WHOLE, CreatedBy=TEXT, Tags=many(TEXT), Size=COUNT, Comment=TEXT),
    "PrunedImages": thing(
        ImagesDeleted=many(thing("untaged deleted", untaged=TEXT, deleted=TEXT)), SpaceReclaimed=COUNT
    ),
    "ImagesUsage": thing(
        LayersSize=COUNT,
        BlobsSize=COUNT,
        Reclaimable=COUNT,
        Images=many(
            thing(
                Id=TEXT,
                RepoTags=many(TEXT),
                Created=WHOLE,
                **dict.fromkeys(["Size", "DiskSize", "SharedSize", "UniqueSize", "Containers"], COUNT),
            )
        ),
    ),
    "FoundImage": thing(
        name=TEXT,
        description=TEXT,
        star_count=WHOLE,
        is_official={"type": "boolean"},
        is_automated={"type": "boolean"},
    ),
    "Progress": thing(
        "stream status progressDetail progress id from time timeNano errorDetail error aux",
        stream=TEXT,
        status=TEXT,
        progressDetail=thing("current total start", current=COUNT, total=COUNT, start=COUNT),
        progress=TEXT,
        id=TEXT,
        time=WHOLE,
        timeNano=WHOLE,
        errorDetail=thing("code", code=WHOLE, message=TEXT),
        error=TEXT,
        aux={"type": "object", "additionalProperties": True},
        **{"from": TEXT},
    ),
    "Login": thing(Status=TEXT),
    "Event": thing(
        "status id from",
        Type={"enum": ["pod", "container", "image", "vm", "network"]},
        Action=TEXT,
        Actor=thing(ID=TEXT, Attributes=TEXTS),
        scope={"const": "local"},
        time={"type": "integer", "description": "unix seconds"},
        timeNano={"type": "integer", "description": "unix nanoseconds"},
        status=TEXT,
        id=TEXT,
        **{"from": TEXT},
    ),
    "Info": thing(
        Containers=COUNT,
        DockerRootDir=TEXT,
        Driver=TEXT,
        DriverStatus=many({"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2}),
        ExecutionDriver=TEXT,
        ID={"type": "integer", "description": "the daemon's process id"},
        Images=COUNT,
        IndexServerAddress=TEXT,
        MemTotal={"type": "integer", "description": "the host's memory in KiB"},
        Name=TEXT,
        Pods=COUNT,
        **{"Operating System": TEXT},
    ),
    "Version": thing(ID=WHOLE, Version=TEXT),
    "Credentials": thing(
        "username password auth email serveraddress identitytoken registrytoken",
        username=TEXT,
        password=TEXT,
        auth=TEXT,
        email=TEXT,
        serveraddress=TEXT,
        identitytoken=TEXT,
        registrytoken=TEXT,
    ),
}

"""The options that `run` and `create` share: how they are described, and their values as they were typed."""

from __future__ import annotations

from hyperctl.command import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PODFILE_OPTIONS = (
    Option("-p", "--podfile", metavar="FILE", complete="file", text="Pod file (- is stdin), or its JSON: '{...}'."),
    Option("-y", "--yaml", flag=True, text="The file is YAML, not JSON; so are names in .yaml and .yml."),
)
OPTIONS = (
    Option("--name", metavar="NAME", text="Name of the pod and its container."),
    Option("-t", "--tty", flag=True, text="Give the container a terminal."),
    Option("-i", "--interactive", flag=True, text="Pass standard input on; it always is."),
    Option("-e", "--env", many=True, metavar="KEY[=VALUE]", text="Set an environment variable (repeat)."),
    Option("--env-file", many=True, metavar="FILE", complete="file", text="Read variables from a file (repeat)."),
    Option("-u", "--user", metavar="USER[:GROUP]", text="Run as this user, by name or number."),
    Option("-w", "--workdir", metavar="DIR", text="Working directory in the container."),
    Option("--entrypoint", default=None, metavar="WORD", text="Replace the image's entrypoint; '' takes it away."),
    Option("--hostname", metavar="NAME", text="Host name of the pod."),
    Option(
        "--publish",
        many=True,
        metavar="[IP:][HOST:]PORT[/udp]",
        text="Publish a port; without HOST the daemon chooses one (repeat).",
    ),
    Option(
        "-v",
        "--volume",
        many=True,
        metavar="[HOST:]PATH[:ro]",
        complete="dir",
        text="Mount a directory of the host, a named volume, or a new volume (repeat).",
    ),
    Option("--mount", many=True, metavar="KEY=VALUE,...", text="Mount, spelled out: type=bind|volume... (repeat)."),
    Option("-l", "--label", many=True, metavar="KEY=VALUE", text="Set a label (repeat)."),
    Option("--cpu", metavar="N", shown="1", text="CPUs of the VM; with create -c the container's limit."),
    Option("--cpus", metavar="N", text="The same, also parts: with 0.5 the container gets half of a CPU."),
    Option(
        "-m",
        "--memory",
        metavar="SIZE",
        shown="128",
        text="Memory of the VM, in MiB or with a unit; with create -c the container's limit.",
    ),
    Option("--read-only", flag=True, text="Make the container's root file system read-only."),
    Option(
        "--restart",
        metavar="POLICY",
        shown="never",
        complete="restart",
        text="When to start it again: never, onFailure, onFailure:3, always, unless-stopped.",
    ),
    Option("--stop-timeout", metavar="SECONDS", text="Before SIGKILL, when it is stopped."),
    Option("--health-cmd", metavar="COMMAND", text="Command that tells whether the container is well."),
    Option("--health-interval", metavar="TIME", text="Between two looks (30s)."),
    Option("--health-timeout", metavar="TIME", text="What takes longer is a failure (30s)."),
    Option("--health-retries", metavar="N", text="Failures in a row that make it unhealthy (3)."),
    Option("--health-start-period", metavar="TIME", text="In which failures do not count (0s)."),
    Option("--health-start-interval", metavar="TIME", text="Between two looks in that period (5s)."),
    Option("--no-healthcheck", flag=True, text="Do not run the image's health check."),
    Option("--stop-signal", metavar="SIGNAL", complete="signal", text="What ends the program in good order."),
    Option("--init", flag=True, text="Let a small init be process 1, and the program its child."),
    Option("--cap-add", many=True, metavar="NAME", text="Give a capability; ALL gives all (repeat)."),
    Option("--cap-drop", many=True, metavar="NAME", text="Take a capability away; ALL takes all (repeat)."),
    Option("--privileged", flag=True, text="Let the container do everything in its VM."),
    Option(
        "--security-opt",
        many=True,
        metavar="OPTION",
        text="no-new-privileges, seccomp=unconfined or seccomp=FILE (repeat).",
    ),
    Option("--tmpfs", many=True, metavar="PATH[:OPTIONS]", text="File system in memory: size=64m, mode=1777 (repeat)."),
    Option("--shm-size", metavar="SIZE", text="Size of a /dev/shm of its own."),
    Option("--device", many=True, metavar="DEVICE[:PATH[:rwm]]", text="Device of the guest (repeat)."),
    Option("--pids-limit", metavar="N", text="Most processes of the container; -1 is any number."),
    Option("--memory-reservation", metavar="SIZE", text="What the container keeps when memory gets short."),
    Option("--memory-swap", metavar="SIZE", text="Limit of memory and swap together; -1 is all."),
    Option("--cpu-shares", metavar="N", text="Weight of the container beside others of its pod; 1024 is usual."),
    Option("--cpuset-cpus", metavar="LIST", text="CPUs of the VM that the container may use: 0-1."),
    Option("--oom-score-adj", metavar="N", text="Who is killed first when memory is out: -1000 to 1000."),
    Option("--ulimit", many=True, metavar="NAME=SOFT[:HARD]", text="Limit of the program, such as nofile (repeat)."),
    Option("--sysctl", many=True, metavar="KEY=VALUE", text="Setting of the guest's kernel (repeat)."),
    Option("--group-add", many=True, metavar="GROUP", text="Further group of the program (repeat)."),
    Option("--network", many=True, metavar="NAME", complete="network", text="Network of the pod (repeat)."),
    Option("--network-alias", many=True, metavar="NAME", text="Further name of the pod in its network (repeat)."),
    Option("--ip", metavar="ADDRESS", text="Address of the pod in its network."),
    Option("--ip6", metavar="ADDRESS", text="Its IPv6 address, where the network has such."),
    Option("--add-host", many=True, metavar="NAME:IP", text="Line of /etc/hosts (repeat)."),
    Option("--dns", many=True, metavar="ADDRESS", text="Name server (repeat)."),
    Option("--dns-search", many=True, metavar="DOMAIN", text="Domain in which names are looked for (repeat)."),
    Option("--dns-option", many=True, metavar="OPTION", text="Option of the resolver (repeat)."),
    Option("--log-driver", metavar="NAME", complete="logs", text="Where the output is kept."),
    Option("--log-opt", many=True, metavar="KEY=VALUE", text="Option of the log driver (repeat)."),
    Option("--pull", metavar="WHEN", complete="pull", text="Pull the image: missing (default), always or never."),
)
SPEC_OPTIONS = (*PODFILE_OPTIONS, *OPTIONS)
# Options that say something of the pod, which a container in a pod that is there already cannot have.
OF_POD = (
    "hostname",
    "network",
    "network_alias",
    "ip",
    "ip6",
    "add_host",
    "dns",
    "dns_search",
    "dns_option",
    "log_driver",
    "log_opt",
)


class SpecOptions:
    """The options `run` and `create` share, as they were typed."""

    podfile: str
    yaml: bool
    name: str
    tty: bool
    interactive: bool
    env: tuple[str, ...]
    env_file: tuple[str, ...]
    user: str
    workdir: str
    entrypoint: str | None
    hostname: str
    publish: tuple[str, ...]
    volume: tuple[str, ...]
    mount: tuple[str, ...]
    label: tuple[str, ...]
    cpu: str
    cpus: str
    memory: str
    read_only: bool
    restart: str
    stop_signal: str
    stop_timeout: str
    health_cmd: str
    health_interval: str
    health_timeout: str
    health_retries: str
    health_start_period: str
    health_start_interval: str
    no_healthcheck: bool
    init: bool
    cap_add: tuple[str, ...]
    cap_drop: tuple[str, ...]
    privileged: bool
    security_opt: tuple[str, ...]
    tmpfs: tuple[str, ...]
    shm_size: str
    device: tuple[str, ...]
    pids_limit: str
    memory_reservation: str
    memory_swap: str
    cpu_shares: str
    cpuset_cpus: str
    oom_score_adj: str
    ulimit: tuple[str, ...]
    sysctl: tuple[str, ...]
    group_add: tuple[str, ...]
    network: tuple[str, ...]
    network_alias: tuple[str, ...]
    ip: str
    ip6: str
    add_host: tuple[str, ...]
    dns: tuple[str, ...]
    dns_search: tuple[str, ...]
    dns_option: tuple[str, ...]
    log_driver: str
    log_opt: tuple[str, ...]
    pull: str

    def __init__(self, **typed: Any) -> None:
        self.__dict__.update(typed)

    def named(self, field: str) -> str:
        """Return an option's longest name, for messages."""
        return next(option.names[-1] for option in OPTIONS if option.field == field)

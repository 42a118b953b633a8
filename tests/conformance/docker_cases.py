"""Invocations of the docker CLI that must print the same with this daemon as with Docker's own.

``{image}`` is an image of busybox; ``<<`` and ``>>`` stand for the braces of templates.
The cases of a group run one after the other and share what they make. ``differs``
says why a case is compared by less than all: by exit code alone, or not at all where Docker's answer cannot be had.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL, SORTED, CODE, ERROR, NONE = "all", "sorted", "code", "error", "none"


@dataclass(frozen=True)
class Case:
    """One invocation.

    Args:
        words: command line behind ``docker``, as a shell would split it.
        stdin: what it reads.
        compare: ALL (exit code, stdout, stderr), SORTED (lines in any order), CODE (does it fail),
            ERROR (code and a part of what is said), or NONE (ours must succeed).
        differs: why less than all is compared. part: of stderr, for ERROR.

    """

    words: str
    stdin: str = ""
    compare: str = ALL
    differs: str = ""
    part: str = ""


def group(*cases: Case | str) -> tuple[Case, ...]:
    """Return cases; a text alone is a case that is compared whole."""
    return tuple(Case(case) if isinstance(case, str) else case for case in cases)


OWN_KERNEL = "the program runs on a kernel of its own"
OWN_WORDS = "the reason is told in other words"

GROUPS: dict[str, tuple[Case, ...]] = {
    "run": group(
        "run --rm {image} echo hello",
        "run --rm {image} sh -c 'echo out; echo err >&2; exit 7'",
        "run --rm {image} sh -c 'kill -9 $$'",
        "run --rm {image} true",
        "run --rm {image} false",
        Case("run --rm {image} /no/such/program", compare=ERROR, differs=OWN_WORDS, part="no such file or directory"),
        Case("run --rm {image} /etc/passwd", compare=ERROR, differs=OWN_WORDS, part="permission denied"),
        Case("run --rm -i {image} cat", stdin="one\ntwo\n"),
        Case("run --rm -i {image} wc -c", stdin="x" * 100_000),
        Case("run --rm {image} cat", stdin="not read"),
        "run --rm -e A=1 -e B='two words' {image} sh -c 'echo $A-$B'",
        "run --rm -w /tmp {image} pwd",
        "run --rm -w /made/for/it {image} pwd",
        "run --rm -u 1000:2000 {image} sh -c 'id -u; id -g'",
        "run --rm -u nobody {image} id -u",
        Case("run --rm -u nosuchuser {image} id", compare=ERROR, differs=OWN_WORDS, part="nosuchuser"),
        "run --rm --hostname box {image} hostname",
        "run --rm --entrypoint echo {image} from entrypoint",
        "run --rm --entrypoint '' {image} echo none",
        Case("run --rm --init {image} sh -c 'echo $$'", compare=CODE, differs="the number of the init's child"),
        "run --rm {image} sh -c 'echo $$'",
        "run --rm --read-only {image} sh -c 'touch /x 2>&1 | sed s/.*:.//; touch /dev/shm/y && echo shm'",
        "run --rm --tmpfs /scratch {image} sh -c 'grep -c \" /scratch tmpfs\" /proc/mounts'",
        "run --rm --ulimit nofile=100:200 {image} sh -c 'ulimit -n; ulimit -Hn'",
        "run --rm --add-host db:10.1.2.3 {image} grep db /etc/hosts",
        "run --rm --dns 9.9.9.9 {image} grep nameserver /etc/resolv.conf",
        "run --rm --dns-search example.org {image} grep search /etc/resolv.conf",
        "run --rm --cap-drop ALL {image} grep CapEff /proc/self/status",
        "run --rm --cap-add NET_ADMIN {image} grep CapEff /proc/self/status",
        "run --rm {image} grep CapEff /proc/self/status",
        "run --rm --security-opt no-new-privileges {image} grep NoNewPrivs /proc/self/status",
        "run --rm {image} grep Seccomp: /proc/self/status",
        "run --rm --security-opt seccomp=unconfined {image} grep Seccomp: /proc/self/status",
        "run --rm --network none {image} sh -c 'ls /sys/class/net | grep -c eth'",
        "run --rm --shm-size 8m {image} sh -c 'df -k /dev/shm | tail -n 1 | awk \"{print \\$2}\"'",
        "run --rm -v /tmp:/t:ro {image} sh -c 'touch /t/x 2>&1 | sed s/.*:.//'",
        "run --rm --label a=b --name labelled {image} true",
        "run --rm -t {image} sh -c 'test -t 1 && echo terminal'",
        "run --rm --stop-signal SIGKILL {image} true",
        "run --rm --restart no {image} true",
        "run --rm --log-driver none {image} echo kept nowhere",
    ),
    "refusals": group(
        Case("run --rm --restart always {image} true"),
        Case("run --name 'bad name' {image} true", compare=ERROR, differs=OWN_WORDS, part="Invalid container name"),
        Case("run --rm -m 1k {image} true", compare=ERROR, differs=OWN_WORDS, part="Minimum memory limit"),
        Case("run --rm --memory 64m --memory-swap 32m {image} true", compare=CODE, differs=OWN_WORDS),
        Case("run --rm -v relative/path:/x {image} true", compare=ERROR, differs=OWN_WORDS, part="invalid characters"),
        Case("run --rm -v /a:relative {image} true", compare=ERROR, differs=OWN_WORDS, part="absolute"),
        Case("run --rm --network nosuchnet {image} true", compare=ERROR, differs=OWN_WORDS, part="nosuchnet"),
        Case("run --rm nosuchimage:never true", compare=CODE, differs="no registry can be reached"),
        Case("rm nosuch"),
        Case("stop nosuch"),
        Case("start nosuch"),
        Case("kill nosuch"),
        Case("logs nosuch"),
        Case("inspect nosuch"),
        Case("rmi nosuch"),
        Case("exec nosuch true"),
        Case("wait nosuch"),
        Case("port nosuch"),
        Case("top nosuch"),
        Case("rename nosuch other"),
        Case("pause nosuch"),
        Case("diff nosuch"),
        Case("network rm nosuch"),
        Case("volume rm nosuch"),
        Case("tag nosuch other"),
        Case("history nosuch"),
    ),
    "life": group(
        "create --name life {image} sh -c 'echo begun; trap \"echo ended; exit 3\" TERM; while :; do sleep 0.1; done'",
        "inspect -f '<<.State.Status>> <<.State.Running>> <<.State.StartedAt>>' life",
        "ps -a --filter name=life --format '<<.Names>> <<.State>> <<.Status>>'",
        "start life",
        "start life",
        "inspect -f '<<.State.Status>> <<.State.Running>> <<.State.ExitCode>>' life",
        "exec life sh -c 'while ! grep -q . /proc/1/cmdline; do :; done; echo in'",
        "pause life",
        "inspect -f '<<.State.Status>> <<.State.Paused>>' life",
        "pause life",
        "unpause life",
        "unpause life",
        "stop -t 20 life",
        "inspect -f '<<.State.Status>> <<.State.ExitCode>> <<.State.OOMKilled>>' life",
        "wait life",
        "logs life",
        "logs --tail 1 life",
        "stop life",
        Case("kill life", compare=ERROR, part="is not running", differs=OWN_WORDS),
        "rename life second",
        "inspect -f '<<.Name>>' second",
        "start second",
        "kill -s KILL second",
        "wait second",
        "restart -t 0 second",
        "inspect -f '<<.State.Running>> <<.RestartCount>>' second",
        Case("rm second", compare=ERROR, part="stop the container before removing", differs=OWN_WORDS),
        "rm -f second",
        Case("rm second"),
    ),
    "again": group(
        Case("create --name again {image} sh -c 'echo run; echo err >&2; exit 3'", compare=NONE, differs="ids"),
        "start -a again",
        "start -a again",
        "start again",
        "wait again",
        Case("logs again", compare=SORTED, differs="two pipes have no order"),
        Case("create --name reader -i {image} cat", compare=NONE, differs="ids"),
        Case("start -a -i reader", stdin="one\n"),
        Case("start -a -i reader", stdin="two\n"),
        "rm reader",
        "rm again",
    ),
    "exec": group(
        "run -d --name ex -e FROM=run {image} sleep 1000",
        "exec ex echo hello",
        "exec ex sh -c 'exit 42'",
        "exec -e X=1 ex sh -c 'echo $X $FROM'",
        "exec -w /tmp ex pwd",
        "exec -u nobody ex id -un",
        "exec -u 12:34 ex id -g",
        Case("exec -i ex cat", stdin="through exec\n"),
        "exec -d ex touch /made",
        "exec ex sh -c 'for i in 1 2 3 4 5 6 7 8 9; do test -e /made && break; sleep 0.1; done; ls /made'",
        "exec -t ex sh -c 'test -t 1 && echo terminal'",
        Case("exec ex /no/such/program", compare=CODE, differs="127 as of Docker 28, where 20.10 says 126"),
        Case(
            "exec --privileged ex grep CapEff /proc/self/status", compare=NONE, differs="needs a host with all rights"
        ),
        "exec ex grep CapEff /proc/self/status",
        Case("top ex -o pid,comm", compare=CODE, differs="numbers are those of the guest"),
        "rm -f ex",
    ),
    "files": group(
        "run -d --name fi {image} sh -c 'echo text > /a; mkdir -p /d/e; echo deep > /d/e/f; sleep 1000'",
        "exec fi sh -c 'while ! test -e /d/e/f; do :; done'",
        Case("cp fi:/a -", compare=CODE, differs="another form of the same tar"),
        Case("diff fi", compare=SORTED, differs="the order is by chance"),
        "stop -t 0 fi",
        Case("diff fi", compare=SORTED, differs="the order is by chance"),
        'commit -m changed -a somebody -c \'CMD ["cat", "/a"]\' fi made:one',
        "run --rm made:one",
        "image inspect -f '<<.Comment>> <<.Author>> <<.Config.Cmd>>' made:one",
        Case("rmi made:one", compare=CODE, differs="the layer is told with its image"),
        "rm fi",
    ),
    "images": group(
        "tag {image} other:tagged",
        "images --format '<<.Repository>>:<<.Tag>>' other",
        "images -q --filter dangling=true",
        "image inspect -f '<<.Architecture>> <<.Os>> <<.Config.Cmd>>' other:tagged",
        "history --format '<<.Comment>>' other:tagged",
        "rmi other:tagged",
        "images --format '<<.Repository>>:<<.Tag>>' other",
        Case("rmi other:tagged"),
    ),
    "volumes": group(
        "volume create --label a=b data",
        "volume create data",
        "volume ls -q --filter name=data",
        "volume ls -q --filter label=a=b",
        "volume inspect -f '<<.Name>> <<.Driver>> <<.Labels>> <<.Scope>>' data",
        "run --rm -v data:/d {image} sh -c 'echo kept > /d/f'",
        "run --rm -v data:/d {image} cat /d/f",
        "run --rm -v data:/d:ro {image} sh -c 'touch /d/g 2>&1 | sed s/.*:.//'",
        "run -d --name user -v data:/d {image} sleep 1000",
        "inspect -f '<<range .Mounts>><<.Type>> <<.Name>> <<.Destination>> <<.RW>><<end>>' user",
        Case("volume rm data", compare=ERROR, part="volume is in use", differs=OWN_WORDS),
        "rm -f user",
        "volume rm data",
        "volume ls -q --filter name=data",
        "run --rm -v /usr:/srcbin --mount type=tmpfs,target=/tm {image} sh -c 'echo x > /tm/f && cat /tm/f'",
        "run --name anon -v /anon {image} sh -c 'echo a > /anon/a'",
        "inspect -f '<<len .Mounts>>' anon",
        "rm -v anon",
        "volume ls -q",
    ),
    "networks": group(
        "network ls --format '<<.Name>> <<.Driver>> <<.Scope>>' --filter type=builtin",
        "network create --subnet 10.77.0.0/24 --gateway 10.77.0.1 --label l=v front",
        "network create --internal back",
        Case("network create front", compare=ERROR, part="already exists", differs=OWN_WORDS),
        "network inspect -f '<<.Name>> <<.Driver>> <<.Internal>> <<.Labels>>' front",
        "network inspect -f '<<(index .IPAM.Config 0).Subnet>>' front",
        "run -d --name one --network front --network-alias first --ip 10.77.0.50 {image} sleep 1000",
        "run --rm --network front {image} sh -c 'nslookup one 2>&1 | grep -c 10.77.0.50 | sed s/[1-9].*/found/'",
        "run --rm --network front {image} sh -c 'ping -c 1 -W 10 -q first | grep -c \"1 packets received\"'",
        "network connect --alias uno back one",
        'exec one sh -c \'ls /sys/class/net | grep eth | sort | tr "\\n" " "\'',
        "run --rm --network back {image} sh -c 'ping -c 1 -W 10 -q uno | grep -c \"1 packets received\"'",
        "network disconnect back one",
        Case("network rm front", compare=ERROR, part="has active endpoints", differs=OWN_WORDS),
        "rm -f one",
        "network rm front back",
        "network ls -q --filter name=front",
    ),
    "lists": group(
        "run -d --name l1 --label group=lists {image} sleep 1000",
        "create --name l2 --label group=lists {image} true",
        "ps --filter label=group=lists --format '<<.Names>> <<.State>>'",
        "ps -a --filter label=group=lists --format '<<.Names>> <<.State>>'",
        "ps -a --filter status=created --filter label=group --format '<<.Names>>'",
        "ps -aq --filter name=^/l1$ --no-trunc",
        Case("ps --filter nonsense=1", compare=ERROR, part="nonsense", differs=OWN_WORDS),
        "ps -a --filter before=l2 --filter label=group --format '<<.Names>>'",
        "ps -a --filter since=l1 --filter label=group --format '<<.Names>>'",
        "ps -a -n 1 --format '<<.Names>>'",
        "container ls --filter ancestor={image} --filter label=group --format '<<.Names>> <<.Command>>'",
        "start l2",
        "wait l2",
        "ps -a --filter exited=0 --filter label=group --format '<<.Names>>'",
        Case("container prune -f --filter label=group=lists", compare=CODE, differs="sizes of other storage"),
        "rm -f l1",
    ),
    "ports": group(
        "run -d --name po -p 127.0.0.1:18999:80 {image} sleep 1000",
        "port po",
        "port po 80",
        "port po 80/tcp",
        "inspect -f '<<json .NetworkSettings.Ports>>' po",
        "ps --filter name=^/po$ --format '<<.Ports>>'",
        "rm -f po",
        "run -d --name pu -p 19000:90/udp {image} sleep 1000",
        Case("port pu", compare=CODE, differs="no IPv6 yet"),
        "rm -f pu",
    ),
    "health": group(
        "run -d --name he --health-cmd 'test -e /ok' --health-interval 1s --health-retries 1 {image} sleep 1000",
        "exec he touch /ok",
        "inspect -f '<<json .Config.Healthcheck>>' he",
        "rm -f he",
    ),
    "update": group(
        "run -d --name up -m 64m {image} sleep 1000",
        "update --restart on-failure:3 up",
        "inspect -f '<<.HostConfig.RestartPolicy.Name>> <<.HostConfig.RestartPolicy.MaximumRetryCount>>' up",
        "inspect -f '<<.HostConfig.Memory>>' up",
        "rm -f up",
    ),
    "system": group(
        Case("version", compare=CODE, differs="the versions are ours"),
        Case("info", compare=CODE, differs="it tells about this daemon"),
        Case("system df", compare=CODE, differs="sizes of other storage"),
        "plugin ls",
        Case("swarm init", compare=CODE, differs="there is no swarm"),
        Case("service ls", compare=CODE, differs="there is no swarm"),
        Case("node ls", compare=CODE, differs="there is no swarm"),
        Case("search nothing", compare=CODE, differs="no registry can be reached"),
        Case("pull nosuchhost.invalid/x", compare=CODE, differs=OWN_WORDS),
        Case("login -u a -p b nosuchhost.invalid", compare=CODE, differs=OWN_WORDS),
    ),
}

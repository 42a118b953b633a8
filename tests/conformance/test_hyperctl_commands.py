"""Every command of hyperctl, with every option, against a real daemon with real VMs.

A scenario is a list of command lines with their exit status and what they print, as the reference has it (hyperd-api.md
4; docs/hyperctl.md tells where ours differs on purpose). ``test_every_command_and_option_is_driven`` holds the list
against hyperctl's own table of commands: one that is added there needs a line here.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyperctl import verbs
from hyperctl.options import OPTIONS
from tests.support.hyperctl_process import Runner
from tests.support.registry import RegistryServer, busybox_tar
from tests.support.until import until
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]

CID, IID = "[0-9a-f]{64}", "[0-9a-f]{12}"
PATIENCE = 60.0  # seconds for what comes by itself
GONE = r"(Image\(\S+\) is successful to be deleted!\n((Untagged|Deleted): \S+\n)*)"
REFUSED = "hyperctl ERROR: Error from daemon's response: "


@dataclass
class Step:
    """One command line; @IMAGE, @REGISTRY and the named groups of earlier ones are replaced in it.

    Args:
        line: as typed behind `hyperctl`.
        out: regular expression for the whole of stdout; a group (?P<VM>...) is @VM in later lines.
        code: exit status.
        err: regular expression for the whole of stderr.
        stdin: what is given to it.
        tty: run it on a terminal of 40 rows and 100 columns, whose picture is compared with ``out``.
        again: until it prints ``out``, for at most 20 seconds.

    """

    line: str
    out: str = ""
    code: int = 0
    err: str = ""
    stdin: bytes = b""
    tty: bool = False
    again: bool = False


def table(*headings: str, rows: str = "") -> str:
    """Return a pattern for a table; cells of a row are separated by two spaces in it."""
    lines = "".join(f"{line.replace('  ', ' {3,}')}\n" for line in rows.splitlines())
    return " +".join(map(re.escape, headings)) + "\n" + lines


POD = [
    Step(
        "run -d --name full --cpu 1 --memory 160 --env A=b --env C=d=e --label k=v --publish 11100:1300 "
        "--publish udp:11101:1301 -v ./vol:/mnt:ro -v /data --workdir /tmp --log-driver json-file "
        "--log-opt max-size=1m --restart never --read-only --entrypoint /bin/sh @IMAGE "
        "-c 'echo $A $C; pwd; echo err >&2; sleep 1000'",
        r"POD id is full\nTime to run a POD is \d+ ms\n",
    ),
    Step(
        "list", table("POD ID", "POD Name", "VM name", "Status", rows=r"full  full  (?P<VM>vm-[A-Za-z]{10})  running")
    ),
    Step("list pod -m @VM", table("POD ID", "POD Name", "VM name", "Status", rows=r"full  full  vm-\w{10}  running")),
    Step(
        "list -p full container",
        table("Container ID", "Name", "POD ID", "Status", rows=f"(?P<CONTAINER>{CID})  full  full  running"),
    ),
    Step("list vm", table("VM name", "Status", rows=r"vm-[A-Za-z]{10}  associated")),
    Step("list -q", "full\n"),
    Step("list --format '{{.ID}} {{.Status}}'", "full running\n"),
    Step("list foo", code=255, err="hyperctl ERROR: Can not support foo list!\n"),
    Step("exec full sh -c 'cat; echo err >&2; exit 37'", "in\n", 37, "err\n", stdin=b"in\n"),
    Step("exec -t full sh -c 'stty size; exit 5'", "40 100\r\n", 5, tty=True),
    Step("exec -d full sleep 1"),
    Step("exec -m full /sbin/busybox sh -c 'echo aaa; exit 3'", "aaa\n"),
    Step("exec full sh -c 'kill -9 $$'", code=137),
    Step("exec @CONTAINER touch /mnt/x", code=1, err=".*Read-only file system\n"),
    Step("exec nosuch true", code=255, err=f"{REFUSED}.*\n"),
    Step("inspect full", r'(?s)\[\n.*"podID": "full".*\]\n'),
    Step("inspect --format '{{index .status.podIP 0}}' full", r"10\.\d+\.\d+\.\d+/24\n"),
    Step("inspect -f {{.podID}} full", "full\n"),
    Step("inspect --type container --format '{{.container.name}} {{.podID}}' full", "/full full\n"),
    Step("inspect nosuch", code=255, err="hyperctl ERROR: there is no pod, container or image nosuch\n"),
    Step("logs full", "b d=e\n/tmp\n", err="err\n", again=True),
    Step("logs --tail 1 -t --since 1600000000 full", "", err=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z err\n"),
    Step("logs nosuch", code=255, err=f"{REFUSED}.*\n"),
    Step(
        "ports ls full",
        table("Protocol", "Host Ports", "Container Ports", rows="tcp  11100  1300\nudp  11101  1301"),
    ),
    Step("ports add -p tcp:11102:1302 full"),
    Step("ports ls --format '{{.HostPort}}:{{.ContainerPort}}' full", "(?s).*11102:1302.*"),
    Step("ports delete -p tcp:11102:1302 full"),
    Step("ports ls --format '{{.HostPort}}' full", "11100\n11101\n"),
    Step("ports ls nosuch", code=255, err="hyperctl ERROR: pod nosuch not found\n"),
    Step("stats full", table("NAME", "CPU", "MEMORY", "NET IN", "NET OUT", "DISK READ", "DISK WRITE") + "full (?s:.*)"),
    Step("stats --format '{{.Name}}' full", "full\nfull\n"),
    Step("pause full"),
    Step("list --format '{{.Status}}'", "paused\n"),
    Step("unpause full"),
    Step("restart full", r"Successfully restarted the Pod\(full\)\n"),
    Step("stop full", "Successfully shutdown the POD: full!\n"),
    Step("list", table("POD ID", "POD Name", "VM name", "Status", rows="full  full {20,}failed")),
    Step("stop nosuch", code=255, err="fail to stop pod nosuch: .*\n"),
    Step("start full", r"Successfully started the Pod\(full\)\n"),
    Step("start nosuch", code=255, err=f"{REFUSED}.*\n"),
    Step("kill -p full"),
    Step("rm full", r"Pod\(full\) is successfully deleted!\n"),
    Step("rm full", code=255, err=r"Pod\(full\) delete failed: .*\n"),
]

CONTAINERS = [
    Step("run -d --name full @IMAGE sh", r"POD id is full\nTime to run a POD is \d+ ms\n"),
    Step(
        "create -c --name second --env A=b --restart never full @IMAGE sh -c 'echo hello-log; sleep 1000'",
        f"Container ID is {CID}\n",
    ),
    Step("create -c -p c.json full", f"Container ID is {CID}\n"),
    Step("create -c nosuch @IMAGE true", code=255, err=f"{REFUSED}.*\n"),
    Step("start -c second", "Successfully started container second\n"),
    Step("start -c extra", "Successfully started container extra\n"),
    Step("logs second", "hello-log\n", again=True),
    Step("restart -c -t 0 second", "Successfully restarted container second\n"),
    Step("kill -s TERM second"),
    Step("kill second"),
    Step(
        "list container -p full --format '{{.Name}} {{.Status}}'",
        "full running\nsecond failed\nextra running\n",
        again=True,
    ),
    Step("kill -s NOSUCH second", code=255, err="hyperctl ERROR: Invalid signal: NOSUCH\n"),
    Step("logs -f second", "hello-log\nhello-log\n"),
    Step("stop -c -t 0 extra"),
    Step("rm -c extra", "container extra is successfully deleted!\n"),
    Step("rm -c nosuch", code=255, err="container nosuch delete failed: .*\n"),
    Step("attach full", "from stdin\n", 3, stdin=b"echo from stdin; exit 3\n"),
    Step(
        "commit -a me -m msg -c 'ENV Z=1' -p full @REGISTRY/user/committed:v1",
        r"sha256:(?P<COMMITTED>[0-9a-f]{64})\n",
    ),
    Step("images --no-trunc --format '{{.ID}}' @REGISTRY/user/committed", "@COMMITTED\n"),
    Step("commit full", r"sha256:(?P<NAMELESS>[0-9a-f]{64})\n"),
    Step("rm full", r"Pod\(full\) is successfully deleted!\n"),
    Step("run --rm @REGISTRY/user/committed:v1 sh -c 'echo $Z'", "1\n"),
    Step("rmi @REGISTRY/user/committed:v1 @NAMELESS", GONE + "{2}"),
]

CREATE = [
    Step(
        "create --name cpod --cpu 1 --memory 128 --env A=b --label k=v --publish 11110:80 -v /data --workdir /tmp "
        "--log-driver json-file --log-opt max-file=2 --restart onFailure --read-only --entrypoint /bin/sh @IMAGE "
        "-c 'sleep 1000'",
        "Pod ID is cpod\n",
    ),
    Step("create --name cpod @IMAGE true", code=255, err=f"{REFUSED}pod name cpod has already in use\n"),
    Step("list --format '{{.Name}} {{.Status}}'", "cpod pending\n"),
    Step("start cpod", r"Successfully started the Pod\(cpod\)\n"),
    Step("exec cpod sh -c 'echo $A; pwd'", "b\n/tmp\n"),
    Step("create -t --name terminal @IMAGE tty", "Pod ID is terminal\n"),
    Step("create -y -p pod", "Pod ID is filepod\n"),
    Step("rm cpod terminal filepod", r"(Pod\(\w+\) is successfully deleted!\n){3}"),
    Step("create", code=255, err="hyperctl ERROR: an image is needed, or --podfile\n"),
    Step("run -p pod.yaml", r"POD id is filepod\nTime to run a POD is \d+ ms\n"),
    Step("logs filepod", "from a file\n", again=True),
    Step("rm filepod", r"Pod\(filepod\) is successfully deleted!\n"),
    Step("run -a --rm -y -p pod", "from a file\n"),
    Step("run -p sleeper.yml", r"POD id is sleeper\n.*\n"),
    Step("exec sleeper echo in its first container", "in its first container\n"),
    Step("rm sleeper", r"Pod\(sleeper\) is successfully deleted!\n"),
    Step("run --rm @IMAGE sh -c 'echo out; echo err >&2; exit 17'", "out\n", 17, "err\n"),
    Step("run --rm @IMAGE cat", "through\n", stdin=b"through\n"),
    Step("run -t --rm @IMAGE sh -c 'stty size; echo tty; exit 9'", "40 100\r\ntty\r\n", 9, tty=True),
    Step("run -t --rm @IMAGE true", code=255, err=".*terminal.*\n"),
    Step("run -d --link a:b @IMAGE true", code=255, err="(?s).*No such option: --link.*"),
    Step("list -q"),
]

IMAGES = [
    Step(
        "pull @REGISTRY/other",
        r"(?s)Using default tag: latest\n.*Status: Downloaded newer image for @REGISTRY/other:latest\n",
    ),
    Step("pull @REGISTRY/nosuch:latest", code=255, err="(?s)hyperctl ERROR: .*not found.*"),
    Step(
        "images @REGISTRY/other",
        table(
            *("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "VIRTUAL SIZE"),
            rows=rf"@REGISTRY/other  latest  (?P<IMAGE_ID>{IID})  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  [\d.]+ [kM]B",
        ),
    ),
    Step("images -a -q @REGISTRY/other", f"{IID}\n"),
    Step("images --no-trunc -q @REGISTRY/other", "@IMAGE_ID[0-9a-f]{52}\n"),
    Step("images --format '{{.Repository}}:{{.Tag}}' @REGISTRY/other", "@REGISTRY/other:latest\n"),
    Step("pull -q @REGISTRY/other", "@REGISTRY/other:latest\n"),
    Step("inspect @REGISTRY/other", r'(?s)\[\n.*"Id": "sha256:@IMAGE_ID.*\]\n'),
    Step("history @REGISTRY/other", table("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT") + "@IMAGE_ID(?s:.*)"),
    Step("history -q --no-trunc @REGISTRY/other", "(?s)@IMAGE_ID[0-9a-f]{52}\n.*"),
    Step("history --format '{{json .ID}}' @REGISTRY/other", '(?s)"@IMAGE_ID[0-9a-f]{52}"\n.*'),
    Step(
        "search --limit 2 @REGISTRY/bus",
        table("NAME", "DESCRIPTION", "STARS", "OFFICIAL", rows="busybox {3,}0 +"),
    ),
    Step("search --format '{{.Name}}' @REGISTRY/bus", "busybox\n"),
    Step("tag @REGISTRY/other @REGISTRY/user/pushed:1"),
    Step("push @REGISTRY/user/pushed:1", r"(?s)The push refers to .*1: digest: sha256:[0-9a-f]{64} size: \d+\n"),
    Step("push -q @REGISTRY/user/pushed:1", "@REGISTRY/user/pushed:1\n"),
    Step("push busybox", code=255, err='hyperctl ERROR: You cannot push a "root" repository.*\n'),
    Step("save -o images.tar @REGISTRY/user/pushed:1"),
    Step("save -o none.tar nosuch:latest", code=255, err=f"{REFUSED}No such image: nosuch:latest\n"),
    Step("save -o oci.tar -f oci -r @REGISTRY/user/pushed:1=one @REGISTRY/user/pushed:1"),
    Step("rmi -f --no-prune @REGISTRY/user/pushed:1", GONE),
    Step("rmi nosuch", code=255, err=r"Image\(nosuch\) delete failed: .*\n"),
    Step("load -i images.tar", "Loaded image: @REGISTRY/user/pushed:1\n"),
    Step("load -i oci.tar -n named:1", "Loaded image: named:1\n"),
    Step("load -i oci.tar -r referred:1=one", "Loaded image: referred:1\n"),
    Step("load", code=255, err="hyperctl ERROR: .*\n", stdin=b"no archive"),
    Step('import -c \'CMD ["echo", "imported"]\' -m new rootfs.tar team/imported:1', "(?s).*sha256:[0-9a-f]{64}\n"),
    Step("run --rm team/imported:1", "imported\n"),
    Step(
        "image df", table("IMAGE", "IMAGE ID", "ON DISK", "SHARED", "UNIQUE", "CONTAINERS") + "(?s:.*)Reclaimable: .*\n"
    ),
    Step("image df --no-trunc --format '{{.ID}}'", f"({CID}\n)+"),
    Step("rmi named:1 referred:1 @REGISTRY/user/pushed:1", GONE + "{3}"),
    Step("image prune -a --label nosuch=1 --until 1", "Total reclaimed space: 0 B\n"),
    Step("image prune -f", r"(?s).*Total reclaimed space: [\d.]+ \w+\n"),
    Step("rmi team/imported:1 @REGISTRY/other", GONE + "{2}"),
]

BUILD = [
    Step(
        "build -t team/built:1 --build-arg WORD=deep --label k=v --target last --no-cache --pull ctx",
        r"(?s)Step 1/\d.*Successfully built [0-9a-f]{12}\nSuccessfully tagged team/built:1\n",
    ),
    Step("build -q -f ctx/other.Dockerfile -t team/built:2 ctx", "sha256:[0-9a-f]{64}\n"),
    Step("run --rm team/built:1 cat /said", "deep\n"),
    Step("build nodir", code=255, err="hyperctl ERROR: nodir is not a directory\n"),
    Step("rmi team/built:1 team/built:2", GONE + "{2}"),
]

PROGRAM = "id -u; id -G; hostname; ulimit -n; cat /proc/sys/net/core/somaxconn /etc/resolv.conf; echo $A$B; sleep 1000"
DOCKER = [
    Step(
        "create -q --name small -i --env-file vars -u 33:34 --group-add 27 --hostname box "
        "--mount type=volume,target=/m --cpus 1 --stop-signal KILL --ulimit nofile=99 "
        "--sysctl net.core.somaxconn=77 --dns 192.0.2.53 --dns-search x.y --dns-option ndots:3 --pull missing "
        f"-l team=red @IMAGE sh -c '{PROGRAM}'",
        "small\n",
    ),
    Step(
        "run --rm --init --cap-drop all --cap-add chown --security-opt no-new-privileges --tmpfs /t:size=1m "
        "--security-opt seccomp=unconfined --shm-size 2m --pids-limit 50 --memory-reservation 16m --memory-swap -1 "
        "--cpu-shares 512 --cpuset-cpus 0 --oom-score-adj 7 --cpus 0.5 @IMAGE sh -c "
        "'grep -E \"CapEff|NoNew\" /proc/self/status; cat /proc/self/oom_score_adj; df -k /t /dev/shm | tail -n 2'",
        r"NoNewPrivs:\s1\nCapEff:\s0000000000000001\n7\n(?s:.*) 1024 (?s:.*) 2048 (?s:.*)|"
        r"CapEff:\s0000000000000001\nNoNewPrivs:\s1\n7\n(?s:.*) 1024 (?s:.*) 2048 (?s:.*)",
    ),
    Step("run --rm --privileged --device /dev/null:/dev/mine @IMAGE ls /dev/mine", "/dev/mine\n"),
    Step(
        "run -d -q --rm --name gone --restart never --stop-timeout 1 --health-cmd true --health-interval 1s "
        "--health-timeout 2s --health-retries 1 --health-start-period 0 --health-start-interval 1s @IMAGE sleep 1",
        "gone\n",
    ),
    Step("create -q --no-healthcheck --restart on-failure:2 --name never @IMAGE true", "never\n"),
    Step("rm never", r"Pod\(never\) is successfully deleted!\n"),
    Step("list -q -f name=gone", again=True),
    Step(
        "start small surplus",
        r"Successfully started the Pod\(small\)\n",
        err="hyperctl WARNING: surplus does not count, as in the original\n",
    ),
    Step(
        "logs small",
        r"33\n34 27\nbox\n99\n77\n(?s:.*)nameserver 192\.0\.2\.53\n(?s:.*)onetwo\n",
        again=True,
    ),
    Step("run -d -q --name web --publish 11120:80/tcp --publish 127.0.0.1::81 @IMAGE httpd -f -h /bin", "web\n"),
    Step("port web 80", r"0\.0\.0\.0:11120\n"),
    Step("port web 81/tcp", r"127\.0\.0\.1:\d+\n"),
    Step("list -l -a -f status=running -f name=web", r"POD Name (?s:.*)\nweb {3,}(?s:.*)11120->80/tcp(?s:.*)\n"),
    Step("list -q --filter label=team=red --no-trunc", "small\n"),
    Step("list -f name=web --format '{{.Image}} {{.VM}}'", r"@IMAGE (?P<WEBVM>vm-[A-Za-z]{10})\n"),
    Step("ps -a -p web -m @WEBVM -l --no-trunc -f status=running", rf"Container ID (?s:.*)\n(?P<WEB>{CID}) (?s:.*)\n"),
    Step("ps -q -p web", "@WEB\n"),
    Step("ps -p web --format '{{.Name}}'", "web\n"),
    Step("exec -i web cat", "in\n", stdin=b"in\n"),
    Step(
        "exec -u 33:34 -w /tmp -e A=1 --env-file vars web sh -c 'id -u; id -g; pwd; echo $A$B'", "33\n34\n/tmp\n1two\n"
    ),
    Step("exec --privileged web true"),
    Step("exec web sh -c 'mkdir -p /there/sub; echo deep > /there/sub/file; ln -s sub/file /there/link'"),
    Step("cp -q web:/there copy"),
    Step("cp -q copy/. web:/"),
    Step("exec web cat /link /sub/file", "deep\ndeep\n"),
    Step("cp vars web:/there/", err="copied vars to web:/there/\n"),
    Step("cp -q -a -L vars web:/there/renamed"),
    Step("exec web sh -c 'cat /there/vars; ls /there'", "A=one\nB=two\nlink\nrenamed\nsub\nvars\n"),
    Step("cp -q web:/there/nosuch .", code=255, err="hyperctl ERROR: there is no /there/nosuch in web\n"),
    Step("diff web", r"(?s).*A /there\n.*A /there/vars\n.*"),
    Step("top web", r"(?s)\S+ .*httpd.*\n"),
    Step("top web -o pid,args", r"(?s)PID .*httpd -f -h /bin\n.*"),
    Step("export -o web.tar web"),
    Step(
        "update --memory 48m --memory-reservation 16m --memory-swap -1 --cpus 0.5 --cpu-shares 9 --cpuset-cpus 0 "
        "--pids-limit 77 --restart on-failure:2 web",
        "web\n",
    ),
    Step("exec web sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max'", "50331648\n77\n"),
    Step("rename web front"),
    Step("exec front true"),
    Step("labels web"),
    Step("labels web a=1"),
    Step("labels web a=2", code=255, err=f"{REFUSED}.*\n"),
    Step("labels --overwrite web a=2"),
    Step("labels web", "a=2\n"),
    Step("stats -f --no-stream --format '{{.Name}}'", "(small|web|/?front)\n" * 4),
    Step("logs -n 1 --since 10m small", "onetwo\n"),
    Step("kill front"),
    Step("wait front", "137\n"),
    Step("attach front", code=255, err=r"hyperctl ERROR: front does not run: it ended with exit code 137\..*\n"),
    Step("rm -v web small", r"(Pod\(\w+\) is successfully deleted!\n){2}"),
    Step("rm -fv web"),
    Step("rm -c -f nosuch"),
    Step("run --rm --entrypoint '' @IMAGE echo none", "none\n"),
]

NETWORKS = [
    Step(
        "network create -d bridge --subnet 10.214.79.0/24 --gateway 10.214.79.1 --ip-range 10.214.79.128/25 "
        "--ipv6 --subnet6 fd00:79::/64 --gateway6 fd00:79::1 -l a=b front",
        r"(?P<FRONT>\w+)\n",
    ),
    Step("network create --internal --isolated --ipv6 -o com.docker.network.driver.mtu=1400 back", r"\w+\n"),
    Step("network ls --no-trunc --format '{{.Name}} {{.Subnet}}'", r"(?s).*front 10\.214\.79\.0/24\n.*"),
    Step("network ls -q", r"(?s)(\w+\n){2,}"),
    Step("network inspect --format '{{.name}} {{.internal}} {{.isolated}}' back", "back true true\n"),
    Step("network inspect --format '{{.subnet6}} {{.gateway6}}' front", "fd00:79::/64 fd00:79::1\n"),
    Step("network inspect --format '{{.subnet6}}' back", r"(?P<BACK>fd[0-9a-f:]+::)/64\n"),
    Step("volume create -d local -l a=b -o type=none data", ".*", code=255, err=f"{REFUSED}.*\n"),
    Step("volume create -l a=b data", "data\n"),
    Step(
        "run -d -q --name one --network front --ip 10.214.79.130 --ip6 fd00:79::30 --network-alias first "
        "--add-host far:192.0.2.9 -v data:/data @IMAGE sh -c 'echo kept > /data/file; sleep 1000'",
        "one\n",
    ),
    Step("run -d -q --name two --network front -v data:/data:ro @IMAGE sleep 1000", "two\n"),
    Step("exec two cat /data/file", "kept\n"),
    Step("exec two ping -4 -c 1 -W 9 first", r"(?s)PING first \(10\.214\.79\.130\).*"),
    Step("exec two ping -6 -c 1 -W 20 first", r"(?s)PING first \(fd00:79::30\).*"),
    Step("exec one grep far /etc/hosts", r"192\.0\.2\.9\s+far\n"),
    Step("network connect --alias second --ip6 @BACK22 back two"),
    Step("exec two ip -6 -o address show dev eth1 scope global", r"(?s).* @BACK22/64 .*"),
    Step("network connect --ip 10.214.79.131 front two", code=255, err=f"{REFUSED}.*\n"),
    Step("exec two sh -c 'ls /sys/class/net | grep -c eth'", "2\n"),
    Step("network disconnect back two"),
    Step("network rm front", code=255, err="network front delete failed: .*\n"),
    Step("volume rm data", code=255, err="volume data delete failed: .*\n"),
    Step("volume ls --format '{{.Name}} {{.Containers}}'", "data 2\n"),
    Step("volume inspect --format '{{.name}}' data", "data\n"),
    Step("rm one two", r"(Pod\(\w+\) is successfully deleted!\n){2}"),
    Step("volume ls -q", "data\n"),
    Step("volume rm data", "data\n"),
    Step("volume prune -a -f", r"(\w+\n)*Total reclaimed space: .*\n"),
    Step("network rm front", "front\n"),
    Step("network prune -f", "back\n"),
]

KUBE = [
    Step("kube play --no-start --pull missing -q site.yaml", "site-pod-0\nsite-pod-1\nsingle\n"),
    Step(
        "kube play --replace --configmap more.yaml site.yaml",
        "Pod site-pod-0 is running\nPod site-pod-1 is running\nPod single is running\n",
        err="hyperctl WARNING: site.yaml: kind Service is not understood and does nothing\n",
    ),
    Step("list container --format '{{.Name}}'", "site-pod-0-app\nsite-pod-1-app\nsingle-only\n"),
    Step("logs site-pod-1", "hello\nsecret\nsite-pod-1\n10\n", again=True),
    Step("exec single-only cat /shared/said", "400\nsingle\n", again=True),
    Step("kube play site.yaml", code=255, err="(?s).*already in use\n"),
    Step("list -q", "site-pod-0\nsite-pod-1\nsingle\n"),
    Step(
        "kube generate -f again.yaml single",
        err="hyperctl WARNING: Pod single: container only: files is not in the manifest\n",
    ),
    Step("kube generate single nosuch", code=255, err=f"{REFUSED}.*\n"),
    Step("kube down site.yaml", "Pod site-pod-0 is removed\nPod site-pod-1 is removed\nPod single is removed\n"),
    Step("kube down --volumes site.yaml", "(Pod \\S+ was not there\n){3}"),
    Step("kube play again.yaml", "Pod single is running\n"),
    Step("exec single-only hostname", "single\n"),
    Step("kube down again.yaml", "Pod single is removed\n"),
]
MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: site}
spec:
  replicas: 2
  template:
    spec:
      containers:
      - name: app
        image: @IMAGE
        command: [sh, -c, "cat /etc/site/page /run/token; echo; echo $(POD); id -G; sleep 1000"]
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        securityContext: {runAsGroup: 10}
        volumeMounts: [{name: page, mountPath: /etc/site}, {name: keys, mountPath: /run/token, subPath: token}]
      volumes: [{name: page, configMap: {name: pages}}, {name: keys, secret: {secretName: keys}}]
---
apiVersion: v1
kind: Pod
metadata: {name: single, labels: {a: b}}
spec:
  containers:
  - name: only
    image: @IMAGE
    command: [sh, -c, "stat -c %a /etc/site/page > /shared/said; hostname >> /shared/said; sleep 1000"]
    volumeMounts: [{name: page, mountPath: /etc/site}, {name: new, mountPath: /shared}]
  volumes: [{name: page, configMap: {name: pages, defaultMode: 0400}}, {name: new, emptyDir: {}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pages}
data: {page: "hello\\n"}
---
apiVersion: v1
kind: Service
metadata: {name: site}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {token: secret}
"""

CHECKPOINTS = [
    Step("run -d -q --name saved @IMAGE sh -c 'echo kept > /dev/shm/said; sleep 1000'", "saved\n"),
    Step("exec saved cat /dev/shm/said", "kept\n", again=True),
    Step("checkpoint -o on.tar saved"),
    Step("list --format '{{.Status}}'", "running\n"),
    Step("restore on.tar", code=255, err=f"{REFUSED}the pod saved exists already .*\n"),
    Step("checkpoint --stop saved --to off.tar"),
    Step("list --format '{{.Status}}'", "failed\n", again=True),
    Step("checkpoint saved -o off.tar", code=255, err=f"{REFUSED}.*\n"),
    Step("checkpoint nosuch -o nosuch.tar", code=255, err=f"{REFUSED}.*\n"),
    Step("rm saved", r"Pod\(saved\) is successfully deleted!\n"),
    Step("restore --pull sometimes off.tar", code=255, err="hyperctl ERROR: 'sometimes' is not known to --pull: .*\n"),
    Step("restore nosuch.tar", code=255, err="hyperctl ERROR: .*nosuch.tar.*\n"),
    Step("restore -", code=255, err=f"{REFUSED}.*\n", stdin=b"no archive"),
    Step("restore --pull never off.tar", "saved\n"),
    Step("exec saved cat /dev/shm/said", "kept\n"),
    Step("rm saved", r"Pod\(saved\) is successfully deleted!\n"),
]

SYSTEM = [
    Step(
        "info",
        r"Images: \d+\nContainers: 0\nPODs: 0\nStorage Driver: (?s:.*)\nExecution Driver: libvirt\nTotal (?s:.*)",
    ),
    Step("info --format '{{.Pods}} {{.ExecutionDriver}}'", "0 libvirt\n"),
    Step("version", r"The hyperctl version is \d+\.\d+\.\d+\n"),
    Step("version --format '{{.Version}}'", r"\d+\.\d+\.\d+\n"),
    Step("help", "(?s)Usage: hyperctl .*"),
    Step("help run", "(?s)Usage: hyperctl run .*Examples:.*"),
    Step("help --man list", r"(?s)\.TH HYPERCTL.*"),
    Step("help --man-pages man"),
    Step("completion bash", "(?s).*complete .*hyperctl\n"),
    Step("nosuch", code=1, err="hyperctl: 'nosuch' is not a hyperctl command. See 'hyperctl --help'.\n"),
    Step("vm create --cpu 1 --memory 96", r"New VM id is (?P<IDLE>vm-[A-Za-z]{10})\n"),
    Step("list vm --format '{{.ID}} {{.Status}}'", "@IDLE idle\n"),
    Step("vm rm @IDLE", r"VM\(@IDLE\) is successfully deleted!\n"),
    Step("vm rm @IDLE", code=255, err=r"VM\(@IDLE\) delete failed: .*\n"),
    Step("events --since 1600000000 --until 1600000001"),
    Step(
        "events -f type=vm --since 1600000000 --until @NOW --format '{{.Type}} {{.Action}}'",
        "(vm (boot|restore|gone)\n)+",
    ),
    Step("login -u u -p p -e e@x @REGISTRY", "WARNING: login credentials saved in .*/config.json\nLogin Succeeded\n"),
    Step("logout @REGISTRY", "Remove login credentials for @REGISTRY\n"),
    Step("logout @REGISTRY", "Not logged in to @REGISTRY\n"),
    Step("login -u u --password-stdin @REGISTRY", "(?s).*Login Succeeded\n", stdin=b"p\n"),
    Step(
        "system df",
        table("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE")
        + r"Images (?s:.*)\nPods +0 (?s:.*)\nVolumes +0 (?s:.*)\n",
    ),
    Step("system df --format '{{.Type}}'", "Images\nPods\nVolumes\n"),
    Step("system prune -a -f --volumes", r"(?s:.*)Total reclaimed space: .*\n"),
]
SCENARIOS = {
    "pod": POD,
    "containers": CONTAINERS,
    "create": CREATE,
    "images": IMAGES,
    "build": BUILD,
    "docker": DOCKER,
    "networks": NETWORKS,
    "kube": KUBE,
    "checkpoints": CHECKPOINTS,
    "system": SYSTEM,
}


COMMANDS = {words: one for verb in verbs.VERBS for words, one in verbs.commands(verb).items()}


def driven(line: str) -> tuple[str, set[str]]:
    """Return the command of a line and the fields of its options that the line gives."""
    words = shlex.split(line)
    size = 2 if " ".join(words[:2]) in COMMANDS else 1
    name, rest = " ".join(words[:size]), words[size:]
    if name not in COMMANDS:
        return name, set()
    options = {spelled: option for option in COMMANDS[name].options for spelled in option.names}
    fields: set[str] = set()
    while rest:
        word = rest.pop(0)
        option = options.get(word)
        if option is None:
            if COMMANDS[name].own_options_first:
                break
            continue
        fields.add(option.field)
        if not option.flag:
            rest.pop(0)
    return name, fields


def test_every_command_and_option_is_driven():
    seen: dict[str, set[str]] = {}
    for step in (step for steps in SCENARIOS.values() for step in steps):
        name, fields = driven(step.line)
        seen.setdefault(name, set()).update(fields)
    # What run and create share is read by the same code: one of them is enough.
    shared = {option.field for option in OPTIONS}
    both = (seen["run"] | seen["create"]) & shared
    for name in ("run", "create"):
        seen[name] |= both
    missing = {
        name: sorted({option.field for option in command.options} - seen.get(name, set()))
        for name, command in COMMANDS.items()
    }
    assert sorted(set(COMMANDS) - set(seen)) == []
    assert {name: fields for name, fields in missing.items() if fields} == {}


def fill(text: str, known: dict[str, str], change: Callable[[str], str] = str) -> str:
    """Replace @NAMES."""
    return re.sub("@([A-Z_]+)", lambda match: change(known[match[1]]), text)


def play(step: Step, hyperctl: Runner, known: dict[str, str]) -> None:
    """Do a step and compare; what its pattern names becomes known."""
    known["NOW"] = str(int(time.time()) + 1)
    words = shlex.split(fill(step.line, known))
    out, err = fill(step.out, known, re.escape), fill(step.err, known, re.escape)
    seen: list[object] = []

    def fits() -> bool:
        if step.tty:
            code, shown = hyperctl.on_terminal(*words)
            said, complained = shown.decode(), ""
        else:
            done = hyperctl(*words, stdin=step.stdin)
            code, said, complained = done.returncode, done.stdout.decode(), done.stderr.decode()
        seen[:] = [step.line, code, said, complained]
        found = re.fullmatch(out, said)
        if not (found and code == step.code and re.fullmatch(err, complained)):
            return False
        known.update(found.groupdict())
        return True

    if step.again:
        until(fits, PATIENCE, tell=lambda: seen)
    else:
        assert fits(), seen


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    daemon, one = launch(registry, config="stop_grace = 1\n")
    with daemon:
        yield one
        assert "internal_error" not in daemon.log()


@pytest.fixture
def home(host: Host, tmp_path: Path) -> Path:
    """A home with the files that the lines name."""
    image = host.image
    (tmp_path / "c.json").write_text(json.dumps({"name": "extra", "image": image, "command": ["sleep", "1000"]}))
    text = f"id: filepod\ncontainers:\n- name: fp1\n  image: {image}\n  command: [sh, -c, echo from a file]\n"
    (tmp_path / "pod").write_text(text)
    (tmp_path / "pod.yaml").write_text(text)
    sleeper = text.replace("filepod", "sleeper").replace("echo from a file", "sleep 1000")
    (tmp_path / "sleeper.yml").write_text(sleeper)
    (tmp_path / "site.yaml").write_text(MANIFESTS.replace("@IMAGE", image))
    (tmp_path / "more.yaml").write_text("kind: ConfigMap\nmetadata: {name: more}\n")
    (tmp_path / "vars").write_text("A=one\nB=two\n")
    (tmp_path / "rootfs.tar").write_bytes(busybox_tar())
    context = tmp_path / "ctx"
    context.mkdir()
    dockerfile = f"FROM {image} AS last\nARG WORD\nRUN echo $WORD > /said\nFROM last\nRUN false\n"
    (context / "Dockerfile").write_text(dockerfile)
    (context / "other.Dockerfile").write_text(f"FROM {image}\nENV A=b\n")
    return tmp_path


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(host, home, registry, name):
    hyperctl = Runner(host.daemon.host, home)
    known = {"IMAGE": f"{host.image}:latest", "REGISTRY": registry.host}
    try:
        for step in SCENARIOS[name]:
            play(step, hyperctl, known)
    finally:
        for pod in host.ok("list", "-q").split():
            host.ok("rm", pod)
    host.assert_clean()

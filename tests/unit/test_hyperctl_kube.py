"""Manifests of Kubernetes as pods, without a daemon."""

from __future__ import annotations

import base64

import pytest
import yaml

from hyperctl.api.errors import UsageProblem
from hyperctl.kube import generate, pods, reader

SITE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOUR: red, "page.html": "<p>hello</p>"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
data: {token: c2VjcmV0}
stringData: {user: alice}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: store}
spec: {accessModes: [ReadWriteOnce]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      restartPolicy: Always
      nodeSelector: {disk: ssd}
      dnsConfig: {nameservers: [9.9.9.9], searches: [x.y], options: [{name: ndots, value: "2"}]}
      securityContext: {runAsUser: 1000, fsGroup: 2000, supplementalGroups: [27], sysctls: [{name: a.b, value: "1"}]}
      containers:
      - name: app
        image: nginx:1
        command: [run, $(COLOUR), $$(COLOUR), $(NOBODY)]
        args: [--user=$(USER_NAME)]
        workingDir: /srv
        env:
        - {name: NUMBER, value: 8080}
        - {name: BOTH, value: "$(NUMBER)-$(COLOUR)"}
        - {name: USER_NAME, valueFrom: {secretKeyRef: {name: keys, key: user}}}
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: MAYBE, valueFrom: {configMapKeyRef: {name: settings, key: none, optional: true}}}
        envFrom: [{configMapRef: {name: settings}}]
        ports: [{containerPort: 80, name: http}]
        resources: {limits: {cpu: 1500m, memory: 256Mi}, requests: {cpu: 100m}}
        securityContext:
          readOnlyRootFilesystem: true
          runAsGroup: 5
          allowPrivilegeEscalation: false
          seccompProfile: {type: Unconfined}
          capabilities: {add: [NET_ADMIN, CAP_SYS_TIME], drop: [all]}
        livenessProbe: {httpGet: {path: /, port: 80}}
        volumeMounts:
        - {name: data, mountPath: /data, readOnly: true}
        - {name: scratch, mountPath: /tmp}
        - {name: quick, mountPath: /quick}
        - {name: page, mountPath: /srv}
        - {name: page, mountPath: /etc/one.html, subPath: page.html}
        - {name: token, mountPath: /run/keys}
      - name: side
        image: busybox
        volumeMounts: [{name: scratch, mountPath: /shared}, {name: host, mountPath: /host}]
      volumes:
      - {name: data, persistentVolumeClaim: {claimName: store}}
      - {name: scratch, emptyDir: {}}
      - {name: quick, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
      - {name: host, hostPath: {path: /srv/data, type: Directory}}
      - {name: page, configMap: {name: settings, items: [{key: page.html, path: page.html, mode: 0400}]}}
      - {name: token, secret: {secretName: keys, defaultMode: 256}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    file = tmp_path_factory.mktemp("kube") / "site.yaml"
    file.write_text(SITE)
    return pods.plan(reader.documents(str(file)))


def test_a_deployment_is_as_many_pods(plan):
    assert [pod["id"] for pod in plan.pods] == ["web-pod-0", "web-pod-1"]
    assert plan.claims == ["store"]
    pod = plan.pods[0]
    assert [one["name"] for one in pod["containers"]] == ["web-pod-0-app", "web-pod-0-side"]
    assert pod["labels"] == {"app": "web"}
    assert pod["resource"] == {"vcpu": 2, "memory": 256 + 64}
    assert (pod["dns"], pod["dnsSearch"], pod["dnsOptions"]) == (["9.9.9.9"], ["x.y"], ["ndots:2"])
    assert "portmappings" not in pod


def test_what_is_not_understood_is_named_once(plan):
    assert plan.unknown == [
        "Pod web-pod-0: container app.livenessProbe",
        "Pod web-pod-0: spec.nodeSelector",
        "kind Service",
    ]


def test_a_container(plan):
    app = plan.pods[1]["containers"][0]
    assert app["entrypoint"] == ["run", "red", "$(COLOUR)", "$(NOBODY)"]
    assert app["command"] == ["--user=alice"]
    assert (app["workdir"], app["restartPolicy"], app["readOnly"]) == ("/srv", "always", True)
    assert app["user"] == {"name": "1000", "group": "5", "additionalGroups": ["27", "2000"]}
    assert app["sysctl"] == {"a.b": "1"}
    assert app["limits"] == {"memory": 256 << 20, "nanoCpus": 1_500_000_000}
    assert app["tmpfs"] == [{"path": "/quick", "size": 16 << 20}]
    assert app["security"] == {
        "capAdd": ["NET_ADMIN", "SYS_TIME"],
        "capDrop": ["ALL"],
        "noNewPrivileges": True,
        "seccomp": "unconfined",
    }
    assert {pair["env"]: pair["value"] for pair in app["envs"]} == {
        "COLOUR": "red",
        "page.html": "<p>hello</p>",
        "NUMBER": "8080",
        "BOTH": "8080-red",
        "USER_NAME": "alice",
        "POD": "web-pod-1",
    }


def test_volumes_and_files(plan):
    pod = plan.pods[0]
    app, side = pod["containers"]
    assert app["volumes"] == [
        {"path": "/data", "volume": "web-pod-0-data", "readOnly": True},
        {"path": "/tmp", "volume": "web-pod-0-scratch"},
    ]
    assert side["volumes"][0] == {"path": "/shared", "volume": "web-pod-0-scratch"}
    assert pod["volumes"] == [
        {"name": "web-pod-0-data", "source": "store", "format": "volume"},
        {"name": "web-pod-0-scratch"},
        {"name": "web-pod-0-host", "source": "/srv/data", "format": "vfs"},
    ]
    content = {file["name"]: base64.b64decode(file["content"]).decode() for file in pod["files"]}
    shown = {file["path"]: (content[file["filename"]], file["perm"]) for file in app["files"]}
    assert shown == {
        "/srv/page.html": ("<p>hello</p>", "0400"),
        "/etc/one.html": ("<p>hello</p>", "0400"),
        "/run/keys/token": ("secret", "0400"),
        "/run/keys/user": ("alice", "0400"),
    }


def one_pod(**spec):
    container = {"name": "c", "image": "busybox", **spec.pop("container", {})}
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container], **spec}}


def test_published_ports_and_restart_policies():
    ports = [
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
        {"containerPort": 9, "hostIP": "127.0.0.2"},
    ]
    (pod,) = pods.plan([one_pod(container={"ports": ports}, restartPolicy="OnFailure")]).pods
    assert pod["portmappings"] == [
        {"containerPort": "80", "hostPort": "8080", "protocol": "tcp"},
        {"containerPort": "53", "hostPort": "53", "protocol": "udp", "hostIP": "127.0.0.1"},
    ]
    assert pod["containers"][0]["restartPolicy"] == "onFailure"
    assert pod["resource"] == {"vcpu": 1, "memory": 128}
    (pod,) = pods.plan([one_pod(resources={"limits": {"cpu": "2", "memory": "1Gi"}})]).pods
    assert pod["resource"] == {"vcpu": 2, "memory": 1024}


UNKNOWN = """
kind: PersistentVolumeClaim
metadata: {name: store, labels: {a: b}, finalizers: [x]}
spec: {accessModes: [A], storageClassName: fast, resources: {requests: {storage: 1Gi}, limits: {storage: 2Gi}}}
---
kind: ConfigMap
metadata: {name: c, namespace: n}
data: {a: b}
extra: {a: b}
---
kind: Deployment
metadata: {name: web}
spec:
  paused: true
  template:
    metadata: {name: x}
    also: 1
    spec:
      resources: {requests: {cpu: "1"}, limits: {cpu: "1", disk: 1}}
      hostAliases: [{ip: 10.0.0.1, hostnames: [a], more: 1}]
      securityContext: {sysctls: [{name: a.b, value: "1", more: 1}], odd: 1}
      containers:
      - name: c
        image: i
        envFrom: [{configMapRef: {name: c, odd: 1}}]
        env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: a, odd: 1}, odd: 1}}]
        ports: [{containerPort: 1, odd: 1}]
        resources: {limits: {memory: 1Mi, ephemeral-storage: 1Gi}, requests: {odd: 1}, claims: [1]}
        volumeMounts: [{name: disk, mountPath: /a, odd: 1}, {name: both, mountPath: /b}]
      - {name: d, image: i, volumeMounts: [{name: both, mountPath: /b}]}
      volumes:
      - {name: disk, emptyDir: {sizeLimit: 1Gi}}
      - {name: both, emptyDir: {medium: Memory, sizeLimit: 1Gi}}
"""


def test_whatever_is_not_understood_is_named_wherever_it_stands():
    found = pods.plan(list(yaml.safe_load_all(UNKNOWN))).unknown
    pod = "Pod web-pod: "
    assert sorted(found) == sorted(
        [
            "PersistentVolumeClaim.metadata.finalizers",
            "PersistentVolumeClaim store: spec.storageClassName",
            "PersistentVolumeClaim store: spec.resources.limits",
            "ConfigMap c.extra",
            "Deployment web.spec.paused",
            "Deployment web.spec.template.also",
            f"{pod}spec.resources.requests",
            f"{pod}spec.resources.limits.disk",
            f"{pod}spec.hostAliases[0].more",
            f"{pod}spec.securityContext.sysctls[0].more",
            f"{pod}spec.securityContext.odd",
            f"{pod}container c.envFrom[0].configMapRef.odd",
            f"{pod}container c.env[0].valueFrom.configMapKeyRef.odd",
            f"{pod}container c.env[0].valueFrom.odd",
            f"{pod}container c.ports[0].odd",
            f"{pod}container c.resources.limits.ephemeral-storage",
            f"{pod}container c.resources.requests.odd",
            f"{pod}container c.resources.claims",
            f"{pod}container c.volumeMounts[0].odd",
            f"{pod}volume disk.emptyDir.sizeLimit",
            f"{pod}volume both.emptyDir.sizeLimit",
        ]
    )


def test_when_images_are_pulled():
    policies = ({}, {"imagePullPolicy": "Always"}, {"imagePullPolicy": "Never"}, {"imagePullPolicy": "IfNotPresent"})
    made = [pods.plan([one_pod(container=one)]).pods[0]["containers"][0].get("pull") for one in policies]
    assert made == [None, "always", "never", None]
    with pytest.raises(UsageProblem, match="imagePullPolicy must be Always, IfNotPresent or Never"):
        pods.plan([one_pod(container={"imagePullPolicy": "always"})])


def test_containers_that_see_each_others_processes():
    (pod,) = pods.plan([one_pod(shareProcessNamespace=True)]).pods
    assert [one["pidNamespace"] for one in pod["containers"]] == ["pod"]
    (pod,) = pods.plan([one_pod(shareProcessNamespace=False)]).pods
    assert "pidNamespace" not in pod["containers"][0]
    containers = [{"name": "p-c", "image": "busybox", "settings": {"pidNamespace": "pod"}}]
    left: list[str] = []
    made = generate._pod({"podID": "p", "spec": {"containers": containers}}, [], left)
    assert (made["spec"]["shareProcessNamespace"], left) == (True, [])


def test_no_grace_at_all():
    (pod,) = pods.plan([one_pod(terminationGracePeriodSeconds=0)]).pods
    assert pod["containers"][0]["stopTimeout"] == 0


BAD = [
    ({"kind": "Pod", "metadata": {"name": "P_1"}, "spec": {}}, "metadata.name must be a name"),
    ({"kind": "Pod", "metadata": {"name": "p"}, "spec": {}}, "spec.containers must be"),
    ({"kind": "Pod", "metadata": {"name": "p"}, "spec": []}, "spec must be an object"),
    (one_pod(container={"image": ""}), "container c.image must be"),
    (one_pod(container={"command": "sh"}), "container c.command must be a list"),
    (one_pod(hostNetwork=True), "hostNetwork cannot be had"),
    (one_pod(initContainers=[{"name": "i"}]), "initContainers cannot be had"),
    (one_pod(restartPolicy="Sometimes"), "restartPolicy must be"),
    (one_pod(container={"volumeMounts": [{"name": "v", "mountPath": "/x"}]}), "there is no volume v"),
    (one_pod(container={"envFrom": [{"secretRef": {"name": "s"}}]}), "there is no Secret s"),
    (one_pod(container={"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {}}}]}), "cannot be had"),
    (one_pod(container={"resources": {"limits": {"memory": "lots"}}}), "memory must be a quantity"),
    (one_pod(volumes=[{"name": "v", "nfs": {"server": "s"}}]), "volume v is of a kind that cannot be had"),
    (one_pod(volumes=[{"name": "v", "configMap": {"name": "none"}}]), "there is no ConfigMap none"),
    ({"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "%"}}, "data.a is not base64"),
    (
        {
            "kind": "Deployment",
            "metadata": {"name": "d"},
            "spec": {
                "replicas": 2,
                "template": one_pod(container={"ports": [{"containerPort": 1, "hostPort": 2}]}),
            },
        },
        "2 replicas cannot all have the host's port 2",
    ),
]


@pytest.mark.parametrize(("manifest", "text"), BAD, ids=[text for _, text in BAD])
def test_what_cannot_be_is_said(manifest, text):
    with pytest.raises(UsageProblem, match=text.replace("(", r"\(")):
        pods.plan([manifest])


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1", "no manifest"), ("a: [", "is not YAML"), ("kind: List\nitems: [1]", "no manifest"), ("{}", "no kind")],
)
def test_files_that_are_no_manifests(tmp_path, text, message):
    (tmp_path / "x").write_text(text)
    with pytest.raises(UsageProblem, match=message):
        reader.documents(str(tmp_path / "x"))
    with pytest.raises(UsageProblem, match="cannot read"):
        reader.documents(str(tmp_path / "nosuch"))


def test_a_list_is_taken_apart(tmp_path):
    (tmp_path / "x").write_text("kind: List\nitems: [{kind: A}, {kind: List, items: [{kind: B}]}]\n---\n---\nkind: C\n")
    assert [one["kind"] for one in reader.documents(str(tmp_path / "x"))] == ["A", "B", "C"]


def test_what_is_generated_can_be_played():
    info = {
        "podID": "web",
        "spec": {
            "vcpu": 2,
            "memory": 256,
            "labels": {"a": "b"},
            "volumes": [
                {"name": "v1", "source": "/srv", "driver": "vfs"},
                {"name": "v2", "source": "store", "driver": "volume"},
                {"name": "unused", "source": "", "driver": ""},
            ],
            "containers": [
                {
                    "name": "/web-app",
                    "image": "nginx:1",
                    "args": ["nginx", "-g", "daemon off;"],
                    "env": [{"env": "A", "value": "1"}],
                    "user": "33:34",
                    "workingDir": "/srv",
                    "volumeMounts": [
                        {"name": "v1", "mountPath": "/a", "readOnly": True},
                        {"name": "v2", "mountPath": "/b", "readOnly": False},
                    ],
                }
            ],
        },
    }
    rules = [{"protocol": "udp", "hostPort": "53-54", "containerPort": "1053-1054"}]
    left: list[str] = []
    text = generate.manifests([(info, rules)], left)
    assert left == []
    plan = pods.plan(list(yaml.safe_load_all(text)))
    assert plan.unknown == []
    assert plan.claims == ["store"]
    (pod,) = plan.pods
    assert (pod["id"], pod["labels"], pod["resource"]) == ("web", {"a": "b"}, {"vcpu": 2, "memory": 256})
    assert [rule["hostPort"] for rule in pod["portmappings"]] == ["53", "54"]
    (container,) = pod["containers"]
    assert container["name"] == "web-app"
    assert container["entrypoint"] == ["nginx", "-g", "daemon off;"]
    assert container["user"] == {"name": "33", "group": "34"}
    assert [ref["path"] for ref in container["volumes"]] == ["/a", "/b"]


SETTINGS = {
    "readOnly": True,
    "stopTimeout": 0,
    "sysctl": {"net.core.somaxconn": "100"},
    "limits": {"memory": 1 << 26, "nanoCpus": 500_000_000, "pids": 10},
    "security": {"capAdd": ["NET_ADMIN"], "noNewPrivileges": True, "seccomp": "unconfined", "maskedPaths": ["/x"]},
    "tmpfs": [{"path": "/t", "size": 4096, "mode": "1777", "options": ["ro"]}],
    "healthcheck": {"command": ["true"]},
    "user": {"name": "www-data"},
}


def described(*containers, volumes=(), **settings):
    found = {"volumes": list(volumes), "containers": list(containers), "settings": settings}
    return {"podID": "web", "spec": {"vcpu": 1, "memory": 256, **found}}


def test_settings_come_back():
    one = {"name": "/web-a", "image": "x", "restartPolicy": "unless-stopped", "settings": SETTINGS}
    pod = described(one, hostname="front", dns=["1.1.1.1"], extraHosts=[{"name": "db", "ip": "10.0.0.1"}], services=[1])
    left: list[str] = []
    plan = pods.plan(list(yaml.safe_load_all(generate.manifests([(pod, [])], left))))
    assert plan.unknown == []
    assert sorted(left) == [
        "Pod web: container a: healthcheck",
        "Pod web: container a: limits.pids",
        "Pod web: container a: security.maskedPaths",
        "Pod web: container a: user.name www-data",
        "Pod web: services",
    ]
    (made,) = plan.pods
    assert (made["restartPolicy"], made["hostname"], made["dns"]) == ("always", "front", ["1.1.1.1"])
    assert made["extraHosts"] == [{"name": "db", "ip": "10.0.0.1"}]
    (container,) = made["containers"]
    assert container["limits"] == {"memory": 1 << 26, "nanoCpus": 500_000_000}
    assert container["security"] == {"capAdd": ["NET_ADMIN"], "noNewPrivileges": True, "seccomp": "unconfined"}
    assert container["tmpfs"] == [{"path": "/t", "size": 4096, "options": ["ro"]}]
    assert (container["readOnly"], container["sysctl"]) == (True, {"net.core.somaxconn": "100"})
    assert yaml.safe_load(generate.manifests([(pod, [])], []))["spec"]["terminationGracePeriodSeconds"] == 0


def test_what_containers_do_not_share_is_named():
    made = [{"name": f"/web-{name}", "restartPolicy": policy} for name, policy in (("a", "onFailure"), ("b", "never"))]
    left: list[str] = []
    manifest = yaml.safe_load(generate.manifests([(described(*made), [])], left))
    assert manifest["spec"]["restartPolicy"] == "OnFailure"
    assert left == ["Pod web: container b: its own restartPolicy"]


@pytest.mark.parametrize("driver", ["raw", "qcow2", "vdi", "nas", "rbd"])
def test_volumes_without_a_word_are_refused(driver):
    one = {"name": "/web-a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    pod = described(one, volumes=[{"name": "v", "source": "/s", "driver": driver}])
    with pytest.raises(UsageProblem, match=f"the volume v is of the kind {driver}"):
        generate.manifests([(pod, [])], [])

"""The steps that make a container what it is to be. Each can be repeated after a crash at any point.

The row comes first, the container gets a name that follows from the row, and a container that is there already is
taken over: so nothing is made twice and nothing is lost.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from hypercloud import placement
from hypercloud.account.keys import KeyService
from hypercloud.config.model import Config
from hypercloud.db.models import ContainerRow, ServiceRow
from hypercloud.engine.model import EngineContainer
from hypercloud.engine.service import EngineService
from hypercloud.errors import CloudError, Conflict, NotFound
from hypercloud.workload import describe, links, lookup
from hypercloud.workload.model import Goal, ServiceSpec, State, decode
from hypercloud.workload.repositories import RepositoryService
from hypercloud.workload.store import Store, Transaction

LOOK = 0.5  # seconds between looks whether a pull's action is to be canceled


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the steps need of the action that they are for.

    ``networks`` and ``image_env`` are what engines have been asked by now: all containers of a service share it.
    """

    log: Callable[[str], None]
    check: Callable[[], None]  # raises when the action is canceled
    base_url: str = ""
    user: str = ""
    account: str = ""
    extra_env: Mapping[str, str] = field(default_factory=dict)
    networks: set[tuple[str, str]] = field(default_factory=set)  # engine and name
    image_env: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by engine and image


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A container that is about to be made."""

    row: ContainerRow
    service: ServiceRow
    spec: ServiceSpec
    engine: str
    name: str  # on the engine
    network: str
    aliases: tuple[str, ...]
    links: tuple[str, ...]  # on its own network
    far_links: Mapping[str, tuple[str, ...]]  # on other networks
    env: Mapping[str, str]
    link_rows: tuple[dict[str, Any], ...]
    volumes_from: tuple[str, ...]


class Deployer:
    """Brings containers up, stops them and takes them down.

    Args:
        store: where it stands what they are to be.
        engines: where they run.
        keys: makes tokens for containers with the role ``global``.
        repositories: credentials for pulling.
        config: the server's.

    """

    def __init__(
        self, store: Store, engines: EngineService, keys: KeyService, repositories: RepositoryService, config: Config
    ) -> None:
        self._store = store
        self._engines = engines
        self._keys = keys
        self._repositories = repositories
        self._config = config
        self._placing = threading.Lock()

    # -- up ----------------------------------------------------------------------------------------------------------

    def bring_up(self, container: str, job: Job) -> None:
        """Have a container running. Errors: NoEngine, EngineError and others; its row tells what became of it."""
        self.place(container)
        plan = self._plan(container, job)
        docker_id = self._created(plan, job)
        client = self._engines.client(plan.engine)
        with self._store.writing() as tx:
            row = tx.container(container)
            row.docker_id = docker_id
            row.envvars = dict(plan.env)
            row.links = list(plan.link_rows)
            tx.set_container(row, State.STARTING)
        job.check()
        job.log(f"starting {plan.row.name}")
        client.start(docker_id)
        seen = self._engines.monitor(plan.engine).refresh(docker_id)
        image_env = self._image_env(plan, job)  # nobody else writes while a transaction does: it asks no engine
        with self._store.writing() as tx:
            row = tx.container(container)
            row.started = time.time()
            row.deployed = row.deployed or row.started
            row.image_env = image_env
            if seen is not None:
                settle(tx, row, seen)

    def place(self, container: str) -> None:
        """Choose an engine for a container that has none. Errors: NoEngine."""
        with self._placing, self._store.writing() as tx:
            row = tx.container(container)
            if row.engine is None:
                service = tx.service(row.service)
                spec = decode(row.spec)
                row.engine = placement.choose_spread(
                    lookup.candidates(tx, self._engines, service, spec), strategy=spec.strategy, tags=spec.tags
                ).id

    def pull_image(self, engine: str, image: str, namespace: str, job: Job) -> None:
        """Pull an image with the credentials that the namespace has for its repository."""
        job.log(f"pulling {image} on {self._engines.client(engine).name}")
        lines = self._engines.client(engine).pull(image, self._repositories.credentials(namespace, image))
        looked = time.monotonic()
        for line in lines:
            if time.monotonic() - looked > LOOK:  # there are many lines
                looked = time.monotonic()
                job.check()
            if "progressDetail" not in line or not line["progressDetail"]:
                job.log(" ".join(str(line[key]) for key in ("id", "status") if key in line))

    def renew_image(self, engine: str, image: str, namespace: str, job: Job) -> None:
        """Pull an image anew, unless it was made on the engine itself and is in no registry."""
        with contextlib.suppress(NotFound):
            if not self._engines.client(engine).image(image).get("RepoDigests", [""]):
                job.log(f"{image} was made on {self._engines.client(engine).name}: it is not pulled")
                return
        self.pull_image(engine, image, namespace, job)

    def _plan(self, container: str, job: Job) -> _Plan:
        with self._store.reading() as tx:
            row = tx.container(container)
            service = tx.service(row.service)
            spec = decode(row.spec)
            engine = self._engines.engine(row.engine or "")
            hosts = {one.spec.id: lookup.host_of(one) for one in self._engines.engines()}
            network = describe.network_name(row.namespace, service.stack)
            env = {**spec.env, **job.extra_env}
            env |= lookup.self_variables(row, service, engine, self._base_url(job), self._config.domain)
            near: list[str] = []
            far: dict[str, tuple[str, ...]] = {}
            link_rows: list[dict[str, Any]] = []
            for name, to, rows in self._linked(tx, spec, service, row):
                url = f"{self._base_url(job)}/api/app/v1/{row.namespace}/service/{to}/"
                targets = [lookup.target(one, row.engine or "", hosts) for one in rows]
                for one, target in zip(rows, targets, strict=True):
                    if not lookup.reachable(one, row.engine or "", hosts):
                        job.log(f"{row.name} cannot reach {one.name}: it is on another node and publishes no port")
                    link_rows.append(_link_row(name, row, one, target))
                env |= links.variables(name, [one for one in targets if one.endpoints or not rows], url)
                here = [one for one in rows if one.engine == row.engine]
                names = _aliases(name, here)
                other = tx.service(to).stack
                where = describe.network_name(row.namespace, other)
                if where == network:
                    near += names
                elif names:
                    far[where] = (*far.get(where, ()), *names)
            aliases = [service.name, row.name]
            if service.stack:
                stack = tx.stack(service.stack)
                aliases += [f"{service.name}.{stack.name}", f"{row.name}.{stack.name}"]
            donors = [
                describe.docker_name(one.name, one.uuid)
                for binding in spec.bindings
                if binding.volumes_from
                for one in lookup.targets(tx, binding.volumes_from)
                if one.engine == row.engine
            ]
        if "global" in spec.roles:
            account, user = self._on_behalf_of(job, row.namespace)
            token = self._keys.new_token(account, "container", row.uuid, row.namespace)
            env["DOCKERCLOUD_AUTH"] = lookup.authorization(user, token)
        return _Plan(
            row=row,
            service=service,
            spec=spec,
            engine=engine.spec.id,
            name=describe.docker_name(row.name, row.uuid),
            network=network,
            aliases=tuple(aliases),
            links=tuple(near),
            far_links=far,
            env=env,
            link_rows=tuple(link_rows),
            volumes_from=tuple(donors),
        )

    def _linked(
        self, tx: Transaction, spec: ServiceSpec, service: ServiceRow, row: ContainerRow
    ) -> list[tuple[str, str, list[ContainerRow]]]:
        """Return name, service and containers of each link; a sequential service is linked to its own earlier ones."""
        found = [(one.name, one.to, lookup.targets(tx, one.to)) for one in spec.links]
        if spec.strategy == placement.EVERY_NODE:  # one to one on each node, where both are everywhere
            found = [(name, to, _same_node(tx, to, rows, row)) for name, to, rows in found]
        if spec.sequential:
            before = lookup.earlier(tx.containers(service.uuid), row)
            if before:
                found.append((service.name, service.uuid, before))
        return found

    def _on_behalf_of(self, job: Job, namespace: str) -> tuple[str, str]:
        """Return whose account a container's token is for, and its name: who asked, or whose namespace it is.

        Triggers, webhooks and the server itself ask without an account. Errors: NotFound when there is none.
        """
        names = (namespace, *self._config.organisations.get(namespace, ()))
        for name in (job.user, *names) if job.account else names:
            if (account := self._keys.account_id(name)) is not None:
                return account, name
        raise NotFound("the role global needs an account", details=f"nobody is in the namespace {namespace}")

    def _base_url(self, job: Job) -> str:
        return (self._config.public_url or job.base_url).rstrip("/")

    def _created(self, plan: _Plan, job: Job) -> str:
        """Make the container, or find the one that an earlier attempt has made."""
        client = self._engines.client(plan.engine)
        if plan.spec.net != "host":
            for network in {plan.network, *plan.far_links} - {
                one for at, one in tuple(job.networks) if at == plan.engine
            }:
                client.ensure_network(network, {describe.NAMESPACE: plan.row.namespace})
                job.networks.add((plan.engine, network))
        body = describe.body(
            plan.spec,
            name=plan.row.name,
            env=plan.env,
            labels={
                describe.CONTAINER: plan.row.uuid,
                describe.SERVICE: plan.service.uuid,
                describe.NAMESPACE: plan.row.namespace,
            },
            volumes_of=plan.row.volumes_of,
            volumes_from=plan.volumes_from,
            network=plan.network,
            aliases=plan.aliases,
            links=plan.links,
        )
        job.log(f"creating {plan.row.name} on {client.name}")
        try:
            try:
                made = client.create(body, plan.name)
            except NotFound:
                self.pull_image(plan.engine, plan.spec.image, plan.row.namespace, job)
                made = client.create(body, plan.name)
        except Conflict:
            found = client.inspect(plan.name)
            if found.labels.get(describe.CONTAINER) != plan.row.uuid:
                raise
            made = found.id
        for network, names in plan.far_links.items():
            client.connect(network, made, names)
        return made

    def _image_env(self, plan: _Plan, job: Job) -> list[str]:
        key = (plan.engine, plan.spec.image)
        with contextlib.suppress(CloudError):
            if key not in job.image_env:
                config = self._engines.client(plan.engine).image(plan.spec.image).get("Config") or {}
                job.image_env[key] = [str(one) for one in config.get("Env") or []]
            return job.image_env[key]
        return []

    # -- down --------------------------------------------------------------------------------------------------------

    def start(self, container: str, job: Job) -> None:
        """Start a stopped container; one that its engine no longer has is made again."""
        with self._store.reading() as tx:
            row = tx.container(container)
        if row.docker_id is None or row.engine is None:
            self.bring_up(container, job)
            return
        job.log(f"starting {row.name}")
        try:
            self._engines.client(row.engine).start(row.docker_id)
        except NotFound:
            self.bring_up(container, job)
            return
        seen = self._engines.monitor(row.engine).refresh(row.docker_id)
        with self._store.writing() as tx:
            row = tx.container(container)
            row.started = time.time()
            if seen is not None:
                settle(tx, row, seen)

    def stop(self, container: str, job: Job) -> None:
        """Stop a container."""
        with self._store.reading() as tx:
            row = tx.container(container)
        seen = None
        if row.docker_id is not None and row.engine is not None:
            job.log(f"stopping {row.name}")
            with contextlib.suppress(NotFound):
                self._engines.client(row.engine).stop(row.docker_id)
            seen = self._engines.monitor(row.engine).refresh(row.docker_id)
        with self._store.writing() as tx:
            row = tx.container(container)
            if seen is not None:
                settle(tx, row, seen)
            else:
                tx.set_container(row, State.STOPPED)

    def take_down(self, container: str, job: Job) -> None:
        """Remove a container, and its managed volumes unless its successor has them."""
        with self._store.writing() as tx:
            row = tx.container(container)
            tx.set_container(row, State.TERMINATING)
            volumes = _unused_volumes(tx, row)
        if row.engine is not None:
            client = self._engines.client(row.engine)
            job.log(f"removing {row.name}")
            client.remove(row.docker_id or describe.docker_name(row.name, row.uuid))
            for volume in volumes:
                client.remove_volume(volume)
        self._keys.revoke_container(container)
        with self._store.writing() as tx:
            tx.set_container(tx.container(container), State.TERMINATED)

    def failed(self, container: str, reason: str) -> None:
        """Note that a container could not be brought up: it stays as stopped, or goes if it never was anywhere.

        One that was to take another's place stays in any case: nothing else tells which volumes it has.
        """
        with self._store.writing() as tx:
            row = tx.container(container)
            dropped = row.docker_id is None and row.volumes_of == row.uuid and row.goal == Goal.RUNNING
            if dropped:
                tx.drop_container(row)
            elif row.state != State.RUNNING:
                row.goal, row.exit_msg = Goal.STOPPED, reason[:1000]
                tx.set_container(row, State.STOPPED)
        if dropped and row.engine is not None:  # it may have been made before the error
            with contextlib.suppress(CloudError):
                self._engines.client(row.engine).remove(describe.docker_name(row.name, row.uuid))


def settle(tx: Transaction, row: ContainerRow, seen: EngineContainer) -> None:
    """Take over into a row what its engine says."""
    row.docker_id = seen.id
    if seen.running:
        row.private_ip = next(iter(seen.addresses.values()), None) or row.private_ip
        row.ports = _ports(decode(row.spec), seen)
        row.exit_code, row.exit_msg, row.stopped = None, None, None
        tx.set_container(row, State.RUNNING)
        return
    if row.state != State.STOPPED:
        row.exit_code = seen.exit_code
        row.exit_msg = seen.error or ("out of memory" if seen.oom_killed else "") or None
        row.stopped = time.time()
    tx.set_container(row, State.STOPPED)


def put_back(tx: Transaction, row: ContainerRow, seen: EngineContainer | None, *, known: bool) -> None:
    """Have a container that was to change, and is not going to, be what its engine shows.

    Args:
        tx: the transaction.
        row: in a state in which nothing else may be asked of it.
        seen: what its engine shows.
        known: the engine was asked; if not, the container is taken for what it was before.

    """
    if seen is not None:
        settle(tx, row, seen)
    elif known:
        row.exit_msg = "it was removed on its engine"
        tx.set_container(row, State.TERMINATED)
        return
    elif row.docker_id is None and row.volumes_of == row.uuid:
        tx.drop_container(row)
        return
    else:
        tx.set_container(row, State.RUNNING if row.state == State.STOPPING else State.STOPPED)
    row.goal = Goal.RUNNING if row.state == State.RUNNING else Goal.STOPPED


def _unused_volumes(tx: Transaction, row: ContainerRow) -> list[str]:
    """Return the managed volumes that nobody has when a container is gone, those of its predecessors included."""
    if any(one.uuid != row.uuid and one.volumes_of == row.volumes_of for one in tx.containers(row.service)):
        return []
    line = tx.session.scalars(
        select(ContainerRow).where(
            ContainerRow.service == row.service,
            ContainerRow.volumes_of == row.volumes_of,
            ContainerRow.engine == row.engine,
        )
    )
    return sorted({name for one in line for name, _ in describe.managed_volumes(decode(one.spec), one.volumes_of)})


def _ports(spec: ServiceSpec, seen: EngineContainer) -> list[dict[str, Any]]:
    """Return all ports of a running container: published ones with what the engine chose, and the image's."""
    outer = {(one.container_port, one.proto): one.port for one in seen.ports if one.port}
    known = {(one.inner, one.protocol) for one in spec.ports} | {(one.container_port, one.proto) for one in seen.ports}
    return [
        {"inner": inner, "protocol": proto, "outer": outer.get((inner, proto), 0), "published": (inner, proto) in outer}
        for inner, proto in sorted(known)
    ]


def _aliases(name: str, rows: list[ContainerRow]) -> list[str]:
    """Return ``container:alias`` for the containers of a link on the same engine."""
    found = [f"{describe.docker_name(one.name, one.uuid)}:{name.lower()}-{index}" for index, one in enumerate(rows, 1)]
    return [*found, *(f"{describe.docker_name(one.name, one.uuid)}:{name.lower()}" for one in rows[:1])]


def _link_row(name: str, row: ContainerRow, to: ContainerRow, target: links.Target) -> dict[str, Any]:
    return {
        "name": f"{links.variable(name)}_{to.number}",
        "from": row.uuid,
        "to": to.uuid,
        "endpoints": {f"{one.inner}/{one.protocol}": one.url for one in target.endpoints},
    }


def _same_node(tx: Transaction, service: str, rows: list[ContainerRow], row: ContainerRow) -> list[ContainerRow]:
    other = decode(tx.service(service).spec)
    return [one for one in rows if one.engine == row.engine] if other.strategy == placement.EVERY_NODE else rows

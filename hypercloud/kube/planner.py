"""From a service's row to the plan of its objects: variables, links, credentials."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypercloud.account.keys import KeyService
from hypercloud.config.model import Config
from hypercloud.db.models import ServiceRow
from hypercloud.errors import NotFound
from hypercloud.kube import manifest, parse
from hypercloud.kube.client import KubeClient
from hypercloud.kube.manifest import Plan
from hypercloud.workload import links, lookup
from hypercloud.workload.deployer import Job
from hypercloud.workload.model import ServiceSpec, decode
from hypercloud.workload.repositories import RepositoryService
from hypercloud.workload.store import Store


class Planner:
    """Makes plans.

    Args:
        store: services and what they are linked to.
        client: of the cluster.
        keys: makes tokens for services with the role ``global``.
        repositories: credentials for pulling.
        config: the server's.

    """

    def __init__(
        self, store: Store, client: KubeClient, keys: KeyService, repositories: RepositoryService, config: Config
    ) -> None:
        self._store = store
        self._client = client
        self._keys = keys
        self._repositories = repositories
        self._config = config

    def bare(self, row: ServiceRow) -> Plan:
        """Return a plan that names the objects of a service, without what only its containers need."""
        return Plan(
            spec=decode(row.spec),
            uuid=row.uuid,
            name=row.name,
            namespace=row.namespace,
            target=row.target,
            revision=row.revision,
            generation=row.generation,
            storage_class=self._config.kubernetes.storage_class,
            volume_size=self._config.kubernetes.volume_size,
            grace=self._config.engines.stop_timeout,
        )

    def full(self, row: ServiceRow, job: Job) -> Plan:
        """Return the plan of a service; makes the Services that it is linked to, and its Secrets. Errors: EngineError.

        A Service follows from its service's row alone, so that it may be made before the service is started.
        """
        plan = self.bare(row)
        found, hosts = self._links(row, plan.spec, job)
        return dataclasses.replace(
            plan,
            env={**plan.spec.env, **found, **job.extra_env},
            own_env=self._own_variables(row, job),
            hosts=tuple(hosts),
            secret=self._token(row, plan, job),
            pull_secret=self._pull_secret(row, plan),
        )

    def inner_service(self, row: ServiceRow) -> dict[str, Any]:
        """Make a service's Service be there; return it. Errors: EngineError."""
        body = manifest.inner_service(self.bare(row))
        name = str(body["metadata"]["name"])
        wanted = body["spec"].get("clusterIP") == "None"
        there = self._client.find("Service", name)
        if there is not None and (parse.text(parse.table(there, "spec"), "clusterIP") == "None") != wanted:
            self._client.delete("Service", name)  # an address cannot be given or taken later
        return self._client.apply("Service", body)

    def _links(self, row: ServiceRow, spec: ServiceSpec, job: Job) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """Return the variables of all links, and the names that lead to them."""
        variables: dict[str, str] = {}
        hosts: list[tuple[str, str]] = []
        for link in spec.links:
            with self._store.reading() as tx:
                other = tx.service(link.to)
                stack = tx.stack(other.stack).name if other.stack else ""
            address = parse.text(parse.table(self.inner_service(other), "spec"), "clusterIP")
            address = "" if address == "None" else address
            its = decode(other.spec)
            ends = tuple(
                links.Endpoint(inner=one.inner, protocol=one.protocol, host=address, port=one.inner)
                for one in its.ports
                if address
            )
            if not ends:
                job.log(f"{row.name} knows {other.name} only by its name in the cluster's DNS: it has no ports")
            target = links.Target(uuid=other.uuid, name=other.name, endpoints=ends, env=its.env)
            url = f"{self._base_url(job)}/api/app/v1/{row.namespace}/service/{other.uuid}/"
            variables |= links.variables(link.name, [target], url)
            names = [link.name.lower(), *([f"{other.name}.{stack}".lower()] if stack else [])]
            hosts += [(name, address) for name in names if address]
        return variables, hosts

    def _own_variables(self, row: ServiceRow, job: Job) -> dict[str, str]:
        """Return the variables by which a container knows itself and its service."""
        app, base = f"/api/app/v1/{row.namespace}", self._base_url(job)
        container = f"{app}/container/$({manifest.POD_ID})/"
        service = f"{app}/service/{row.uuid}/"
        return {
            "DOCKERCLOUD_CONTAINER_API_URI": container,
            "DOCKERCLOUD_CONTAINER_API_URL": base + container,
            "DOCKERCLOUD_SERVICE_API_URI": service,
            "DOCKERCLOUD_SERVICE_API_URL": base + service,
            "DOCKERCLOUD_SERVICE_FQDN": f"{row.name}.{row.uuid[:8]}.svc.{self._config.domain}",
            "DOCKERCLOUD_SERVICE_HOSTNAME": row.name,
        }

    def _base_url(self, job: Job) -> str:
        return (self._config.public_url or job.base_url).rstrip("/")

    def _token(self, row: ServiceRow, plan: Plan, job: Job) -> str:
        """Make the Secret with a token for the role ``global``; return its name, "" when there is none."""
        if "global" not in plan.spec.roles:
            return ""
        names = (row.namespace, *self._config.organisations.get(row.namespace, ()))
        for name in (job.user, *names) if job.account else names:
            if (account := self._keys.account_id(name)) is not None:
                break
        else:
            raise NotFound("the role global needs an account", details=f"nobody is in the namespace {row.namespace}")
        made = f"{plan.object}-token"
        token = self._keys.new_token(account, "container", row.uuid, row.namespace)
        values = {"DOCKERCLOUD_AUTH": lookup.authorization(name, token)}
        self._client.apply("Secret", manifest.secret(plan, made, values))
        return made

    def _pull_secret(self, row: ServiceRow, plan: Plan) -> str:
        credentials = self._repositories.credentials(row.namespace, plan.spec.image)
        if not credentials:
            return ""
        made = f"{plan.object}-pull"
        self._client.apply("Secret", manifest.pull_secret(plan, made, credentials))
        return made

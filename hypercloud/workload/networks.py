"""Taking off the networks of stacks that are gone: an engine has room for about thirty."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog
from sqlalchemy import select

from hypercloud.db.models import StackRow
from hypercloud.engine.client import EngineClient
from hypercloud.errors import CloudError
from hypercloud.workload import describe
from hypercloud.workload.model import State
from hypercloud.workload.store import Store

log = structlog.get_logger(__name__)


def remove_unused(store: Store, client: EngineClient) -> None:
    """Remove an engine's networks of terminated stacks; one that a linked container is still in goes another time.

    Args:
        store: which stacks are terminated. Those that are not in it are not ours.
        client: of the engine; errors of its are only logged.

    """
    with store.reading() as tx:
        rows = tx.session.scalars(select(StackRow).where(StackRow.state == State.TERMINATED))
        gone = {describe.network_name(one.namespace, one.uuid) for one in rows}
    with _logged(client.name, "all"):
        for one in client.networks() if gone else ():
            name = str(one.get("Name") or "")
            if name in gone and describe.NAMESPACE in (one.get("Labels") or {}):
                with _logged(client.name, name):
                    client.remove_network(name)


@contextlib.contextmanager
def _logged(engine: str, about: str) -> Iterator[None]:
    try:
        yield
    except CloudError as error:
        log.info("workload.network_stays", engine=engine, network=about, error=str(error))

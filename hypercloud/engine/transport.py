"""How connections to engines are made: with a short time to connect, and checked against the policy."""

from __future__ import annotations

import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from hypercloud.engine.address import Policy

POOL = 64  # connections to one engine that are kept


def guarded_adapter(policy: Policy, connect_timeout: float) -> HTTPAdapter:
    """Return a transport that looks where each connection leads to before a byte is sent.

    Args:
        policy: raises Forbidden.
        connect_timeout: seconds.

    """

    class _Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, super()._new_conn)

    class _Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, super()._new_conn)

    def _connect(connection: Any, dial: Any) -> socket.socket:
        before, connection.timeout = connection.timeout, connect_timeout
        try:
            made: socket.socket = dial()
        finally:
            connection.timeout = before
        try:
            policy.check_peer(made.getpeername()[0])
        except Exception:
            made.close()
            raise
        return made

    class _PlainPool(HTTPConnectionPool):
        ConnectionCls = _Plain

    class _TlsPool(HTTPSConnectionPool):
        ConnectionCls = _Tls

    class _Adapter(HTTPAdapter):
        def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **extra: Any) -> None:
            self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **extra)
            self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    return _Adapter(pool_maxsize=POOL)

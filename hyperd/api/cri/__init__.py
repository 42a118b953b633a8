"""Kubernetes' Container Runtime Interface (CRI v1) over gRPC on a unix socket.

A sandbox is a pod without containers, owned by ``cri``; containers are added to it while it runs. ``server.py`` is the
door and loads grpc late: a daemon without ``--cri`` does without.
"""

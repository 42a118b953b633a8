"""Parts of Docker's API that this daemon does not have: plug-ins, swarm, checkpoints, BuildKit sessions.

They answer with Docker's own clean errors, so that clients say what is missing.
"""

from __future__ import annotations

from flask import Response

from hyperd.api.docker import answers
from hyperd.api.docker.errors import answer
from hyperd.api.docker.routes import blueprint

_METHODS = ["GET", "POST", "PUT", "DELETE"]
_NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)


@blueprint.get("/plugins")
def plugins() -> Response:
    """List plug-ins: there are none."""
    return answers.as_json([])


@blueprint.get("/plugins/<path:name>/json")
def plugin(name: str) -> Response:
    """Describe a plug-in: there are none."""
    return answer(404, f'plugin "{name[:200]}" not found')


@blueprint.route("/plugins/<path:_rest>", methods=["POST", "DELETE"])
def plugin_change(_rest: str) -> Response:
    """Refuse to install or change plug-ins."""
    return answer(501, "plugins are not supported: drivers of volumes, networks and logs are part of the daemon")


@blueprint.route("/swarm", methods=_METHODS)
@blueprint.route("/services", methods=_METHODS)
@blueprint.route("/tasks", methods=_METHODS)
@blueprint.route("/nodes", methods=_METHODS)
@blueprint.route("/secrets", methods=_METHODS)
@blueprint.route("/configs", methods=_METHODS)
def swarm_objects() -> Response:
    """Refuse what only a swarm has."""
    return answer(503, _NO_SWARM)


@blueprint.route("/services/<path:_rest>", methods=_METHODS)
@blueprint.route("/tasks/<path:_rest>", methods=_METHODS)
@blueprint.route("/nodes/<path:_rest>", methods=_METHODS)
@blueprint.route("/secrets/<path:_rest>", methods=_METHODS)
@blueprint.route("/configs/<path:_rest>", methods=_METHODS)
def swarm_object(_rest: str) -> Response:
    """Refuse what only a swarm has."""
    return answer(503, _NO_SWARM)


@blueprint.post("/swarm/leave")
def leave() -> Response:
    """Tell that there is nothing to leave; clients that leave in any case take 503 for that."""
    return answer(503, "This node is not part of a swarm")


@blueprint.route("/swarm/<path:_rest>", methods=_METHODS)
def swarm(_rest: str) -> Response:
    """Refuse to make a swarm: several hosts are Kubernetes' work."""
    return answer(501, "swarm mode is not supported: use Kubernetes for several hosts")


@blueprint.route("/session", methods=["POST"])
@blueprint.route("/grpc", methods=["POST"])
def buildkit() -> Response:
    """Refuse BuildKit: the classic builder is served."""
    return answer(501, "BuildKit sessions are not supported: set DOCKER_BUILDKIT=0 to use the classic builder")


@blueprint.route("/containers/<name>/checkpoints", methods=["GET", "POST"])
@blueprint.route("/containers/<name>/checkpoints/<_rest>", methods=["DELETE"])
def checkpoints(name: str, _rest: str = "") -> Response:
    """Refuse checkpoints of single containers."""
    return answer(501, f"checkpoints of the container {name[:100]} are not supported")

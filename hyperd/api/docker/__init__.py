"""The Docker Remote API: a Flask application of its own over the same services as hyperd's own API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask

from hyperd.api.context import EXTENSION
from hyperd.api.docker import (
    archive,
    builds,
    containers,
    errors,
    events,
    execs,
    image_archives,
    images,
    info,
    networks,
    processes,
    stats,
    streams,
    system,
    unsupported,
    versions,
    volumes,
)
from hyperd.api.docker.routes import blueprint
from hyperd.api.params import MAX_JSON_BODY

if TYPE_CHECKING:
    from hyperd.engine import Engine

__all__ = ["ROUTES", "create_docker_app"]

# Imported for their routes.
ROUTES = (
    archive,
    builds,
    containers,
    events,
    execs,
    image_archives,
    images,
    info,
    networks,
    processes,
    stats,
    streams,
    system,
    unsupported,
    volumes,
)


def create_docker_app(engine: Engine) -> Flask:
    """Return the application that serves ``engine``; every route is there with and without a version."""
    app = Flask("hyperd-docker", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_JSON_BODY
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.extensions[EXTENSION] = engine
    app.url_map.converters["version"] = versions.VersionConverter
    app.url_map.merge_slashes = False
    app.url_value_preprocessor(versions.drop_version)
    app.before_request(versions.begin)
    app.after_request(versions.finish)
    errors.register(app)
    app.register_blueprint(blueprint)
    app.register_blueprint(blueprint, name="versioned", url_prefix=versions.PREFIX)
    return app

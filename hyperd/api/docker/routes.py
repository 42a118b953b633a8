"""The blueprint of the Docker API's routes."""

from __future__ import annotations

from flask import Blueprint

blueprint = Blueprint("docker", __name__)

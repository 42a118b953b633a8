"""Docker Hub's webhook: pull the image that was pushed and replace what runs of it."""

from __future__ import annotations

from flask import Blueprint, Response, request
from marshmallow import EXCLUDE, Schema, fields, validate

from hypercloud.action.service import Caller
from hypercloud.api.bodies import json_object, load
from hypercloud.api.context import address, base_url, cloud
from hypercloud.api.shipyard.blueprint import text
from hypercloud.errors import NotFound


class RepositorySchema(Schema):
    """What the Hub says of the repository."""

    class Meta:
        """The Hub sends much that is of no use here."""

        unknown = EXCLUDE

    repo_name = fields.String(required=True, validate=validate.Length(1, 500))


class PushSchema(Schema):
    """What the Hub sends after a push."""

    class Meta:
        """As above."""

        unknown = EXCLUDE

    repository = fields.Nested(RepositorySchema, required=True)


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    blueprint.add_url_rule("/hub/webhook/<key>", view_func=webhook, methods=["POST"])


def webhook(key: str) -> Response:
    """Redeploy the containers of the image that was pushed, if the key is for it."""
    found = cloud().keys.webhook_key(key)
    pushed = load(PushSchema(), json_object())["repository"]["repo_name"]
    if found.image not in pushed:
        raise NotFound("the webhook key is for another image", details=pushed[:200])
    who = Caller(
        namespace="",
        user="webhook",
        method=request.method,
        path="/hub/webhook/",
        agent=request.headers.get("User-Agent", ""),
        ip=address(),
        base_url=base_url(),
        is_user=False,
    )
    cloud().workloads.autoredeploy(who, pushed)  # first: it only asks, and an engine that fails is no matter to it
    cloud().fleet.redeploy(pushed)
    return text("", 200)

"""Accounts, roles, signing in, service keys and webhook keys."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request
from marshmallow import EXCLUDE, Schema, fields

from hypercloud.account.model import Account, Role, WebhookKey
from hypercloud.api.bodies import json_object, load
from hypercloud.api.context import address, cloud, identity
from hypercloud.api.shipyard.blueprint import nothing, text
from hypercloud.errors import InvalidInput, NotFound, Unauthorized


class _Loose(Schema):
    class Meta:
        """Unknown keys are ignored, as the original did."""

        unknown = EXCLUDE


class CredentialsSchema(_Loose):
    """A name and its password."""

    username = fields.String(required=True)
    password = fields.String(required=True)


class RoleSchema(_Loose):
    """A role."""

    id = fields.String(load_default="")
    name = fields.String(load_default="")


class AccountSchema(CredentialsSchema):
    """An account, by its role."""

    role = fields.Nested(RoleSchema, load_default=dict)


class UsernameSchema(_Loose):
    """The name of an account."""

    username = fields.String(required=True)


class PasswordSchema(_Loose):
    """A new password."""

    password = fields.String(required=True)


class ServiceKeySchema(_Loose):
    """A service key: its description, or the key itself."""

    key = fields.String(load_default="")
    description = fields.String(load_default="")


class WebhookSchema(_Loose):
    """The image of a webhook key."""

    image = fields.String(required=True)


def add_routes(blueprint: Blueprint) -> None:
    """Mount the routes."""
    add = blueprint.add_url_rule
    add("/auth/login", view_func=login, methods=["POST"])
    add("/account/changepassword", view_func=change_password, methods=["POST"])
    add("/api/accounts", view_func=accounts, methods=["GET"])
    add("/api/accounts", view_func=add_account, methods=["POST"])
    add("/api/accounts", view_func=remove_account, methods=["DELETE"])
    add("/api/roles", view_func=roles, methods=["GET"])
    add("/api/roles", view_func=add_role, methods=["POST"])
    add("/api/roles", view_func=remove_role, methods=["DELETE"])
    add("/api/roles/<name>", view_func=role, methods=["GET"])
    add("/api/servicekeys", view_func=service_keys, methods=["GET"])
    add("/api/servicekeys", view_func=add_service_key, methods=["POST"])
    add("/api/servicekeys", view_func=remove_service_key, methods=["DELETE"])
    add("/api/webhookkeys", view_func=webhook_keys, methods=["GET"])
    add("/api/webhookkeys", view_func=add_webhook_key, methods=["POST"])
    add("/api/webhookkeys/<key>", view_func=webhook_key, methods=["GET"])
    for path in ("/api/webhookkeys/<key>", "/api/webhooks/<key>"):  # the second is what the document says
        add(path, f"remove_{path}".replace("/", "_"), remove_webhook_key, methods=["DELETE"])


def login() -> Response:
    """Sign in: a token for this user agent."""
    data = load(CredentialsSchema(), json_object())
    agent = request.headers.get("User-Agent", "")
    try:
        who = cloud().accounts.login(data["username"], data["password"], address())
    except Unauthorized as error:
        return text(str(error), 403)  # as the original
    return jsonify({"auth_token": cloud().keys.new_token(who.account, "login", agent), "user_agent": agent})


def change_password() -> Response:
    """Give the caller a new password."""
    cloud().accounts.change_password(identity(), load(PasswordSchema(), json_object())["password"])
    return text("", 200)


def accounts() -> Response:
    """List accounts; the password is always empty."""
    return jsonify([_account(one) for one in cloud().accounts.accounts()])


def add_account() -> Response:
    """Make an account, or give one a new password."""
    data = load(AccountSchema(), json_object())
    cloud().accounts.save(data["username"], data["password"], data["role"].get("name", ""))
    return nothing()


def remove_account() -> Response:
    """Remove an account."""
    try:
        cloud().accounts.remove(load(UsernameSchema(), json_object())["username"])
    except NotFound as error:
        return text(str(error), 500)  # as the original
    return nothing()


def roles() -> Response:
    """List roles."""
    return jsonify([_role(one) for one in cloud().accounts.roles()])


def role(name: str) -> Response:
    """Show a role."""
    try:
        return jsonify(_role(cloud().accounts.role(name)))
    except NotFound as error:
        return text(str(error), 500)  # clients look for status and text


def add_role() -> Response:
    """Make a role."""
    cloud().accounts.add_role(load(RoleSchema(), json_object())["name"])
    return nothing()


def remove_role() -> Response:
    """Remove a role by name or id."""
    data = load(RoleSchema(), json_object())
    if not data["name"] and not data["id"]:
        raise InvalidInput("the request names no role")
    cloud().accounts.remove_role(data["name"], data["id"])
    return nothing()


def service_keys() -> Response:
    """List service keys."""
    found = cloud().keys.service_keys()
    return jsonify([{"description": one.description, "key": one.key} for one in found])


def add_service_key() -> Response:
    """Make a service key."""
    made = cloud().keys.new_service_key(load(ServiceKeySchema(), json_object())["description"])
    return jsonify({"description": made.description, "key": made.key})


def remove_service_key() -> Response:
    """Revoke a service key."""
    try:
        cloud().keys.remove_service_key(load(ServiceKeySchema(), json_object())["key"])
    except NotFound as error:
        return text(str(error), 500)  # clients look for status and text
    return nothing()


def webhook_keys() -> Response:
    """List webhook keys."""
    return jsonify([_webhook(one) for one in cloud().keys.webhook_keys()])


def webhook_key(key: str) -> Response:
    """Show a webhook key."""
    return jsonify(_webhook(cloud().keys.webhook_key(key)))


def add_webhook_key() -> Response:
    """Make a webhook key."""
    made = cloud().keys.new_webhook_key(load(WebhookSchema(), json_object())["image"])
    return jsonify({"image": made.image, "key": made.key})


def remove_webhook_key(key: str) -> Response:
    """Remove a webhook key."""
    cloud().keys.remove_webhook_key(key)
    return nothing()


def _role(one: Role) -> dict[str, Any]:
    return {"name": one.name, "id": one.id}


def _account(one: Account) -> dict[str, Any]:
    return {"role": _role(one.role), "password": "", "username": one.username, "id": one.id}


def _webhook(one: WebhookKey) -> dict[str, Any]:
    return {"key": one.key, "image": one.image, "id": one.id}

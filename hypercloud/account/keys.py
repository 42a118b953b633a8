"""Tokens of logins, API keys, service keys and webhook keys."""

from __future__ import annotations

import secrets
import time
import uuid

from sqlalchemy import delete, select

from hypercloud.account import passwords
from hypercloud.account.model import ApiKey, Identity, ServiceKey, WebhookKey
from hypercloud.account.service import AccountService
from hypercloud.db.models import AccountRow, ServiceKeyRow, TokenRow, WebhookKeyRow
from hypercloud.db.session import Database
from hypercloud.errors import InvalidInput, NotFound, Unauthorized
from hypercloud.event.bus import Record
from hypercloud.event.journal import Journal

LONGEST = 255  # characters of a description, user agent or image


class KeyService:
    """Makes, lists and revokes keys.

    Args:
        database: where they are kept.
        accounts: whose keys they are.
        journal: is told of changes.

    """

    def __init__(self, database: Database, accounts: AccountService, journal: Journal) -> None:
        self._database = database
        self._accounts = accounts
        self._journal = journal

    # -- tokens ------------------------------------------------------------------------------------------------------

    def new_token(self, account: str, kind: str, name: str, namespace: str = "") -> str:
        """Make a token; it replaces the account's one of the same kind and name. Its secret is never shown again."""
        secret, now = passwords.new_secret(), time.time()
        name = name[:LONGEST]
        with self._database.session() as session:
            session.execute(
                delete(TokenRow).where(TokenRow.account_id == account, TokenRow.kind == kind, TokenRow.name == name)
            )
            session.add(
                TokenRow(
                    digest=passwords.digest_of(secret),
                    account_id=account,
                    kind=kind,
                    name=name,
                    created=now,
                    used=now,
                    id=str(uuid.uuid4()),
                    namespace=namespace,
                )
            )
        return secret

    def revoke_container(self, container: str) -> None:
        """End the token that a container got (role ``global``)."""
        with self._database.session() as session:
            session.execute(delete(TokenRow).where(TokenRow.kind == "container", TokenRow.name == container))
        self._accounts.forget_checked()

    def api_keys(self, identity: Identity) -> list[ApiKey]:
        """Return the caller's API keys, without their secrets."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(TokenRow)
                .where(TokenRow.account_id == identity.account, TokenRow.kind == "apikey")
                .order_by(TokenRow.created)
            ).all()
        return [ApiKey(id=row.id, description=row.name, created=row.created, used=row.used) for row in rows]

    def revoke_api_key(self, identity: Identity, key_id: str) -> None:
        """End one of the caller's API keys. Errors: NotFound."""
        with self._database.session() as session:
            row = session.scalar(
                select(TokenRow).where(
                    TokenRow.id == key_id, TokenRow.account_id == identity.account, TokenRow.kind == "apikey"
                )
            )
            if row is None:
                raise NotFound("the API key does not exist")
            session.delete(row)
        self._accounts.forget_checked()

    def account_id(self, username: str) -> str | None:
        """Return an account's id."""
        with self._database.reading() as session:
            return session.scalar(select(AccountRow.id).where(AccountRow.username == username))

    # -- Shipyard's service keys -------------------------------------------------------------------------------------

    def service_key(self, key: str) -> Identity:
        """Return the identity of a service key: an administrator. Errors: Unauthorized."""
        with self._database.reading() as session:
            row = session.get(ServiceKeyRow, key)
        if row is None:
            raise Unauthorized("unauthorized")
        return Identity(username="service-key", role="admin")

    def service_keys(self) -> list[ServiceKey]:
        """Return all service keys."""
        with self._database.reading() as session:
            rows = session.scalars(select(ServiceKeyRow).order_by(ServiceKeyRow.description, ServiceKeyRow.key)).all()
        return [ServiceKey(key=row.key, description=row.description) for row in rows]

    def new_service_key(self, description: str) -> ServiceKey:
        """Make a service key."""
        if len(description) > LONGEST:
            raise InvalidInput("the description is too long", details=f"at most {LONGEST} characters")
        key = passwords.new_secret()[:36]
        with self._database.session() as session:
            session.add(ServiceKeyRow(key=key, description=description))
        self._journal.add(
            Record(type="add-service-key", tags=("cluster", "security"), message=f"description={description}")
        )
        return ServiceKey(key=key, description=description)

    def remove_service_key(self, key: str) -> None:
        """Revoke a service key. Errors: NotFound."""
        with self._database.session() as session:
            row = session.get(ServiceKeyRow, key)
            if row is None:
                raise NotFound("service key does not exist")
            description = row.description
            session.delete(row)
        self._journal.add(
            Record(type="remove-service-key", tags=("cluster", "security"), message=f"description={description}")
        )

    # -- Shipyard's webhook keys -------------------------------------------------------------------------------------

    def webhook_keys(self) -> list[WebhookKey]:
        """Return all webhook keys by image."""
        with self._database.reading() as session:
            rows = session.scalars(select(WebhookKeyRow).order_by(WebhookKeyRow.image, WebhookKeyRow.key)).all()
        return [WebhookKey(id=row.id, key=row.key, image=row.image) for row in rows]

    def webhook_key(self, key: str) -> WebhookKey:
        """Return a webhook key. Errors: NotFound."""
        with self._database.reading() as session:
            row = session.scalar(select(WebhookKeyRow).where(WebhookKeyRow.key == key))
        if row is None:
            raise NotFound("webhook key does not exist")
        return WebhookKey(id=row.id, key=row.key, image=row.image)

    def new_webhook_key(self, image: str) -> WebhookKey:
        """Make a webhook key for an image. Errors: InvalidInput."""
        if not image or len(image) > LONGEST:
            raise InvalidInput("the webhook needs the name of an image")
        made = WebhookKey(id=str(uuid.uuid4()), key=secrets.token_hex(8), image=image)
        with self._database.session() as session:
            session.add(WebhookKeyRow(id=made.id, key=made.key, image=image))
        self._journal.add(Record(type="add-webhook-key", tags=("docker", "webhook"), message=f"image={image}"))
        return made

    def remove_webhook_key(self, key: str) -> None:
        """Remove a webhook key. Errors: NotFound."""
        with self._database.session() as session:
            row = session.scalar(select(WebhookKeyRow).where(WebhookKeyRow.key == key))
            if row is None:
                raise NotFound("webhook key does not exist")
            image = row.image
            session.delete(row)
        self._journal.add(Record(type="delete-webhook-key", tags=("docker", "webhook"), message=f"image={image}"))

"""Accounts and roles, and who a request is from."""

from __future__ import annotations

import re
import secrets
import threading
import time
import uuid

from sqlalchemy import delete, select, update

from hypercloud.account import passwords
from hypercloud.account.model import ADMIN, USER, Account, Identity, Role
from hypercloud.account.throttle import Throttle
from hypercloud.config.model import Config
from hypercloud.db.models import AccountRow, RoleRow, ServiceRow, SettingRow, TokenRow
from hypercloud.db.session import Database
from hypercloud.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthorized
from hypercloud.event.bus import Record
from hypercloud.event.journal import Journal

CHECKED = 300.0  # seconds that a password once found right need not be hashed again
USED_EVERY = 60.0  # seconds between notes of a token's use
_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_RESERVED = {"service", "container", "stack", "node", "nodecluster", "registry", "repository", "action", "events"}


class AccountService:
    """Who exists and who is who.

    Args:
        database: where they are kept.
        config: organisations and login limits.
        journal: is told of changes.

    """

    def __init__(self, database: Database, config: Config, journal: Journal) -> None:
        self._database = database
        self._config = config
        self._journal = journal
        self._throttle = Throttle(config.login)
        self._lock = threading.Lock()
        self._checked: dict[tuple[str, str], tuple[float, Identity]] = {}

    # -- the first start ---------------------------------------------------------------------------------------------

    def bootstrap(self) -> str | None:
        """Make the roles and, when there is no account at all, the administrator; return its password then."""
        password = secrets.token_urlsafe(12)
        with self._database.session() as session:
            names = set(session.scalars(select(RoleRow.name)))
            for name in {ADMIN, USER} - names if not names else ():
                session.add(RoleRow(id=str(uuid.uuid4()), name=name))
            if session.scalar(select(AccountRow.id).limit(1)) is not None:
                return None
            session.add(
                AccountRow(
                    id=str(uuid.uuid4()), username=ADMIN, password_hash=passwords.hash_password(password), role=ADMIN
                )
            )
        return password

    def session_secret(self) -> str:
        """Return the secret that signs the page's sessions; made at the first start."""
        with self._database.session() as session:
            row = session.get(SettingRow, "session_secret")
            if row is None:
                row = SettingRow(name="session_secret", value=secrets.token_hex(32))
                session.add(row)
            return row.value

    # -- accounts ----------------------------------------------------------------------------------------------------

    def accounts(self) -> list[Account]:
        """Return all accounts by name."""
        with self._database.reading() as session:
            roles = {row.name: row.id for row in session.scalars(select(RoleRow))}
            rows = session.scalars(select(AccountRow).order_by(AccountRow.username)).all()
        return [
            Account(id=row.id, username=row.username, role=Role(id=roles.get(row.role, ""), name=row.role))
            for row in rows
        ]

    def save(self, username: str, password: str, role: str) -> None:
        """Make an account; of one that exists only the password is changed (as the original did).

        Errors: InvalidInput, NotFound for the role, Conflict for a name that an organisation has.
        """
        if not _USERNAME.fullmatch(username) or username.lower() in _RESERVED:
            raise InvalidInput(
                "the username is not allowed", details=repr(username[:80]), resolution="letters, digits, '_', '.', '-'"
            )
        if username in self._config.organisations:
            raise Conflict("an organisation has this name", details=username)
        hashed = passwords.hash_password(_checked_password(password))
        with self._database.session() as session:
            row = session.scalar(select(AccountRow).where(AccountRow.username == username))
            if row is not None:
                row.password_hash = hashed
                session.execute(delete(TokenRow).where(TokenRow.account_id == row.id, TokenRow.kind == "login"))
            else:
                if session.scalar(select(RoleRow.id).where(RoleRow.name == role)) is None:
                    raise NotFound("role does not exist", details=role[:80])
                session.add(AccountRow(id=str(uuid.uuid4()), username=username, password_hash=hashed, role=role))
        self._forget()
        self._journal.add(Record(type="add-account", tags=("cluster", "security"), message=f"username={username}"))

    def remove(self, username: str) -> None:
        """Remove an account and its tokens.

        Errors: NotFound; Conflict for the last administrator, and while the account has services.
        """
        with self._database.session() as session:
            row = session.scalar(select(AccountRow).where(AccountRow.username == username))
            if row is None:
                raise NotFound("account does not exist", details=username[:80])
            admins = session.scalars(select(AccountRow.id).where(AccountRow.role == ADMIN)).all()
            if row.role == ADMIN and len(admins) == 1:
                raise Conflict("the last administrator cannot be removed", resolution="make another one first")
            alive = select(ServiceRow.uuid).where(ServiceRow.namespace == username, ServiceRow.state != "Terminated")
            if session.scalar(alive.limit(1)) is not None:
                raise Conflict("the account has services", details=username, resolution="terminate them first")
            session.delete(row)
        self._forget()
        self._journal.add(Record(type="delete-account", tags=("cluster", "security"), message=f"username={username}"))

    def change_password(self, identity: Identity, password: str) -> None:
        """Give the caller a new password; all tokens of logins end. Errors: InvalidInput, Forbidden."""
        if not identity.account or identity.namespace:
            raise Forbidden("only an account has a password")
        hashed = passwords.hash_password(_checked_password(password))
        with self._database.session() as session:
            session.execute(update(AccountRow).where(AccountRow.id == identity.account).values(password_hash=hashed))
            session.execute(delete(TokenRow).where(TokenRow.account_id == identity.account, TokenRow.kind == "login"))
        self._forget()

    # -- roles -------------------------------------------------------------------------------------------------------

    def roles(self) -> list[Role]:
        """Return all roles by name."""
        with self._database.reading() as session:
            rows = session.scalars(select(RoleRow).order_by(RoleRow.name)).all()
        return [Role(id=row.id, name=row.name) for row in rows]

    def role(self, name: str) -> Role:
        """Return a role by name. Errors: NotFound."""
        for role in self.roles():
            if role.name == name:
                return role
        raise NotFound("role does not exist", details=name[:80])

    def add_role(self, name: str) -> None:
        """Make a role. Errors: InvalidInput, Conflict."""
        if not _USERNAME.fullmatch(name):
            raise InvalidInput("the role's name is not allowed", details=repr(name[:80]))
        with self._database.session() as session:
            if session.scalar(select(RoleRow.id).where(RoleRow.name == name)) is not None:
                raise Conflict("the role exists", details=name)
            session.add(RoleRow(id=str(uuid.uuid4()), name=name))
        self._journal.add(Record(type="add-role", tags=("cluster", "security"), message=f"name={name}"))

    def remove_role(self, name: str, role_id: str = "") -> None:
        """Remove a role by name or id; one that does not exist is no error.

        Errors: Conflict for ``admin`` and ``user``, which have their rights whether they are listed or not.
        """
        with self._database.session() as session:
            row = session.scalar(select(RoleRow).where((RoleRow.name == name) | (RoleRow.id == (role_id or name))))
            if row is None:
                return
            if row.name in {ADMIN, USER}:
                raise Conflict(f"the role {row.name} cannot be removed")
            name = row.name
            session.delete(row)
        self._forget()
        self._journal.add(Record(type="delete-role", tags=("cluster", "security"), message=f"name={name}"))

    # -- who is who --------------------------------------------------------------------------------------------------

    def login(self, username: str, password: str, address: str) -> Identity:
        """Check a password. Errors: Unauthorized; TooManyRequests after too many wrong ones."""
        self._throttle.check(username, address)
        with self._database.reading() as session:
            row = session.scalar(select(AccountRow).where(AccountRow.username == username[:100]))
        hashed = row.password_hash if row is not None else ""
        if not passwords.check_password(password[: passwords.LONGEST], hashed) or row is None:
            self._throttle.failed(username, address)
            raise Unauthorized("invalid username/password")
        self._throttle.succeeded(username, address)
        return Identity(username=row.username, role=row.role, account=row.id)

    def basic(self, username: str, secret: str, address: str) -> Identity:
        """Check an API key or a password. Errors: as login.

        Wrong passwords do not lock keys out: nobody guesses a key.
        """
        key = (username, passwords.digest_of(secret))
        found = self._checked.get(key)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        try:
            identity = self.token(username, secret, kinds=("apikey", "container"))
        except Unauthorized:
            identity = self.login(username, secret, address)
        with self._lock:
            if len(self._checked) > 10_000:
                self._checked.clear()
            self._checked[key] = (time.monotonic() + CHECKED, identity)
        return identity

    def token(self, username: str, secret: str, kinds: tuple[str, ...] = ("login",)) -> Identity:
        """Return whose token it is. Errors: Unauthorized."""
        now = time.time()
        digest = passwords.digest_of(secret)
        with self._database.reading() as session:
            row = session.get(TokenRow, digest)
            account = session.get(AccountRow, row.account_id) if row is not None else None
        if row is None or account is None or row.kind not in kinds or account.username != username:
            raise Unauthorized("unauthorized")
        if row.kind == "login" and now - row.used > self._config.login.token_days * 86_400:
            raise Unauthorized("the token has ended", resolution="sign in again")
        if now - row.used > USED_EVERY:
            with self._database.session() as session:
                session.execute(update(TokenRow).where(TokenRow.digest == digest).values(used=now))
        return Identity(username=account.username, role=account.role, account=account.id, namespace=row.namespace)

    def identity_of(self, account_id: str) -> Identity:
        """Return an account's identity as it is now. Errors: Unauthorized when it is gone."""
        with self._database.reading() as session:
            row = session.get(AccountRow, account_id)
        if row is None:
            raise Unauthorized("the account is gone")
        return Identity(username=row.username, role=row.role, account=row.id)

    def stamp(self, account_id: str) -> str:
        """Return something that changes with an account's password: sessions end with it."""
        with self._database.reading() as session:
            row = session.get(AccountRow, account_id)
        return passwords.digest_of(row.password_hash)[:16] if row is not None else ""

    def namespaces(self, identity: Identity) -> set[str]:
        """Return the namespaces that somebody may work in."""
        if identity.namespace:
            return {identity.namespace}
        organisations = self._config.organisations
        if not identity.is_admin:
            return {identity.username} | {name for name, people in organisations.items() if identity.username in people}
        with self._database.reading() as session:
            return {*session.scalars(select(AccountRow.username)), *organisations}

    def _forget(self) -> None:
        with self._lock:
            self._checked.clear()

    def forget_checked(self) -> None:
        """Check every password and key anew; something about them has changed."""
        self._forget()


def _checked_password(password: str) -> str:
    if not password or len(password) > passwords.LONGEST:
        raise InvalidInput("the password must have 1 to 1024 characters")
    return password

"""API keys: hashed, scoped to a project and a role, expiring. Owns their table.

A key reads `tm_<id>_<secret>`; the secret has 256 random bits, so that one SHA-256 of it is as hard to invert as a slow hash.
"""

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta

from sqlalchemy import Column, Connection, Table, insert, select, update

from tidemill.catalog.catalog import Catalog
from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, Moment, Text
from tidemill.core.errors import Invalid, NotFound, NotPermitted, TidemillError
from tidemill.core.ids import ActorId
from tidemill.core.values import Value, replace
from tidemill.govern.actors import EVERYWHERE, Actor, check_role, read_actor, write_actor, write_role
from tidemill.govern.roles import Role, weaker
from tidemill.govern.workspace import Workspace

API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("actor", Text, nullable=False, index=True),
    Column("project", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("revoked_at", Moment),
)


class ApiKey(Value, frozen=True, kw_only=True):
    """What is known of a key; never its secret."""

    id: str
    actor: ActorId
    project: str
    role: Role
    note: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class IssuedKey(Value, frozen=True, kw_only=True):
    """A new key, with the one and only showing of its token."""

    key: ApiKey
    token: str


class KeyIssued(EventBody, frozen=True, kw_only=True, tag="api_key.issued"):
    """A key was made for an actor."""

    key: str
    actor: ActorId
    scope: str
    role: Role
    expires_at: datetime


class KeyRevoked(EventBody, frozen=True, kw_only=True, tag="api_key.revoked"):
    """A key was taken back."""

    key: str


class NotAuthenticated(NotPermitted):
    """The caller did not show who it is."""


class KeyRefused(NotAuthenticated):
    """The key is not valid; the sentence does not say which part of it is wrong."""

    def __init__(self) -> None:
        super().__init__("the API key is not valid, has expired or was revoked; get a new one from an admin: tidemill access key NAME")


class KeyMissing(NotAuthenticated):
    """No key came with the call."""

    def __init__(self) -> None:
        super().__init__("this server wants an API key; send it as 'Authorization: Bearer tm_...' or set TIDEMILL_TOKEN")


def issue_key(
    ws: Workspace, actor: str, *, role: str = "viewer", project: str | None = None, lifetime: timedelta = timedelta(days=90), note: str = ""
) -> IssuedKey:
    """Make a key for an actor (added when new), no stronger than its maker. Raises NotPermitted, Invalid."""
    ws.require("govern.admin", actor)
    wanted = check_role(role)
    if lifetime <= timedelta(0):
        raise Invalid(f"a key must live longer than nothing, got {lifetime}")
    now, scope = ws.clock.now(), project or ws.project
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = ApiKey(
        id=key_id,
        actor=ActorId(actor),
        project=scope,
        role=weaker(wanted, ws.actor.role),
        note=note,
        created_at=now,
        expires_at=now + lifetime,
        revoked_at=None,
    )
    with ws.catalog.transaction() as tx:
        write_actor(tx, key.actor, name=actor, at=now)
        write_role(tx, key.actor, key.role, project=scope, at=now)
        fields = {name: getattr(key, name) for name in key.__struct_fields__}
        tx.execute(insert(API_KEYS).values(hash=hash_secret(secret), **fields))
        ws.record(
            tx,
            KeyIssued(key=key_id, actor=key.actor, scope=scope, role=key.role, expires_at=key.expires_at),
            subject=f"actor:{actor}",
            reason=note,
        )
    return IssuedKey(key=key, token=f"tm_{key_id}_{secret}")


def revoke_key(ws: Workspace, key_id: str, *, reason: str = "") -> ApiKey:
    """Take a key back at once. Raises NotFound, NotPermitted."""
    ws.require("govern.admin", key_id)
    with ws.catalog.transaction() as tx:
        key = _read(tx, key_id)
        if key.revoked_at is None:
            key = replace(key, revoked_at=ws.clock.now())
            tx.execute(update(API_KEYS).where(API_KEYS.c.id == key_id).values(revoked_at=key.revoked_at))
            ws.record(tx, KeyRevoked(key=key_id), subject=f"actor:{key.actor}", reason=reason)
    return key


def list_keys(ws: Workspace) -> list[ApiKey]:
    """Return all keys of the workspace, newest first. Admins only."""
    ws.require("govern.admin")
    with ws.catalog.reading() as tx:
        return [_key(row) for row in tx.execute(select(API_KEYS).order_by(API_KEYS.c.created_at.desc(), API_KEYS.c.id))]


def live_key_hashes(ws: Workspace) -> list[tuple[ApiKey, str]]:
    """Return the keys that are valid now with the hashes of their secrets: for the data plane, which has no catalog.

    A key counts with the weaker of its own role and the one that its actor has now, as in `authenticate`.
    """
    ws.require("govern.admin")
    valid = API_KEYS.c.revoked_at.is_(None) & (API_KEYS.c.expires_at > ws.clock.now())
    found = []
    with ws.catalog.reading() as tx:
        for row in tx.execute(select(API_KEYS).where(valid).order_by(API_KEYS.c.id)).all():
            key = _key(row)
            try:
                actor = read_actor(tx, key.actor, project=key.project)
            except NotFound:
                continue  # the actor has no role there any more
            found.append((replace(key, role=weaker(actor.role, key.role)), row.hash))
    return found


def authenticate(catalog: Catalog, token: str | None, *, project: str, at: datetime) -> Actor:
    """Return the actor that a token stands for, with the role it has in project. Raises KeyMissing, KeyRefused, NotPermitted."""
    if not token:
        raise KeyMissing
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    with catalog.reading() as tx:
        row = tx.execute(select(API_KEYS).where(API_KEYS.c.id == key_id)).one_or_none()
        known = row.hash if row is not None else hash_secret("")
        if not hmac.compare_digest(known, hash_secret(secret)) or row is None or prefix != "tm":
            raise KeyRefused
        if row.revoked_at is not None or row.expires_at <= at:
            raise KeyRefused
        if row.project not in (project, EVERYWHERE):
            raise NotPermitted(f"this API key is for project {row.project!r}, not for {project!r}; use that project or ask for another key")
        try:
            actor = read_actor(tx, ActorId(row.actor), project=row.project)
        except TidemillError as error:
            raise KeyRefused from error
    return replace(actor, role=weaker(actor.role, check_role(row.role)))


def hash_secret(secret: str) -> str:
    """Return what is stored in place of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(tx: Connection, key_id: str) -> ApiKey:
    row = tx.execute(select(API_KEYS).where(API_KEYS.c.id == key_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no API key {key_id!r}; list them with: tidemill access keys")
    return _key(row)


def _key(row: object) -> ApiKey:
    return ApiKey(**{name: getattr(row, name) for name in ApiKey.__struct_fields__})

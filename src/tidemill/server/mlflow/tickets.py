"""Tickets: what stands in an address that works without a key, for one thing and a limited time. Signed, so that nobody else makes one."""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from pathlib import Path

from tidemill.core.clock import wall
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.core.secret import read_secret
from tidemill.core.values import Value
from tidemill.server.mlflow.errors import TicketRefused
from tidemill.server.mlflow.exchange import Exchange

KEY_FILE = "tickets.key"
_SIGNATURE_BYTES = 32


class Ticket(Value, frozen=True, kw_only=True, array_like=True):
    """What may be done: to get or put a file, or to put a part of an upload. ends: real seconds since 1970."""

    act: str
    project: str
    actor: str
    subject: str
    ends: int


def issue(state: Path, ticket: Ticket) -> str:
    """Return a ticket as text for an address."""
    body = encode(ticket)
    return urlsafe_b64encode(_sign(state, body) + body).decode().rstrip("=")


def read(state: Path, text: str, *, act: str) -> Ticket:
    """Return the ticket behind a text. Raises TicketRefused for one that is forged, of another act, or over."""
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _sign(state, body)):
            raise TicketRefused
        ticket = decode(body, Ticket, what="a ticket")
    except (Error, Invalid, ValueError, UnicodeError):
        raise TicketRefused from None
    if ticket.act != act or ticket.ends < wall():
        raise TicketRefused
    return ticket


def address(exchange: Exchange, path: str) -> str:
    """Return the full address of a path on this server, as its caller reaches it."""
    host = exchange.header(b"host").decode("latin-1") or "localhost"
    return f"{exchange.scope.get('scheme', 'http')}://{host}{path}"


def _sign(state: Path, body: bytes) -> bytes:
    return hmac.new(read_secret(state / KEY_FILE), body, hashlib.sha256).digest()

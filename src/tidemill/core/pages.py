"""Pages: a part of a long answer, and the token that leads to the next: a place in the order, so a deep page costs no more."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from typing import Any, Generic, TypeVar

from tidemill.core.codec import decode, encode
from tidemill.core.digest import digest_value
from tidemill.core.errors import Invalid
from tidemill.core.values import Value

T = TypeVar("T")


class Page(Value, Generic[T], frozen=True, kw_only=True):
    """Some items in order. next: the token that the following page is asked for with, None behind the last one."""

    items: tuple[T, ...]
    next: str | None = None


class TokenRefused(Invalid):
    """A page token that this question never gave."""

    def __init__(self) -> None:
        super().__init__(
            "the page token is not one that this search gave; send the token of the page before, with the same filter, order and view, "
            "or none for the first page"
        )


def question(*asked: Any) -> str:
    """Return the name of a question: equal for equal arguments (plain JSON values), whatever the order of keys."""
    return digest_value(list(asked))[:16]


def token_after(scope: str, *position: Any) -> str:
    """Return the token for what comes behind a position (plain JSON values) in the answer to the question named scope."""
    return urlsafe_b64encode(encode([scope, *position])).decode()


def read_token(token: str, scope: str) -> list[Any]:
    """Return the position that a token names. Raises TokenRefused for one of another question."""
    try:
        found: list[Any] = decode(urlsafe_b64decode(token.encode()), list[Any], what="a page token")
    except (Error, Invalid, UnicodeError, ValueError):
        raise TokenRefused from None
    if not found or found[0] != scope:
        raise TokenRefused
    return found[1:]

"""Requests over the network: a pool of kept-alive connections with patient retries."""

import random
import time
from collections.abc import Mapping
from typing import BinaryIO

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, parse_url

from tidemill.client.transport import IDEMPOTENCY_HEADER, Response
from tidemill.core.errors import Invalid, Unavailable

REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
PASSING = frozenset({429, 502, 503, 504})
CONNECT_S = 5.0
READ_S = 120.0
LONGEST_PAUSE_S = 2.0
LONGEST_ASKED_S = 30.0  # of the pauses that a server asks for
CHUNK_BYTES = 1 << 20


class HttpTransport:
    """Carries requests to the server at a URL."""

    def __init__(self, url: str, *, token: str | None = None, attempts: int = 5, connections: int = 16, read_s: float = READ_S) -> None:
        """Connect lazily. attempts counts the first try too; read_s: seconds for an answer to come.

        Raises Invalid for a URL that is not http or https.
        """
        place = parse_url(url)
        if place.scheme not in ("http", "https") or not place.host:
            raise Invalid(f"server address {url!r} was not understood; expected a form like http://127.0.0.1:7700")
        pool = HTTPSConnectionPool if place.scheme == "https" else HTTPConnectionPool
        self.url = url.rstrip("/")
        self._prefix = (place.path or "").rstrip("/")
        self._pool = pool(place.host, place.port, maxsize=connections, timeout=Timeout(connect=CONNECT_S, read=read_s))
        self._headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._attempts = attempts

    def __repr__(self) -> str:
        return f"HttpTransport({self.url!r})"

    def request(
        self, method: str, path: str, *, body: bytes | BinaryIO | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request and return the answer. Raises Unavailable."""
        sent = {**self._headers, **(headers or {})}
        repeatable = (method in REPEATABLE or IDEMPOTENCY_HEADER in sent) and (body is None or isinstance(body, bytes))
        attempts = self._attempts if repeatable else 1
        for attempt in range(1, attempts + 1):
            asked = 0.0
            try:
                answer = self._pool.urlopen(method, self._prefix + path, body=body, headers=sent, retries=False, redirect=False)
            except HTTPError as error:
                if attempt == attempts:
                    raise Unavailable(
                        f"the server at {self.url} did not answer {method} {path} ({_reason(error)}); "
                        "see whether it runs with: tidemill status"
                    ) from error
            else:
                if answer.status not in PASSING or attempt == attempts:
                    return Response(
                        status=answer.status, headers={name.lower(): value for name, value in answer.headers.items()}, body=answer.data
                    )
                asked = asked_s(answer)
            time.sleep(asked + pause_s(attempt, random.random()))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def fetch(self, path: str, target: BinaryIO) -> Response:
        """Write what a GET answers into target, going on where a connection broke. Raises Unavailable."""
        begin, attempt = target.tell(), 0
        while True:
            attempt += 1
            before = target.tell()
            more = {"Range": f"bytes={before - begin}-"} if before > begin else {}
            try:
                return self._receive(path, target, begin, more)
            except HTTPError as error:
                attempt = 1 if target.tell() > before else attempt  # it moves on: patience begins anew
                if attempt >= self._attempts:
                    raise Unavailable(
                        f"the server at {self.url} broke off GET {path} after {target.tell() - begin:,} bytes ({_reason(error)}); try again"
                    ) from error
            time.sleep(pause_s(attempt, random.random()))

    def _receive(self, path: str, target: BinaryIO, begin: int, more: Mapping[str, str]) -> Response:
        sent = {**self._headers, **more}
        answer = self._pool.urlopen(
            "GET", self._prefix + path, headers=sent, retries=False, redirect=False, preload_content=False, enforce_content_length=True
        )
        headers = {name.lower(): value for name, value in answer.headers.items()}
        try:
            if answer.status in PASSING:
                answer.drain_conn()
                raise HTTPError(f"it answered {answer.status}")
            if answer.status >= 400:
                return Response(status=answer.status, headers=headers, body=answer.read())
            if answer.status == 200 and more:  # it does not know ranges: from the start
                target.seek(begin)
                target.truncate()
            target.writelines(answer.stream(CHUNK_BYTES))
            return Response(status=answer.status, headers=headers, body=b"")
        finally:
            answer.release_conn()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


def pause_s(attempt: int, chance: float) -> float:
    """Return how long to wait after a failed attempt: full jitter below a doubling ceiling, so that callers do not come back in step.

    attempt >= 1; 0 <= chance < 1. Source: Brooker, Exponential Backoff and Jitter (AWS Architecture Blog, 2015).
    """
    return chance * min(LONGEST_PAUSE_S, 0.05 * 2.0**attempt)


def asked_s(answer: BaseHTTPResponse) -> float:
    """Return the seconds for which a server asks to be left alone (Retry-After, seconds or a date): RFC 9110, section 10.2.3."""
    try:
        return min(LONGEST_ASKED_S, Retry().get_retry_after(answer) or 0.0)
    except HTTPError:  # neither
        return 0.0


def _reason(error: HTTPError) -> str:
    return str(error).rpartition(": ")[2].strip() or type(error).__name__

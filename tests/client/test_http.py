"""The network transport: keeps connections, is patient where that does no harm, and says what went wrong."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.client.http import LONGEST_PAUSE_S, HttpTransport, pause_s
from tidemill.client.transport import IDEMPOTENCY_HEADER
from tidemill.core.errors import Invalid, Unavailable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
CUT = b""


class Script:
    """A server on a real socket that gives one answer after the other; CUT closes the connection without one."""

    def __init__(self, listening: socket.socket, answers: list[bytes]) -> None:
        self.answers, self.connections, self.requests = list(answers), 0, []
        self.listening = listening
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def run(self) -> None:
        while self.answers:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                while self.answers and (request := read_request(connection)):
                    self.requests.append(request)
                    answer = self.answers.pop(0)
                    if not answer:
                        break
                    connection.sendall(answer)


def read_request(connection: socket.socket) -> bytes:
    """Return one whole request, empty when the caller hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def scripted(*answers: bytes) -> Iterator[Script]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        script = Script(listening, list(answers))
        thread = Thread(target=script.run, daemon=True)
        thread.start()
        yield script
        listening.shutdown(socket.SHUT_RDWR)


def test_one_connection_serves_many_requests() -> None:
    with scripted(OK, OK, OK) as script:
        transport = HttpTransport(script.url)
        assert [transport.request("GET", "/").body for _ in range(3)] == [b"ok"] * 3
        assert script.connections == 1
        transport.close()


def test_a_cut_connection_is_tried_again_when_that_does_no_harm() -> None:
    for method, headers in (("GET", {}), ("PUT", {}), ("POST", {IDEMPOTENCY_HEADER: "1"})):
        with scripted(CUT, BUSY, OK) as script:
            transport = HttpTransport(script.url)
            assert transport.request(method, "/", body=b"x", headers=headers).status == 200
            assert len(script.requests) == 3
            transport.close()


def test_a_post_that_might_count_twice_is_sent_once() -> None:
    with scripted(CUT, OK) as script:
        transport = HttpTransport(script.url)
        with pytest.raises(Unavailable, match="did not answer POST /x"):
            transport.request("POST", "/x", body=b"x")
        assert len(script.requests) == 1
        transport.close()


def test_an_answer_is_returned_when_patience_ends() -> None:
    with scripted(BUSY, BUSY) as script:
        transport = HttpTransport(script.url, attempts=2)
        assert transport.request("GET", "/").status == 503
        transport.close()


def test_nobody_there_is_one_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    transport = HttpTransport(url, attempts=1)
    with pytest.raises(Unavailable, match=f"the server at {url} did not answer GET / .*see whether it runs with: tidemill status"):
        transport.request("GET", "/")


def test_the_token_and_a_path_before_ours_are_sent() -> None:
    with scripted(OK) as script:
        transport = HttpTransport(script.url + "/team/", token="tm_a_b")
        transport.request("GET", "/livez")
        assert script.requests[0].startswith(b"GET /team/livez HTTP/1.1")
        assert b"Bearer tm_a_b" in script.requests[0]
        assert "tm_a_b" not in repr(transport)
        transport.close()


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ftp://x", "http://"])
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="was not understood"):
        HttpTransport(url)


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_pauses_are_bounded_and_spread(attempt: int, chance: float) -> None:
    assert 0 <= pause_s(attempt, chance) <= LONGEST_PAUSE_S
    assert pause_s(attempt, 0.5) <= pause_s(attempt + 1, 0.5)

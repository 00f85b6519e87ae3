"""HTTP as it is spoken on the wire: order, limits, and what is no request."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import uvloop

from tidemill.core.clock import wait_until
from tidemill.core.errors import TidemillError
from tidemill.serving.http import HttpServer, Limits, Reply, Request
from tidemill.serving.problems import problem_reply

LIMITS = Limits(body_bytes=1000, header_bytes=2000, arrive_s=0.3, idle_s=0.6, sweep_s=0.02)


class Running:
    """A server in a thread. It echoes bodies; /later answers when `release` is called, /slow-reader with a megabyte."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.waiting: list[Callable[[Reply | TidemillError | None], None]] = []
        self.after: list[bytes] = []
        self.seen: list[Request] = []
        self.http = HttpServer(self.handle, lambda path, error: problem_reply(error), LIMITS)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def handle(self, request: Request) -> Reply:
        self.seen.append(request)
        if request.path == b"/later":
            return Reply(200, request.body, wait_for=self.waiting.append, after=lambda: self.after.append(request.body))
        if request.path == b"/large":
            return Reply(200, b"x" * (1 << 20))
        return Reply(200, request.method + b" " + request.path + b" " + request.body)

    def release(self, number: int, instead: Reply | None = None) -> None:
        self.loop.call_soon_threadsafe(self.waiting[number], instead)

    def drain(self) -> None:
        self.loop.call_soon_threadsafe(self.http.drain)

    def talk(self, data: bytes, *, end: bool = False) -> bytes:
        """Send bytes and return all that comes back until the other side ends."""
        with socket.create_connection(self.address, timeout=5) as line:
            line.sendall(data)
            if end:
                line.shutdown(socket.SHUT_WR)
            return read_all(line)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join()
        self.loop.close()

    def _run(self) -> None:
        async def serve() -> None:
            self.stopping = asyncio.Event()
            server = await asyncio.get_running_loop().create_server(self.http.connect, sock=self.listener)
            await self.stopping.wait()
            server.close()
            self.http.close()
            await asyncio.sleep(0.01)

        self.loop.run_until_complete(serve())


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running()
    assert wait_until(lambda: hasattr(running, "stopping"), timeout_s=5)
    yield running
    running.stop()


def read_all(line: socket.socket) -> bytes:
    received = b""
    while data := line.recv(1 << 16):
        received += data
    return received


def bodies(data: bytes) -> list[bytes]:
    return [part.partition(b"\r\n\r\n")[2] for part in data.split(b"HTTP/1.1 ")[1:]]


def post(path: bytes, body: bytes, *more: bytes) -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"host: x", b"content-length: %d" % len(body), *more]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CLOSE = b"connection: close"


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(server: Running) -> None:
    data = server.talk(post(b"/a", b"1") + post(b"/b?x=y", b"2") + b"GET /c HTTP/1.1\r\n\r\n" + post(b"/d", b"", CLOSE))
    assert bodies(data) == [b"POST /a 1", b"POST /b 2", b"GET /c ", b"POST /d "]
    assert data.count(b"connection: close") == 1


def test_a_request_may_come_byte_by_byte(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(b"/a", b"body", CLOSE):
            line.sendall(bytes([byte]))
        assert bodies(read_all(line)) == [b"POST /a body"]


def test_a_body_may_come_in_chunks(server: Running) -> None:
    data = server.talk(
        b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-trailer: t\r\n\r\n"
    )
    assert bodies(data) == [b"POST /a abcde"]


def test_an_old_caller_is_answered_and_let_go(server: Running) -> None:
    assert bodies(server.talk(b"GET /a HTTP/1.0\r\n\r\n")) == [b"GET /a "]


def test_answers_that_wait_keep_their_place(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as line:
        line.sendall(post(b"/later", b"first") + post(b"/later", b"second") + post(b"/a", b"third", CLOSE))
        assert wait_until(lambda: len(server.waiting) == 2, timeout_s=5)
        server.release(1)
        server.release(0, Reply(503, b"instead"))
        assert bodies(read_all(line)) == [b"instead", b"second", b"POST /a third"]
    assert server.after == [b"second"]  # what was replaced was not answered


def test_an_answer_to_a_caller_that_left_harms_nobody(server: Running) -> None:
    with socket.create_connection(server.address) as line:
        line.sendall(post(b"/later", b"x"))
        assert wait_until(lambda: len(server.waiting) == 1, timeout_s=5)
    server.release(0)
    assert wait_until(lambda: not server.http.connections, timeout_s=5)
    assert bodies(server.talk(post(b"/a", b"", CLOSE))) == [b"POST /a "]


def test_a_caller_that_ends_its_side_still_gets_its_answers(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as line:
        line.sendall(post(b"/later", b"x"))
        line.shutdown(socket.SHUT_WR)
        assert wait_until(lambda: len(server.waiting) == 1, timeout_s=5)
        server.release(0)
        assert bodies(read_all(line)) == [b"x"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"this is not HTTP\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),  # TLS to a plain port
        (b"POST /a HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST /a HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", b"400"),
        (b"POST /a HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET /a HTTP/1.1\r\nname\x00: value\r\n\r\n", b"400"),
        (b"POST /a HTTP/1.1\r\ncontent-length: 1001\r\n\r\n", b"413"),
        (b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n500\r\n" + b"x" * 0x500 + b"\r\n", b"413"),
        (b"GET /a HTTP/1.1\r\nx: " + b"y" * 3000, b"431"),
        (b"GET /" + b"y" * 3000, b"431"),
        (b"GET /a HTTP/1.1\r\n" + b"x: y\r\n" * 500, b"431"),
    ],
)
def test_what_is_no_request_is_refused_once_as_a_problem(server: Running, data: bytes, status: bytes) -> None:
    answer = server.talk(data, end=True)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"content-type: application/problem+json" in answer
    assert b"connection: close" in answer
    assert not server.seen
    assert bodies(server.talk(post(b"/a", b"", CLOSE))) == [b"POST /a "]


def test_a_caller_still_sending_a_body_that_is_too_large_sees_the_refusal(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as line:
        line.sendall(b"POST /a HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n")
        for _ in range(100):
            line.sendall(b"x" * 10_000)
        assert read_all(line).startswith(b"HTTP/1.1 413")


def test_a_caller_may_ask_before_it_sends_a_body(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as line:
        line.sendall(b"POST /a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n")
        assert line.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(b"body")
        assert bodies(read_all(line)) == [b"POST /a body"]
        assert server.talk(b"POST /a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4000\r\n\r\n", end=True).startswith(
            b"HTTP/1.1 413"
        )


@pytest.mark.slow
def test_a_request_that_drips_in_is_ended(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as line:
        line.sendall(b"POST /a HTTP/1.1\r\ncontent-length: 4\r\n\r\nbo")
        assert read_all(line).startswith(b"HTTP/1.1 408")
    with socket.create_connection(server.address, timeout=5) as line:
        line.sendall(b"GET /a HT")
        assert read_all(line).startswith(b"HTTP/1.1 408")


@pytest.mark.slow
def test_an_idle_connection_is_closed(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as line:
        assert line.recv(1) == b""


def test_a_caller_that_does_not_read_is_not_read_from(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as line:
        line.sendall(b"GET /large HTTP/1.1\r\n\r\n" * 40)
        wait_until(lambda: False, timeout_s=0.1)
        assert len(server.seen) < 40 or server.http.connections
        line.sendall(b"GET /large HTTP/1.1\r\nconnection: close\r\n\r\n")
        received = 0
        while data := line.recv(1 << 20):
            received += len(data)
        assert received > 41 << 20
    assert len(server.seen) == 41


def test_draining_ends_the_idle_and_lets_the_others_finish(server: Running) -> None:
    with socket.create_connection(server.address, timeout=5) as idle, socket.create_connection(server.address, timeout=5) as busy:
        busy.sendall(post(b"/later", b"x"))
        assert wait_until(lambda: len(server.waiting) == 1 and len(server.http.connections) == 2, timeout_s=5)
        server.drain()
        assert idle.recv(1) == b""
        server.release(0)
        assert bodies(read_all(busy)) == [b"x"]


def test_another_protocol_on_offer_is_passed_over(server: Running) -> None:
    data = server.talk(b"GET /a HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
    assert bodies(data) == [b"GET /a "]

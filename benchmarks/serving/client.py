"""A closed-loop client that costs little: raw sockets, one thread, each connection asks again once it is answered."""

import selectors
import socket
from time import perf_counter

from benchmarks.measure import percentile


class Asker:
    """One kept connection and what it waits for."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request, self.got, self.due, self.since = request, b"", -1, 0.0

    def ask(self) -> None:
        """Send the request."""
        self.got, self.due = b"", -1
        self.since = perf_counter()
        self.socket.sendall(self.request)

    def answered(self) -> bool:
        """Read what has come; return whether the answer is whole. Raises RuntimeError for one that is not 200."""
        self.got += self.socket.recv(1 << 18)
        if self.due < 0:
            head = self.got.find(b"\r\n\r\n")
            if head < 0:
                return False
            if not self.got.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the server answered {self.got[:300]!r}")
            lower = self.got[:head].lower()
            start = lower.index(b"content-length:") + 15
            end = lower.find(b"\r\n", start)
            self.due = head + 4 + int(lower[start : end if end > 0 else head])
        return len(self.got) >= self.due


def request(path: str, body: bytes) -> bytes:
    """Return a POST as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def drive(port: int, asked: bytes, *, connections: int, for_s: float) -> tuple[float, float, float]:
    """Ask over and over; return requests a second, and the median and 99th percentile of milliseconds."""
    selector = selectors.DefaultSelector()
    askers = [Asker(port, asked) for _ in range(connections)]
    taken: list[float] = []
    for asker in askers:
        selector.register(asker.socket, selectors.EVENT_READ, asker)
        asker.ask()
    began = now = perf_counter()
    while now - began < for_s:
        for key, _ in selector.select():
            asker = key.data
            if asker.answered():
                now = perf_counter()
                taken.append(now - asker.since)
                asker.ask()
    for asker in askers:
        asker.socket.close()
    selector.close()
    return len(taken) / (now - began), percentile(taken, 0.5) * 1e3, percentile(taken, 0.99) * 1e3


def once(port: int, asked: bytes) -> bytes:
    """Ask once; return the answer's body."""
    asker = Asker(port, asked)
    asker.ask()
    while not asker.answered():
        pass
    asker.socket.close()
    return asker.got.partition(b"\r\n\r\n")[2]

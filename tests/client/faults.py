"""A TCP proxy that fails when told to: it cuts a connection in the middle of a request, or swallows an answer that was given."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 1 << 16


class Proxy:
    """Passes bytes between callers and a port on loopback.

    `cut_requests`: after how many bytes of a request's way each of the following connections is cut, one entry a cut.
    `cut_answers`: the same for answers.
    `swallow_answers`: how many answers are cut off after the server has given them.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.cut_requests: list[int] = []
        self.cut_answers: list[int] = []
        self.swallow_answers = 0
        self.cuts = 0
        self.passed_up = self.passed_down = 0
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for pair in self._pairs:
            hang_up(*pair)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            self._pairs.append((caller, server))
            for source, target, look in ((caller, server, self._up), (server, caller, self._down)):
                threading.Thread(target=self._pump, args=(source, target, look), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, look: Callable[[bytes], bytes | None]) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                passed = look(data)
                if passed is None:
                    break
                target.sendall(passed)
        hang_up(source, target)

    def _up(self, data: bytes) -> bytes | None:
        with self._lock:
            if self._cut(self.cut_requests, data):
                return None
            self.passed_up += len(data)
        return data

    def _down(self, data: bytes) -> bytes | None:
        with self._lock:
            if self.swallow_answers:
                self.swallow_answers -= 1
                self.cuts += 1
                return None
            if self._cut(self.cut_answers, data):
                return None
            self.passed_down += len(data)
        return data

    def _cut(self, cuts: list[int], data: bytes) -> bool:
        if not cuts:
            return False
        cuts[0] -= len(data)
        if cuts[0] > 0:
            return False
        cuts.pop(0)
        self.cuts += 1
        return True


def hang_up(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()

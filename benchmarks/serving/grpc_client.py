"""A closed-loop gRPC client that costs little: `python grpc_client.py HOST:PORT [MODEL] [ROWS] [CONNECTIONS] [SECONDS]`.

HTTP/2 by hand over raw sockets, one thread, one call at a time on each connection: grpc's own client, asyncio or not, takes longer
for a call than the servers that are to be measured. It reads frames, not messages: an answer counts when its message and its trailers
have come, and a call without a message, which is how gRPC says no, ends the measurement.
"""

import selectors
import socket
import struct
import sys
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.measure import percentile
from benchmarks.serving.trees import COLUMNS, rows

from tidemill.serving.grpc.wire import INFERENCE, MESSAGES

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Return a header that no table keeps (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


def call_of(method: str, message: bytes) -> tuple[bytes, bytes]:
    """Return headers and body of a call."""
    told = {
        ":method": "POST", ":scheme": "http", ":path": f"/{INFERENCE}/{method}", ":authority": "bench", "te": "trailers",
        "content-type": "application/grpc",
    }  # fmt: skip
    return b"".join(literal(*each) for each in told.items()), struct.pack(">BI", 0, len(message)) + message


def infer(model: str, count: int) -> bytes:
    """Return a request of so many rows of 30 numbers, raw."""
    tensor = MESSAGES["InferInputTensor"](name="x", datatype="FP32", shape=[count, len(COLUMNS)])
    made: bytes = MESSAGES["ModelInferRequest"](
        model_name=model, inputs=[tensor], raw_input_contents=[rows(count).tobytes()]
    ).SerializeToString()
    return made


class Asker:
    """One connection and the call that it waits for."""

    def __init__(self, address: tuple[str, int], headers: bytes, body: bytes) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.headers, self.body, self.stream = headers, body, -1
        self.got, self.message, self.since, self.owed = b"", b"", 0.0, 0
        # No table for the headers of answers, and windows that hold millions of them.
        settings = struct.pack(">HIHI", 0x1, 0, 0x4, 2**31 - 1)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1 - 65535)))

    def ask(self) -> None:
        """Make the next call."""
        self.stream += 2
        self.message = b""
        self.since = perf_counter()
        head = frame(HEADERS, END_HEADERS, self.stream, self.headers)
        # Frames of more than 16 KiB are not taken unless agreed upon.
        parts = [self.body[start : start + 16384] for start in range(0, len(self.body), 16384)]
        last = len(parts) - 1
        self.socket.sendall(head + b"".join(frame(DATA, END_STREAM * (at == last), self.stream, part) for at, part in enumerate(parts)))

    def answered(self) -> bool:
        """Read what has come; return whether the call is over. Raises RuntimeError for one that was refused."""
        self.got += self.socket.recv(1 << 16)
        place, over, size = 0, False, len(self.got)
        while size - place >= 9:
            length, kind, flags = int.from_bytes(self.got[place : place + 3], "big"), self.got[place + 3], self.got[place + 4]
            start = place + 9
            if size - start < length:
                break
            place = start + length
            if kind == DATA:
                self.message += self.got[start:place]
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, ACK, 0, self.got[start:place]))
            elif kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
            elif kind in (GOAWAY, RESET):
                raise RuntimeError(f"the server ended it: {self.got[start:place]!r}")
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                if not self.message:
                    raise RuntimeError(f"the server refused: {self.got[start:place]!r}")
                over = True
        self.got = self.got[place:]
        return over


def drive(address: tuple[str, int], headers: bytes, body: bytes, *, connections: int, for_s: float) -> tuple[float, float, float]:
    """Call over and over; return requests a second, and the median and 99th percentile of milliseconds."""
    selector = selectors.DefaultSelector()
    askers = [Asker(address, headers, body) for _ in range(connections)]
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


def once(address: tuple[str, int], headers: bytes, body: bytes) -> list[float]:
    """Call once; return the scores."""
    asker = Asker(address, headers, body)
    asker.ask()
    while not asker.answered():
        pass
    asker.socket.close()
    raw = MESSAGES["ModelInferResponse"].FromString(asker.message[5:]).raw_output_contents[0]
    found: list[float] = memoryview(raw).cast("d").tolist()
    return found


def main(target: str, model: str = "trees", count: str = "1", connections: str = "16", for_s: str = "3") -> None:
    """Drive a server and print."""
    host, _, port = target.rpartition(":")
    headers, body = call_of("ModelInfer", infer(model, int(count)))
    drive((host, int(port)), headers, body, connections=int(connections), for_s=0.5)  # warm
    rate, p50, p99 = drive((host, int(port)), headers, body, connections=int(connections), for_s=float(for_s))
    print(f"{rate:,.0f} requests/s, p50 {p50:.3f} ms, p99 {p99:.3f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The floor under every Python server: `python bare.py MODEL.onnx PORT` answers Open Inference, JSON or binary, and does nothing else.

asyncio.Protocol on uvloop, httptools, msgspec, NumPy and ONNX Runtime; no check of rows, no routing, no journal, no metrics.
"""

import asyncio
import sys
from typing import Any

import httptools
import msgspec
import numpy as np
import onnxruntime
import uvloop


class Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Shape(msgspec.Struct):
    name: str
    shape: list[int]


class Head(msgspec.Struct):
    inputs: list[Shape]


class Inference(msgspec.Struct):
    inputs: list[Tensor]


DECODER, HEADS, ENCODER = msgspec.json.Decoder(Inference), msgspec.json.Decoder(Head), msgspec.json.Encoder()


class Bare(asyncio.Protocol):
    """One connection; requests of one packet or many, one at a time."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"inference-header-content-length":
            self.head_bytes = int(value)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        head = self.head_bytes
        if not body:
            answer = b"{}"
        elif head:
            (scores,) = self.session.run(
                None, {"x": np.frombuffer(body, "<f4", offset=head).reshape(HEADS.decode(body[:head]).inputs[0].shape)}
            )
            raw = scores.astype("<f8").tobytes()
            output = {"name": "score", "shape": [len(scores)], "datatype": "FP64", "parameters": {"binary_data_size": len(raw)}}
            told = ENCODER.encode({"model_name": "trees", "outputs": [output]})
            self.head_bytes = 0
            line = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ninference-header-content-length: %d\r\n" % len(told)
            self.transport.write(line + b"content-length: %d\r\n\r\n%b%b" % (len(told) + len(raw), told, raw))
            return
        else:
            tensor = DECODER.decode(body).inputs[0]
            (scores,) = self.session.run(None, {"x": np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)})
            output = {"name": "score", "shape": [len(scores)], "datatype": "FP32", "data": scores.ravel().tolist()}
            answer = ENCODER.encode({"model_name": "trees", "outputs": [output]})
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))


async def main(model: str, port: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    server = await asyncio.get_running_loop().create_server(lambda: Bare(session), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))

"""Workers that speak gRPC, each test with its own: keys, deadlines, callers that leave, drains, swaps, a shared port, a full disk."""

import hashlib
import json
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests.serving.grpc.lines import line, rows
from tests.serving.plant import NOW, Plant, row
from tidemill.core.clock import elapsed, wait_until
from tidemill.core.digest import digest_bytes
from tidemill.core.values import replace
from tidemill.serving.config import KeyHash, VariantConfig, read_states
from tidemill.serving.grpc.wire import INFERENCE, MESSAGES, NOT_SERVING, SERVING, plain_parameters
from tidemill.serving.history import read_predictions
from tidemill.serving.journal import predictions_folder, segments

pytestmark = pytest.mark.slow


def test_keys_are_asked_of_all_but_probes(make_plant) -> None:
    def key(name: str, **fields) -> KeyHash:
        secret = hashlib.sha256(f"secret of {name}".encode()).hexdigest()
        return KeyHash(
            **{"id": name, "sha256": secret, "project": "*", "writes": False, "expires_at": NOW + timedelta(days=10**4), **fields}
        )

    plant = make_plant(grpc_port=0)
    plant.publish(plant.endpoint(), keys=(key("viewer"), key("lab", project="lab"), key("old", expires_at=NOW)))
    message = rows([1.0], [1])
    with plant.worker(), line(plant) as asked:
        assert asked.call("ServerLive", MESSAGES["ServerLiveRequest"]()).live
        assert asked.call("ServerReady", MESSAGES["ServerReadyRequest"]()).ready
        assert asked.health() == SERVING
        for method, said in (("ModelInfer", message), ("ModelMetadata", b""), ("ModelReady", b""), ("ServerMetadata", b"")):
            with pytest.raises(grpc.RpcError, match="wants a valid API key") as caught:
                asked.call(method, said)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for name, code in (("old", "UNAUTHENTICATED"), ("lab", "PERMISSION_DENIED")):
            assert asked.refusal(message, metadata=(("authorization", f"Bearer tm_{name}_secret of {name}"),))[0].name == code
        assert asked.infer(message, metadata=(("authorization", "Bearer tm_viewer_secret of viewer"),)).model_name == "delay"


def test_a_call_whose_deadline_has_passed_is_not_predicted(make_plant) -> None:
    plant = make_plant(grpc_port=0)
    plant.publish(plant.endpoint())
    body = json.dumps({"rows": [row()] * 300_000}).encode()  # keeps the worker busy for a second
    with plant.worker() as caller, line(plant) as asked, socket.create_connection(("127.0.0.1", caller.port)) as busy:
        asked.infer(rows([1.0], [1]))
        busy.sendall(b"POST /predict/delay HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        code, told = asked.refusal(rows([1.0], [1], parameters={"prediction_ids": '["late"]'}), timeout=0.1)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED, told
        assert busy.recv(12) == b"HTTP/1.1 200"
        assert asked.infer(rows([1.0], [1])).model_name == "delay"
    assert "late" not in read_predictions(plant.state, "delay")["id"].to_pylist()


def test_callers_that_leave_harm_nobody(make_plant) -> None:
    plant = make_plant(grpc_port=0, journal_sync="disk")
    plant.publish(plant.endpoint())
    with plant.worker() as caller, line(plant) as asked:
        stub = asked.channel.unary_unary(f"/{INFERENCE}/ModelInfer", request_serializer=lambda message: message.SerializeToString())
        left = 0
        for number in range(200):
            call = stub.future(rows([1.0], [number % 90]), timeout=20)
            left += call.cancel()  # unless it was answered before
        assert left > 100
        for _ in range(20):
            gate = threading.Event()

            def one_and_wait(gate: threading.Event = gate) -> Iterator:
                yield rows([1.0], [1])
                gate.wait(20)

            stream = asked.stream(one_and_wait())
            assert next(stream).infer_response.model_name == "delay"
            stream.cancel()
            gate.set()
            watched = asked.watch()
            assert next(watched) == SERVING
            watched.close()
        ids = json.loads(plain_parameters(asked.infer(rows([1.0], [1])).parameters)["prediction_ids"])
        assert caller.predict(row())["version"] == 1
        assert caller.terminate() == 0
        assert not [text for text in caller.log.read_text().splitlines() if "Traceback" in text or "never retrieved" in text]
    assert set(ids) <= set(read_predictions(plant.state, "delay")["id"].to_pylist())


def test_shadows_see_what_was_answered(make_plant) -> None:
    plant = make_plant(grpc_port=0)
    shadow = plant.variant("shadow", version=2, offset=0.5)
    plant.publish(plant.endpoint(plant.variant(), shadow, shares={"champion": 1.0}, shadows=("shadow",)))
    with plant.worker(), line(plant) as asked:
        asked.infer(rows([1.0], [1]))
        list(asked.stream([rows([2.0], [1])]))
        assert wait_until(lambda: sorted(read_predictions(plant.state, "delay")["version"].to_pylist()) == [1, 1, 2, 2], timeout_s=20)


def begins(plant: Plant, file: Path) -> VariantConfig:
    """Return a model that makes a file before it takes a second."""
    return plant.variant(body=f"open({str(file)!r}, 'w').close(); sleep(1.0); return columns['a'] * 0")


def test_termination_answers_what_was_begun_and_ends_streams(make_plant, tmp_path: Path) -> None:
    plant, began = make_plant(grpc_port=0), tmp_path / "began"
    plant.publish(plant.endpoint(begins(plant, began), name="slow"), plant.endpoint())
    with plant.worker() as caller, line(plant) as asked:
        began.unlink()  # of the warm-up
        watched = asked.watch()
        assert next(watched) == SERVING
        gate = threading.Event()

        def one_and_wait() -> Iterator:
            yield rows([1.0], [1])
            gate.wait(20)

        stream = asked.stream(one_and_wait())
        assert next(stream).infer_response.model_name == "delay"
        stub = asked.channel.unary_unary(
            f"/{INFERENCE}/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["ModelInferResponse"].FromString,
        )
        begun = stub.future(rows([1.0], [1], model="slow"), timeout=20)
        assert wait_until(began.exists, timeout_s=5)
        before = elapsed()
        caller.process.send_signal(signal.SIGTERM)
        assert begun.result().model_name == "slow"
        assert list(watched) == [NOT_SERVING]
        with pytest.raises(grpc.RpcError, match="this worker is being stopped") as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.set()
        assert caller.process.wait(10) == 0
        assert elapsed() - before < 8  # not the whole drain: nothing was left to wait for
        code, _ = asked.refusal(rows([1.0], [1]))
        assert code is grpc.StatusCode.UNAVAILABLE


def test_a_model_that_has_to_be_waited_for_delays_nobody_else(make_plant, tmp_path: Path) -> None:
    plant, began = make_plant(grpc_port=0, waiting_limit=1), tmp_path / "began"
    plant.publish(plant.endpoint(begins(plant, began), name="slow"), plant.endpoint())
    with plant.worker(), line(plant) as asked:
        began.unlink()
        stub = asked.channel.unary_unary(f"/{INFERENCE}/ModelInfer", request_serializer=lambda message: message.SerializeToString())
        first = stub.future(rows([1.0], [1], model="slow"), timeout=20)
        assert wait_until(began.exists, timeout_s=5)
        code, told = asked.refusal(rows([1.0], [1], model="slow"))
        assert (code, "is busy: 1 requests wait" in told) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        assert asked.infer(rows([1.0], [1])).model_name == "delay"
        assert not first.done()
        assert MESSAGES["ModelInferResponse"].FromString(first.result()).model_name == "slow"
    assert read_predictions(plant.state, "slow").num_rows == 1


def test_a_swap_under_load_fails_nobody(make_plant) -> None:
    plant = make_plant(grpc_port=0)
    variants = [plant.variant(version=version, offset=version / 100) for version in range(1, 5)]
    plant.publish(plant.endpoint(variants[0]))
    stop, acknowledged, failures = threading.Event(), [], []

    def hammer() -> None:
        with line(plant) as asked:
            while not stop.is_set():
                try:
                    answer = asked.infer(rows([1.0, 2.0], [1, 1]))
                    acknowledged.extend(json.loads(plain_parameters(answer.parameters)["prediction_ids"]))
                except grpc.RpcError as error:
                    failures.append(error)

    with plant.worker():
        threads = [threading.Thread(target=hammer) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(12):
            generation = plant.publish(plant.endpoint(variants[number % 4]))
            assert plant.wait(generation).generation == generation
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failures
    table = read_predictions(plant.state, "delay")
    assert set(table["id"].to_pylist()) == set(acknowledged)
    assert set(table["version"].to_pylist()) >= {1, 2, 3, 4}


@pytest.fixture
def held() -> Iterator[int]:
    """A port that is kept and shared, as the supervisor keeps it."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_two_workers_share_a_port(make_plant, held: int) -> None:
    plant = make_plant(grpc_port=held, serve_workers=2)
    generation = plant.publish(plant.endpoint())
    with plant.worker(index=0), plant.worker(index=1) as second:
        plant.wait(generation, index=1)
        assert [state.grpc_port for state in read_states(plant.state).values()] == [held, held]

        def both_told() -> bool:
            with line(plant) as asked:
                asked.infer(rows([1.0], [1]))
            text = second.get("/metrics").body.decode()
            return all(f'tidemill_requests_total{{code="OK",route="grpc",worker="{index}"}}' in text for index in (0, 1))

        assert wait_until(both_told, timeout_s=20)
        second.kill()
        with line(plant) as asked:  # new connections go to the one that lives
            assert asked.infer(rows([1.0], [1])).model_name == "delay"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limits of another process can be set on Linux only")
def test_a_disk_that_is_full_is_said_to_be(make_plant) -> None:
    plant = make_plant(grpc_port=0)
    plant.publish(plant.endpoint())
    with plant.worker() as caller, line(plant) as asked:
        asked.infer(rows([1.0], [1]))
        (segment,) = segments(predictions_folder(plant.state, "delay"))
        full = resource.prlimit(caller.process.pid, resource.RLIMIT_FSIZE, (segment.stat().st_size + 20, resource.RLIM_INFINITY))
        code, told = asked.refusal(rows([1.0], [1]))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "nothing was acknowledged, free some space and send it again" in told
        resource.prlimit(caller.process.pid, resource.RLIMIT_FSIZE, full)
        asked.infer(rows([1.0], [1]))
    assert read_predictions(plant.state, "delay").num_rows == 2


def test_a_worker_that_answers_for_nothing_says_so(make_plant) -> None:
    plant = make_plant(grpc_port=0)
    plant.publish(plant.endpoint(replace(plant.variant(), bundle=digest_bytes(b"never stored"))))
    with plant.worker(ready=False), line(plant) as asked:
        assert not asked.call("ServerReady", MESSAGES["ServerReadyRequest"]()).ready
        assert asked.health() == NOT_SERVING
        code, told = asked.refusal(rows([1.0], [1]))
        assert (code, "model example@1 cannot be loaded" in told) == (grpc.StatusCode.UNAVAILABLE, True)

"""Real worker processes over sockets: what they answer, keep, refuse, and survive."""

import hashlib
import http.client
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from tests.serving.plant import NOW, Caller, Plant, landed_view, now_s, onnx_spec, python_spec, row
from tidemill.core.clock import SimulatedClock, wait_until
from tidemill.core.digest import digest_bytes
from tidemill.core.signature import Column
from tidemill.core.values import replace
from tidemill.features.online import ReadPlan
from tidemill.serving.config import KeyHash, config_path, read_states
from tidemill.serving.history import count_failures, find_prediction, inputs, read_labels, read_predictions
from tidemill.serving.journal import predictions_folder, segments
from tidemill.store.table import open_online

pytestmark = pytest.mark.slow


def test_a_row_is_answered_and_journaled(plant: Plant) -> None:
    plant.publish(plant.endpoint(plant.variant(version=7)))
    with plant.worker() as caller:
        answer = caller.predict(row(1.0, 1), row(9.0, 3), ids=["x", "y"], at="2013-06-01T12:00:00Z")
    assert (answer["model"], answer["version"], answer["variant"]) == ("example", 7, "champion")
    first, second = answer["predictions"]
    assert (first["id"], second["id"]) == ("x", "y")
    assert first["score"] == pytest.approx(0.11, abs=1e-6)
    assert (first["label"], second["label"]) == (False, True)
    table = read_predictions(plant.state, "delay")
    assert table["id"].to_pylist() == ["x", "y"]
    assert table["score"].to_pylist() == [first["score"], second["score"]]
    assert table["at"].to_pylist() == [NOW, NOW]
    assert inputs(table).to_pydict() == {"a": [1.0, 9.0], "b": [1, 3]}
    assert find_prediction(plant.state, "y", endpoints=["delay"]).version == 7


def test_ids_are_made_and_the_clock_is_the_workspaces(make_plant) -> None:
    plant = make_plant()
    plant.publish(plant.endpoint())
    with plant.worker() as caller:
        ids = {each["id"] for each in caller.predict(*[row()] * 5)["predictions"]}
    assert len(ids) == 5
    assert set(read_predictions(plant.state, "delay")["id"].to_pylist()) == ids


def test_a_request_that_is_sent_again_counts_once(plant: Plant) -> None:
    plant.publish(plant.endpoint())
    with plant.worker() as caller:
        first = caller.predict(row(), row(2.0), ids=["a", "b"])
        again = caller.predict(row(), row(2.0), ids=["a", "b"])
    assert [each["score"] for each in first["predictions"]] == [each["score"] for each in again["predictions"]]
    assert read_predictions(plant.state, "delay").num_rows == 2


def test_features_are_pushed_and_looked_up_by_key(plant: Plant) -> None:
    view = landed_view()
    columns = (Column(name="a", kind="double"), Column(name="flights_2h", kind="double"), Column(name="delay_2h", kind="double"))
    body = "import numpy as np; return columns['a'] + columns['flights_2h'] + np.nan_to_num(columns['delay_2h'], nan=-1.0)"
    plan = ReadPlan(project="default", services=("delay@1",), views=(view,), features=("flights_2h", "delay_2h"))
    plant.publish(plant.endpoint(plant.variant(spec=python_spec(inputs=columns), body=body), features=plan), views=(view,))
    moment = NOW - timedelta(minutes=30)
    events = [{"carrier": "UA", "flight": f"UA{number}", "landed_at": moment.isoformat(), "delay": number} for number in (10, 20)]
    with plant.worker() as caller:
        # Pushed twice: an event key counts once. The worker's clock is the real one, so `now` of the push is long after the events.
        assert caller.post("/push/flights", {"rows": events}).json() == {"views": {"landed@1": {"stored": 2, "skipped": 0}}}
        answer = caller.predict(*({"a": 1, "carrier": carrier} for carrier in ("UA", "DL", None)), at=NOW.isoformat())
        assert caller.post("/push/nothing", {"rows": events}).status == 404
        assert "have no column landed_at, flight, delay" in caller.post("/push/flights", {"rows": [{"carrier": "UA"}]}).json()["detail"]
    assert len(answer["predictions"]) == 3
    found = inputs(read_predictions(plant.state, "delay")).to_pydict()
    assert set(found) == {"a", "carrier", "flights_2h", "delay_2h"}


def test_a_push_feeds_every_view_over_the_source_or_none(make_plant, tmp_path: Path) -> None:
    SimulatedClock.create(tmp_path / "clock", NOW)
    plant = make_plant(clock=f"simulated:{tmp_path}/clock")
    views = (landed_view(), landed_view(name="gates", column="gate_delay"), landed_view(project="lab"))
    plant.publish(plant.endpoint(), views=views)
    event = {"carrier": "UA", "flight": "UA10", "landed_at": NOW.isoformat(), "delay": 3, "gate_delay": 1, "gate": "no view asks for it"}
    online = open_online("lmdb:online", base=plant.state)
    with plant.worker() as caller:
        half = {name: value for name, value in event.items() if name != "gate_delay"}
        assert "feature view 'gates' have no column gate_delay" in caller.post("/push/flights", {"rows": [half]}).json()["detail"]
        assert not any(list(online.scan(view.namespace)) for view in views)
        taken = {"stored": 1, "skipped": 1}
        answer = caller.post("/push/flights", {"rows": [event, {**event, "carrier": None}]})
        assert answer.json() == {"views": {"landed@1": taken, "gates@1": taken}}
        assert [len(list(online.scan(view.namespace))) for view in views] == [1, 1, 0]
        assert caller.post("/push/lab/flights", {"rows": [event]}).json() == {"views": {"landed@1": {"stored": 1, "skipped": 0}}}
        assert b'tidemill_pushed_rows_total{view="gates@1",worker="0"} 1.0' in caller.get("/metrics").body
        told = caller.post("/push/landed", {"rows": [event]})
        assert told.status == 404
        assert "no feature view takes events of 'landed' (there are views over: flights, lab/flights)" in told.json()["detail"]
    online.close()


def test_features_are_as_of_the_simulated_clock(make_plant, tmp_path: Path) -> None:
    clock = SimulatedClock.create(tmp_path / "clock", NOW)
    plant = make_plant(clock=f"simulated:{tmp_path}/clock")
    view = landed_view()
    columns = (Column(name="flights_2h", kind="double"), Column(name="delay_2h", kind="double"))
    body = "import numpy as np; return columns['flights_2h'] + np.nan_to_num(columns['delay_2h'], nan=0.0)"
    plan = ReadPlan(project="default", services=("delay@1",), views=(view,), features=("flights_2h", "delay_2h"))
    plant.publish(plant.endpoint(plant.variant(spec=python_spec(inputs=columns), body=body), features=plan), views=(view,))
    landed = NOW - timedelta(minutes=30)
    events = [{"carrier": "UA", "flight": f"UA{delay}", "landed_at": landed.isoformat(), "delay": delay} for delay in (10, 20)]
    with plant.worker() as caller:
        caller.post("/push/flights", {"rows": events})
        caller.post("/push/flights", {"rows": events})
        scores = [each["score"] for each in caller.predict({"carrier": "UA"}, {"carrier": "DL"}, {"carrier": None})["predictions"]]
        assert scores == [17.0, 0.0, 0.0]
        clock.advance_to(NOW + timedelta(hours=3))
        assert caller.predict({"carrier": "UA"})["predictions"][0]["score"] == 0.0
    assert read_predictions(plant.state, "delay")["at"].to_pylist() == [NOW] * 3 + [NOW + timedelta(hours=3)]


def test_rows_are_shared_out_and_stick(plant: Plant) -> None:
    variants = (plant.variant("champion", version=1), plant.variant("challenger", version=2, offset=0.3))
    plant.publish(plant.endpoint(*variants, shares={"champion": 0.5, "challenger": 0.5}, sticky_by="b"))
    with plant.worker() as caller:
        answer = caller.predict(*(row(1.0, number % 20) for number in range(60)))
    by_unit: dict[int, set[str]] = {}
    for number, each in enumerate(answer["predictions"]):
        by_unit.setdefault(number % 20, set()).add(each["variant"])
        assert each["score"] == pytest.approx(0.1 + 0.01 * (number % 20) + (0.3 if each["variant"] == "challenger" else 0), abs=1e-6)
        assert each["version"] == (2 if each["variant"] == "challenger" else 1)
    assert all(len(found) == 1 for found in by_unit.values())
    assert len(set.union(*by_unit.values())) == 2
    assert (answer["model"], answer["version"], answer["variant"]) == (None, None, None)
    table = read_predictions(plant.state, "delay")
    assert sorted(set(zip(table["variant"].to_pylist(), table["version"].to_pylist(), strict=True))) == [("challenger", 2), ("champion", 1)]


def test_a_shadow_that_sleeps_delays_nobody_and_is_journaled(plant: Plant) -> None:
    shadow = plant.variant("shadow", version=2, body="sleep(0.4); return columns['a'] * 0")
    broken = plant.variant("broken", version=3, body="return columns['a'] * (1 if columns['a'][0] < 0.5 else float('nan'))")
    plant.publish(plant.endpoint(plant.variant(), shadow, broken, shadows=("shadow", "broken")))
    with plant.worker() as caller:
        began = now_s()
        for number in range(5):
            caller.predict(row(), ids=[str(number)])
        assert now_s() - began < 0.4
        assert wait_until(lambda: read_predictions(plant.state, "delay").num_rows == 10, timeout_s=10)
        metrics = caller.get("/metrics").body.decode()
    table = read_predictions(plant.state, "delay")
    shadows = table.filter(table["shadow"])
    assert sorted(shadows["id"].to_pylist()) == [str(number) for number in range(5)]
    assert set(shadows["variant"].to_pylist()) == {"shadow"}
    assert 'tidemill_shadow_failures_total{endpoint="delay",worker="0"} 5.0' in metrics
    assert [count_failures(plant.state, "delay", name) for name in ("broken", "shadow", "champion")] == [5, 0, 0]


def test_rows_on_which_a_variant_fails_are_noted(plant: Plant) -> None:
    broken = plant.variant("broken", version=2, body="return columns['a'] * (1 if columns['a'][0] < 0.5 else float('nan'))")
    plant.publish(plant.endpoint(plant.variant(), broken, shares={"champion": 0.5, "broken": 0.5}, sticky_by="b"))
    with plant.worker() as caller:
        answers = [caller.post("/predict/delay", {"rows": [row(1.0, number), row(1.0, number)]}).status for number in range(40)]
    failed = answers.count(500)
    assert 0 < failed < 40
    assert set(answers) == {200, 500}
    assert count_failures(plant.state, "delay", "broken") == 2 * failed
    assert set(read_predictions(plant.state, "delay")["variant"].to_pylist()) == {"champion"}


def test_termination_finishes_the_shadows_that_wait(plant: Plant) -> None:
    shadow = plant.variant("shadow", body="sleep(0.1); return columns['a'] * 0")
    plant.publish(plant.endpoint(plant.variant(), shadow, shadows=("shadow",)))
    with plant.worker() as caller:
        for number in range(5):
            caller.predict(row(), ids=[str(number)])
        assert caller.terminate() == 0
    assert read_predictions(plant.state, "delay").num_rows == 10


def test_labels_are_kept(plant: Plant) -> None:
    with plant.worker() as caller:
        body = {"labels": [{"id": "a", "value": True, "at": "2013-06-01T14:00:00Z"}, {"id": "b", "value": 0}]}
        assert caller.post("/feedback", body).json() == {"accepted": 2}
        assert caller.post("/feedback", body).status == 200
        for bad in (
            {"labels": []},
            {"labels": [{"id": "a"}]},
            {"labels": [{"id": "", "value": 1}]},
            {"labels": [{"id": "a", "value": [1]}]},
        ):
            assert caller.post("/feedback", bad).status == 400
    table = read_labels(plant.state)
    assert table["id"].to_pylist() == ["a", "b"]
    assert table["value"].to_pylist() == [1.0, 0.0]


def hammer(port: int, name: str, stop: threading.Event, acknowledged: list[str], failures: list[str], *, reconnect: bool) -> None:
    """Send numbered predictions until told to stop; note the ids that were acknowledged, and what went wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    number = 0
    while not stop.is_set():
        number += 1
        body = json.dumps({"rows": [row(), row(2.0)], "ids": [f"{name}-{number}-0", f"{name}-{number}-1"]})
        try:
            connection.request("POST", "/predict/delay", body)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if not reconnect:
                failures.append(repr(error))
            continue
        if answer.status == 200:
            acknowledged += [each["id"] for each in json.loads(data)["predictions"]]
        else:
            failures.append(f"{answer.status} {data[:200]!r}")
    connection.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0), backlog=200) as found:
        yield found


def test_what_a_killed_worker_acknowledged_is_in_the_journal_once(plant: Plant, listener: socket.socket) -> None:
    plant.publish(plant.endpoint())
    stop, acknowledged, failures = threading.Event(), [], []
    port = listener.getsockname()[1]
    threads = [
        threading.Thread(target=hammer, args=(port, f"t{number}", stop, acknowledged, failures), kwargs={"reconnect": True})
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for _ in range(50):
        with plant.worker(listener=listener) as caller:
            before = len(acknowledged)
            assert wait_until(lambda before=before: len(acknowledged) > before + 50, timeout_s=20)
            caller.kill()
    with plant.worker(listener=listener):
        before = len(acknowledged)
        assert wait_until(lambda: len(acknowledged) > before + 200, timeout_s=20)
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failures
    journaled = read_predictions(plant.state, "delay")["id"].to_pylist()
    assert len(journaled) == len(set(journaled))
    assert set(acknowledged) <= set(journaled)
    assert len(acknowledged) > 1000


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limits of another process can be set on Linux only")
def test_a_full_disk_is_a_503_and_what_was_acknowledged_stays(plant: Plant) -> None:
    plant.publish(plant.endpoint())
    with plant.worker() as caller:
        caller.predict(row(), ids=["before"])
        (segment,) = segments(predictions_folder(plant.state, "delay"))
        full = resource.prlimit(caller.process.pid, resource.RLIMIT_FSIZE, (segment.stat().st_size + 20, resource.RLIM_INFINITY))
        answer = caller.post("/predict/delay", {"rows": [row()], "ids": ["refused"]})
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "nothing was acknowledged, free some space and send it again" in answer.json()["detail"]
        tensors = [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 1]}]
        told = caller.post("/v2/models/delay/infer", {"inputs": tensors})
        assert (told.status, list(told.json())) == (503, ["error"]), "each protocol tells it in its own shape"
        resource.prlimit(caller.process.pid, resource.RLIMIT_FSIZE, full)
        caller.predict(row(), ids=["after"])
    assert read_predictions(plant.state, "delay")["id"].to_pylist() == ["before", "after"]


def test_a_swap_under_load_fails_nobody(plant: Plant) -> None:
    bundles = [plant.variant(version=version, offset=version / 100) for version in range(1, 5)]
    plant.publish(plant.endpoint(bundles[0]))
    stop, acknowledged, failures = threading.Event(), [], []
    with plant.worker() as caller:
        threads = [
            threading.Thread(target=hammer, args=(caller.port, f"t{number}", stop, acknowledged, failures), kwargs={"reconnect": False})
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for number in range(100):
            generation = plant.publish(plant.endpoint(bundles[number % 4]))
            assert plant.wait(generation).generation == generation
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failures
    table = read_predictions(plant.state, "delay")
    assert set(table["id"].to_pylist()) == set(acknowledged)
    assert set(table["version"].to_pylist()) >= {1, 2, 3, 4}


def test_a_version_that_cannot_be_loaded_leaves_the_one_before_it_served(plant: Plant, listener: socket.socket) -> None:
    plant.publish(plant.endpoint())
    missing = replace(plant.variant(version=2), bundle=digest_bytes(b"never stored"))
    with plant.worker(listener=listener) as caller:
        bad = plant.publish(plant.endpoint(missing), plant.endpoint(name="other"))
        state = plant.wait(bad)
        assert (state.generation, state.ready, state.refused) == (bad, True, "")
        (trouble,) = state.troubles
        assert (trouble.endpoint, trouble.serves) == ("delay", ("example@1",))
        assert trouble.reason.startswith("model example@2 cannot be loaded: ")
        assert caller.predict(row())["version"] == 1
        assert caller.predict(row(), endpoint="other")["version"] == 1
        assert caller.get("/v2/models/delay/ready").status == 200
        assert b'tidemill_endpoints_outdated{worker="0"} 1.0' in caller.get("/metrics").body
        config_path(plant.state).write_text('{"generation": ')
        assert wait_until(lambda: "not valid JSON" in read_states(plant.state)[0].refused, timeout_s=10)
        assert caller.predict(row())["version"] == 1
    with plant.worker(index=1, listener=listener) as caller:  # a new process has only what lies on the disk
        assert caller.predict(row())["version"] == 1
        config_path(plant.state).unlink()
        better = plant.publish(plant.endpoint(plant.variant(version=3)))
        assert wait_until(lambda: read_states(plant.state)[1].generation == better, timeout_s=10)
        assert (read_states(plant.state)[1].refused, read_states(plant.state)[1].troubles) == ("", ())
        assert caller.predict(row())["version"] == 3


def test_a_worker_that_answers_for_no_endpoint_is_not_ready_and_says_so(plant: Plant) -> None:
    plant.publish(plant.endpoint(replace(plant.variant(), bundle=digest_bytes(b"never stored"))))
    with plant.worker(ready=False) as caller:
        assert caller.get("/livez").status == 200
        assert caller.get("/readyz").status == 503
        assert caller.get("/readyz").json()["not_ready"] == ["delay"]
        assert caller.get("/v2/health/ready").json() == {"ready": False}
        answer = caller.post("/predict/delay", {"rows": [row()]})
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1


def test_an_untrusted_runtime_is_refused(make_plant) -> None:
    plant = make_plant(trusted_runtimes=["onnx"])
    plant.publish(plant.endpoint(plant.variant(body="return columns['a']")), plant.endpoint(name="trusted"))
    with plant.worker() as caller:
        assert "trusted_runtimes" in read_states(plant.state)[0].troubles[0].reason
        assert "trusted_runtimes" in caller.post("/predict/delay", {"rows": [row()]}).json()["detail"]
        assert caller.predict(row(), endpoint="trusted")["version"] == 1


def test_without_a_config_a_worker_is_ready_to_serve_nothing(plant: Plant) -> None:
    with plant.worker() as caller:
        assert caller.get("/readyz").json() == {"ready": True, "generation": 0}
        answer = caller.post("/predict/delay", {"rows": [row()]})
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert "there is no endpoint 'delay' here (there are: none)" in answer.json()["detail"]


def test_termination_answers_what_was_begun_and_exits_cleanly(plant: Plant) -> None:
    plant.publish(plant.endpoint())
    with plant.worker() as caller:
        body = json.dumps({"rows": [row()], "ids": ["slowly"]}).encode()
        with socket.create_connection(("127.0.0.1", caller.port)) as slow, socket.create_connection(("127.0.0.1", caller.port)):
            slow.sendall(b"POST /predict/delay HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body[:10])
            caller.predict(row())
            caller.process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: refuses(caller.port), timeout_s=5)
            slow.sendall(body[10:])
            assert b"200 OK" in slow.recv(65536)
        assert caller.process.wait(10) == 0
    assert "slowly" in read_predictions(plant.state, "delay")["id"].to_pylist()
    assert read_states(plant.state) == {}


def refuses(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) != 0


def test_keys_are_asked_of_all_but_probes(plant: Plant) -> None:
    def key(name: str, **fields) -> KeyHash:
        secret = hashlib.sha256(f"secret of {name}".encode()).hexdigest()
        return KeyHash(
            **{"id": name, "sha256": secret, "project": "*", "writes": True, "expires_at": NOW + timedelta(days=10**4), **fields}
        )

    def bearer(name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer tm_{name}_secret of {name}"}

    keys = (key("dev"), key("viewer", writes=False), key("lab", project="lab"), key("old", expires_at=NOW - timedelta(days=1)))
    plant.publish(plant.endpoint(), keys=keys, views=(landed_view(),))
    label = {"labels": [{"id": "a", "value": 1}]}
    with plant.worker() as caller:
        for probe in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert caller.get(probe).status == 200
        for path, body in (
            ("/predict/delay", {"rows": [row()]}),
            ("/predict/nothing", {}),
            ("/feedback", label),
            ("/push/flights", {}),
            ("/push/nothing", {}),
            ("/push", {}),
            ("/get-online-features", {}),
            ("/v2/models/delay/infer", {}),
        ):
            answer = caller.post(path, body)
            assert (answer.status, "www-authenticate" in answer.headers) == (401, True), path
            assert caller.post(path, body, **bearer("old")).status == 401
            assert caller.post(path, body, Authorization="Bearer tm_dev_wrong").status == 401
            assert caller.post(path, body, Authorization="Basic \xff\xff").status == 401
        assert caller.get("/metrics").status == 401
        assert caller.post("/predict/delay", {"rows": [row()]}, **bearer("viewer")).status == 200
        assert caller.post("/predict/delay", {"rows": [row()]}, **bearer("lab")).status == 403
        assert caller.post("/feedback", label, **bearer("viewer")).status == 403
        assert caller.post("/feedback", label, **bearer("dev")).status == 200
        events = {"rows": [{"carrier": "UA", "flight": "UA1", "landed_at": NOW.isoformat(), "delay": 1}]}
        assert [caller.post("/push/flights", events, **bearer(name)).status for name in ("viewer", "lab", "dev")] == [403, 403, 200]
        columns = {"push_source_name": "flights", "df": {name: [value] for name, value in events["rows"][0].items()}}
        assert [caller.post("/push", columns, **bearer(name)).status for name in ("viewer", "lab", "dev")] == [403, 403, 200]
        look_up = {"features": ["landed:delay_2h"], "entities": {"carrier": ["UA"]}}
        assert [caller.post("/get-online-features", look_up, **bearer(name)).status for name in ("viewer", "lab")] == [200, 403]


def test_two_workers_share_a_port_and_either_tells_the_metrics_of_both(make_plant, listener: socket.socket) -> None:
    plant = make_plant(serve_workers=2)
    generation = plant.publish(plant.endpoint())
    with plant.worker(index=0, listener=listener) as first, plant.worker(index=1, listener=listener):
        plant.wait(generation, index=1)
        answered = 0

        def both_told() -> bool:
            nonlocal answered
            answered += 1
            caller = Caller(listener.getsockname()[1], first.process, first.log)
            caller.predict(row())
            text = caller.get("/metrics").body.decode()
            caller.close()
            labels = 'endpoint="delay",model="example",model_version="1",variant="champion"'
            return all(f'tidemill_predictions_total{{{labels},worker="{index}"}}' in text for index in (0, 1))

        assert wait_until(both_told, timeout_s=20)
    assert read_predictions(plant.state, "delay").num_rows == answered


def test_answers_may_wait_for_the_disk(make_plant) -> None:
    plant = make_plant(journal_sync="disk")
    plant.publish(plant.endpoint())
    with plant.worker() as caller:
        with socket.create_connection(("127.0.0.1", caller.port)) as line:
            body = json.dumps({"rows": [row()], "ids": ["%s"]})
            requests = b""
            for number in range(20):  # pipelined: the answers come in the order of the requests, though each waits for a flush
                data = body.replace("%s", str(number)).encode()
                requests += b"POST /predict/delay HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(data) + data
            line.sendall(requests + b"GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n")
            received = b"".join(iter(lambda: line.recv(65536), b""))
        answers = received.split(b"HTTP/1.1 ")[1:]
        ids = [json.loads(each.partition(b"\r\n\r\n")[2])["predictions"][0]["id"] for each in answers[:20]]
        assert ids == [str(number) for number in range(20)]
        assert b"ready" in answers[20]
        assert caller.post("/feedback", {"labels": [{"id": "1", "value": 1}]}).json() == {"accepted": 1}
    assert read_predictions(plant.state, "delay").num_rows == 20


LOADED = """
import sys
import tidemill.serving.worker, tidemill.serving.runtimes.onnx, tidemill.store.local, tidemill.store.online_lmdb
libraries = ("pyarrow", "duckdb", "sqlalchemy", "pandas", "obstore", "starlette")
heavy = (*libraries, "tidemill.catalog", "tidemill.govern", "tidemill.serving.history")
print([name for name in heavy if name in sys.modules])
"""


def test_a_worker_loads_no_catalog_and_no_tables() -> None:
    said = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, check=True, text=True).stdout
    assert said == "[]\n"


def test_a_worker_of_no_workspace_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tidemill.toml").write_text("[settings]\nserve_prot = 1\n")
    command = [sys.executable, "-m", "tidemill.serving.worker", "--home", str(tmp_path), "--port", "0"]
    found = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert "did you mean 'serve_port'" in found.stderr


def test_a_feature_store_that_is_gone_is_a_503_and_nothing_is_journaled(make_plant, redis_url: str) -> None:
    plant = make_plant(online=redis_url)
    view = landed_view()
    plan = ReadPlan(project="default", services=("delay@1",), views=(view,), features=("flights_2h", "delay_2h"))
    spec = replace(onnx_spec(), request_columns=("a", "b"))
    plant.publish(plant.endpoint(plant.variant(spec=spec), features=plan))
    with plant.worker() as caller:
        assert caller.predict({**row(), "carrier": "UA"})["version"] == 1
    gone = make_plant(online="redis://127.0.0.1:9/0")
    gone.publish(gone.endpoint(gone.variant(spec=spec), features=plan)) if not config_path(gone.state).exists() else None
    with gone.worker(index=3, ready=False):
        assert "check that it runs" in read_states(gone.state)[3].troubles[0].reason
    assert read_predictions(plant.state, "delay").num_rows == 1

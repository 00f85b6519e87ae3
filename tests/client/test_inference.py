"""The client of the data plane: every form of rows, retries that count once, errors as the server tells them."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

import tidemill as tm
from tests.client.test_http import CUT, scripted
from tests.serving.plant import Plant
from tidemill.client.inference import AsyncInferenceClient, InferenceClient
from tidemill.client.problems import RowsNotTaken
from tidemill.core.errors import Invalid, NotFound, NotPermitted, Unavailable
from tidemill.serving.config import read_states
from tidemill.serving.history import read_labels

MANY = 2500


def answer(body: object, *, status: str = "200 OK", more: str = "") -> bytes:
    data = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\n{more}content-length: {len(data)}\r\n\r\n".encode() + data


def predicted(*ids: str) -> bytes:
    return answer({"predictions": [{"id": name, "score": 0.5, "variant": "champion", "version": 1, "news": 1} for name in ids]})


BUSY = answer({"type": "/problems/unavailable", "detail": "busy; send it again"}, status="429 Busy", more="retry-after: 0\r\n")


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """A worker that shares the rows of `delay` out over two variants; `one` has one, and another project an endpoint, too."""
    made = Plant(tmp_path_factory.mktemp("plant") / "home")
    split = made.endpoint(made.variant(), made.variant("challenger", version=2, offset=0.2), shares={"champion": 0.5, "challenger": 0.5})
    generation = made.publish(split, made.endpoint(name="one"), made.endpoint(name="one", project="team"))
    with made.worker():
        made.wait(generation)
        yield made


@pytest.fixture
def client(plant: Plant) -> Iterator[InferenceClient]:
    with InferenceClient(url(plant)) as made:
        yield made


def url(plant: Plant) -> str:
    return f"http://127.0.0.1:{read_states(plant.state)[0].port}"


@pytest.mark.slow
def test_every_form_of_rows_is_scored_alike_and_in_order(client: InferenceClient) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(2 * MANY) / MANY / 2, "b": np.arange(2 * MANY) % 7}).iloc[::2]  # an index with gaps
    rows = frame.to_dict("records")
    first = client.predict("delay", frame)
    forms = [
        rows,
        rows[0],
        frame.to_numpy(),
        frame.iloc[:3],
        frame.astype({"a": "float32"}),
        frame.set_index("b", append=True).reset_index("b"),
    ]
    for form in forms:
        ids = first.ids[:1] if isinstance(form, dict) else first.ids[: len(form)]
        found = client.predict("delay", form, ids=ids, at=datetime(2013, 6, 1, tzinfo=UTC))
        assert found.ids == ids
        assert found.variants == first.variants[: len(ids)]
        np.testing.assert_allclose(found.scores, first.scores[: len(ids)], atol=1e-6)
        assert [each.score for each in found[:2]] == found.scores[:2].tolist()
    offset = np.array([0.2 if name == "challenger" else 0.0 for name in first.variants])
    np.testing.assert_allclose(first.scores, np.clip(0.1 * frame["a"] + 0.01 * frame["b"] + offset, 0, 1), atol=1e-6)
    assert {(each.variant, each.version) for each in first} == {("champion", 1), ("challenger", 2)}
    assert first.labels == [score >= 0.5 for score in first.scores]
    assert isinstance(first[-1].label, bool)


@pytest.mark.slow
def test_a_refusal_names_the_row_of_the_whole_table(client: InferenceClient) -> None:
    rows = [{"a": 0.5, "b": 1}] * MANY
    rows[1007] = {"a": "high", "b": 1}
    with pytest.raises(RowsNotTaken, match=r"row 7: column 'a': .*counted from row 1000 of the table") as refused:
        client.predict("one", rows)
    assert [(fault.row, fault.column) for fault in refused.value.faults] == [(1007, "a")]
    with pytest.raises(Invalid, match="row 0: column 'b' is missing"):
        client.predict("one", {"a": 0.5})
    with pytest.raises(Invalid, match="row 0: column 'b'"):
        client.predict("one", np.array([[0.5, 1.5]]))
    with pytest.raises(NotFound, match="there is no endpoint 'nothing' here"):
        client.predict("nothing", {"a": 0.5, "b": 1})
    with pytest.raises(Invalid, match="expected at least one"):
        client.predict("one", [])
    with pytest.raises(Invalid, match="got 1 ids for 2 rows"):
        client.predict("one", rows[:2], ids=["a"])


@pytest.mark.slow
def test_outcomes_are_told_by_id_or_by_a_key_of_the_callers_own(plant: Plant, client: InferenceClient) -> None:
    at = datetime(2013, 6, 2, tzinfo=UTC)
    client.predict("one", {"a": np.float32(0.5), "b": np.int64(1)}, ids=["order-7"])
    assert client.feedback("order-7", True, at=at) == 1
    assert client.feedback(["order-8", "order-9"], np.array([1.5, 2.5]), at=[at, at]) == 2
    assert {"id": "order-7", "value": 1.0} in read_labels(plant.state).select(["id", "value"]).to_pylist()
    with pytest.raises(Invalid, match="got 2 ids, 1 values and 2 moments"):
        client.feedback(["a", "b"], [1])


@pytest.mark.slow
def test_an_endpoint_says_what_it_takes_and_whether_it_answers(plant: Plant, client: InferenceClient) -> None:
    assert [column["name"] for column in client.describe("one")["inputs"]] == ["a", "b"]
    assert client.ready()
    assert client.ready("one")
    with pytest.raises(NotFound, match="'nothing'"):
        client.ready("nothing")
    with InferenceClient(url(plant), project="team") as theirs:
        assert theirs.describe("one")["name"] == "team/one"
        assert len(theirs.predict("one", [{"a": 0.5, "b": 1}])) == 1


@pytest.mark.slow
def test_many_are_awaited_at_once(plant: Plant) -> None:
    async def ask() -> None:
        async with AsyncInferenceClient(url(plant), connections=4) as client:
            answers = await asyncio.gather(*(client.predict("one", {"a": place / 10, "b": 0}) for place in range(10)))
            np.testing.assert_allclose([each.scores[0] for each in answers], np.arange(10) / 100, atol=1e-6)
            assert await client.ready()
            assert (await client.describe("one"))["name"] == "one"
            assert await client.feedback(answers[0].ids, [1.0]) == 1
            with pytest.raises(NotFound, match="no feature view takes events"):
                await client.push("flights", [{"x": 1}])

    asyncio.run(ask())


def test_what_is_sent_again_has_the_same_ids() -> None:
    with scripted(CUT, BUSY, predicted("x")) as script, tm.Client(script.url, token="tm_a_b") as client:
        found = client.predict("delay", {"a": 1.0}, ids=["x"])
        assert (found.ids, found.scores.tolist(), found[0].label, found[0].version) == (["x"], [0.5], None, 1)
        assert len(script.requests) == 3
        assert len(set(script.requests)) == 1
        assert b"Bearer tm_a_b" in script.requests[0]
    with scripted(BUSY, predicted("x")) as script, InferenceClient(script.url) as client:
        client.predict("delay", [{"a": 1.0}])
        first, second = (json.loads(request.partition(b"\r\n\r\n")[2])["ids"] for request in script.requests)
        assert first == second


def test_patience_ends_with_the_sentence_of_the_server() -> None:
    with (
        scripted(BUSY, BUSY) as script,
        InferenceClient(script.url, attempts=2) as client,
        pytest.raises(Unavailable, match="busy; send it"),
    ):
        client.predict("delay", {"a": 1.0})


def test_errors_of_the_inference_protocol_are_told_too() -> None:
    refusal = answer({"error": "this server wants a valid API key"}, status="401 Who")
    with scripted(refusal) as script, InferenceClient(script.url) as client, pytest.raises(NotPermitted, match="a valid API key"):
        client.describe("delay")


def test_an_address_where_no_predictions_are_served_is_told() -> None:
    with scripted(answer([]), answer({"readers": "welcome"})) as script, InferenceClient(script.url) as client:
        for _ in range(2):
            with pytest.raises(Unavailable, match="expected predictions: is this the address where they are served"):
                client.predict("delay", {"a": 1.0})


def test_an_answer_with_too_few_rows_is_told() -> None:
    with (
        scripted(predicted("x")) as script,
        InferenceClient(script.url) as client,
        pytest.raises(Unavailable, match="answered 1 predictions for 2 rows"),
    ):
        client.predict("delay", [{"a": 1.0}, {"a": 2.0}])


def test_probes_ask_once() -> None:
    with scripted(BUSY) as script, InferenceClient(script.url) as client:
        assert not client.ready()
        assert len(script.requests) == 1


def test_a_request_that_grows_too_large_goes_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.client.inference.REQUEST_BYTES", 180)
    with scripted(predicted("0"), predicted("1", "2")) as script, InferenceClient(script.url) as client:
        assert client.predict("delay", [{"text": "x" * 60}] * 3, ids=["0", "1", "2"]).ids == ["0", "1", "2"]
        assert len(script.requests) == 2


def test_the_callers_span_goes_along() -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1)))
    with scripted(predicted("x"), predicted("y")) as script, InferenceClient(script.url) as client:
        client.predict("delay", {"a": 1.0})
        with trace.use_span(span):
            client.predict("delay", {"a": 1.0})
        assert b"traceparent" not in script.requests[0]
        assert b"traceparent: 00-00000000000000000000000000000abc-0000000000000def-01\r\n" in script.requests[1]

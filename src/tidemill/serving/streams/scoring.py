"""Messages of a stream through an endpoint: validated, scored and journaled as requests are, answered once by key."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Annotated, Any

from tidemill.core.clock import elapsed
from tidemill.core.codec import decode_any, encode
from tidemill.core.digest import digest_value
from tidemill.core.errors import Invalid, TidemillError
from tidemill.core.values import Meta, Value, replace
from tidemill.features.definitions import compile_plan
from tidemill.govern.workspace import Workspace
from tidemill.registry.bundles import read_spec
from tidemill.serving.config import EndpointConfig, RoutePolicy, VariantConfig
from tidemill.serving.journal import EndpointJournal
from tidemill.serving.metrics import Metrics, forget_streams, stream_name
from tidemill.serving.models import Models, crumbs_folder
from tidemill.serving.outputs import by_row
from tidemill.serving.predict import Answered, Ask, Endpoint
from tidemill.serving.rows import Rows
from tidemill.serving.runtimes.runtime import ModelFailed
from tidemill.serving.subject import BUNDLES, find_endpoint, of_model
from tidemill.serving.trace import trace_id_of
from tidemill.serving.world import Builder
from tidemill.store.streams import Flow, Message, Outcome, refused, split_url
from tidemill.store.table import open_flow

READ_MOST = 256
WAIT_S = 0.5
SAVE_S = 2.0
KEY_MAX = 200
_UNUSABLE = re.compile(r"[^A-Za-z0-9._-]")
WRITER = "stream"  # who writes the journal, beside workers, which have numbers
Positive = Annotated[float, Meta(gt=0)]


class StreamRequest(Value, frozen=True, kw_only=True):
    """What to read, what answers, and where to. One of endpoint and model (`NAME@VERSION`, `NAME@ALIAS`).

    source and target: `SCHEME:PLACE/TOPIC`, of one place. key: the field of a record that names it, else the message's own key, else
    its place in the topic. limit: messages after which to end; until_idle_s: seconds without a message after which to end.
    claim_after_s: the silence after which a consumer counts as dead, where its death cannot be seen.
    """

    source: str
    target: str
    endpoint: str | None = None
    model: str | None = None
    key: str | None = None
    group: str = "tidemill"
    limit: Annotated[int, Meta(ge=1)] | None = None
    until_idle_s: Positive | None = None
    claim_after_s: Positive = 30.0

    def __post_init__(self) -> None:
        if (self.model is None) == (self.endpoint is None):
            raise Invalid("a stream is scored by one thing; name an endpoint, or a model version (NAME@VERSION or NAME@ALIAS)")


class StreamCounts(Value, frozen=True, kw_only=True):
    """What a consumer has done. answered: keys that were new; again: messages whose key was answered before; refused: to TOPIC.refused."""

    read: int = 0
    answered: int = 0
    again: int = 0
    refused: int = 0
    seconds: float = 0.0


class StreamAnswer(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What stands in the target for one key. outputs: what the model answers beside the score, by name."""

    key: str
    id: str
    score: float
    label: bool | None
    variant: str
    model: str
    version: int
    trace: str
    outputs: dict[str, Any] | None = None


class _Asked(Value, frozen=True, kw_only=True):
    """A message that is a good request."""

    message: Message
    key: str
    id: str
    rows: Any
    trace: str


def score_stream(
    ws: Workspace,
    request: StreamRequest,
    *,
    stopping: Callable[[], bool] = lambda: False,
    watch: Callable[[StreamCounts], None] = lambda _: None,
) -> StreamCounts:
    """Answer messages until told to stop. What was read is settled, whole, before this returns; a kill loses and doubles nothing.

    Raises StreamUnavailable, Conflict, EndpointNotPublished, LoadFailed, JournalUnavailable.
    """
    ws.require("serving.write", request.endpoint or "*")
    flow = open_flow(request.source, request.target, group=request.group, idle_s=request.claim_after_s)
    try:
        forget_streams(ws.state / "run")
        metrics = Metrics(ws.state / "run", stream_name())
        endpoint = _endpoint(ws, _config(ws, request), metrics)
        counters = Counters(metrics, endpoint.config.key, split_url(request.source)[1])
        try:
            return _answer_all(Answerer(endpoint, request), flow, request, counters, stopping=stopping, watch=watch)
        finally:
            endpoint.journal.close()
    finally:
        flow.close()


class Counters:
    """What a consumer tells Prometheus: it listens nowhere, so that the workers tell it beside their own."""

    def __init__(self, metrics: Metrics, endpoint: str, topic: str) -> None:
        self._metrics, self._lag = metrics, metrics.stream_lag.labels(endpoint, topic)
        self._tallies = {outcome: metrics.streamed.of(endpoint, topic, outcome) for outcome in ("answered", "again", "refused")}
        self._saved = -inf

    def saw(self, **counts: int) -> None:
        """Count records by their outcome."""
        for outcome, count in counts.items():
            self._tallies[outcome].add(count)

    def save(self, flow: Flow, *, now: bool = False) -> None:
        """Put the counters where the workers find them, every other second, or now."""
        if not now and elapsed() - self._saved < SAVE_S:
            return
        if (lag := flow.lag()) is not None:
            self._lag.set(lag)
        self._metrics.save()
        self._saved = elapsed()


class Answerer:
    """Makes outcomes of messages. The predictions are in the journal when it returns."""

    def __init__(self, endpoint: Endpoint, request: StreamRequest) -> None:
        self._endpoint, self._request = endpoint, request

    def outcomes(self, messages: Sequence[Message]) -> list[Outcome]:
        """Return what came of each message, in their order. Raises Unavailable: then all of them are still to be answered."""
        began = elapsed()
        found: dict[str, Outcome] = {}
        asked: list[_Asked] = []
        for message in messages:
            try:
                asked.append(self._asked(message))
            except Invalid as error:
                found[message.id] = refused(message, str(error))
        for each, answered in self._predicted(asked, began):
            found[each.message.id] = (
                self._outcome(each, answered) if isinstance(answered, Answered) else refused(each.message, str(answered))
            )
        self._endpoint.journal.predictions.flush()
        return [found[message.id] for message in messages]

    def _asked(self, message: Message) -> _Asked:
        record = decode_any(message.data, what="message")
        if not isinstance(record, dict):
            raise Invalid(f"message is {type(record).__name__}; expected an object of column names and values")
        key = self._key(record, message)
        # Of one key always the same, so that what is answered again after a kill is one prediction in the journal.
        unit = digest_value([self._endpoint.config.key, self._request.source, key])[:32]
        schema = self._endpoint.schema
        # A record may say more than the model asks for.
        row = {name: record[name] for name in schema.types if name in record}
        rows = schema.decode(encode({"rows": [row], "ids": [unit]}))
        return _Asked(message=message, key=key, id=unit, rows=rows, trace=trace_id_of(message.trace.encode()))

    def _key(self, record: Mapping[str, Any], message: Message) -> str:
        if self._request.key is None:
            return message.key or message.id
        value = record.get(self._request.key)
        if not isinstance(value, str | int) or isinstance(value, bool) or not 0 < len(str(value)) <= KEY_MAX:
            raise Invalid(f"field {self._request.key!r} holds no key; expected a text of 1 to {KEY_MAX} characters, or a whole number")
        return str(value)

    def _predicted(self, asked: Sequence[_Asked], began: float) -> list[tuple[_Asked, Answered | TidemillError]]:
        """Run messages together; where the model fails, each alone, to find the one that it fails on."""
        if not asked:
            return []
        if self._endpoint.one_by_one and len(asked) > 1:
            return [found for each in asked for found in self._predicted([each], began)]
        work = self._endpoint.begin([_ask(each.rows, began, each.trace) for each in asked])
        try:
            self._endpoint.run(work)
        except ModelFailed as error:
            if len(asked) == 1:
                self._endpoint.fail(work)
                return [(asked[0], error)]
            return [found for each in asked for found in self._predicted([each], began)]
        return list(zip(asked, self._endpoint.finish(work), strict=True))

    def _outcome(self, asked: _Asked, answered: Answered) -> Outcome:
        config = self._endpoint.variants[answered.chosen[0]].config
        answer = StreamAnswer(
            key=asked.key, id=asked.id, score=answered.scores[0], label=self._endpoint.labels(answered)[0], variant=config.name,
            model=config.model, version=config.version, trace=asked.trace, outputs=by_row(answered.others, 1)[0],
        )  # fmt: skip
        return Outcome(message=asked.message, key=asked.key, data=encode(answer))


def _answer_all(
    answerer: Answerer, flow: Flow, request: StreamRequest, counters: Counters, *,
    stopping: Callable[[], bool], watch: Callable[[StreamCounts], None],
) -> StreamCounts:  # fmt: skip
    counts, began = StreamCounts(), elapsed()
    last = began
    while not stopping():
        left = READ_MOST if request.limit is None else min(READ_MOST, request.limit - counts.read)
        if left <= 0:
            break
        counters.save(flow)
        messages = flow.read(left, wait_s=min(WAIT_S, request.until_idle_s or WAIT_S))
        if not messages:
            if request.until_idle_s is not None and elapsed() - last >= request.until_idle_s:
                break
            continue
        outcomes = answerer.outcomes(messages)
        fresh = flow.settle(outcomes)
        put_aside = sum(outcome.refused for outcome in outcomes)
        again = len(messages) - fresh - put_aside
        counters.saw(answered=fresh, again=again, refused=put_aside)
        last = elapsed()
        counts = StreamCounts(
            read=counts.read + len(messages), answered=counts.answered + fresh, refused=counts.refused + put_aside,
            again=counts.again + again, seconds=last - began,
        )  # fmt: skip
        watch(counts)
    counters.save(flow, now=True)
    return counts


def _ask(rows: Rows, began: float, trace: str) -> Ask:
    return Ask(rows, began, trace, lambda: False, lambda _: None)


def _config(ws: Workspace, request: StreamRequest) -> EndpointConfig:
    """Return what answers: the endpoint as it is served, without shadows, or a model version as if it were one."""
    if request.endpoint is not None:
        return replace(find_endpoint(ws, request.endpoint), shadows=())
    subject = of_model(ws, str(request.model))
    variant = VariantConfig(name=f"v{subject.version}", model=subject.model, version=subject.version, bundle=subject.bundle)
    service = read_spec(ws, subject.bundle).feature_service
    return EndpointConfig(
        project=ws.project,
        name=_UNUSABLE.sub("-", f"{subject.model}-v{subject.version}"),
        variants=(variant,),
        route=RoutePolicy(shares={variant.name: 1.0}),
        features=compile_plan(ws, service) if service is not None else None,
    )


def _endpoint(ws: Workspace, config: EndpointConfig, metrics: Metrics) -> Endpoint:
    models = Models(
        lambda: ws.objects, ws.state / BUNDLES, trusted=ws.settings.trusted_runtimes, deadline_s=ws.settings.model_deadline_s,
        crumbs=crumbs_folder(ws.state) / WRITER,
    )  # fmt: skip
    builder = Builder(
        models, clock=ws.clock, metrics=metrics, online=lambda: ws.online, journal=partial(_journal, ws)
    )  # fmt: skip
    return builder.endpoint(config)


def _journal(ws: Workspace, config: EndpointConfig) -> EndpointJournal:
    return EndpointJournal(ws.state, config.key, WRITER)

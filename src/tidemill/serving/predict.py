"""The path of a prediction: check rows, look features up, choose variants, run, journal, answer; shadows after it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf

import numpy as np

from tidemill.client.answers import Prediction
from tidemill.core.clock import Clock, elapsed, from_micros, micros, wall_micros
from tidemill.core.codec import Raw, packed
from tidemill.core.errors import Invalid, TidemillError
from tidemill.core.ids import new_ids
from tidemill.core.values import Passed, Value
from tidemill.features.online import FeatureReader
from tidemill.serving.block import Block
from tidemill.serving.cache import ScoreCache, row_keys, said_again, said_of
from tidemill.serving.config import EndpointConfig, VariantConfig
from tidemill.serving.journal import EndpointJournal, FailureRecord, JournalUnavailable, PackedBlock, PredictionRecord
from tidemill.serving.metrics import Metrics
from tidemill.serving.models import LoadedVariant
from tidemill.serving.outputs import NONE, Others, by_row, pack_others, part, put_together, shared
from tidemill.serving.pace import Pace
from tidemill.serving.policy import plain, policy_of
from tidemill.serving.route import choose
from tidemill.serving.rows import ORDERS_KEPT, Rows, RowSchema, row_schema, together
from tidemill.serving.runtimes.runtime import Column, Columns, ModelFailed, looks_around
from tidemill.serving.telemetry import IDS, Step, Traced
from tidemill.store.online import OnlineStore

LABEL = "label"


class PredictAnswer(Value, frozen=True, kw_only=True):
    """The answer to a request. model, version and variant are null when the rows were split over several variants."""

    predictions: list[Prediction]
    model: str | None
    version: int | None
    variant: str | None


class Answered(Passed):
    """What came of a request, in lists along its rows, and the work for shadows that is to be done once the answer is out."""

    ids: list[str]
    scores: list[float]
    chosen: list[str]
    shadow: "ShadowWork | None"
    others: Others = NONE


class Ask(Passed):
    """A request that waits for its answer. done: called once.

    started: `elapsed` when it came; until: from when on nobody wants its answer; left: whether its caller waits no more.
    """

    rows: Rows
    started: float
    trace_id: str
    left: Callable[[], bool]
    done: Callable[[Answered | TidemillError], None]
    until: float = inf
    traced: Traced | None = None


class Work(Passed):
    """Requests under way, as one: their rows with features, who is to answer which, and what came of it."""

    asks: Sequence[Ask]
    began: float
    ids: list[str]
    columns: Columns
    chosen: list[str]
    names: list[str]
    at: int
    scores: list[float] | None = None
    others: Others = NONE
    failed: FailureRecord | None = None
    steps: list[Step] | None = None


class ShadowWork:
    """Rows that the shadows of an endpoint are to see, and who answered each."""

    __slots__ = ("at", "chosen", "columns", "endpoint", "ids", "trace_id")

    def __init__(
        self, endpoint: "Endpoint", ids: list[str], columns: Columns, chosen: list[str], at: int, trace_id: str | list[str]
    ) -> None:  # fmt: skip
        self.endpoint, self.ids, self.columns, self.chosen, self.at, self.trace_id = endpoint, ids, columns, chosen, at, trace_id

    def run(self) -> list[PredictionRecord | FailureRecord]:
        """Run the shadows, in a thread that no caller waits for; return the record of each."""
        return [self.endpoint.run_shadow(name, self) for name in self.endpoint.config.shadows if set(self.chosen) != {name}]


class Endpoint:
    """An endpoint in memory: models, features, journal."""

    def __init__(
        self, config: EndpointConfig, variants: Mapping[str, LoadedVariant], *, online: OnlineStore | None, journal: EndpointJournal,
        clock: Clock, metrics: Metrics, together_s: float,
        traced: bool = False,
    ) -> None:  # fmt: skip
        """together_s: what rows of others may add to an answer, in seconds. traced: whether requests may be."""
        self.config, self.variants, self.journal, self._traced = config, dict(variants), journal, traced
        self._clock, self.metrics = clock, metrics.endpoint(config.key)
        if config.features is not None and online is None:
            raise Invalid(f"endpoint {config.key!r} looks features up, but this worker has no online store")
        self._policy = policy_of(config.options, journal.state)
        self._features = FeatureReader(config.features, online) if config.features is not None and online is not None else None
        routed = [variants[name].spec for name, share in config.route.shares.items() if share > 0]
        shadows = [variants[name].spec for name in config.shadows]
        self.schema: RowSchema = row_schema(config.key, routed, shadows, config.features, config.route.sticky_by, config.options.label_key)
        shares = config.route.shares
        self.main = self.variants[max(sorted(shares), key=lambda name: shares[name])]
        """The variant with the largest share: the one that metadata tells of."""
        self._answering = [name for name, share in shares.items() if share > 0]
        self._alone = self.variants[self._answering[0]] if len(self._answering) == 1 else None
        self._told = {name: (each.config.name, each.config.model, each.config.version) for name, each in self.variants.items()}
        self._thresholds = {
            name: each.spec.threshold if config.options.threshold is None else config.options.threshold for name, each in variants.items()
        }
        self.labelled = any(threshold is not None for threshold in self._thresholds.values())
        """Whether scores of some variant are turned into labels."""
        self.output = self.main.spec.score_name
        """What the output with the scores is called."""
        self.others = shared(self.main.spec, routed)
        """What is answered, and journaled, beside the scores: what all variants that may answer say alike."""
        whole = self.main.spec.whole
        self.whole = whole.name if whole in self.others else None
        """That of the others of which the score is a column: it says what the score says."""
        self.label = LABEL if all(output.name != LABEL for output in self.others) else f"{self.output}_{LABEL}"
        """What the output with the labels is called."""
        self._names: dict[tuple[str, ...], Raw] = {}
        self.used_s = 0.0
        """When it was asked last, by `elapsed`."""
        self.waits = any(getattr(each.runtime, "waits", False) for each in variants.values())
        """Whether a model answers from a process of its own, so that others must not wait until it has."""
        # Code of a bundle may look at all rows that it is given at once: it is given those of one request, and all of them.
        independent = {name for name, each in variants.items() if not looks_around(each.spec)}
        self.one_by_one = len(independent) < len(variants)
        """Whether the rows of two requests must not be scored together."""
        self.pace = Pace(0.0 if self.one_by_one else together_s)
        self._cached = independent if config.options.cached_rows else set()
        self._cache = ScoreCache(config.options.cached_rows)
        self.caches = bool(self._cached)
        """Whether what a model said of a row is said again when the same row comes."""

    def begin(self, asks: Sequence[Ask]) -> Work:
        """Look features up and choose a variant for each row of requests that go `together`. Raises Invalid, Unavailable."""
        self.used_s = began = elapsed()
        rows = asks[0].rows if len(asks) == 1 else together([ask.rows for ask in asks])
        moment = self._clock.micros() if rows.at is None else micros(rows.at)
        ids = rows.ids or new_ids(rows.count)
        columns: Columns = rows.columns
        steps = _note(asks, began, ids) if self._traced else None
        if self._features is not None:
            before = elapsed()
            columns = {**columns, **self._features.read(columns, from_micros(moment))}
            after = elapsed()
            self.metrics.features(after - before)
            if steps is not None:
                steps.append(Step("features", before, after))
        chosen = self._answering * rows.count if self._alone is not None else choose(self.config.route, self._units(ids, columns))
        names = self._answering if self._alone is not None else sorted(set(chosen))
        return Work(asks, began, ids, columns, chosen, names, moment, steps=steps)

    def run(self, work: Work) -> None:
        """Let the chosen variants score the rows; whatever comes of it stands in the work. Raises ModelFailed.

        May be called in a thread: nothing else of the endpoint is touched.
        """
        if len(work.names) == 1:
            work.scores, work.others = self._score(work, work.names[0], work.columns, len(work.ids))
            return
        scores = [0.0] * len(work.ids)
        parts: list[tuple[list[int], Others]] = []
        for name in work.names:
            places = [place for place, each in enumerate(work.chosen) if each == name]
            found, others = self._score(work, name, _take_rows(work.columns, self.variants[name].needs, places), len(places))
            parts.append((places, others))
            for place, score in zip(places, found, strict=True):
                scores[place] = score
        work.scores, work.others = scores, put_together(parts, len(work.ids))

    def recall(self, work: Work) -> bool:
        """Score the rows of one request by what was said of the same rows before; return whether all of them were known."""
        if not self._cached.issuperset(work.names) or len(work.names) > 1:
            return False
        known = self._cache.known(self._keys(work.names[0], work.columns, len(work.ids)))
        if None in known:
            return False
        work.scores, work.others = said_again(known, self.others)
        self.metrics.recalled(len(known))
        return True

    def _score(self, work: Work, name: str, columns: Columns, count: int) -> tuple[list[float], Others]:
        try:
            if name not in self._cached:
                return self._run(work, name, columns, count)
            keys = self._keys(name, columns, count)
            found = self._cache.known(keys)
            places = [place for place, said in enumerate(found) if said is None]
            self.metrics.recalled(count - len(places))
            if places:
                new = said_of(*self._run(work, name, _take_rows(columns, self.variants[name].needs, places), len(places)))
                self._cache.learn([keys[place] for place in places], new)
                for place, said in zip(places, new, strict=True):
                    found[place] = said
            return said_again(found, self.others)
        except ModelFailed as error:
            work.failed = self._failure(self.variants[name].config, count, work.at, shadow=False, reason=error.reason)
            raise

    def _run(self, work: Work, name: str, columns: Columns, count: int) -> tuple[list[float], Others]:
        variant, others = self.variants[name], NONE
        before = elapsed()
        # What is remembered of a row is all that is said of it, whoever asks.
        if self.others and (self._cached or not work.asks[0].rows.score_only):
            found, arrays = variant.runtime.answer(columns, count)
            by_name = {output.name: array for output, array in zip(variant.spec.others, arrays, strict=True)}
            others = {output.name: by_name[output.name] for output in self.others}
        else:
            found = variant.runtime.run(columns, count)
        scores: list[float] = found.tolist()
        after = elapsed()
        self.metrics.ran(name, after - before)
        if work.steps is not None:
            work.steps.append(Step("model", before, after, self._told[name]))
        return scores, others

    def _keys(self, name: str, columns: Columns, count: int) -> list[bytes]:
        variant = self.variants[name]
        return row_keys(variant.config.bundle, columns, variant.needs, count)

    def fail(self, work: Work) -> None:
        """Note in the journal of failures that a model failed on the work."""
        if work.failed is not None:
            with suppress(JournalUnavailable):  # the caller is told of the model
                self.journal.failures.append(work.failed, at=work.failed.at)

    def finish(self, work: Work) -> list[Answered]:
        """Gather what came of the work for the journal: flush it before anybody is told. Return what came of each request."""
        assert work.scores is not None, "the work was run"
        ids, chosen, names, count = work.ids, work.chosen, work.names, len(work.ids)
        asks, now = work.asks, elapsed()
        latency_ms: float | list[float] = (now - asks[0].started) * 1e3
        trace_id: str | list[str] = asks[0].trace_id
        if len(asks) > 1:
            latency_ms = [(now - ask.started) * 1e3 for ask in asks for _ in range(ask.rows.count)]
            if any(ask.trace_id != trace_id for ask in asks):
                trace_id = [ask.trace_id for ask in asks for _ in range(ask.rows.count)]
        columns: Columns = work.columns if self._policy is None else {}
        block = columns if type(columns) is Block else None
        record = PredictionRecord(
            at=work.at,
            received=wall_micros(),
            ids=ids,
            columns={} if block is not None else {name: plain(column) for name, column in columns.items()},
            block=self._packed(block) if block is not None else None,
            scores=work.scores,
            variant=[0] * count if len(names) == 1 else [names.index(name) for name in chosen],
            variants=[self._told[name] for name in names],
            shadow=False,
            latency_ms=latency_ms,
            trace_id=trace_id,
            others=pack_others(work.others) if self._policy is None else None,
        )
        for each in (record,) if self._policy is None else self._policy.records(record, work.columns, work.others):
            self.journal.predictions.gather(each, at=work.at)
        for ask in asks:
            self.metrics.waited(work.began - ask.started)
        self.metrics.scored(count)
        for name in names:
            self.metrics.predicted(self.variants[name].config, count if len(names) == 1 else chosen.count(name))
        self.pace.saw(count, elapsed() - work.began)
        shadow = ShadowWork(self, ids, work.columns, chosen, work.at, trace_id) if self.config.shadows else None
        if len(asks) == 1:
            return [Answered(ids, work.scores, chosen, shadow, work.others)]
        answers, place = [], 0
        for ask in asks:
            end = place + ask.rows.count
            answers.append(Answered(ids[place:end], work.scores[place:end], chosen[place:end], None, part(work.others, place, end)))
            place = end
        answers[-1].shadow = shadow
        return answers

    def run_shadow(self, name: str, work: ShadowWork) -> PredictionRecord | FailureRecord:
        """Let one shadow see the rows that it did not answer itself. Return its record, or that of its failure.

        The record has no inputs: those stand in the record of the answer, under the same ids.
        """
        variant, ids, columns, trace_id = self.variants[name], work.ids, work.columns, work.trace_id
        if name in work.chosen:
            places = [place for place, each in enumerate(work.chosen) if each != name]
            ids = [ids[place] for place in places]
            trace_id = [trace_id[place] for place in places] if isinstance(trace_id, list) else trace_id
            columns = _take_rows(columns, variant.needs, places)
        before = elapsed()
        try:
            scores = variant.runtime.run(columns, len(ids)).tolist()
        except Exception as error:  # noqa: BLE001 (the edge of a thread: a shadow must harm nobody)
            return self._failure(variant.config, len(ids), work.at, shadow=True, reason=str(error))
        return PredictionRecord(
            at=work.at,
            received=wall_micros(),
            ids=ids,
            columns={},
            scores=scores,
            variant=[0] * len(scores),
            variants=[(variant.config.name, variant.config.model, variant.config.version)],
            shadow=True,
            latency_ms=(elapsed() - before) * 1e3,
            trace_id=trace_id,
        )

    def _units(self, ids: list[str], columns: Columns) -> Sequence[str]:
        by = self.config.route.sticky_by
        if by is None:
            return ids
        return [unit if value is None else f"={value}" for unit, value in zip(ids, columns[by], strict=True)]

    def _failure(self, variant: VariantConfig, rows: int, at: int, *, shadow: bool, reason: str) -> FailureRecord:
        return FailureRecord(
            at=at, received=wall_micros(), rows=rows, variant=variant.name, model=variant.model, version=variant.version,
            shadow=shadow, reason=reason[:500],
        )  # fmt: skip

    def answer(self, answered: Answered) -> PredictAnswer:
        """Return what came of a request in Tidemill's own shape."""
        labels = self.labels(answered)
        predictions = [
            Prediction(id=unit, score=score, label=label, variant=name, version=self.variants[name].config.version, outputs=others)
            for unit, score, label, name, others in zip(
                answered.ids, answered.scores, labels, answered.chosen, by_row(answered.others, len(answered.ids)), strict=True
            )
        ]
        one = self.sole(answered)
        return PredictAnswer(
            predictions=predictions,
            model=one.model if one else None,
            version=one.version if one else None,
            variant=one.name if one else None,
        )

    def sole(self, answered: Answered) -> VariantConfig | None:
        """Return the variant that answered every row, None when they were split over several."""
        if self._alone is not None:
            return self._alone.config
        return self.variants[answered.chosen[0]].config if len(set(answered.chosen)) == 1 else None

    def labels(self, answered: Answered) -> list[bool | None]:
        """Return the label of each row, None where no threshold is known."""
        if not self.labelled:
            return [None] * len(answered.scores)
        return [
            None if (threshold := self._thresholds[name]) is None else score >= threshold
            for score, name in zip(answered.scores, answered.chosen, strict=True)
        ]

    def _packed(self, block: Block) -> PackedBlock:
        names = self._names.get(block.names)
        if names is None:
            if len(self._names) >= ORDERS_KEPT:
                self._names.clear()
            names = self._names[block.names] = packed(list(block.names))
        dtype = "<f4" if block.matrix.dtype == np.float32 else "<f8"
        return PackedBlock(names=names, dtype=dtype, data=block.matrix.tobytes())  # type: ignore[arg-type]  # packed already

    def threshold(self, variant: LoadedVariant) -> float | None:
        """Return what turns scores into labels: the endpoint's threshold, else the model's own."""
        return self._thresholds[variant.config.name]


def _note(asks: Sequence[Ask], began: float, ids: list[str]) -> list[Step] | None:
    """Tell those of requests that are traced what they are scored with; return where its steps are noted, None when none is traced."""
    together = [ask.traced for ask in asks if ask.traced is not None]
    if not together:
        return None
    steps: list[Step] = []
    place = 0
    for ask in asks:
        if (traced := ask.traced) is not None:
            traced.began, traced.steps, traced.together = began, steps, together
            traced.requests, traced.rows, traced.ids = len(asks), len(ids), ids[place : place + min(ask.rows.count, IDS)]
        place += ask.rows.count
    return steps


def _take_rows(columns: Columns, names: Sequence[str], places: list[int]) -> Columns:
    if isinstance(columns, Block):
        return columns.take(places)
    return {name: _take(columns[name], places) for name in names}


def _take(column: Column, places: list[int]) -> Column:
    return column[places] if isinstance(column, np.ndarray) else [column[place] for place in places]

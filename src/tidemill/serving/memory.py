"""Which endpoints of a config are in memory: they come, stay, make room for others, and are tried again when they cannot come.

With a budget they come when somebody asks, else all at once. One that cannot come keeps no other away; what was served in its place
before is served on.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tidemill.core.clock import elapsed
from tidemill.core.errors import TidemillError
from tidemill.core.values import replace
from tidemill.serving.config import EndpointConfig, EndpointTrouble, ServingConfig
from tidemill.serving.metrics import Metrics
from tidemill.serving.predict import Endpoint
from tidemill.serving.problems import EndpointLate, EndpointUnready, TooBusy
from tidemill.serving.world import Builder, Source, Trouble, World

LOG = logging.getLogger(__name__)
LOADERS = 4
RETRY_S, RETRY_MAX_S = 1.0, 60.0
Done = Callable[[TidemillError | None], None]


class _Place:
    """One endpoint: what is wanted of it, what is there, and who waits. older: what may be served while the wanted cannot."""

    def __init__(self, wanted: EndpointConfig, older: EndpointConfig | None) -> None:
        self.wanted, self.older = wanted, older
        self.endpoint: Endpoint | None = None
        self.trouble: Trouble | None = None
        self.older_fails = False
        self.loading: asyncio.Task[None] | None = None
        self.waiting: dict[Done, asyncio.TimerHandle] = {}

    @property
    def settled(self) -> bool:
        """Whether what is wanted is there."""
        return self.endpoint is not None and self.endpoint.config == self.wanted

    def want(self, config: EndpointConfig) -> None:
        """Want something else from now on; what was served so far may serve until it comes."""
        if self.endpoint is None and self.trouble is None:
            self.older = self.wanted
        self.wanted, self.trouble, self.loading = config, None, None

    def leave(self) -> None:
        """Take the endpoint out of memory."""
        if self.endpoint is not None and not self.settled:
            self.older = self.endpoint.config
        self.endpoint = None

    def answers(self) -> EndpointConfig | None:
        """Return what is served, or would be if somebody asked."""
        if self.endpoint is not None:
            return self.endpoint.config
        if self.trouble is None:
            return self.wanted
        return self.older if not self.older_fails else None


class Memory:
    """The endpoints of one worker. Used in the event loop alone; loading goes on in threads."""

    def __init__(
        self, builder: Builder, metrics: Metrics, *, budget_bytes: int | None, pinned: Collection[str], waiting_limit: int,
        deadline_s: float, show: Callable[[World], None], busy: Callable[[str], bool],
    ) -> None:  # fmt: skip
        """show: called with what is served from now on. busy: whether an endpoint is in use. deadline_s: for how long callers wait."""
        self._builder, self._metrics = builder, metrics
        self._budget, self._pinned, self._limit, self._deadline_s = budget_bytes, frozenset(pinned), waiting_limit, deadline_s
        self._publish, self._busy = show, busy
        self._places: dict[str, _Place] = {}
        self._config: ServingConfig | None = None
        self._sources: dict[str, Source] = {}
        self._sources_at = 0.0
        self._finding: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(LOADERS, thread_name_prefix="loader")

    async def adopt(self, config: ServingConfig, *, older: ServingConfig | None = None) -> None:
        """Serve a config, once what has to be in memory is there, or cannot come, or the deadline is over.

        older: what this worker's home served before; used where what is wanted cannot be served.
        """
        before = {each.key: each for each in older.endpoints} if older is not None else {}
        wanted = {each.key: each for each in config.endpoints}
        loads = []
        for key, each in wanted.items():
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = _Place(each, before.get(key))
            elif place.wanted != each:
                place.want(each)
            if place.settled:
                place.trouble = None
            elif self._budget is None or key in self._pinned or place.endpoint is not None or place.waiting:
                loads.append(self._begin(place))
        sources = await asyncio.get_running_loop().run_in_executor(self._threads, self._builder.sources, config)
        if loads:
            await asyncio.wait(loads, timeout=self._deadline_s)
        for key in self._places.keys() - wanted.keys():
            _settle(self._places.pop(key), None)
        self._config, self._sources, self._sources_at = config, sources, elapsed() + RETRY_S
        self._make_room()
        self._show()

    def wait(self, key: str, done: Done) -> None:
        """Call done once an endpoint is in memory, with None, or with why it is not."""
        place = self._places.get(key)
        if place is None or place.endpoint is not None:
            done(None)
        elif len(place.waiting) >= self._limit:
            done(TooBusy(key, len(place.waiting)))
        else:
            place.waiting[done] = asyncio.get_running_loop().call_later(self._deadline_s, self._late, place, done)
            self._begin(place)

    def look(self) -> None:
        """Try again what could not come and is due."""
        now = elapsed()
        for place in self._places.values():
            if place.trouble is not None and place.loading is None and place.trouble.retry_at <= now:
                self._begin(place)
        if self._config is not None and self._sources_at <= now and self._finding is None:
            self._sources_at = now + RETRY_S
            if not all(source.ready for source in self._sources.values()):
                self._finding = asyncio.ensure_future(self._find_sources(self._config))

    def troubles(self) -> tuple[EndpointTrouble, ...]:
        """Return which endpoints are not served as the config says, and what is served in their place."""
        return tuple(
            EndpointTrouble(
                endpoint=key, reason=place.trouble.reason, attempts=place.trouble.attempts,
                serves=tuple(f"{each.model}@{each.version}" for each in served.variants) if (served := place.answers()) is not None else (),
            )
            for key, place in sorted(self._places.items())
            if place.trouble is not None
        )  # fmt: skip

    def good(self, config: ServingConfig) -> ServingConfig:
        """Return a config with what is served, or was, in place of what cannot be."""
        places = [self._places[each.key] for each in config.endpoints]
        return replace(config, endpoints=tuple(place.answers() or place.older or place.wanted for place in places))

    def close(self) -> None:
        """Begin nothing any more."""
        for place in self._places.values():
            if place.loading is not None:
                place.loading.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, place: _Place) -> asyncio.Task[None]:
        if place.loading is None:
            place.loading = asyncio.ensure_future(self._load(place))
        return place.loading

    async def _load(self, place: _Place) -> None:
        try:
            await self._bring(place)
        except Exception:  # nobody awaits this task: whoever waits for the endpoint is to hear of it, and the next one to begin again
            LOG.exception("endpoint %s cannot be loaded", place.wanted.key)
            if place.loading is asyncio.current_task():
                place.loading = None
                _settle(place, TidemillError(f"endpoint {place.wanted.key!r} cannot be loaded; the worker's log has the reason"))

    async def _bring(self, place: _Place) -> None:
        """Bring what is wanted into memory, or else what was served before it."""
        wanted, trouble, found = place.wanted, place.trouble, None
        self._make_room(self._builder.size_bytes(wanted), keep=place)
        if trouble is None or trouble.retry_at <= elapsed() or place.older is None:
            try:
                found, trouble = await self._build(wanted), None
            except Exception as error:  # noqa: BLE001 (the edge of a thread)
                trouble = self._failed(wanted, trouble, error)
        if found is None and place.endpoint is None and place.older is not None:
            try:
                found = await self._build(place.older)
            except Exception as error:  # noqa: BLE001 (the same)
                LOG.error("endpoint %s: what was served before cannot be loaded either: %s", wanted.key, error)
            place.older_fails = found is None
        if place.loading is not asyncio.current_task():
            return  # something else is wanted by now
        place.loading, place.trouble = None, trouble
        if found is not None:
            found.used_s = elapsed() if place.waiting else place.endpoint.used_s if place.endpoint is not None else 0.0
            place.endpoint = found
            if place.settled:
                place.older = None
            self._make_room(keep=place if place.waiting else None)
        self._show()
        _settle(place, _refusal(place))

    async def _build(self, config: EndpointConfig) -> Endpoint:
        begun = elapsed()
        made = await asyncio.get_running_loop().run_in_executor(self._threads, self._builder.endpoint, config)
        self._metrics.load_seconds.of().add(elapsed() - begun)
        return made

    def _failed(self, config: EndpointConfig, before: Trouble | None, error: Exception) -> Trouble:
        if not isinstance(error, TidemillError | OSError):
            LOG.error("endpoint %s cannot be loaded", config.key, exc_info=error)
        attempts = before.attempts + 1 if before is not None else 1
        reason = str(error) if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"
        if before is None or before.reason != reason:
            LOG.error("endpoint %s cannot be loaded: %s", config.key, reason)
        self._metrics.load_failures.labels(config.key).inc()
        return Trouble(reason, attempts, elapsed() + min(RETRY_MAX_S, RETRY_S * 2 ** min(attempts - 1, 10)))

    def _make_room(self, need_bytes: int = 0, *, keep: _Place | None = None) -> None:
        """Let the endpoints that were not used for longest go until so much more fits into the budget."""
        if self._budget is None:
            return
        evicted = False
        while self._taken_bytes() + need_bytes > self._budget:
            idle = [
                (place.endpoint.used_s, key)
                for key, place in self._places.items()
                if place.endpoint is not None and place is not keep and key not in self._pinned and not self._busy(key)
            ]
            if not idle:
                break
            self._places[min(idle)[1]].leave()
            self._metrics.evictions.inc()
            evicted = True
        if evicted:
            self._show()

    def _models(self) -> dict[int, Any]:
        there = [place.endpoint for place in self._places.values() if place.endpoint is not None]
        return {id(variant.model): variant.model for endpoint in there for variant in endpoint.variants.values()}

    def _taken_bytes(self) -> int:
        return sum(model.size_bytes for model in self._models().values())

    def _show(self) -> None:
        if self._config is None:
            return
        away = {key: None if place.answers() else place.trouble for key, place in self._places.items() if place.endpoint is None}
        endpoints = {key: place.endpoint for key, place in self._places.items() if place.endpoint is not None}
        self._metrics.models.set(len(self._models()))
        self._metrics.models_memory.set(self._taken_bytes())
        world = World(self._config, endpoints, self._sources, away=away, wait=self.wait)
        self._metrics.unready.set(len(world.unready))
        self._metrics.outdated.set(sum(place.trouble is not None for place in self._places.values()) - len(world.unready))
        self._publish(world)

    def _late(self, place: _Place, done: Done) -> None:
        del place.waiting[done]
        done(EndpointLate(place.wanted.key, self._deadline_s))

    async def _find_sources(self, config: ServingConfig) -> None:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._builder.sources, config)
        self._finding = None
        if config is self._config and any(source.ready for source in found.values()):
            self._sources = found
            self._show()


def _refusal(place: _Place) -> TidemillError | None:
    if place.endpoint is not None or place.trouble is None:
        return None
    return EndpointUnready(place.wanted.key, place.trouble.reason, place.trouble.retry_at - elapsed())


def _settle(place: _Place, refused: TidemillError | None) -> None:
    """Tell all who wait for an endpoint."""
    waiting, place.waiting = place.waiting, {}
    for done, timer in waiting.items():
        timer.cancel()
        try:
            done(refused)
        except Exception:  # one caller's trouble must not keep the others waiting
            LOG.exception("an answer could not be sent")

"""Everything that a worker serves at one moment: a config, and what of it is in memory. Replaced as a whole, never changed."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import NamedTuple

from tidemill.core.clock import Clock, elapsed, micros, wall
from tidemill.core.errors import NotPermitted, TidemillError
from tidemill.features.incoming import Columns
from tidemill.features.online import Pushed, ViewPlan, prepare
from tidemill.serving.config import EndpointConfig, EndpointOptions, KeyHash, ServingConfig, endpoint_key
from tidemill.serving.journal import EndpointJournal, JournalWriter, PushRecord
from tidemill.serving.metrics import Metrics
from tidemill.serving.models import Models
from tidemill.serving.predict import Endpoint
from tidemill.serving.problems import (
    EndpointAbsent,
    EndpointNotFound,
    EndpointUnready,
    NotAuthenticated,
    SourceNotFound,
    SourceUnready,
)
from tidemill.store.online import OnlineStore


class Source:
    """A source of events with the view versions over it. online: where they go; or why they cannot.

    journal: where they are written to become rows of the source's dataset; None where nothing tells one row of it from another.
    """

    def __init__(self, name: str, project: str, online: OnlineStore | str, journal: JournalWriter | None) -> None:
        self.name, self.project, self.journal, self._online = name, project, journal, online
        self.plans: list[ViewPlan] = []

    @property
    def ready(self) -> bool:
        return not isinstance(self._online, str)

    @property
    def online(self) -> OnlineStore:
        """Where the values of its views lie. Raises SourceUnready."""
        if isinstance(self._online, str):
            raise SourceUnready(self.name, self._online)
        return self._online

    def push(self, rows: Columns, body: bytes, *, now: datetime) -> dict[str, Pushed]:
        """Store events in every view; return what each made of them, by `VIEW@VERSION`. They are checked by all before any takes one.

        body: the request, journaled before anything is stored, so that nothing is online alone. Raises Invalid, SourceUnready,
        JournalUnavailable.
        """
        online = self.online
        pushes = [prepare(plan, rows, now=now) for plan in self.plans]
        if self.journal is not None:
            self.journal.append(PushRecord(received=int(wall() * 1e6), body=body), at=micros(now))
        return {push.plan.reference: push.store(online) for push in pushes}


class Trouble(NamedTuple):
    """Why an endpoint is not served as the config says. attempts: how often that was tried; retry_at: by `elapsed`, when it is again."""

    reason: str
    attempts: int
    retry_at: float


Wait = Callable[[str, Callable[[TidemillError | None], None]], None]


class World:
    """A config with those of its endpoints that are in memory.

    away: the others, with the trouble that keeps them out of it; None for those that come when somebody asks. wait: how they do.
    """

    def __init__(
        self, config: ServingConfig, endpoints: dict[str, Endpoint], sources: dict[str, Source], *,
        away: Mapping[str, Trouble | None], wait: Wait,
    ) -> None:  # fmt: skip
        self.config, self.endpoints, self.sources = config, endpoints, sources
        self._away, self.wait = away, wait
        self._keys = {key.id: key for key in config.keys} if config.keys is not None else None

    @property
    def names(self) -> list[str]:
        """The endpoints that there are, in memory or not."""
        return sorted((*self.endpoints, *self._away))

    @property
    def unready(self) -> list[str]:
        """The endpoints that cannot be brought into memory."""
        return sorted(name for name, trouble in self._away.items() if trouble is not None)

    @property
    def ready(self) -> bool:
        """Whether there is an endpoint that answers, or none that should."""
        names = len(self.endpoints) + len(self._away)
        return not names or len(self.unready) < names

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint that callers name. Raises EndpointNotFound, EndpointUnready, EndpointAbsent (wait, and ask again)."""
        found = self.endpoints.get(name)
        if found is None:
            if self.answers(name):
                raise EndpointAbsent(name, partial(self.wait, name))
            trouble = self._away[name]
            assert trouble is not None, "who is away without trouble answers"
            raise EndpointUnready(name, trouble.reason, trouble.retry_at - elapsed())
        return found

    def answers(self, name: str) -> bool:
        """Return whether an endpoint answers, be it after it has been loaded. Raises EndpointNotFound."""
        if name not in self.endpoints and name not in self._away:
            raise EndpointNotFound(name[:200], self.names)
        return self._away.get(name) is None

    def options(self, name: str) -> EndpointOptions:
        """Return how an endpoint serves, in memory or not. Raises EndpointNotFound."""
        found = next((endpoint.options for endpoint in self.config.endpoints if endpoint.key == name), None)
        if found is None:
            raise EndpointNotFound(name[:200], self.names)
        return found

    def source(self, name: str) -> Source:
        """Return a source that is named as callers name it. Raises SourceNotFound."""
        found = self.sources.get(name)
        if found is None:
            raise SourceNotFound(name[:200], list(self.sources))
        return found

    def admit(self, headers: Mapping[bytes, bytes], *, project: str | None, writes: bool, now: datetime) -> None:
        """Let a caller pass. project None: any. Raises NotAuthenticated, NotPermitted."""
        if self._keys is None:
            if b"origin" in headers:
                # Browsers say where a page comes from; without keys any page that somebody here looks at could send labels.
                raise NotPermitted('web pages may not call a server that asks for no keys; turn keys on (authentication = "keys")')
            return
        key = self._key(headers.get(b"authorization"))
        if key is None or key.expires_at <= now:
            raise NotAuthenticated
        if project is not None and key.project not in ("*", project):
            raise NotPermitted(f"this API key is for project {key.project!r}, not for {project!r}; use one of that project")
        if writes and not key.writes:
            raise NotPermitted("this API key may read only; labels and feature rows need one of a developer or stronger")

    def _key(self, authorization: bytes | None) -> KeyHash | None:
        scheme, _, token = (authorization or b"").decode("latin-1").partition(" ")
        prefix, _, rest = token.strip().partition("_")
        key_id, _, secret = rest.partition("_")
        key = (self._keys or {}).get(key_id)
        known = key.sha256 if key is not None else "0" * 64
        same = hmac.compare_digest(hashlib.sha256(secret.encode()).hexdigest(), known)
        return key if same and key is not None and scheme.lower() == "bearer" and prefix == "tm" else None


class Builder:
    """Makes what a config names. Slow (it loads models), so it runs beside the event loop, in several threads."""

    def __init__(
        self, models: Models, *, clock: Clock, metrics: Metrics, online: Callable[[], OnlineStore],
        journal: Callable[[EndpointConfig], EndpointJournal],
        pushes: Callable[[str], JournalWriter] | None = None, together_s: float = 0.0, traced: bool = False,
    ) -> None:  # fmt: skip
        self._traced = traced
        self._models, self._clock, self._metrics, self._together_s = models, clock, metrics, together_s
        self._open_online, self._journal, self._pushes = online, journal, pushes

    def endpoint(self, config: EndpointConfig) -> Endpoint:
        """Load the models of an endpoint that are not loaded yet. Raises LoadFailed, Invalid, Unavailable."""
        online = self._open_online() if config.features is not None else None
        variants = {name: self._models.load(config.variant(name)) for name in sorted({*config.route.shares, *config.shadows})}
        return Endpoint(
            config, variants, online=online, journal=self._journal(config), clock=self._clock, metrics=self._metrics,
            together_s=self._together_s, traced=self._traced,
        )  # fmt: skip

    def size_bytes(self, config: EndpointConfig) -> int:
        """Return what an endpoint took of memory when it was loaded last, 0 for one that never was."""
        return sum(self._models.size_bytes(bundle) for bundle in {variant.bundle for variant in config.variants})

    def sources(self, config: ServingConfig) -> dict[str, Source]:
        """Return the sources of events by the names that callers use."""
        sources: dict[str, Source] = {}
        for plan in config.views:
            name = endpoint_key(plan.project, plan.view.source)
            if name not in sources:
                journal = self._pushes(name) if name in config.keyed and self._pushes is not None else None
                sources[name] = Source(name, plan.project, self._online(), journal)
            sources[name].plans.append(plan)
        return sources

    def _online(self) -> OnlineStore | str:
        try:
            return self._open_online()
        except TidemillError as error:
            return str(error)

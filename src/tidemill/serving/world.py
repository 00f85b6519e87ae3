"""Everything that a worker serves at one moment: a config brought to life. Replaced as a whole, never changed."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime

from tidemill.core.clock import Clock
from tidemill.core.errors import NotPermitted
from tidemill.features.online import Columns, Pushed, ViewPlan, prepare
from tidemill.serving.config import EndpointConfig, KeyHash, ServingConfig, endpoint_key
from tidemill.serving.journal import EndpointJournal
from tidemill.serving.metrics import Metrics
from tidemill.serving.models import Models
from tidemill.serving.predict import Endpoint
from tidemill.serving.problems import EndpointNotFound, NotAuthenticated, SourceNotFound
from tidemill.store.online import OnlineStore


class Source:
    """A source of events with the view versions over it."""

    def __init__(self, project: str, online: OnlineStore) -> None:
        self.project, self._online = project, online
        self.plans: list[ViewPlan] = []

    def push(self, rows: Columns, *, now: datetime) -> dict[str, Pushed]:
        """Store events in every view; return what each made of them, by `VIEW@VERSION`. They are checked by all before any takes one."""
        pushes = [prepare(plan, rows, now=now) for plan in self.plans]
        return {push.plan.reference: push.store(self._online) for push in pushes}


class World:
    """A config with its endpoints loaded."""

    def __init__(self, config: ServingConfig, endpoints: dict[str, Endpoint], sources: dict[str, Source]) -> None:
        self.config, self.endpoints, self.sources = config, endpoints, sources
        self._keys = {key.id: key for key in config.keys} if config.keys is not None else None

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint that callers name. Raises EndpointNotFound."""
        found = self.endpoints.get(name)
        if found is None:
            raise EndpointNotFound(name[:200], list(self.endpoints))
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
    """Makes a world of a config. Slow (it loads models), so it runs beside the event loop; what was loaded before is used again."""

    def __init__(
        self, models: Models, *, clock: Clock, metrics: Metrics, online: Callable[[], OnlineStore],
        journal: Callable[[EndpointConfig], EndpointJournal],
    ) -> None:  # fmt: skip
        self._models, self._clock, self._metrics = models, clock, metrics
        self._open_online, self._journal = online, journal

    def build(self, config: ServingConfig) -> World:
        """Load and warm up everything that a config names. Raises TidemillError; nothing that is served is touched then."""
        endpoints = {each.key: self._endpoint(each) for each in config.endpoints}
        sources: dict[str, Source] = {}
        for plan in config.views:
            name = endpoint_key(plan.project, plan.view.source)
            sources.setdefault(name, Source(plan.project, self._open_online())).plans.append(plan)
        return World(config, endpoints, sources)

    def forget(self, config: ServingConfig) -> None:
        """Let go of models that a config, now served, does not name."""
        self._models.keep({variant.bundle for endpoint in config.endpoints for variant in endpoint.variants})

    def _endpoint(self, config: EndpointConfig) -> Endpoint:
        online = self._open_online() if config.features is not None else None
        used = {name for name, share in config.route.shares.items() if share > 0} | set(config.shadows) | set(config.route.shares)
        variants = {name: self._models.load(config.variant(name)) for name in sorted(used)}
        endpoint = Endpoint(
            config, variants, online=online, journal=self._journal(config), clock=self._clock, metrics=self._metrics
        )  # fmt: skip
        endpoint.warm_up()
        return endpoint

"""Everything that a worker serves at one moment: a config brought to life. Replaced as a whole, never changed."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime

from tidemill.core.clock import Clock
from tidemill.core.errors import NotPermitted
from tidemill.features.online import ViewPlan
from tidemill.serving.config import EndpointConfig, KeyHash, ServingConfig
from tidemill.serving.journal import JournalWriter
from tidemill.serving.metrics import Metrics
from tidemill.serving.predict import Endpoint, Models
from tidemill.serving.problems import EndpointNotFound, NotAuthenticated
from tidemill.store.online import OnlineStore


class World:
    """A config with its endpoints loaded."""

    def __init__(self, config: ServingConfig, endpoints: dict[str, Endpoint], online: OnlineStore | None) -> None:
        self.config, self.endpoints, self.online = config, endpoints, online
        self.views: dict[str, ViewPlan] = {plan.view.name: plan for plan in config.views}
        self._keys = {key.id: key for key in config.keys} if config.keys is not None else None

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint that callers name. Raises EndpointNotFound."""
        found = self.endpoints.get(name)
        if found is None:
            raise EndpointNotFound(name[:200], list(self.endpoints))
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
        journal: Callable[[EndpointConfig], JournalWriter],
    ) -> None:  # fmt: skip
        self._models, self._clock, self._metrics = models, clock, metrics
        self._open_online, self._journal = online, journal

    def build(self, config: ServingConfig) -> World:
        """Load and warm up everything that a config names. Raises TidemillError; nothing that is served is touched then."""
        looks_up = any(endpoint.features is not None for endpoint in config.endpoints) or bool(config.views)
        online = self._open_online() if looks_up else None
        endpoints = {each.key: self._endpoint(each, online) for each in config.endpoints}
        return World(config, endpoints, online)

    def forget(self, config: ServingConfig) -> None:
        """Let go of models that a config, now served, does not name."""
        self._models.keep({variant.bundle for endpoint in config.endpoints for variant in endpoint.variants})

    def _endpoint(self, config: EndpointConfig, online: OnlineStore | None) -> Endpoint:
        used = {name for name, share in config.route.shares.items() if share > 0} | set(config.shadows) | set(config.route.shares)
        variants = {name: self._models.load(config.variant(name)) for name in sorted(used)}
        endpoint = Endpoint(
            config, variants, online=online, journal=self._journal(config), clock=self._clock, metrics=self._metrics
        )  # fmt: skip
        endpoint.warm_up()
        return endpoint

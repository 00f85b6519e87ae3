"""Which endpoint a method and a path mean: one lookup for most, a short list of patterns for those with placeholders."""

import re
from collections.abc import Sequence

from tidemill.server.mlflow.endpoint import PLACEHOLDER, Endpoint
from tidemill.server.mlflow.exchange import Stream

PREFIXES = ("/api/2.0/mlflow", "/api/3.0/mlflow", "/ajax-api/2.0/mlflow", "/ajax-api/3.0/mlflow")
Target = Endpoint | Stream
_Pattern = tuple[str, "re.Pattern[str]", Target]


class Routing:
    """All paths of MLflow's API. Immutable once made."""

    def __init__(self, endpoints: Sequence[Endpoint], streams: Sequence[Stream]) -> None:
        self._fixed: dict[tuple[str, str], Target] = {}
        self._patterns: list[_Pattern] = []
        for endpoint in endpoints:
            for version in endpoint.versions:
                for api in ("api", "ajax-api"):
                    self._add(endpoint.method, f"/{api}/{version}.0{endpoint.path}", endpoint)
        for stream in streams:
            for path in stream.paths:
                self._add(stream.method, path, stream)
        self._fixed_paths = frozenset(path for _, path in self._fixed)

    def serves(self, path: str) -> bool:
        """Return whether a path is MLflow's, known or not."""
        return path.startswith(PREFIXES) or path in self._fixed_paths

    def find(self, method: str, path: str) -> tuple[Target, dict[str, str]] | None:
        """Return what answers, and the values of the path's placeholders."""
        fixed = self._fixed.get((method, path))
        if fixed is not None:
            return fixed, {}
        for wanted, pattern, target in self._patterns:
            if wanted == method and (match := pattern.fullmatch(path)):
                return target, match.groupdict()
        return None

    def brief(self) -> dict[tuple[bytes, bytes], Endpoint]:
        """Return the endpoints that an event loop may run, by method and path as they come over the wire."""
        return {
            (method.encode(), path.encode()): target
            for (method, path), target in self._fixed.items()
            if isinstance(target, Endpoint) and target.brief
        }

    def methods(self, path: str) -> list[str]:
        """Return the methods that a path takes."""
        fixed = {method for method, known in self._fixed if known == path}
        return sorted(fixed | {method for method, pattern, _ in self._patterns if pattern.fullmatch(path)})

    def _add(self, method: str, path: str, target: Target) -> None:
        if "{" not in path:
            self._fixed[method, path] = target
            return
        # `{name}` is one part of a path, `{name:path}` all that is left of it.
        parts = re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
        whole = re.sub(r"{(\w+):path}", r"(?P<\1>.*)", parts)
        self._patterns.append((method, re.compile(PLACEHOLDER.sub(r"(?P<\1>[^/]+)", whole), re.DOTALL), target))

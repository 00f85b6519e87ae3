"""Model bundles of a worker: on its disk, and in its memory."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tidemill.core.signature import ModelSpec
from tidemill.serving.config import VariantConfig
from tidemill.serving.runtimes.runtime import Runtime, load_runtime, read_spec
from tidemill.store.objects import ObjectStore
from tidemill.store.trees import checkout


class LoadedVariant:
    """A variant with its model in memory."""

    def __init__(self, config: VariantConfig, spec: ModelSpec, runtime: Runtime) -> None:
        self.config, self.spec, self.runtime = config, spec, runtime
        self.needs = tuple(dict.fromkeys(name for names in spec.tensors.values() for name in names))


class Models:
    """Bundles on disk and in memory, by digest: what is loaded once serves every endpoint and every config that names it."""

    def __init__(self, store: Callable[[], ObjectStore], folder: Path, *, trusted: Sequence[str], deadline_s: float) -> None:
        self._store, self._folder, self._trusted, self._deadline_s = store, folder, tuple(trusted), deadline_s
        self._loaded: dict[str, tuple[ModelSpec, Runtime]] = {}

    def load(self, variant: VariantConfig) -> LoadedVariant:
        """Return a variant with its model, fetched and loaded if it is not there yet. Raises Invalid, NotFound, Unavailable, Corrupt."""
        if variant.bundle not in self._loaded:
            folder = self._folder / variant.bundle
            if not folder.is_dir():  # it appears whole or not at all
                checkout(self._store(), variant.bundle, folder)
            spec = read_spec(folder)
            model = f"{variant.model}@{variant.version}"
            runtime = load_runtime(folder, spec, trusted=self._trusted, model=model, deadline_s=self._deadline_s)
            self._loaded[variant.bundle] = (spec, runtime)
        spec, runtime = self._loaded[variant.bundle]
        return LoadedVariant(variant, spec, runtime)

    def keep(self, digests: set[str]) -> None:
        """Let go of every model that is not among digests."""
        for digest in set(self._loaded) - digests:
            del self._loaded[digest]

"""Model bundles of a worker, on its disk and in its memory: fetched, loaded, warmed up, weighed; and left out where they kill it.

What is loaded once serves every endpoint and every config that names it, and goes with the last of them.
"""

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from tidemill.core.clock import wall_micros
from tidemill.core.errors import Corrupt, Invalid, TidemillError, Unavailable
from tidemill.core.ids import Digest
from tidemill.core.signature import ModelSpec
from tidemill.serving.config import VariantConfig
from tidemill.serving.metrics import process_memory_bytes
from tidemill.serving.runtimes.runtime import ModelFailed, Runtime, apart, goes_through_fork, load_runtime, read_spec
from tidemill.store.objects import ObjectStore
from tidemill.store.trees import checkout

LOG = logging.getLogger(__name__)
CRASHES = 3  # loads in a row that ended with the worker's end, before a model is left out
QUARANTINE_S = 600.0


class LoadFailed(Unavailable):
    """A model version is not to be had here, now."""

    def __init__(self, model: str, reason: str) -> None:
        self.model, self.reason = model, reason
        super().__init__(f"model {model} cannot be loaded: {reason}")


class Quarantined(Unavailable):
    """A model version ends the process that loads it."""

    def __init__(self, crashes: int, crumb: Path) -> None:
        self.crashes, self.crumb = crashes, crumb
        super().__init__(
            f"the worker died {crashes} times in a row while loading it, so it is left out for {QUARANTINE_S / 60:.0f} minutes; "
            f"register a version that loads, or, if the cause is gone, remove {crumb}"
        )


class LoadedModel:
    """A model in memory. size_bytes: of the memory that it takes, as far as that can be told."""

    def __init__(self, spec: ModelSpec, runtime: Runtime, size_bytes: int) -> None:
        self.spec, self.runtime, self.size_bytes = spec, runtime, size_bytes


class LoadedVariant:
    """A variant with its model in memory."""

    def __init__(self, config: VariantConfig, model: LoadedModel) -> None:
        self.config, self.model, self.spec, self.runtime = config, model, model.spec, model.runtime
        self.needs = tuple(dict.fromkeys(name for names in self.spec.tensors.values() for name in names))


class Models:
    """The bundles of one worker. May be called from several threads; models in this process are loaded one after the other."""

    def __init__(
        self, store: Callable[[], ObjectStore], folder: Path, *, trusted: Sequence[str], deadline_s: float, crumbs: Path,
        weigh: bool = False, known: Mapping[str, LoadedModel] | None = None,
    ) -> None:  # fmt: skip
        """crumbs: the folder that remembers which loads had no end. weigh: whether somebody goes by what models take of memory.

        known: models that are in memory already, by bundle.
        """
        self._store, self._folder, self._trusted, self._deadline_s = store, folder, tuple(trusted), deadline_s
        self._crumbs, self._weigh = crumbs, weigh
        self._lock = threading.Lock()
        self._loaded: WeakValueDictionary[str, LoadedModel] = WeakValueDictionary(known or {})
        self._sizes: dict[str, int] = {}
        self._met: set[str] = set()
        self._fetched: set[str] = set()

    def size_bytes(self, bundle: str) -> int:
        """Return what a model took of memory when it was loaded last, 0 for one that never was."""
        return self._sizes.get(bundle, 0)

    def load(self, variant: VariantConfig) -> LoadedVariant:
        """Return a variant with its model: fetched, loaded and run once if it is not there yet. Raises LoadFailed."""
        found = self._loaded.get(variant.bundle)
        if found is None:
            model = f"{variant.model}@{variant.version}"
            try:
                found = self._loaded.setdefault(variant.bundle, self._bring(variant.bundle, model))
            except ModelFailed as error:
                raise LoadFailed(
                    model, f"it fails on a made-up row, {error.reason}; look at it with: tidemill model show {model}"
                ) from error
            except (TidemillError, OSError) as error:
                raise LoadFailed(model, str(error)) from error
            except Exception as error:
                LOG.exception("model %s cannot be loaded", model)
                raise LoadFailed(model, f"{type(error).__name__}: {error}; look at it with: tidemill model show {model}") from error
            self._sizes[variant.bundle] = found.size_bytes
        return LoadedVariant(variant, found)

    def load_forkable(self, variant: VariantConfig, *, fetch: bool) -> LoadedModel | None:
        """Return the model of a variant if it goes through a fork, None if not, or if it is not here and not to be fetched.

        Raises LoadFailed.
        """
        folder = self._folder / variant.bundle
        try:
            if fetch and not folder.is_dir():
                self._fetch(variant.bundle)
            if not folder.is_dir() or not goes_through_fork(read_spec(folder)):
                return None
        except (TidemillError, OSError) as error:
            raise LoadFailed(f"{variant.model}@{variant.version}", str(error)) from error
        return self.load(variant).model

    def _bring(self, bundle: Digest, model: str) -> LoadedModel:
        if not (self._folder / bundle).is_dir():
            self._fetch(bundle)
        try:
            return self._load(bundle, model)
        except (Invalid, Corrupt):
            if bundle in self._fetched:
                raise
            self._fetch(bundle)  # the files that were here from before may have been spoilt
            return self._load(bundle, model)

    def _fetch(self, bundle: Digest) -> None:
        checkout(self._store(), bundle, self._folder / bundle)  # it appears whole or not at all
        self._fetched.add(bundle)

    def _load(self, bundle: str, model: str) -> LoadedModel:
        folder = self._folder / bundle
        spec = read_spec(folder)

        def load() -> Runtime:
            runtime = load_runtime(folder, spec, trusted=self._trusted, model=model, deadline_s=self._deadline_s)
            warm_up(runtime, spec)
            return runtime

        if apart(spec):
            runtime = load()
            return LoadedModel(spec, runtime, process_memory_bytes(getattr(runtime, "pid", None)))
        with self._lock, self._crumb(bundle):
            if self._weigh and spec.runtime not in self._met:
                load()  # the first of its kind brings libraries along, which stay when it goes
                self._met.add(spec.runtime)
            before = self._memory_bytes()
            runtime = load()
            files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            return LoadedModel(spec, runtime, max(self._memory_bytes() - before, files))

    def _memory_bytes(self) -> int:
        if self._weigh:
            give_memory_back()
        return process_memory_bytes()

    @contextmanager
    def _crumb(self, bundle: str) -> Iterator[None]:
        """Leave a mark for as long as a model is being loaded: it stays, and is found, if the process dies of it. Raises Quarantined."""
        crumb = self._crumbs / bundle
        marks = crumb.read_text().split() if crumb.exists() else []
        if len(marks) >= CRASHES and wall_micros() - int(marks[-1]) < QUARANTINE_S * 1e6:
            raise Quarantined(len(marks), crumb)
        self._crumbs.mkdir(parents=True, exist_ok=True)
        with crumb.open("a") as file:
            file.write(f"{wall_micros()}\n")
        try:
            yield
        finally:
            crumb.unlink(missing_ok=True)


def crumbs_folder(state: Path) -> Path:
    """Return where loads under way are marked, in a folder for each worker."""
    return state / "run" / "loading"


def warm_up(runtime: Runtime, spec: ModelSpec) -> None:
    """Run a model once on a made-up row, so that the first caller does not wait. Raises ModelFailed for one that cannot run."""
    columns = {column.name: _example(column.kind, column.categories, column.low) for column in spec.signature.inputs}
    try:
        (runtime.answer if spec.others else runtime.run)(columns, 1)
    except ModelFailed as error:
        # A made-up row may be one that the model cannot score; only one that it cannot run at all must not go live.
        if "is not a finite number" not in error.reason:
            raise


def give_memory_back() -> None:
    """Let the system have the memory that was freed and is kept for later, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _example(kind: str, categories: tuple[str, ...], low: float | None) -> list[Any]:
    if kind == "string":
        return [categories[0] if categories else ""]
    if kind == "boolean":
        return [False]
    return [low if low is not None else (0 if kind == "long" else 0.0)]

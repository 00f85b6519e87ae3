"""Registered models on their way here: versions under their numbers, where these are free, with their files."""

from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from tidemill.core.digest import digest_value
from tidemill.core.errors import NotFound
from tidemill.core.ids import Digest, RunId
from tidemill.govern.workspace import Workspace
from tidemill.registry import aliases, describe, environments, models, versions
from tidemill.registry.versions import ModelVersion, Origin
from tidemill.server.mlflow.moving.luggage import HERE, Luggage
from tidemill.server.mlflow.moving.store import Model, Version
from tidemill.server.mlflow.stages import stage_environments
from tidemill.tracking.files import FileNotKept, tree_of
from tidemill.tracking.moves import Move

WHY = "brought from MLflow"
EVERY = 1_000_000


class Brought(NamedTuple):
    """A model of theirs, what it is called here, and the numbers of its versions here."""

    theirs: Model
    name: str
    numbers: dict[int, int]


def removed_models(luggage: Luggage) -> list[Move]:
    """Return what came before of models that were deleted here since: the models, and their versions and aliases."""
    living = {model.name for model in models.list_models(luggage.ws)}
    gone = [move for move in luggage.came("model") if move.ours not in living]
    names = {move.theirs for move in gone}
    gone += [move for move in luggage.came("version") if move.theirs.rpartition("/")[0] in names]
    return [*gone, *(move for move in luggage.came("alias") if move.theirs.rpartition("@")[0] in names)]


def bring_models(luggage: Luggage) -> list[Brought]:
    """Bring all registered models; return those that are here."""
    found = (_model(luggage, model) for model in luggage.store.models())
    return [brought for brought in found if brought is not None]


def count_models(ws: Workspace, found: list[Brought]) -> dict[str, int]:
    """Count what is here of what they have: the versions, and each tag and alias that says the same."""
    counted = {"registered models": 0, "model versions": 0, "model tags": 0, "aliases": 0}
    for brought in found:
        model, pointing = models.read_model(ws, brought.name), aliases.read_aliases(ws, brought.name)
        here = {version.version: version for version in versions.list_versions(ws, brought.name, limit=EVERY)}
        counted["registered models"] += 1
        counted["model tags"] += len(brought.theirs.tags.items() & model.tags.items())
        counted["aliases"] += sum(
            pointing.get(alias, -1) == brought.numbers.get(number) for alias, number in brought.theirs.aliases.items()
        )
        for version in brought.theirs.versions:
            ours = here.get(brought.numbers.get(version.number, 0))
            counted["model versions"] += ours is not None
            counted["model tags"] += len(version.tags.items() & ours.tags.items()) if ours else 0
    return counted


def _model(luggage: Luggage, model: Model) -> Brought | None:
    luggage.looked_at("registered models")
    known, mark = luggage.ours("model", model.name), digest_value([repr(model._replace(versions=()))])
    if known is None:
        known = luggage.trying(f"model {model.name}", partial(_make, luggage, model))
        if known is None:
            return None
        luggage.remember("model", model.name, known)
    if luggage.mark("model", model.name) != mark:
        _describe(luggage, model, known)
    _claim(luggage, model, known)
    numbers = {version.number: _version(luggage, model, version, known) for version in model.versions}
    _point(luggage, model, known, numbers)
    luggage.remember("model", model.name, known, mark)
    return Brought(model, known, numbers)


def _make(luggage: Luggage, model: Model) -> str:
    try:
        return models.read_model(luggage.ws, model.name).name
    except NotFound:
        return models.create_model(luggage.ws, model.name, description=model.description, reason=WHY).name


def _describe(luggage: Luggage, model: Model, known: str) -> None:
    there = models.read_model(luggage.ws, known)
    if model.description and model.description != there.description:
        luggage.trying(f"model {known}", partial(describe.describe_model, luggage.ws, known, model.description, reason=WHY))
    if model.tags.items() - there.tags.items():
        luggage.trying(f"model {known}", partial(describe.tag_model, luggage.ws, known, dict(model.tags), reason=WHY))
    luggage.fresh += 1


def _version(luggage: Luggage, model: Model, version: Version, known: str) -> int:
    """Bring a version; return its number here."""
    luggage.looked_at("model versions")
    key, mark = f"{model.name}/{version.number}", digest_value([repr(version)])
    number = int(luggage.ours("version", key) or 0)
    if luggage.mark("version", key) == mark:
        return number
    made = _made(luggage, version, known, number)
    number = made.version
    label = f"model {made.reference}"
    if made.description != version.description:
        luggage.trying(label, partial(describe.describe_version, luggage.ws, known, number, version.description, reason=WHY))
    if version.tags.items() - made.tags.items():
        luggage.trying(label, partial(describe.tag_version, luggage.ws, known, number, dict(version.tags), reason=WHY))
    for tag in set(made.tags) - set(version.tags):
        luggage.trying(label, partial(describe.untag_version, luggage.ws, known, number, tag, reason=WHY))
    environment = luggage.trying(label, partial(stage_environments, version.stage or "None"))
    if environment and made.environment not in environment:
        luggage.trying(label, partial(environments.move, luggage.ws, known, number, environment=environment[0], reason=WHY))
    luggage.remember("version", key, str(number), mark)
    luggage.fresh += 1
    return number


def _made(luggage: Luggage, version: Version, known: str, number: int) -> ModelVersion:
    """Return the version of a number, made if it is not here yet."""
    try:
        return versions.find_version(luggage.ws, known, number)
    except NotFound:
        pass
    path = luggage.place_of(version.files) or luggage.place_of(version.source)
    wanted = urlsplit(version.source)
    model = wanted.path.lstrip("/") if wanted.scheme == "models" and "/" not in wanted.path.lstrip("/") else None
    run = luggage.known("run", version.run)
    return versions.create_version(
        luggage.ws,
        known,
        origin=Origin(
            source=version.source,
            location=HERE + path if path else version.files,
            run=RunId(run) if run else None,
            run_link=version.run_link,
            logged_model=luggage.known("logged model", model),
        ),
        bundle=_tree(luggage.ws, path),
        wanted=number,
        reason=WHY,
    )


def _tree(ws: Workspace, path: str | None) -> Digest | None:
    try:
        return None if path is None else tree_of(ws, path)
    except FileNotKept:
        return None


def _claim(luggage: Luggage, model: Model, known: str) -> None:
    """Say which number each version gets: its own where that is free, else one behind all of theirs and ours."""
    fresh = [version.number for version in model.versions if luggage.ours("version", f"{model.name}/{version.number}") is None]
    if not fresh:
        return
    taken = {version.version for version in versions.list_versions(luggage.ws, known, limit=EVERY)}
    behind = max([*taken, *(version.number for version in model.versions)])
    for number in fresh:
        behind += number in taken
        luggage.remember("version", f"{model.name}/{number}", str(behind if number in taken else number))


def _point(luggage: Luggage, model: Model, known: str, numbers: dict[int, int]) -> None:
    """Point aliases as theirs do; one that points elsewhere here, and did not come from them, stays as it is."""
    pointing = aliases.read_aliases(luggage.ws, known)
    for alias, number in model.aliases.items():
        key, wanted = f"{model.name}@{alias}", numbers.get(number)
        before = luggage.ours("alias", key)
        if wanted is None or pointing.get(alias) == wanted:
            luggage.remember("alias", key, str(wanted or 0))
        elif alias in pointing and str(pointing[alias]) != before:
            luggage.note(f"alias {known}@{alias} points at version {pointing[alias]} here, and at {number} there; it stays as it is")
        elif luggage.trying(f"alias {known}@{alias}", partial(aliases.promote, luggage.ws, known, wanted, alias=alias, reason=WHY)):
            luggage.remember("alias", key, str(wanted))
            luggage.fresh += 1
    for alias in set(pointing) - set(model.aliases):
        if luggage.known("alias", f"{model.name}@{alias}") == str(pointing[alias]):
            luggage.trying(f"alias {known}@{alias}", partial(aliases.remove_alias, luggage.ws, known, alias, reason=WHY))

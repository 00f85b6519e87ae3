"""`tidemill model`: registered models, their versions, aliases, environments, locks, comments, cards."""

from datetime import datetime
from pathlib import Path

import click

from tidemill.checks.check import list_checks
from tidemill.cli.model_text import Glance, compared, glanced, model_rows, remarks, spans, version_rows
from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table
from tidemill.core.clock import parse_moment
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.signature import ModelSpec
from tidemill.core.values import Value
from tidemill.deploy.model_files import Wishes, read_model_files
from tidemill.deploy.origins import read_origins
from tidemill.deploy.places import where_runs
from tidemill.deploy.versions import compare_versions
from tidemill.govern.workspace import Workspace
from tidemill.registry import aliases, comments, describe, environments, locks, models, search, trash, versions
from tidemill.registry.bundles import describe_bundle, read_spec
from tidemill.store.trees import put_tree

NONE = "none"


class History(Value, frozen=True, kw_only=True):
    """Every span of a model's aliases, environments and locks."""

    aliases: list[aliases.AliasSet]
    environments: list[environments.Stay]
    locks: list[locks.Lock]


@click.group()
def model() -> None:
    """Models: names with immutable versions, aliases that point at them, environments that they stand in."""


@model.command("list")
@click.option("--deleted", is_flag=True, help="What is in the trash.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Models at most.")
@workspace_options
@json_option
def list_(deleted: bool, limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List models with their newest versions, or what is in the trash."""
    ws = opened(home, project)
    if deleted:
        gone, singles = trash.list_trash(ws)
        rows = [(m.name, m.key, m.deleted_at) for m in gone] + [(v.reference, v.node, v.deleted_at) for v in singles]
        emit({"models": gone, "versions": singles}, as_json=as_json, text=lambda: table(("model", "key", "deleted"), rows))
        return
    known = search.search_models(ws, limit=limit).items
    found = [version for each in known for version in versions.list_versions(ws, each.name, limit=10)]
    with ws.catalog.reading() as tx:
        held = aliases.aliases_of(tx, ws.project, [each.name for each in known])
    emit(found, as_json=as_json, text=lambda: version_rows(found, held))


@model.command()
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--columns", help="Names of the model's columns in its order, as A,B,C, where the file does not say them.")
@click.option("--optional", help="Columns that may be missing, as A,B,C.")
@click.option("--output-index", type=click.IntRange(0), help="Which of several outcomes is the score.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="From which score on the label is true.")
@click.option("--alias", help="Alias to point at the new version, such as champion.")
@click.option("--trust-pickle", is_flag=True, help="Read a joblib or pickle file, which runs what it says. Only for files of your own.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def register(
    name: str,
    path: Path,
    columns: str | None,
    optional: str | None,
    output_index: int | None,
    threshold: float | None,
    alias: str | None,
    trust_pickle: bool,
    reason: str,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Make a version of model NAME of the file or folder at PATH.

    PATH: ONNX, LightGBM's text, XGBoost's JSON, skops, joblib, or a folder with MLmodel or model.json. A model of scikit-learn is kept as
    ONNX where that gives made-up rows the same scores. Files are loaded and tried before they are registered.
    """
    ws = opened(home, project)
    named, may_miss = (tuple(text.split(",")) if text else () for text in (columns, optional))
    wishes = Wishes(columns=named, optional=may_miss, output_index=output_index, threshold=threshold, trust_pickle=trust_pickle)
    bundle = put_tree(ws.objects, read_model_files(path, wishes))
    spec = read_spec(ws, bundle)  # before there is a version that nothing can serve
    made = versions.register(ws, name, bundle, reason=reason)
    if alias is not None:
        aliases.promote(ws, made.name, made.version, alias=alias, reason=reason)
    emit(made, as_json=as_json, text=lambda: _registered(made, spec))


@model.command()
@click.argument("reference")
@click.option("--at", help="As it was then, as in 2026-05-03 or 2026-05-03T12:00:00Z: which version an alias pointed at.")
@workspace_options
@json_option
def show(reference: str, at: str | None, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show the version that NAME, NAME@VERSION or NAME@ALIAS names: where it came from, what its checks said, where it runs."""
    ws = opened(home, project)
    found = aliases.read_version(ws, reference, at=_moment(at))
    glance = Glance(
        version=found,
        aliases=tuple(alias for alias, number in aliases.read_aliases(ws, found.name, at=_moment(at)).items() if number == found.version),
        lock=locks.read_lock(ws, found),
        checks=list_checks(ws, found.node),
        files=describe_bundle(ws, found.bundle) if found.bundle is not None else None,
        origins=read_origins(ws, found),
        places=where_runs(ws, found),
        comments=comments.list_comments(ws, found.name, version=found.version) if found.deleted_at is None else [],
    )
    emit(glance, as_json=as_json, text=lambda: glanced(glance))


@model.command("versions")
@click.argument("name")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Versions at most.")
@workspace_options
@json_option
def versions_(name: str, limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List the versions of model NAME, newest first."""
    ws = opened(home, project)
    found = versions.list_versions(ws, models.read_model(ws, name).name, limit=limit)
    held = {name: aliases.read_aliases(ws, name)}
    emit(found, as_json=as_json, text=lambda: version_rows(found, held))


@model.command("search")
@click.argument("filter_text", metavar="[FILTER]", default="")
@click.option("--versions", "of_versions", is_flag=True, help="Search versions of all models, not models.")
@click.option("--order-by", multiple=True, help="As in 'updated_at DESC'; may be given several times.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Found at most.")
@click.option("--page-token", help="The token behind which to go on: `next` of the page before, with --json.")
@workspace_options
@json_option
def search_(
    filter_text: str,
    of_versions: bool,
    order_by: tuple[str, ...],
    limit: int,
    page_token: str | None,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Find models, or versions, by a FILTER such as: name LIKE 'delay%' AND tags.team = 'ops'."""
    ws = opened(home, project)
    if of_versions:
        page = search.search_versions(ws, filter=filter_text, order_by=order_by, limit=limit, page_token=page_token)
        emit(page, as_json=as_json, text=lambda: version_rows(page.items, {}))
        return
    found = search.search_models(ws, filter=filter_text, order_by=order_by, limit=limit, page_token=page_token)
    emit(found, as_json=as_json, text=lambda: model_rows(found.items))


@model.command()
@click.argument("reference")
@click.argument("tags", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--remove", multiple=True, metavar="KEY", help="A tag to take away; may be given several times.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def tag(
    reference: str, tags: tuple[str, ...], remove: tuple[str, ...], reason: str, home: Path | None, project: str | None, as_json: bool
) -> None:
    """Set tags of the model NAME, or of the version NAME@VERSION or NAME@ALIAS."""
    ws = opened(home, project)
    given = dict(_pair(text) for text in tags)
    if not given and not remove:
        raise Invalid("nothing to set; name tags as KEY=VALUE, or one to take away with --remove KEY")
    name, version = aliases.resolve(ws, reference)
    if given and version is None:
        describe.tag_model(ws, name, given, reason=reason)
    elif given and version is not None:
        describe.tag_version(ws, name, version, given, reason=reason)
    for key in remove:
        there = (
            describe.untag_model(ws, name, key, reason=reason)
            if version is None
            else describe.untag_version(ws, name, version, key, reason=reason)
        )
        if not there:
            raise NotFound(f"model {reference} has no tag {key!r}; see those that it has with: tidemill model show {reference}")
    now = (models.read_model(ws, name) if version is None else aliases.read_version(ws, f"{name}@{version}")).tags
    emit({"tags": now}, as_json=as_json, text=lambda: table(("tag", "value"), sorted(now.items())))


@model.command()
@click.argument("reference")
@click.argument("text", required=False)
@click.option("--edit", metavar="ID", help="Change this comment of yours to say TEXT.")
@click.option("--remove", metavar="ID", help="Take this comment back.")
@workspace_options
@json_option
def comment(
    reference: str, text: str | None, edit: str | None, remove: str | None, home: Path | None, project: str | None, as_json: bool
) -> None:
    """Say TEXT of the model NAME or the version NAME@VERSION; without TEXT, show what was said."""
    ws = opened(home, project)
    name, version = aliases.resolve(ws, reference)
    if remove is not None:
        comments.delete_comment(ws, remove)
    elif edit is not None:
        comments.edit_comment(ws, edit, text or "")
    elif text is not None:
        comments.comment(ws, name, text, version=version)
    found = comments.list_comments(ws, name, version=version)
    emit(found, as_json=as_json, text=lambda: remarks(found))


@model.command("describe")
@click.argument("reference")
@click.argument("text", required=False)
@click.option("--owner", help="Who is asked about the model from now on.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def describe_(
    reference: str, text: str | None, owner: str | None, reason: str, home: Path | None, project: str | None, as_json: bool
) -> None:
    """Write what the model NAME or the version NAME@VERSION is, and who owns the model."""
    ws = opened(home, project)
    name, version = aliases.resolve(ws, reference)
    if version is None:
        found = describe.change_model(ws, name, description=text, owner=owner, reason=reason)
        emit(found, as_json=as_json, text=lambda: model_rows([found]))
        return
    if owner is not None or text is None:
        raise Invalid(f"a version has a description and no owner; give the TEXT for {reference}, or name the model without a version")
    made = describe.describe_version(ws, name, version, text, reason=reason)
    emit(made, as_json=as_json, text=lambda: f"{made.reference}: {made.description}")


@model.command()
@click.argument("name")
@click.argument("new_name")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def rename(name: str, new_name: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Call model NAME NEW_NAME from now on; versions, aliases and history follow."""
    found = describe.rename_model(opened(home, project), name, new_name, reason=reason)
    emit(found, as_json=as_json, text=lambda: f"{name} is {found.name} now")


@model.command()
@click.argument("reference")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def rm(reference: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Put the model NAME, or the version NAME@VERSION, into the trash."""
    ws = opened(home, project)
    name, version = aliases.resolve(ws, reference)
    if version is None:
        trash.delete_model(ws, name, reason=reason)
    else:
        trash.delete_version(ws, name, version, reason=reason)
    gone = name if version is None else f"{name}@{version}"
    emit({"deleted": gone}, as_json=as_json, text=lambda: f"{gone} is in the trash; bring it back with: tidemill model restore {gone}")


@model.command()
@click.argument("reference")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def restore(reference: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Bring the model NAME, or the version NAME@VERSION, back from the trash."""
    ws = opened(home, project)
    name, _, number = reference.rpartition("@")
    if name and number.isdecimal():
        version = trash.restore_version(ws, name, int(number), reason=reason)
        emit(version, as_json=as_json, text=lambda: f"{version.reference} is back, without aliases and environment")
        return
    found = trash.restore_model(ws, reference, reason=reason)
    emit(found, as_json=as_json, text=lambda: f"{found.name} is back, as it was")


@model.command()
@click.argument("reference")
@click.argument("environment", type=click.Choice([*(name for name in environments.ENVIRONMENTS if name), NONE]))
@click.option("--reason", default="", help="Why.")
@click.option("--override", is_flag=True, help="To production though its checks failed; approvers only, with a reason.")
@click.option("--archive", is_flag=True, help="Archive what stands there.")
@workspace_options
@json_option
def move(
    reference: str, environment: str, reason: str, override: bool, archive: bool, home: Path | None, project: str | None, as_json: bool
) -> None:
    """Move the version NAME@VERSION or NAME@ALIAS to an environment, or out of all with `none`."""
    ws = opened(home, project)
    found = aliases.read_version(ws, reference)
    wanted = "" if environment == NONE else environment
    moved = environments.move(ws, found.name, found.version, environment=wanted, reason=reason, override=override, archive=archive)
    emit(moved, as_json=as_json, text=lambda: f"{moved.reference} stands in {moved.environment or 'no environment'} now")


@model.command()
@click.argument("reference")
@click.option("--reason", required=True, help="Why, and what others wait for.")
@workspace_options
@json_option
def lock(reference: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Lock the version NAME@VERSION, or the model NAME with all its versions: nobody changes it until it is unlocked."""
    ws = opened(home, project)
    name, version = aliases.resolve(ws, reference)
    held = locks.lock(ws, name, version, reason=reason)
    emit(held, as_json=as_json, text=lambda: f"{_called(name, version)} is locked ({held.reason})")


@model.command()
@click.argument("reference")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def unlock(reference: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Take the lock of the version NAME@VERSION, or of the model NAME, away. Approvers only."""
    ws = opened(home, project)
    name, version = aliases.resolve(ws, reference)
    held = locks.unlock(ws, name, version, reason=reason)
    emit(held, as_json=as_json, text=lambda: f"{_called(name, version)} is open again; {held.actor} had locked it ({held.reason})")


@model.command()
@click.argument("name")
@click.argument("alias_name", metavar="ALIAS")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--remove", is_flag=True, help="Let the alias point nowhere.")
@click.option("--reason", default="", help="Why.")
@click.option("--override", is_flag=True, help="Even though its checks failed; approvers only, with a reason.")
@workspace_options
@json_option
def alias(
    name: str,
    alias_name: str,
    version: int | None,
    remove: bool,
    reason: str,
    override: bool,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Point ALIAS of model NAME at VERSION."""
    ws = opened(home, project)
    if remove == (version is not None):
        raise Invalid(f"say either which VERSION {name}@{alias_name} shall point at, or --remove")
    if version is None:
        aliases.remove_alias(ws, name, alias_name, reason=reason)
        emit({"removed": f"{name}@{alias_name}"}, as_json=as_json, text=lambda: f"{name}@{alias_name} points nowhere now")
        return
    found = aliases.promote(ws, name, version, alias=alias_name, reason=reason, override=override)
    emit(found, as_json=as_json, text=lambda: f"{name}@{alias_name} is version {found.version} now")


@model.command()
@click.argument("name")
@workspace_options
@json_option
def history(name: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """List every span of aliases, environments and locks: which version was champion when, and why."""
    ws = opened(home, project)
    found = History(
        aliases=aliases.alias_history(ws, name),
        environments=environments.environment_history(ws, name),
        locks=locks.lock_history(ws, name),
    )
    emit(found, as_json=as_json, text=lambda: spans(found.aliases, found.environments, found.locks))


@model.command()
@click.argument("references", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Also what is the same in all of them.")
@workspace_options
@json_option
def compare(references: tuple[str, ...], everything: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Set versions side by side: metrics, params, signature, checks, data, code."""
    found = compare_versions(opened(home, project), references)
    emit(found, as_json=as_json, text=lambda: compared(found, everything=everything))


@model.command()
@click.argument("reference")
@click.option("--past", is_flag=True, help="Also where it ran before.")
@workspace_options
@json_option
def where(reference: str, past: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """List the endpoints behind which the version NAME@VERSION or NAME@ALIAS runs."""
    ws = opened(home, project)
    found = where_runs(ws, aliases.read_version(ws, reference), past=past)
    columns = ("endpoint", "variant", "role", "share", "from", "to")
    rows = [(p.endpoint, p.variant, p.role, f"{p.share:.0%}", p.valid_from, p.valid_to) for p in found]
    emit(found, as_json=as_json, text=lambda: table(columns, rows, empty="nowhere"))


@model.command()
@click.argument("reference")
@workspace_options
@json_option
def card(reference: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Print the model card of a version."""
    ws = opened(home, project)
    found = aliases.read_version(ws, reference)
    if found.card is None:
        raise NotFound(f"model {found.reference} has no card; one is written when a pipeline registers a version with its checks")
    text = _card(ws, found)
    emit({"model": found.name, "version": found.version, "card": text}, as_json=as_json, text=lambda: text)


def _card(ws: Workspace, version: versions.ModelVersion) -> str:
    return ws.objects.get(version.card).decode() if version.card is not None else ""


def _moment(text: str | None) -> datetime | None:
    return None if text is None else parse_moment(text)


def _called(name: str, version: int | None) -> str:
    return f"model {name}" if version is None else f"model {name}@{version}"


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise Invalid(f"tag {text!r} was not understood; expected KEY=VALUE, as in team=ops")
    return key, value


def _registered(made: versions.ModelVersion, spec: ModelSpec) -> str:
    takes = ", ".join(spec.request_columns)
    serve = f"serve it with: tidemill endpoint create ENDPOINT --model {made.reference}"
    beside = ", ".join(f"{output.name} ({output.form})" for output in spec.others)
    return f"{made.reference}  {spec.runtime}, takes {takes}\n{serve}" + (f"\nit answers, beside its score: {beside}" if beside else "")

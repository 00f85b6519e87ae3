"""Model cards, written from the record: each number comes from a check's evidence. In the form that Hugging Face reads."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from tidemill.checks.check import CheckResult
from tidemill.core.signature import ModelSpec
from tidemill.govern.workspace import Workspace
from tidemill.registry.bundles import read_spec
from tidemill.registry.locks import check_unlocked
from tidemill.registry.models import hold_registry
from tidemill.registry.versions import ModelVersion, bundle_of, fetch_key, touch_version

TASK = "tabular-classification"
_CARD = """\
---
library_name: tidemill
pipeline_tag: {{ task }}
model-index: {{ index | tojson }}
---
# {{ version.name }}, version {{ version.version }}

{{ purpose or "No purpose was recorded." }}

| | |
|---|---|
| made | {{ version.created_at.strftime("%Y-%m-%d %H:%M") }} UTC by {{ version.actor }} |
| run | {{ version.run or "no record" }} |
| bundle | `{{ version.bundle }}`, {{ "%.2f" % (version.size_bytes / 1e6) }} MB |
| runtime | {{ spec.runtime }} |
| features | {{ spec.feature_service or "all come with the request" }} |
| checks | **{{ version.verdict }}** |

## What it was asked

| check | verdict | what was found |
|---|---|---|
{%- for check in checks %}
| {{ check.name | cell }} | {{ check.verdict }} | {{ check.summary | cell }} |
{%- endfor %}
{% for check in checks %}{% for table in check.evidence.tables %}
### {{ check.name }}: {{ table.title }}

| {{ table.columns | map("cell") | join(" | ") }} |
|{{ "---|" * table.columns | length }}
{%- for row in table.rows %}
| {% for value in row %}{{ value | cell }}{{ " | " if not loop.last }}{% endfor %} |
{%- endfor %}
{% endfor %}{% endfor %}
## What it takes

| column | kind | where from |
|---|---|---|
{%- for column in spec.signature.inputs %}
| {{ column.name }} | {{ column.kind }} | {{ "request" if column.name in spec.request_columns else spec.feature_service or "request" }} |
{%- endfor %}

{% if spec.others %}## What it answers beside its score

| output | kind |
|---|---|
{%- for output in spec.others %}
| {{ output.name | cell }} | {{ output.form }} |
{%- endfor %}

{% endif %}## Data

{% for source in sources %}- {{ source }}
{% else %}No record.
{% endfor %}
## Limits

{{ limits or "No record." }}
"""


def write_card(
    ws: Workspace, version: ModelVersion, checks: Sequence[CheckResult], *, sources: Sequence[str] = (), purpose: str = "", limits: str = ""
) -> ModelVersion:
    """Write the card of a version from its checks and keep it with the version."""
    spec = read_spec(ws, bundle_of(version))
    return attach_card(ws, version, render_card(version, spec, checks, sources=sources, purpose=purpose, limits=limits))


def attach_card(ws: Workspace, version: ModelVersion, markdown: str) -> ModelVersion:
    """Keep a text as the model card of a version. Raises VersionLocked."""
    ws.require("registry.write", version.name)
    digest = ws.objects.put(markdown.encode())
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        check_unlocked(tx, ws.project, version)
        touch_version(tx, ws.project, version, at=ws.clock.now(), card=digest)
        return fetch_key(tx, ws.project, version.key, version.version)


def render_card(
    version: ModelVersion,
    spec: ModelSpec,
    checks: Sequence[CheckResult],
    *,
    sources: Sequence[str] = (),
    purpose: str = "",
    limits: str = "",
) -> str:
    """Return the card as Markdown. What has no record says so."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.filters["cell"] = _cell
    return environment.from_string(_CARD).render(
        version=version,
        spec=spec,
        checks=checks,
        sources=sources,
        purpose=purpose,
        limits=limits,
        task=TASK,
        index=_index(version, sources),
    )


def _index(version: ModelVersion, sources: Sequence[str]) -> list[dict[str, Any]]:
    """Return the metrics in the form of Hugging Face's model-index (JSON is YAML, too)."""
    metrics = [{"type": key, "value": float(f"{value:.6g}")} for key, value in version.metrics.items()]
    if not metrics:
        return []
    dataset = {"type": "tabular", "name": ", ".join(sources) or "no record"}
    return [{"name": version.name, "results": [{"task": {"type": TASK}, "dataset": dataset, "metrics": metrics}]}]


def _cell(value: object) -> str:
    """Return a value as the text of one cell: a bar or a line's end in it would end the cell."""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("\n", " ").replace("|", "\\|")

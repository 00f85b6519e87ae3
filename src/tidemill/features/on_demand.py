"""Features that a service computes when it is asked: from the features that it looks up, and from columns that the asking row brings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.core.values import Value, field
from tidemill.features.computed import computed_rows, computed_types, input_types
from tidemill.features.incoming import plain
from tidemill.features.views import FeatureKind, FeatureService, FeatureView, expand

_ARROW: Mapping[FeatureKind, str] = {"double": "double", "string": "string"}


class OnDemand(Value, frozen=True, kw_only=True):
    """What is computed for a row, and of what. request: the columns that it brings; types: SQL types of all that is read."""

    expressions: dict[str, str] = field(default_factory=dict)
    request: dict[str, FeatureKind] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, FeatureKind] = field(default_factory=dict)

    def values(self, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Return the features of rows, as a look-up gives them: float64 with NaN, or objects with None. Raises Invalid."""
        if missing := [name for name in self.types if name not in columns]:
            raise Invalid(f"the rows have no column {', '.join(missing)}, of which {', '.join(self.expressions)} are computed")
        told = {name: plain(columns[name]) for name in self.types}
        for name, kind in self.request.items():
            if any(each is not None and isinstance(each, str) != (kind == "string") for each in told[name]):
                raise Invalid(f"column {name!r} of the rows holds what is not of kind {kind}, as the feature service says")
        made = computed_rows(told, self.expressions, self.types)
        return {name: _array(made[name], kind) for name, kind in self.kinds.items()}


def on_demand(service: FeatureService, views: Mapping[str, FeatureView]) -> OnDemand:
    """Return what a service computes over the features of its views. Raises ExpressionRefused, and Invalid for names that collide."""
    known: dict[str, FeatureKind] = {feature.name: feature.kind for _, feature in expand(service, views)}
    if both := sorted(set(known) & set(service.request)):
        raise Invalid(f"feature service {service.name!r} looks {', '.join(both)} up; a column of the request needs another name")
    types = input_types(service.computed, {name: _ARROW[kind] for name, kind in (known | service.request).items()})
    kinds = computed_types(service.computed, types)
    return OnDemand(
        expressions=service.computed,
        request={name: kind for name, kind in service.request.items() if name in types},
        types=types,
        kinds={name: "string" if kind == "string" else "double" for name, kind in kinds.items()},
    )


def _array(values: list[Any], kind: FeatureKind) -> NDArray[Any]:
    if kind == "string":
        return np.array(values, dtype=object)
    return np.array([np.nan if each is None else each for each in values], dtype=np.float64)

"""Definitions: what a feature is, where it comes from, how far back it looks. Says nothing of how it is computed.

The rule of time, everywhere: an event counts for a row at t when t - window < event time <= t and, where the view names a created
timestamp, when it had been written by t. An event without a time has not happened; one without a created time was written when it
happened; one without a join key (NULL or NaN) belongs to nobody. A missing value (NULL or NaN) does not count in an aggregation; as a
latest value it stays missing. Of events with one event key for one entity the one written last by t counts, of those written at once, or
where nothing tells when, the last row of the source. Among latest values of one time the one with the greatest event key counts, then the
one written last, then the last row.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal

from tidemill.core.errors import Invalid
from tidemill.core.ids import check_name
from tidemill.core.values import Value, field, replace
from tidemill.features.computed import columns_read

AggregateFunction = Literal["count", "sum", "mean", "share", "min", "max", "quantile", "last", "distinct", "time_since"]
FeatureKind = Literal["double", "string"]
Missing = Literal["none", "fail"]
NEVER_MISSING = ("count", "distinct", "sum")


class Aggregation(Value, frozen=True, kw_only=True):
    """A summary of the events of the last `window`.

    count: of events, or of values when a column is named. share: of true ones in a boolean column. quantile: the `quantile`-th, between
    the two values next to it in proportion (Hyndman and Fan, type 7). last: the latest value that is not missing. distinct: how many
    different values. time_since: seconds from the last event, or the last one with a value when a column is named, to the row.
    count, distinct and sum of nothing are 0, anything else of nothing is missing.
    """

    function: AggregateFunction
    window: timedelta
    column: str | None = None
    quantile: float | None = None

    def __post_init__(self) -> None:
        if (self.quantile is not None) != (self.function == "quantile") or not 0 <= (self.quantile or 0) <= 1:
            raise Invalid(
                f"aggregation {self.function!r} has the quantile {self.quantile}; expected one from 0 to 1 with the function quantile, "
                "and none with any other"
            )
        if self.window <= timedelta(0):
            raise Invalid(f"an aggregation over {self.window} looks at nothing; expected a window longer than zero")
        if self.column is None and self.function not in ("count", "time_since"):
            raise Invalid(
                f"aggregation {self.function!r} names no column; expected the column to summarise (only count and time_since do without)"
            )


class Feature(Value, frozen=True, kw_only=True):
    """One column that a model can ask for: the latest value of a column (its own name unless told), or an aggregation.

    Numbers of every type and booleans are "double", missing is NaN; everything else is "string", missing is null. default: what is said
    instead of a missing value, in training and in serving alike.
    """

    name: str
    column: str | None = None
    aggregation: Aggregation | None = None
    kind: FeatureKind = "double"
    description: str = ""
    default: float | str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "feature")
        if self.default is not None and isinstance(self.default, str) != (self.kind == "string"):
            raise Invalid(f"feature {self.name!r} is of kind {self.kind} and has the default {self.default!r}; expected one of that kind")
        if self.default is not None and self.aggregation is not None and self.aggregation.function in NEVER_MISSING:
            raise Invalid(f"feature {self.name!r} is a {self.aggregation.function}, which is never missing; leave its default out")
        if self.aggregation is not None and (self.column is not None or self.kind != "double"):
            raise Invalid(f"feature {self.name!r} is an aggregation; its column stands inside the aggregation, and its kind is double")

    @property
    def reads(self) -> str | None:
        """The source column that this feature needs, None when it counts events."""
        return self.aggregation.column if self.aggregation is not None else self.column or self.name


class FeatureView(Value, frozen=True, kw_only=True):
    """Features of one entity from one source of events. Either all are latest values or all are aggregations.

    computed: columns that features may name beside the source's own, each an SQL expression over a row (`distance / nullif(minutes, 0)`).
    """

    name: str
    entity: tuple[str, ...]
    source: str
    event_timestamp: str
    features: tuple[Feature, ...]
    computed: dict[str, str] = field(default_factory=dict)
    event_key: str | None = None
    created_timestamp: str | None = None
    ttl: timedelta | None = None
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "feature view")
        if not self.entity:
            raise Invalid(f"feature view {self.name!r} has no entity; expected at least one join key")
        if not self.features:
            raise Invalid(f"feature view {self.name!r} has no features; expected at least one")
        _once(self.entity, f"feature view {self.name!r} has join key")
        _once([feature.name for feature in self.features], f"feature view {self.name!r} has feature")
        if len({feature.aggregation is None for feature in self.features}) > 1:
            raise Invalid(f"feature view {self.name!r} mixes latest values and aggregations; put them in two views of the same source")
        for name in self.computed:
            check_name(name, "computed column")
            if name in (*self.entity, self.event_timestamp, self.event_key, self.created_timestamp):
                raise Invalid(f"feature view {self.name!r} computes {name!r}; join keys, event key and times are columns of the source")
        if self.ttl is not None and self.ttl <= timedelta(0):
            raise Invalid(f"feature view {self.name!r} has a TTL of {self.ttl}; expected longer than zero, or none")
        if self.ttl is not None and self.windowed:
            raise Invalid(f"feature view {self.name!r} aggregates, so its windows say what is too old; leave its TTL out")

    @property
    def undefaulted(self) -> "FeatureView":
        """The view whose features are missing where they are, whatever their defaults."""
        return replace(self, features=tuple(replace(feature, default=None) for feature in self.features))

    @property
    def windowed(self) -> bool:
        """True when the features are aggregations over windows, False when they are latest values."""
        return self.features[0].aggregation is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """The value columns that the features read, each once, in order of first use."""
        return tuple(dict.fromkeys(feature.reads for feature in self.features if feature.reads is not None))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the source that values are made of, each once. Raises ExpressionRefused."""
        return tuple(dict.fromkeys([*(name for name in self.columns if name not in self.computed), *columns_read(self.computed)]))

    @property
    def needs(self) -> tuple[str, ...]:
        """All columns of the source that the view is made of, each once. Raises ExpressionRefused."""
        others = (self.event_timestamp, self.created_timestamp, self.event_key)
        return tuple(dict.fromkeys([*self.entity, *(name for name in others if name is not None), *self.inputs]))

    def counts_only(self, column: str) -> bool:
        """Return whether all that is wanted of a column is how many different values it has."""
        functions = {each.aggregation.function if each.aggregation is not None else "" for each in self.features if each.reads == column}
        return functions <= {"distinct"}

    def feature(self, name: str) -> Feature:
        """Return the feature of that name. Raises Invalid."""
        for feature in self.features:
            if feature.name == name:
                return feature
        known = ", ".join(feature.name for feature in self.features)
        raise Invalid(f"feature view {self.name!r} has no feature {name!r} (it has: {known})")


class FeatureService(Value, frozen=True, kw_only=True):
    """The features that a model uses, in order, each written `view:feature` (or `view:*` for all of a view).

    computed: features made of these when they are asked for, after them by name, each an SQL expression over a row: over its features,
    and over columns of the request that it says the kind of. missing: what a look-up makes of a feature without a value: `none` gives its
    default, or nothing; with `fail` nothing is answered, whatever the default. Training gets all rows either way.
    """

    name: str
    features: tuple[str, ...]
    computed: dict[str, str] = field(default_factory=dict)
    request: dict[str, FeatureKind] = field(default_factory=dict)
    missing: Missing = "none"
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "feature service")
        if not self.features:
            raise Invalid(f"feature service {self.name!r} has no features; expected at least one, written view:feature")
        for name in self.computed:
            check_name(name, "computed feature")
        for reference in self.features:
            view, colon, feature = reference.partition(":")
            if not (view and colon and feature):
                raise Invalid(f"feature service {self.name!r} names {reference!r}; expected view:feature, or view:* for all of a view")

    @property
    def views(self) -> tuple[str, ...]:
        """The names of the views it draws on, in order of first use."""
        return tuple(dict.fromkeys(reference.partition(":")[0] for reference in self.features))


def mentions(definition: FeatureView | FeatureService, words: str) -> bool:
    """Return whether each word stands somewhere in a definition: names, source, join keys, descriptions, owner, tags; in any case."""
    told = [definition.name, definition.description, definition.owner, *definition.tags]
    if isinstance(definition, FeatureView):
        told += [definition.source, *definition.entity, *(f"{feature.name} {feature.description}" for feature in definition.features)]
    else:
        told += definition.features
    text = "\n".join(told).lower()
    return all(word in text for word in words.lower().split())


def aggregation_of(feature: Feature) -> Aggregation:
    """Return the aggregation of a windowed view's feature. Raises Invalid for a latest value."""
    if feature.aggregation is None:
        raise Invalid(f"feature {feature.name!r} is a latest value; expected an aggregation")
    return feature.aggregation


def expand(service: FeatureService, views: Mapping[str, FeatureView]) -> tuple[tuple[FeatureView, Feature], ...]:
    """Return the features of a service with their views, in order. Raises Invalid for one that is not there or stands twice."""
    found: list[tuple[FeatureView, Feature]] = []
    for reference in service.features:
        name, _, feature = reference.partition(":")
        view = views.get(name)
        if view is None:
            known = ", ".join(sorted(views)) or "none"
            raise Invalid(f"feature service {service.name!r} names view {name!r}, which is not defined (there are: {known})")
        found += [(view, each) for each in view.features] if feature == "*" else [(view, view.feature(feature))]
    _once([feature.name for _, feature in found], f"feature service {service.name!r} has feature")
    return tuple(found)


def check_source(view: FeatureView, columns: Mapping[str, str]) -> None:
    """Compare a definition with its source's columns (name to Arrow type, as text). Raises Invalid naming every wrong one."""
    wrong = []
    for name, role in _needs(view):
        kind = columns.get(name)
        if kind is None:
            wrong.append(f"{role} {name!r} is not a column of {view.source} (it has: {', '.join(sorted(columns))})")
        elif not _fits(kind, role):
            wrong.append(f"{role} {name!r} is of type {kind}; expected {_EXPECTED[role]}")
    if wrong:
        raise Invalid(f"feature view {view.name!r} does not fit its source: {'; '.join(wrong)}")


_EXPECTED = {
    "join key": "text or whole numbers",
    "event timestamp": "a timestamp with a time zone",
    "created timestamp": "a timestamp with a time zone",
    "event key": "text or whole numbers",
    "double feature": "numbers or booleans",
    "string feature": "text",
    "share feature": "booleans",
    "distinct feature": "text, numbers or booleans",
}


def _needs(view: FeatureView) -> list[tuple[str, str]]:
    needs = [(name, "join key") for name in view.entity] + [(view.event_timestamp, "event timestamp")]
    if view.event_key is not None:
        needs.append((view.event_key, "event key"))
    if view.created_timestamp is not None:
        needs.append((view.created_timestamp, "created timestamp"))
    for feature in view.features:
        if feature.reads is not None:
            function = feature.aggregation.function if feature.aggregation is not None else ""
            needs.append((feature.reads, f"{function if f'{function} feature' in _EXPECTED else feature.kind} feature"))
    return needs


def _fits(kind: str, role: str) -> bool:
    text = kind in ("string", "large_string", "string_view") or (kind.startswith("dictionary<values=") and "string" in kind)
    whole = kind.startswith(("int", "uint"))
    if role in ("join key", "event key"):
        return text or whole
    if role in ("event timestamp", "created timestamp"):
        return kind.startswith("timestamp[") and "tz=" in kind
    if role == "string feature":
        return text
    if role == "share feature":
        return kind == "bool"
    if role == "distinct feature" and text:
        return True
    return whole or kind in ("bool", "float", "double", "halffloat") or kind.startswith("decimal")


def _once(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise Invalid(f"{what} {', '.join(twice)} more than once; expected distinct names")

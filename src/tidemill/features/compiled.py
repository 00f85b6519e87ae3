"""SQL expressions over a row as functions in Python: what DuckDB would say of it, without starting a query.

Only what is certain is covered. An expression of which some part is not raises NotCovered when it is compiled; a row of which the answer is
not plain (a division by zero, what is not finite, an overflow, letters beyond ASCII in upper case) raises Uncertain, or what Python raises.
Both are for DuckDB to say.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Function = Callable[[Row], Any]
Node = Mapping[str, Any]

_SQL_KINDS = {"BIGINT": "bigint", "BOOLEAN": "boolean", "DOUBLE": "double", "VARCHAR": "varchar"}
_CASTS = {**_SQL_KINDS, "INTEGER": "integer"}
_WHOLE = ("integer", "bigint")
_NUMBERS = (*_WHOLE, "double", "decimal")
_BITS = {"integer": 31, "bigint": 63}
_DIGITS = 15  # a decimal of no more is the double that is written like it
_WHOLE_DOUBLES = 2**53
_FINITE = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_COMPARED = {
    "COMPARE_EQUAL": operator.eq, "COMPARE_NOTEQUAL": operator.ne, "COMPARE_LESSTHAN": operator.lt, "COMPARE_GREATERTHAN": operator.gt,
    "COMPARE_LESSTHANOREQUALTO": operator.le, "COMPARE_GREATERTHANOREQUALTO": operator.ge,
}  # fmt: skip


class NotCovered(Exception):
    """DuckDB has to say it of every row."""


class Uncertain(Exception):
    """DuckDB has to say it of this row."""


class Compiled(NamedTuple):
    """A function of a row that returns None for NULL, and the SQL kind of what it returns."""

    kind: str
    run: Function


def compile_expression(tree: Node, types: Mapping[str, str]) -> Function:
    """Return an expression, as json_serialize_sql tells it, as a function of a row that returns a float, a bool, text or None.

    types: SQL types of the columns. Whatever the function raises, DuckDB has to answer. Raises NotCovered.
    """
    made = _compile(tree, types)
    return _as_kind(made, "double").run if made.kind in _NUMBERS else made.run


def checked(kind: str, value: Any) -> Any:
    """Return a value of a column of an SQL type as the functions take it: NaN as None. Raises Uncertain for one of another type."""
    if value is None:
        return None
    told = type(value)
    if kind == "DOUBLE" and told is float:
        return value if value == value else None
    if kind == "DOUBLE" and told is int and -_WHOLE_DOUBLES <= value <= _WHOLE_DOUBLES:
        return float(value)
    if (kind == "VARCHAR" and told is str) or (kind == "BOOLEAN" and told is bool):
        return value
    if kind == "BIGINT" and told is int and -(2**63) <= value < 2**63:
        return value
    raise Uncertain


def _compile(node: Node, types: Mapping[str, str]) -> Compiled:
    how = _CLASSES.get(node["class"])
    if how is None:
        raise NotCovered
    return how(node, types)


def _column(node: Node, types: Mapping[str, str]) -> Compiled:
    names = node["column_names"]
    if len(names) != 1 or types.get(names[0]) not in _SQL_KINDS:
        raise NotCovered
    return Compiled(_SQL_KINDS[types[names[0]]], operator.itemgetter(names[0]))


def _constant(node: Node, _: Mapping[str, str]) -> Compiled:
    literal = node.get("literal", {})
    kind, text = literal.get("kind"), literal.get("text", "")
    value: Any
    if kind == "STRING":
        kind, value = "varchar", text
    elif kind == "BOOLEAN":
        kind, value = "boolean", text == "true"
    elif kind == "NULL_LITERAL":
        kind, value = "null", None
    elif kind == "INTEGER" and re.fullmatch(r"-?\d{1,18}", text):
        value = int(text)
        kind = "integer" if -(2**31) <= value < 2**31 else "bigint"
    elif kind == "NUMERIC" and re.fullmatch(r"-?[\d.]+", text) and len(text) <= _DIGITS:
        kind, value = "decimal", float(text)
    elif kind == "NUMERIC" and re.fullmatch(r"-?[\d.]+[eE][+-]?\d+", text):
        kind, value = "double", float(text)
    else:
        raise NotCovered
    return Compiled(kind, lambda _: value)


def _comparison(node: Node, types: Mapping[str, str]) -> Compiled:
    left, right = _alike([_compile(node["left"], types), _compile(node["right"], types)], compared=True)
    if node["type"] in ("COMPARE_DISTINCT_FROM", "COMPARE_NOT_DISTINCT_FROM"):
        apart = node["type"] == "COMPARE_DISTINCT_FROM"
        return Compiled("boolean", lambda row: (left.run(row) != right.run(row)) is apart)
    if node["type"] not in _COMPARED:
        raise NotCovered
    return Compiled("boolean", _of_two(_COMPARED[node["type"]], left.run, right.run))


def _between(node: Node, types: Mapping[str, str]) -> Compiled:
    value, low, high = _alike([_compile(node[part], types) for part in ("input", "lower", "upper")], compared=True)
    above, below = _of_two(operator.ge, value.run, low.run), _of_two(operator.le, value.run, high.run)
    return Compiled("boolean", _all_of([above, below]))


def _conjunction(node: Node, types: Mapping[str, str]) -> Compiled:
    parts = [_of_kind(_compile(child, types), "boolean", "null").run for child in node["children"]]
    return Compiled("boolean", _all_of(parts) if node["type"] == "CONJUNCTION_AND" else _any_of(parts))


def _operator(node: Node, types: Mapping[str, str]) -> Compiled:
    parts = [_compile(child, types) for child in node["children"]]
    first = parts[0].run
    if node["type"] == "OPERATOR_NOT":
        _of_kind(parts[0], "boolean")
        return Compiled("boolean", _of_one(operator.not_, first))
    if node["type"] == "OPERATOR_IS_NULL":
        return Compiled("boolean", lambda row: first(row) is None)
    if node["type"] == "OPERATOR_IS_NOT_NULL":
        return Compiled("boolean", lambda row: first(row) is not None)
    if node["type"] == "OPERATOR_COALESCE":
        alike = _alike(parts)
        runs = [part.run for part in alike]
        return Compiled(alike[0].kind, lambda row: next((value for run in runs if (value := run(row)) is not None), None))
    if node["type"] == "COMPARE_IN":
        value, *others = (part.run for part in _alike(parts, compared=True))
        return Compiled("boolean", _any_of([_of_two(operator.eq, value, other) for other in others]))
    raise NotCovered


def _case(node: Node, types: Mapping[str, str]) -> Compiled:
    checks = [_of_kind(_compile(check["when_expr"], types), "boolean").run for check in node["case_checks"]]
    *chosen, otherwise = _alike([_compile(each, types) for each in (*(c["then_expr"] for c in node["case_checks"]), node["else_expr"])])
    return Compiled(otherwise.kind, _choosing(list(zip(checks, [each.run for each in chosen], strict=True)), otherwise.run))


def _cast(node: Node, types: Mapping[str, str]) -> Compiled:
    child, told = _compile(node["child"], types), node["type_expr"]
    kind = _CASTS.get(told.get("type_name", "").upper()) if not told.get("children") else None
    if kind is None or node["try_cast"]:
        raise NotCovered
    if kind == child.kind:
        return child
    if kind in _WHOLE and child.kind == "double":
        return Compiled(kind, _of_one(partial(_within, _BITS[kind], round), child.run))  # to the even one of two, as C's nearbyint
    if kind in _WHOLE and child.kind in ("boolean", *_WHOLE):
        return Compiled(kind, _of_one(partial(_within, _BITS[kind], int), child.run))
    if kind == "double" and child.kind in ("boolean", *_NUMBERS):
        return Compiled(kind, _of_one(float, child.run))
    raise NotCovered


def _function(node: Node, types: Mapping[str, str]) -> Compiled:
    if node.get("filter") or node.get("distinct") or node.get("schema") or any(each.get("name") for each in node["arguments"]):
        raise NotCovered
    parts = [_compile(each["expression"], types) for each in node["arguments"]]
    name, kinds, runs = node["function_name"].lower(), [part.kind for part in parts], [part.run for part in parts]
    if name in ("greatest", "least"):
        return _extreme(max if name == "greatest" else min, _alike(parts))
    if name == "nullif" and len(parts) == 2:
        left, right = _alike(parts, compared=True)
        return Compiled(kinds[0], _choosing([(_of_two(operator.eq, left.run, right.run), lambda _: None)], runs[0]))
    if name == "if" and len(parts) == 3:
        yes, no = _alike(parts[1:])
        return Compiled(yes.kind, _choosing([(_of_kind(parts[0], "boolean").run, yes.run)], no.run))
    if len(parts) == 2 and name in _FINITE:
        return _arithmetic(name, parts)
    if len(parts) == 2 and name in ("pow", "power", "**") and "double" in kinds:
        return Compiled("double", _of_two(partial(_finite, math.pow), *(_as_kind(part, "double").run for part in parts)))
    if len(parts) == 1 and kinds == ["double"] and name in _OF_DOUBLE:
        return Compiled("double", _of_one(partial(_finite, _OF_DOUBLE[name]), runs[0]))
    if name == "round" and kinds == ["double", "integer"] and node["arguments"][1]["expression"]["class"] == "CONSTANT":
        return Compiled("double", _of_one(partial(_finite, partial(_rounded, runs[1]({}))), runs[0]))
    if kinds and set(kinds) == {"varchar"}:
        return _of_texts(name, parts)
    raise NotCovered


def _arithmetic(name: str, parts: Sequence[Compiled]) -> Compiled:
    kinds = {part.kind for part in parts}
    if kinds <= set(_WHOLE) and name != "/":
        kind = "bigint" if "bigint" in kinds else "integer"
        return Compiled(kind, _of_two(partial(_within, _BITS[kind], _FINITE[name]), *(part.run for part in parts)))
    if "double" not in kinds and not (name == "/" and kinds <= set(_WHOLE)):
        raise NotCovered
    return Compiled("double", _of_two(partial(_finite, _FINITE[name]), *(_as_kind(part, "double").run for part in parts)))


def _extreme(choose: Callable[..., Any], parts: Sequence[Compiled]) -> Compiled:
    runs = [part.run for part in parts]

    def run(row: Row) -> Any:
        there = [value for each in runs if (value := each(row)) is not None]
        return choose(there) if there else None

    return Compiled(parts[0].kind, run)


def _of_texts(name: str, parts: Sequence[Compiled]) -> Compiled:
    runs = [part.run for part in parts]
    if name == "concat":
        return Compiled("varchar", lambda row: "".join(text for run in runs if (text := run(row)) is not None))
    if len(parts) == 1 and name in _OF_TEXT:
        kind, function = _OF_TEXT[name]
        return Compiled(kind, _of_one(function, runs[0]))
    if len(parts) == 2 and name in _OF_TEXTS:
        kind, of_two = _OF_TEXTS[name]
        return Compiled(kind, _of_two(of_two, *runs))
    raise NotCovered


def _alike(parts: Sequence[Compiled], *, compared: bool = False) -> list[Compiled]:
    """Return parts as the kind that they have in common; compared: they are, so that they must be of one that is told apart exactly."""
    kinds = {part.kind for part in parts} - {"null"}
    if len(kinds) > 1 and "double" in kinds and kinds <= set(_NUMBERS):
        kinds = {"double"}
    elif len(kinds) > 1 and kinds <= set(_WHOLE):
        kinds = {"bigint"}
    elif kinds == {"decimal", "integer"}:
        kinds = {"decimal"}
    if len(kinds) != 1 or (compared and kinds == {"decimal"}):
        raise NotCovered
    (kind,) = kinds
    return [_as_kind(part, kind) for part in parts]


def _as_kind(part: Compiled, kind: str) -> Compiled:
    run = _of_one(float, part.run) if kind in ("double", "decimal") and part.kind in _WHOLE else part.run
    return Compiled(kind, run)


def _of_kind(part: Compiled, *kinds: str) -> Compiled:
    if part.kind not in kinds:
        raise NotCovered
    return part


def _of_one(function: Callable[[Any], Any], run: Function) -> Function:
    def of_one(row: Row) -> Any:
        value = run(row)
        return None if value is None else function(value)

    return of_one


def _of_two(function: Callable[[Any, Any], Any], left: Function, right: Function) -> Function:
    def of_two(row: Row) -> Any:
        one, other = left(row), right(row)
        return None if one is None or other is None else function(one, other)

    return of_two


def _all_of(parts: Sequence[Function]) -> Function:
    def all_of(row: Row) -> bool | None:
        said = [part(row) for part in parts]  # all of them: what DuckDB cannot say of one, it does not say of the whole
        return False if False in said else None if None in said else True

    return all_of


def _any_of(parts: Sequence[Function]) -> Function:
    def any_of(row: Row) -> bool | None:
        said = [part(row) for part in parts]
        return True if True in said else None if None in said else False

    return any_of


def _choosing(checks: Sequence[tuple[Function, Function]], otherwise: Function) -> Function:
    def choose(row: Row) -> Any:
        return next((chosen for check, chosen in checks if check(row)), otherwise)(row)

    return choose


def _finite(function: Callable[..., float], *values: float) -> float:
    found = function(*values)
    if not math.isfinite(found):
        raise Uncertain
    return found


def _within(bits: int, function: Callable[..., int], *values: Any) -> int:
    found = function(*values)
    if not -(1 << bits) <= found < 1 << bits:
        raise Uncertain
    return found


def _whole(towards: Callable[[float], int], value: float) -> float:
    return math.copysign(float(towards(value)), value)


def _nearest(value: float) -> int:
    """Return the nearest whole number, of two the one away from zero, as C's round."""
    below = math.floor(abs(value))
    nearest = below + (abs(value) - below >= 0.5)
    return nearest if value >= 0 else -nearest


def _rounded(digits: int, value: float) -> float:
    if not 0 <= digits <= _DIGITS:
        raise Uncertain
    by = 10.0**digits
    return _whole(_nearest, value * by) / by


def _ascii(function: Callable[[str], str], text: str) -> str:
    if not text.isascii():
        raise Uncertain
    return function(text)


_OF_DOUBLE: Mapping[str, Callable[[float], float]] = {
    "-": operator.neg, "+": operator.pos, "abs": abs, "sqrt": math.sqrt, "exp": math.exp, "ln": math.log, "log": math.log10,
    "log10": math.log10, "log2": math.log2, "floor": partial(_whole, math.floor), "ceil": partial(_whole, math.ceil),
    "ceiling": partial(_whole, math.ceil), "trunc": partial(_whole, math.trunc), "round": partial(_whole, _nearest),
}  # fmt: skip
_OF_TEXT: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "lower": ("varchar", partial(_ascii, str.lower)), "upper": ("varchar", partial(_ascii, str.upper)), "length": ("bigint", len),
}  # fmt: skip
_OF_TEXTS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "||": ("varchar", operator.add), "starts_with": ("boolean", str.startswith), "prefix": ("boolean", str.startswith),
    "suffix": ("boolean", str.endswith), "ends_with": ("boolean", str.endswith), "contains": ("boolean", operator.contains),
}  # fmt: skip
_CLASSES: Mapping[str, Callable[[Node, Mapping[str, str]], Compiled]] = {
    "COLUMN_REF": _column, "CONSTANT": _constant, "COMPARISON": _comparison, "BETWEEN": _between, "CONJUNCTION": _conjunction,
    "OPERATOR": _operator, "CASE": _case, "CAST": _cast, "FUNCTION": _function,
}  # fmt: skip

"""The grammar of searches, MLflow's: `metrics.auc > 0.7 AND params."tree depth" = '3'`. Pure; what a name means is its noun's."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, NoReturn, cast

from tidemill.core.errors import Invalid
from tidemill.core.values import Value

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE", "IN", "NOT IN", "IS NULL", "IS NOT NULL"]

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<single>'(?:[^']|'')*') | (?P<double>"(?:[^"]|"")*") | (?P<back>`[^`]*`)
  | (?P<operator><=|>=|!=|<>|=|<|>)
  | (?P<mark>[(),])
  | (?P<word>[^\s=<>!(),'"`]+)
)""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_NAMED_NUMBERS = {"inf", "+inf", "-inf", "infinity", "-infinity", "nan"}
_WORDS = ("LIKE", "ILIKE", "IN", "NOT", "IS")


class Comparison(Value, frozen=True, kw_only=True):
    """One condition. value: a float when a number stands there, else text; several for IN, None for IS (NOT) NULL."""

    entity: str
    key: str
    op: Operator
    value: str | float | tuple[str | float, ...] | None
    position: int


class Order(Value, frozen=True, kw_only=True):
    """One sort key."""

    entity: str
    key: str
    ascending: bool


class FilterRefused(Invalid):
    """A filter or order that does not follow the grammar, or names what is not there. position counts characters from 0."""

    def __init__(self, text: str, position: int, problem: str, *, what: str = "filter") -> None:
        self.text, self.position, self.problem = text, position, problem
        around = f"{text[max(0, position - 40) : position]}⟨here⟩{text[position : position + 40]}"
        super().__init__(f"{what} was not understood at character {position + 1}: {problem} in {around!r}")


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def parse_filter(text: str, *, entities: Mapping[str, str], default: str) -> tuple[Comparison, ...]:
    """Return the conditions of a filter, all of which must hold; none for an empty text.

    entities maps each prefix that may stand before a dot to the entity that it means; a name without one is of `default`.
    Raises FilterRefused, which names the position.
    """
    reader = _Reader(text, tuple(_tokens(text, "filter")))
    found: list[Comparison] = []
    while reader.more():
        found.append(_comparison(reader, entities, default))
        if reader.more():
            joint = reader.take("AND and another condition")
            if joint.text.upper() != "AND":
                wanted = "only AND joins conditions" if joint.text.upper() == "OR" else "expected AND"
                reader.refuse(joint, f"{wanted}, found {joint.text!r}")
            if not reader.more():
                reader.refuse(None, "a condition is missing behind AND")
    return tuple(found)


def parse_order(clauses: Sequence[str], *, entities: Mapping[str, str], default: str) -> tuple[Order, ...]:
    """Return sort keys of the form `NAME`, `NAME ASC` or `NAME DESC`. Raises FilterRefused."""
    found = []
    for clause in clauses:
        reader = _Reader(clause, tuple(_tokens(clause, "order")), what="order")
        entity, key, _ = _name(reader, entities, default)
        ascending = True
        if reader.more():
            direction = reader.take("ASC or DESC")
            if direction.text.upper() not in ("ASC", "DESC"):
                reader.refuse(direction, f"expected ASC or DESC, found {direction.text!r}")
            ascending = direction.text.upper() == "ASC"
        if reader.more():
            reader.refuse(reader.take(""), "expected nothing more; several keys are several clauses")
        found.append(Order(entity=entity, key=key, ascending=ascending))
    return tuple(found)


class _Reader:
    """Tokens, taken one after the other."""

    def __init__(self, text: str, tokens: tuple[_Token, ...], *, what: str = "filter") -> None:
        self.text, self.tokens, self.what, self.at = text, tokens, what, 0

    def more(self) -> bool:
        return self.at < len(self.tokens)

    def take(self, expected: str) -> _Token:
        if not self.more():
            self.refuse(None, f"it ends where {expected} was expected")
        self.at += 1
        return self.tokens[self.at - 1]

    def next_is(self, *texts: str) -> bool:
        return self.more() and self.tokens[self.at].text.upper() in texts

    def refuse(self, token: _Token | None, problem: str) -> NoReturn:
        raise FilterRefused(self.text, len(self.text) if token is None else token.start, problem, what=self.what)


def _tokens(text: str, what: str) -> Iterator[_Token]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            quoted = text[start] in "'\"`"
            problem = f"the quote {text[start]} is never closed" if quoted else f"{text[start]!r} does not belong there"
            raise FilterRefused(text, start, problem, what=what)
        kind = cast("str", match.lastgroup)
        yield _Token(kind, match[kind], match.start(kind), match.end(kind))
        at = match.end()


def _comparison(reader: _Reader, entities: Mapping[str, str], default: str) -> Comparison:
    entity, key, start = _name(reader, entities, default)
    op = _operator(reader)
    value: str | float | tuple[str | float, ...] | None
    if op in ("IS NULL", "IS NOT NULL"):
        value = None
    elif op in ("IN", "NOT IN"):
        value = _values(reader)
    else:
        value = _value(reader, reader.take("a value"))
    return Comparison(entity=entity, key=key, op=op, value=value, position=start)


def _name(reader: _Reader, entities: Mapping[str, str], default: str) -> tuple[str, str, int]:
    first = reader.take("a name such as metrics.auc")
    if first.kind in ("double", "back"):
        return default, _unquoted(first), first.start
    if first.kind != "word":
        reader.refuse(first, f"expected a name such as metrics.auc, found {first.text!r}")
    prefix, dot, rest = first.text.partition(".")
    if not dot:
        return default, first.text, first.start
    if prefix not in entities:
        known = ", ".join(dict.fromkeys(entities))
        reader.refuse(first, f"{prefix!r} is nothing that can be searched for; expected one of {known}")
    if rest:
        return entities[prefix], rest, first.start
    key = reader.take("a key")
    if key.kind not in ("double", "back", "single") or key.start != first.end:
        reader.refuse(key, f"expected a key right behind {first.text!r}, found {key.text!r}")
    return entities[prefix], _unquoted(key), first.start


def _operator(reader: _Reader) -> Operator:
    token = reader.take("an operator such as = or LIKE")
    word = token.text.upper()
    if token.kind == "operator":
        return "!=" if word == "<>" else cast("Operator", word)
    if token.kind != "word" or word not in _WORDS:
        reader.refuse(token, f"expected an operator (=, !=, <, <=, >, >=, LIKE, ILIKE, IN, NOT IN, IS NULL), found {token.text!r}")
    if word == "NOT":
        following = reader.take("IN")
        if following.text.upper() != "IN":
            reader.refuse(following, f"expected IN behind NOT, found {following.text!r}")
        return "NOT IN"
    if word == "IS":
        following = reader.take("NULL or NOT NULL")
        negated = following.text.upper() == "NOT"
        if negated:
            following = reader.take("NULL")
        if following.text.upper() != "NULL":
            reader.refuse(following, f"expected NULL, found {following.text!r}")
        return "IS NOT NULL" if negated else "IS NULL"
    return cast("Operator", word)


def _values(reader: _Reader) -> tuple[str | float, ...]:
    opening = reader.take("a list such as ('a', 'b')")
    if opening.text != "(":
        reader.refuse(opening, f"expected a list such as ('a', 'b'), found {opening.text!r}")
    values = [_value(reader, reader.take("a value"))]
    while reader.next_is(","):
        reader.take(",")
        values.append(_value(reader, reader.take("a value")))
    closing = reader.take("a closing bracket")
    if closing.text != ")":
        reader.refuse(closing, f"expected , or ), found {closing.text!r}")
    return tuple(values)


def _value(reader: _Reader, token: _Token) -> str | float:
    if token.kind in ("single", "double"):
        return _unquoted(token)
    if token.kind != "word" or not (_NUMBER.fullmatch(token.text) or token.text.lower() in _NAMED_NUMBERS):
        reader.refuse(token, f"expected a number or text in quotes, found {token.text!r}")
    return float(token.text)


def _unquoted(token: _Token) -> str:
    quote = token.text[0]
    return token.text[1:-1].replace(quote * 2, quote)

"""Names and ids. Ids sort by the time they were made (UUID version 7, RFC 9562)."""

import os
import re
import time
from functools import lru_cache
from typing import NewType

from tidemill.core.errors import Invalid

RunId = NewType("RunId", str)
EventId = NewType("EventId", str)
JobId = NewType("JobId", str)
ActorId = NewType("ActorId", str)
Digest = NewType("Digest", str)
ModelName = NewType("ModelName", str)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
KEY_MAX = 250
# Letters of what stands behind a key, and of an experiment's name.
PARAM_MAX, TAG_MAX = 6000, 8000
EXPERIMENT_MAX = 500
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # the two bits that mark RFC 9562's layout
_KEY = re.compile(r"[/\w.\- :]+")


def new_id() -> str:
    """Return 32 hex digits of a fresh UUIDv7: 48 bits of milliseconds, then randomness."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """Return that many fresh UUIDv7s of this moment, cheaper than one by one: they share the 12 random bits behind the time."""
    millis, random = time.time_ns() // 1_000_000, os.urandom(10 * count if count == 1 else 8 * count + 2)
    if count == 1:
        return [uuid7_hex(millis, random.hex())]
    first = f"{millis:012x}7{random[:2].hex()[:3]}"
    keep, mark = _halves(count)
    rest = (int.from_bytes(random[2:], "big") & keep | mark).to_bytes(8 * count, "big").hex()
    return [first + rest[at : at + 16] for at in range(0, 16 * count, 16)]


@lru_cache(maxsize=64)
def _halves(count: int) -> tuple[int, int]:
    """Return what keeps the lower 62 bits of each of so many words of 64, and what marks them with RFC 9562's variant."""
    ones = int.from_bytes(b"\0\0\0\0\0\0\0\1" * count, "big")
    return ones * (2**62 - 1), ones * 2**63


def uuid7_hex(millis: int, random: str) -> str:
    """Return the UUIDv7 of a time and 20 random hex digits as 32 hex digits. Source: RFC 9562, section 5.7."""
    return f"{millis:012x}7{random[:3]}{_VARIANT[random[3]]}{random[4:19]}"


def new_run_id() -> RunId:
    """Return the id of a new run: 32 hex digits, as MLflow's clients expect."""
    return RunId(new_id())


def check_name(name: str, what: str) -> str:
    """Return name if it may stand in keys, paths and URLs. Raises Invalid."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{what} name {name!r} is not usable; expected 1 to 128 letters, digits, dots, dashes or underscores, "
            "starting with a letter or digit"
        )
    return name


@lru_cache(maxsize=10_000)  # the same keys come again and again, thousands a second
def check_key(kind: str, key: str) -> str:
    """Return a key that params, tags and metrics may have (what MLflow's clients allow). Raises Invalid."""
    if len(key) > KEY_MAX:
        raise Invalid(f"{kind} key {key[:40]!r}… has {len(key)} characters; expected at most {KEY_MAX}")
    if not _KEY.fullmatch(key) or key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")):
        raise Invalid(f"{kind} key {key!r} is not usable; expected letters, digits, spaces and any of _ - . : with single slashes between")
    return key


def check_text(kind: str, key: str, value: str, longest: int) -> str:
    """Return what may stand behind a key. Raises Invalid for what is too long, or holds what no database keeps."""
    if len(value) > longest:
        raise Invalid(f"{kind} {key!r} has {len(value)} characters; expected at most {longest}; log long texts as an artifact")
    if "\0" in value:
        raise Invalid(f"{kind} {key!r} holds a NUL character, which no database keeps; leave it out")
    return value


def check_experiment(name: str) -> str:
    """Return a name that an experiment may have. Raises Invalid."""
    if not name.strip() or len(name) > EXPERIMENT_MAX or "\0" in name:
        raise Invalid(f"experiment name {name[:80]!r} is not usable; expected 1 to {EXPERIMENT_MAX} characters, not all spaces")
    return name

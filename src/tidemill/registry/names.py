"""What registered models, aliases and tags may be called: as MLflow's clients may, for names are keys here and never paths. Pure."""

import posixpath
import re

from tidemill.core.errors import Invalid

NAME_MAX, ALIAS_MAX, TAG_KEY_MAX, TAG_VALUE_MAX, TEXT_MAX = 256, 255, 250, 100_000, 100_000
_ALIAS = re.compile(r"[\w.\-]+")
_TAG_KEY = re.compile(r"[/\w.\- :]+")
_NUMBERED = re.compile(r"[vV][0-9]+")


def check_model_name(name: str) -> str:
    """Return name if a registered model may have it. Raises Invalid."""
    if not name.strip() or len(name) > NAME_MAX or set(name) & {"/", ":"} or _climbs(name) or not name.isprintable():
        raise Invalid(
            f"model name {name[:80]!r} is not usable; expected 1 to {NAME_MAX} printable characters without '/' and ':', "
            "not blank, not '.' and not beginning with '..'"
        )
    return name


def check_alias(alias: str) -> str:
    """Return alias if it may point at a version: neither `latest` nor what reads as a version. Raises Invalid."""
    if not _ALIAS.fullmatch(alias) or len(alias) > ALIAS_MAX:
        raise Invalid(
            f"alias name {alias[:80]!r} is not usable; expected 1 to {ALIAS_MAX} letters, digits, dots, dashes or underscores, "
            "as in champion"
        )
    if alias.lower() == "latest" or _NUMBERED.fullmatch(alias):
        raise Invalid(f"alias name {alias!r} is reserved: it reads as a version; choose a name such as champion")
    return alias


def check_tag(key: str, value: str) -> None:
    """Raises Invalid for a key or value that no tag may have."""
    if not _TAG_KEY.fullmatch(key) or len(key) > TAG_KEY_MAX or _climbs(key):
        raise Invalid(
            f"tag key {key[:80]!r} is not usable; expected 1 to {TAG_KEY_MAX} letters, digits, spaces or any of _ - . : /, "
            "and nothing that reads as a path upwards"
        )
    if len(value) > TAG_VALUE_MAX or "\0" in value:
        raise Invalid(f"the value of tag {key!r} is not usable; expected at most {TAG_VALUE_MAX:,} characters, and none of them NUL")


def check_text(text: str, what: str) -> str:
    """Return a text for people if it can be kept. Raises Invalid."""
    if len(text) > TEXT_MAX or "\0" in text:
        raise Invalid(f"the {what} is not usable; expected at most {TEXT_MAX:,} characters, and none of them NUL")
    return text


def _climbs(name: str) -> bool:
    """Return whether a name, read as a path, is absolute, leads upwards or could be written otherwise."""
    return posixpath.normpath(name) != name or name == "." or name.startswith(("..", "/"))

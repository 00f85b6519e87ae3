"""Gather the fragments of changelog.d/ under a version's heading in CHANGELOG.md, and remove them.

Usage: python scripts/changelog.py VERSION YYYY-MM-DD
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("added", "changed", "fixed", "removed")
FRAGMENT = re.compile(rf"[a-z0-9][a-z0-9-]*\.(?P<kind>{'|'.join(KINDS)})\.md")


def gather(version: str, day: str, fragments: dict[str, str]) -> str:
    """Return the section of a version: a heading a kind, a bullet a fragment, in the order of their names."""
    lines = [f"## {version} ({day})", ""]
    for kind in KINDS:
        texts = [text for name, text in sorted(fragments.items()) if name.endswith(f".{kind}.md")]
        if texts:
            lines += [f"### {kind.capitalize()}", "", *(f"- {' '.join(text.split())}" for text in texts), ""]
    return "\n".join(lines) + "\n"


def main(version: str, day: str) -> None:
    paths = [path for path in (ROOT / "changelog.d").glob("*.md") if FRAGMENT.fullmatch(path.name)]
    if not paths:
        sys.exit("changelog.d/ holds no fragments; nothing to release")
    changelog = ROOT / "CHANGELOG.md"
    head, marker, rest = changelog.read_text("utf-8").partition("<!-- releases -->\n")
    section = gather(version, day, {path.name: path.read_text("utf-8") for path in paths})
    changelog.write_text(f"{head}{marker}\n{section}{rest.lstrip()}", "utf-8")
    for path in paths:
        path.unlink()
    print(f"{len(paths)} fragments gathered under {version}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])

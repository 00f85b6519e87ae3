"""Runs every block of the documentation's story, in the order of its pages, in one workspace: `python story.py ROOT FOLDER`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL)
NAV = re.compile(r":\s*([\w/.-]+\.md)\s*$", re.MULTILINE)
READY_S = 60


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. title names the file that it is."""

    page: str
    line: int
    language: str
    title: str
    text: str


def blocks(path: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = path.read_text("utf-8")
    for match in FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match["rest"])
        line = text.count("\n", 0, match.start()) + 2
        yield Block(path.name, line, match["language"], title[1] if title else "", match["text"])


def story(root: Path) -> list[Path]:
    """Return the pages in the order of the site, without the reference that is generated."""
    names = NAV.findall((root / "mkdocs.yml").read_text("utf-8"))
    return [root / "docs" / name for name in names if not name.startswith("reference/")]


class Teller:
    """Runs blocks one after the other; names live on from block to block."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.server: subprocess.Popen[bytes] | None = None

    def run(self, block: Block) -> None:
        if block.title:
            Path(block.title).write_text(block.text, "utf-8")
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, f"docs/{block.page}", "exec")
            exec(code, self.names)
        elif block.language == "sh" and block.text.startswith("tidemill up"):
            self.serve(block.text.strip())
        elif block.language == "sh":
            subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], check=True, stdout=subprocess.DEVNULL)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)

    def serve(self, command: str) -> None:
        """Start a server in the background, in the place of one that runs, on free ports, and wait until it is ready."""
        self.close()
        words = [*command.split(), "--port", "0", "--serve-port", "0"]
        if "--grpc-port" in words:
            words += ["--grpc-port", "0"]
        self.server = subprocess.Popen(words, stdout=subprocess.PIPE)
        deadline = time.monotonic() + READY_S
        for line in self.server.stdout:
            if b"stop with" in line:
                return
            if time.monotonic() > deadline:
                break
        raise RuntimeError(f"{command} did not become ready")

    def close(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait(timeout=30)
            self.server.stdout.close()


def main(root: Path, folder: Path) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    teller = Teller()
    try:
        for page in story(root):
            for block in blocks(page):
                sys.stdout.write(f"-- {block.page}:{block.line} {block.language} {block.title}\n")
                sys.stdout.flush()
                teller.run(block)
    finally:
        teller.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Take the README's picture: the endpoint page of a demo's workspace, in a real Chromium.

python scripts/picture.py WORKSPACE docs/dashboard.png
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tidemill.simulate.server import LocalServer

CHROMIUM = "/usr/bin/chromium"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")


def main(home: Path, picture: Path, page_path: str = "/projects/default/endpoints/delay") -> None:
    server = LocalServer(home, clock="simulated:clock")
    with server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1440, "height": 1100}, color_scheme="light")
        page.goto(server.served.url + page_path, wait_until="networkidle")
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])

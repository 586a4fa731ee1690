"""The page at ``/`` in a real browser, through a whole migration."""

import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.acceptance.house import House, house
from tests.acceptance.terminal import Daemon

__all__ = ["house"]

SCREENSHOTS = os.environ.get("REPLICATOR_TEST_SCREENSHOTS")
"""A folder: a screenshot of each step is put there, in light and dark, and as a phone shows it."""
FORMS = {
    "light": ("--window-size=1100,1500",),
    "dark": ("--window-size=1100,1500", "--blink-settings=preferredColorScheme=0"),
    "phone": ("--window-size=500,1600",),
}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(BROWSER is None, reason="wants a browser (Debian: chromium)"),
]


class Browser:
    """A headless browser that loads the page anew each time."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address = address
        self._folder = folder

    def run(self, *options: str) -> str:
        """Load the page, let its script ask for everything, and do what the options say."""
        found = subprocess.run(
            [
                str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                f"--user-data-dir={self._folder}", "--virtual-time-budget=2000", *options, self._address,
            ],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return found.stdout

    def dom(self, step: str) -> str:
        """The page as it is once its script has run. ``step`` names its screenshots."""
        for form, options in FORMS.items() if SCREENSHOTS else ():
            self.run(f"--screenshot={Path(SCREENSHOTS or '').resolve()}/{step}-{form}.png", *options)
        return self.run("--dump-dom")


@pytest.fixture
def browser(house: House, tmp_path: Path) -> Browser:
    return Browser(f"http://{house.terminal.settings['http_listen']}/", tmp_path / "browser")


def text(dom: str, name: str) -> str:
    """What stands in the element with this id."""
    found = re.search(rf'id="{name}"[^>]*>(.*?)</(?:p|h2|tbody|dl|ol|ul|figcaption|svg)>', dom, re.DOTALL)
    assert found, f"there is no {name}"
    return unescape(" ".join(re.sub(r"<[^>]*>", " ", found[1]).split()))


def until_ready(house: House, daemon: Daemon) -> None:
    daemon.until(lambda: house.terminal.json("status")["ready"])


def test_through_a_whole_migration(house: House, browser: Browser) -> None:
    house.execute("UPDATE people SET note = '<img src=x onerror=alert(1)>' WHERE id = 3")
    house.execute("UPDATE people SET note = 'boom' WHERE id = 7")
    with house.terminal.daemon() as daemon:
        daemon.until(lambda: house.phase() == "follow")
        daemon.until(lambda: house.quarantined() == {"person": 1})
        dom = browser.dom("not-ready")
        assert (text(dom, "question"), text(dom, "answer")) == ("May I cut over?", "No")
        assert "quarantine" in text(dom, "why")
        assert re.search(r'aria-current="step"[^>]*>follow<', dom)
        assert "quarantine shut person: 1" in text(dom, "gates")
        assert text(dom, "quarantine") == "person 1 0"
        assert "LookupError" not in dom
        house.execute("UPDATE people SET note = 'fine' WHERE id = 7")
        until_ready(house, daemon)
        dom = browser.dom("ready")
        assert text(dom, "answer") == "Yes"
        assert text(dom, "next").startswith("replicator cutover Holds the writers")
        assert "points=" in dom[dom.index('id="lag"') : dom.index('id="lag-text"')]
        assert text(dom, "lag-text").startswith("Now ")
        assert "onerror" not in dom, "no value of a row is on the page"
        assert house.terminal.run("cutover", "--wait").code == 0
        daemon.until(lambda: house.terminal.json("status")["way_back"]["state"] == "open")
        dom = browser.dom("soak")
        assert (text(dom, "question"), text(dom, "answer")) == ("May I roll back?", "Yes")
        assert "Last: cutover, writers waited" in text(dom, "pause-text")
        assert "cutover" in text(dom, "journal")
        assert "replicator rollback" in text(dom, "next")
        assert daemon.stop() == 0

"""The documentation's site: it is built without a warning, shows what GitHub shows, and fetches nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import BLOCK, PAGES, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # without --quiet: MkDocs then counts no warning, and --strict lets all of them pass
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def shown(site: Path, name: str) -> str:
    """The HTML of a page."""
    path = site / name.replace("README.md", "index.md")
    return path.with_suffix(".html").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_there_and_fetches_nothing(site: Path, name: str) -> None:
    html = shown(site, name)
    fetched = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"?((?:https?:)?//[^\s\">]+)", html)
    assert fetched == []
    assert "```mermaid" not in PAGES[name], "the site would fetch its library"


def test_no_style_fetches_anything(site: Path) -> None:
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert len(styles) > 1000
    assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']+", styles) == []


@pytest.mark.parametrize("name", PAGES)
def test_the_site_reads_a_page_as_github_does(site: Path, name: str) -> None:
    """Python-Markdown wants an empty line before a list or a table, and four spaces within an item; GitHub does not."""
    html = re.sub(r"<pre.*?</pre>", "", shown(site, name), flags=re.DOTALL)
    assert re.findall(r"^(?:<p>)?(?:[-*] |\d+\. |\| ).*", html, re.MULTILINE) == []
    assert "```" not in html
    items = re.findall(r"^ *(?:[-*]|\d+\.) ", BLOCK.sub("", PAGES[name]), re.MULTILINE)
    article = html.partition("<article")[2].partition("</article>")[0]
    assert article.count("<li>") == len(items)

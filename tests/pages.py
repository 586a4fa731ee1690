"""The pages of the documentation, as text: their sections, tables, blocks of code and links."""

import re
from os.path import normpath
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("docs", "deploy", "tests")
PAGES: Final = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *(each for name in FOLDERS for each in (ROOT / name).rglob("*.md"))])
    if "node_modules" not in path.parts
}
"""Every page, by its path from the root: what stands at the root, and all that lies in the folders."""
MANUAL: Final = {name: text for name, text in PAGES.items() if name == "README.md" or name.startswith("docs/")}
"""What a user reads of the tool: the README and `docs`."""
README: Final = PAGES["README.md"]
BLOCK: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TITLE: Final = re.compile(r"^(#+) (.*)$", re.MULTILINE)


def prose(text: str) -> str:
    """A page without its blocks of code; the places stay."""
    return BLOCK.sub(lambda found: " " * len(found.group()), text)


def section(title: str, pages: dict[str, str] = MANUAL) -> str:
    """From the one heading of this title to the next of the same rank or a higher one; ``AssertionError`` without it.

    A page that bears the title of its first section is that section, so its heading counts.
    """
    found = [
        (text, heading)
        for text in pages.values()
        for heading in re.finditer(rf"^(#+) {re.escape(title)}$", prose(text), re.MULTILINE)
    ]
    assert len(found) == 1, f"there are {len(found)} sections {title}"
    ((text, heading),) = found
    end = re.compile(rf"^#{{1,{len(heading.group(1))}}} ", re.MULTILINE).search(prose(text), heading.end())
    return text[heading.end() : end.start() if end else None]


def tables(text: str) -> list[list[list[str]]]:
    """The rows of each table, without its head."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in line[1:-1].split("|")] for line in each.splitlines()[2:]] for each in found]


def block(text: str, language: str = "sql") -> str:
    """The first block of code in a language."""
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, f"no {language} there"
    return found.group(1)


def files(title: str = "Your own migration in ten minutes") -> dict[str, str]:
    """The files of the example, or of another section: a line with the name, then the block."""
    shown = section(title)
    return dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", shown, re.MULTILINE | re.DOTALL))


def code(text: str) -> str:
    """What stands between backticks; a dash or nothing is an empty text."""
    return text.strip("`")


def anchors(text: str) -> set[str]:
    """The headings of a page, as links name them: GitHub's way, and the site's."""
    found: list[str] = []
    for title in TITLE.finditer(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title.group(2))
        found.append(re.sub(r"[^\w -]", "", plain.lower()).replace(" ", "-"))
    return set(found)


def links(text: str) -> list[tuple[str, str]]:
    """The path and the anchor of each link that does not lead out of the repository; either may be empty."""
    found = re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", prose(text))
    return [(path, anchor) for path, anchor in found]


def broken(name: str, pages: dict[str, str] = PAGES) -> list[str]:
    """The links of a page that lead to no file, or to no heading of a page."""
    wrong = []
    for path, anchor in links(pages[name]):
        to = normpath(Path(name).parent / path) if path else name
        there = to in pages or (ROOT / to).exists()
        if not there or (anchor and anchor not in anchors(pages.get(to, ""))):
            wrong.append(f"{path}#{anchor}" if anchor else path)
    return wrong

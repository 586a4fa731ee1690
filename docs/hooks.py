"""What the site is made of: pages at the root and in four folders, each under its path from the root."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "deploy", "tests", "benchmarks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take our pages for those that MkDocs has found, and what they link to besides with them.

    MkDocs looks into one folder only. Under these paths a relative link is the same here, on GitHub and in an editor.
    """
    for each in [*files.documentation_pages(), *(each for each in files if each.src_uri.endswith((".png", ".svg")))]:
        files.remove(each)
    pages = [*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))]
    pictures = [*(ROOT / "docs").rglob("*.png"), *(ROOT / "benchmarks").rglob("*.svg")]
    for page in sorted([*pages, *pictures]):
        path = str(page.relative_to(ROOT))
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files

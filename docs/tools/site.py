"""What the site's build adds to the pages in ``docs``: the reference of commands, and pages from
elsewhere in the repository.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    import commands

    files.append(File.generated(config, "reference/commands.md", content=commands.page()))
    for name, source in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_from_docs(text)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """The text of a page whose links to files of the repository, such as ``../CONTRIBUTING.md``,
    lead to the pages made of them.
    """
    for name, source in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return markdown


def _from_docs(text: str) -> str:
    """The text with links as they are seen from ``docs``: ``docs/data.md`` becomes ``data.md``."""
    return re.sub(r"\]\(docs/", "](", text)

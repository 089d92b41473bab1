"""Makes the generated pages while MkDocs builds, and links what is cited as RULES 12 or METHODS C7."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs import pages


def on_files(files: Files, config: Any) -> Files:
    for name, text in pages.generated().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    return pages.filled(markdown, page.file.src_uri)


def on_page_content(html: str, page: Page, config: Any, files: Files) -> str:
    """Citations become links, but for those in code, headings and links."""
    out, inside = [], 0
    for piece in re.split(r"(<[^>]+>)", html):
        tag = re.match(r"<(/?)(code|pre|a|h[1-6]|svg)\b", piece)
        if tag:
            inside += -1 if tag[1] else 1
        out.append(
            piece if inside or piece.startswith("<") else pages.CITATION.sub(lambda m: _linked(m, page, files), piece)
        )
    return "".join(out)


def _linked(match: re.Match[str], page: Page, files: Files) -> str:
    def number(found: re.Match[str]) -> str:
        source, _, anchor = pages.anchor(match[1], found[0]).partition("#")
        file = files.get_file_from_path(source)
        assert file is not None
        return f'<a href="{get_relative_url(file.url, page.url)}#{anchor}">{found[0]}</a>'

    return f"{match[1]}{match[2]}{re.sub(r'[A-E]?[0-9]+', number, match[3])}"

"""What MkDocs is told about this repository, beside ``mkdocs.yml``.

Links of a page may lead out of ``docs/``, to an example or to the README, as they do on a forge. The site has no forge to lead
to, so it takes what is linked along: ``examples/x.py`` becomes a page ``project/examples/x.py``, and so on for what these link
to. Comments of the pages, which are for the tests, are left out.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
PLACE = "project"
# In the navigation whether something links to them or not.
ALWAYS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
LANGUAGES = {".py": "python", ".sql": "sql", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh"}

_FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1`*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
# What a browser would fetch from elsewhere as soon as it opens a page.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^"]*"""
    r"""|<link\b(?=[^>]*\brel="(?:icon|manifest|modulepreload|preconnect|preload|stylesheet)")[^>]*\bhref="(?:https?:)?//[^"]*"""
)
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds what the pages link to outside of ``docs/``."""
    todo = [*ALWAYS]
    for file in files.documentation_pages():
        todo += links_out(file.content_string, f"docs/{file.src_uri}")
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            text = page_of(name)
            files.append(File.generated(config, uri(name), content=text, inclusion=level(name)))
            todo += links_out(text, name) if name.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that hold on the site, and without comments."""
    here = path_of(page.file.src_uri)
    return outside_of_code(markdown, lambda text: _LINK.sub(lambda link: rewritten(link, here), _COMMENT.sub("", text)))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The page, if it can be read offline: nothing in it is fetched from another server."""
    if fetched := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} fetches something from another server: {fetched[0]}")
    return output


def rewritten(link: re.Match[str], here: str) -> str:
    """A link as it is on the site."""
    found = target(link[2], here)
    if found is None:
        return link[0]
    return link[1] + posixpath.relpath(uri(found), posixpath.dirname(uri(here)) or ".") + link[3]


def links_out(text: str, here: str) -> list[str]:
    """The files outside of ``docs/`` that a page links to, by their paths from the root."""
    found: list[str | None] = []
    outside_of_code(text, lambda part: found.extend(target(link[2], here) for link in _LINK.finditer(part)) or part)
    return [name for name in found if name is not None and not name.startswith("docs/")]


def target(link: str, here: str) -> str | None:
    """The file of the repository that a link on a page leads to. A directory stands for its README."""
    if re.match(r"[a-z]+:|/", link):
        return None
    path = (ROOT / here).parent / link
    path = path / "README.md" if path.is_dir() else path
    if not path.exists():
        return None
    return path.resolve().relative_to(ROOT).as_posix()


def uri(name: str) -> str:
    """The place on the site of a file of the repository."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return f"{PLACE}/{name}" if name.endswith(".md") else f"{PLACE}/{name}.md"


def path_of(src_uri: str) -> str:
    """The file of the repository that a page was made of."""
    if not src_uri.startswith(f"{PLACE}/"):
        return f"docs/{src_uri}"
    name = src_uri.removeprefix(f"{PLACE}/")
    return name if (ROOT / name).exists() else name.removesuffix(".md")


def page_of(name: str) -> str:
    """A file as a page: Markdown as it is, code in a block."""
    path = ROOT / name
    if not path.is_file():
        raise PluginError(f"a link leads to {name}, which is no file")
    text = path.read_text(encoding="utf-8")
    if name.endswith(".md"):
        return text
    return f"# {name}\n\n`````{LANGUAGES.get(path.suffix, 'text')}\n{text}`````\n"


def level(name: str) -> InclusionLevel:
    """Source files are reached by links only."""
    return InclusionLevel.INCLUDED if name.endswith(".md") else InclusionLevel.NOT_IN_NAV


def outside_of_code(text: str, change: Any) -> str:
    """A page whose text outside of code blocks is changed."""
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])

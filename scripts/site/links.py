"""Names of the public interface within docstrings become links: ``Absurd.spawn``, ``RetryStrategy``, ``TaskNotFoundError``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
_NAME = re.compile(r"``(([A-Z]\w+)((?:\.\w+)?))``")


def shown() -> dict[str, str]:
    """What the pages of the reference show: the last name of each path, and the path."""
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md")))
    paths = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    return {path.rpartition(".")[2]: path for path in paths}


class Links(griffe.Extension):
    """Looks at every docstring that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = shown()

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Links the names in one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _NAME.sub(self._link, obj.docstring.value)

    def _link(self, name: re.Match[str]) -> str:
        path = self.paths.get(name[2])
        # `optional`: what a page does not show stays as it is.
        return f'<autoref identifier="{path}{name[3]}" optional><code>{name[1]}</code></autoref>' if path else name[0]

"""The snippets of the documentation: code, and what people type at a shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "plugin-template" / "README.md")
SHELLS = ("console", "sh", "bash")

_HEADING_OR_FENCE = re.compile(
    r"^#+ (?P<heading>[^\n]*)$|^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_COMMAND = r"((?:.*\\\n)*.*\n)"
_TYPED = re.compile(f"^{_COMMAND}", re.MULTILINE)
_TYPED_AND_SHOWN = re.compile(rf"^\$ {_COMMAND}((?:(?!\$ ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """What is typed.

    Attributes:
        text: as bash takes it; of several lines where they end with a backslash.
        shown: what the page says that it prints; empty where the page shows nothing.
    """

    text: str
    shown: str = ""


@dataclass(frozen=True)
class Snippet:
    """A fenced block.

    Attributes:
        page: relative to the repository, such as `docs/setup.md`.
        section: the heading above it.
        language: the word behind the fence.
    """

    page: str
    section: str
    language: str
    text: str

    def commands(self) -> list[Command]:
        """The commands of a shell's snippet, in order; in a `console` they stand behind `$`, with what they print."""
        if self.language == "console":
            assert self.text.startswith("$ "), f"{self.page}: a console begins with a command behind $: {self.text}"
            return [Command(text.rstrip("\n"), shown) for text, shown in _TYPED_AND_SHOWN.findall(self.text)]
        return [Command(text.rstrip("\n")) for text in _TYPED.findall(self.text)]


def snippets(*languages: str) -> Iterator[Snippet]:
    """All snippets in these languages, page by page."""
    for page in PAGES:
        section = ""
        for found in _HEADING_OR_FENCE.finditer(page.read_text()):
            section = found["heading"] or section
            if found["language"] in languages:
                yield Snippet(str(page.relative_to(ROOT)), section, found["language"], found["text"])

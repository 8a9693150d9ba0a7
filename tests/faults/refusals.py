"""What every refusal of a job must be: one sentence for a person that names the file and the mistake in it."""

from __future__ import annotations

import re

from atenea.errors import MistakesError

_KEY = r"(?:text|text_file|audio_file|avatar|priority|(?:tts|audio|render|post)(?:\.[^:]*)?|[^ :]+): .+"
_LINE = r"line \d+ is not UTF-8 .+|is not valid TOML: .+ \(at (?:line \d+, column \d+|end of document)\)"
_WHOLE = (
    r"is nested too deeply|holds .+|has .+|says nothing to speak.+|ends in the middle of a character.+|is UTF-16.+"
    r"|and [\d,]+ more mistakes|is larger than .+|.+ only one of them can be spoken; leave one"
)
_MISTAKE = re.compile(f"{_LINE}|{_WHOLE}|{_KEY}")


def assert_is_a_refusal(error: MistakesError, name: str) -> None:
    """The error names the file first, and each of its mistakes says where, in printable words of bearable length."""
    assert error.subject.startswith(name)
    assert error.mistakes
    assert len(error.mistakes) <= 1000
    for mistake in error.mistakes:
        assert _MISTAKE.fullmatch(mistake), mistake
        assert mistake.isprintable(), ascii(mistake)
        assert len(mistake) < 1000, mistake


def assert_is_an_answer(text: str, name: str) -> None:
    """The text of a NAME.error.txt: a sentence about the job's file, an empty line, and what else there is."""
    first, second, *_ = text.split("\n")
    assert first.startswith(f"{name}"), text
    assert _MISTAKE.match(first.partition(": ")[2]), text
    assert first.isprintable(), ascii(text)
    assert len(first) <= 2000
    assert second == ""
    assert "Traceback" not in text

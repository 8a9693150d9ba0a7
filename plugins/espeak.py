"""espeak: a text-to-speech plugin that needs no network, no GPU and no key. A robot's voice, in a hundred languages."""

from __future__ import annotations

import ctypes
import difflib
import os
import shutil
import tempfile
import unicodedata
import wave
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pydantic import Field

from atenea import Context, Finding, Job, PermanentError, PluginOptions, TimedText, hookimpl
from atenea.finding import finding_of
from atenea.speech_timing import word_spans

needs = {"cpu"}

_LONGEST_DATA_PATH = 130
"""Bytes; espeak cuts off a path of 160 after it has added its own file names."""

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _PITCH = 1, 3
_EVENT_LIST_TERMINATED, _EVENT_WORD, _EVENT_END = 0, 1, 5
_BUFFER_MILLISECONDS = 400


class Options(PluginOptions):
    """Options of the plugin.

    Attributes:
        voice: a language ("en", "en-us", "pt-br"), a voice's name, or either with a variant ("en+f3").
        rate: words per minute.
        pitch: 0 is the deepest.
    """

    voice: str = "en"
    rate: int = Field(170, ge=80, le=450)
    pitch: int = Field(50, ge=0, le=99)


@hookimpl
def check(job: Job, ctx: Context) -> str | None:
    """Refuse a voice that espeak does not have."""
    options = _options(ctx)
    with _engine() as engine:
        try:
            engine.find_voice(options.voice)
        except PermanentError as error:
            return str(error)
    return None


@hookimpl
def diagnose(ctx: Context) -> list[Finding]:
    """Load the library and the voice."""
    anew = "install espeakng-loader anew"
    try:
        with _engine() as engine:
            engine.choose(_options(ctx))
            return [Finding("voice", "ok", f"espeak {engine.version} has the voice {_options(ctx).voice!r}")]
    except PermanentError as error:
        return [finding_of("voice", "problem", str(error), f"choose another voice, or {anew}")]
    except (ImportError, OSError) as error:
        return [Finding("library", "problem", f"espeak's library cannot be loaded: {error}", anew)]


@hookimpl
def tts(job: Job, ctx: Context) -> Path:
    """Speak the job's text, and note when each word begins and ends."""
    options = _options(ctx)
    text = _speakable(job.text or "")
    target = ctx.workdir / "speech.wav"
    with _engine() as engine:
        engine.choose(options)
        with wave.open(str(target), "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(engine.sample_rate)
            spoken = _Speech(wav, len(text), ctx.progress)
            engine.speak(text, spoken)
    if not spoken.marks:
        raise PermanentError("espeak finds nothing to speak in the text: it has no words")
    ctx.save_timing(_timed_pieces(text, spoken, engine.sample_rate))
    ctx.report["espeak"] = engine.version
    return target


def _options(ctx: Context) -> Options:
    assert isinstance(ctx.options, Options)  # noqa: S101 - the plugin manager validated them
    return ctx.options


def _speakable(text: str) -> str:
    """The text without what is no text: control characters would end it, or command espeak."""
    return "".join(_speakable_character(character) for character in text)


def _speakable_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Cc", "Cn", "Co", "Zl", "Zp"}:
        return "\n" if character == "\n" else " "
    # The joiners belong to words and emoji; other invisible characters would split words.
    return "" if category in {"Cf", "Cs"} and character not in "\u200c\u200d" else character


@dataclass
class _Speech:
    """Takes what espeak says while it speaks: samples into the file, events into marks.

    Attributes:
        marks: (character where a word begins, sample where it begins).
        ends: samples where sentences end.
        samples: how many were written.
    """

    wav: wave.Wave_write
    characters: int
    progress: Callable[[float, str], None]
    marks: list[tuple[int, int]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    samples: int = 0

    def sound(self, samples: bytes) -> None:
        self.wav.writeframesraw(samples)
        self.samples += len(samples) // 2
        reached = self.marks[-1][0] if self.marks else 0
        self.progress(reached / max(1, self.characters), "speaking")


@dataclass
class _Piece:
    """Words between `start` and `end` in the text; espeak begins them at `sample`, and their last part at `last`."""

    start: int
    end: int
    sample: int
    last: int


def _timed_pieces(text: str, spoken: _Speech, rate: int) -> Iterator[TimedText]:
    """One piece per word where espeak says when it begins; it joins some ("of the") and speaks others not at all."""
    borders = sorted({*spoken.ends, *(sample for _, sample in spoken.marks), spoken.samples})
    for piece in _pieces(text, spoken.marks):
        end = borders[min(bisect_right(borders, piece.last), len(borders) - 1)]
        yield TimedText(" ".join(text[piece.start : piece.end].split()), piece.sample / rate, end / rate)


def _pieces(text: str, marks: list[tuple[int, int]]) -> list[_Piece]:
    pieces: list[_Piece] = []
    text_start, taken = None, 0
    for start, end in word_spans(text):
        first = taken
        while taken < len(marks) and marks[taken][0] < end:
            taken += 1
        if taken > first:
            begin = start if text_start is None else text_start
            pieces.append(_Piece(begin, end, marks[first][1], marks[taken - 1][1]))
            text_start = None
        elif pieces:
            pieces[-1].end = end
        elif text_start is None:
            text_start = start
    return pieces


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@contextmanager
def _engine() -> Iterator[_Engine]:
    """The library, set up for one use; it keeps its state in globals, and forgets it at the end."""
    import espeakng_loader  # type: ignore[import-untyped]  # noqa: PLC0415 - listing the plugins must not cost it

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    with _short(Path(espeakng_loader.get_data_path())) as data:
        rate = library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MILLISECONDS, os.fsencode(data), _INITIALIZE_DONT_EXIT
        )
        if rate <= 0:
            raise PermanentError(f"espeak cannot read its data in {data}: install espeakng-loader anew")
        try:
            yield _Engine(library, data, rate)
        finally:
            library.espeak_Terminate()


@contextmanager
def _short(data: Path) -> Iterator[Path]:
    """A path to espeak's data that is short enough for it."""
    if len(os.fsencode(data)) <= _LONGEST_DATA_PATH:
        yield data
        return
    # Not TMPDIR, which may be as long.
    folder = Path(tempfile.mkdtemp(prefix="atenea-", dir="/tmp"))
    try:
        link = folder / data.name
        link.symlink_to(data)
        yield link
    finally:
        shutil.rmtree(folder)


class _Engine:
    """espeak-ng, through its C interface."""

    def __init__(self, library: ctypes.CDLL, data: Path, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._data = data
        self._library = library
        library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        library.espeak_ListVoices.argtypes = [ctypes.POINTER(_Voice)]
        library.espeak_Info.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        return str(self._library.espeak_Info(None).decode())

    def find_voice(self, wanted: str) -> str:
        """The voice as espeak spells it.

        Raises:
            PermanentError: there is none of that name; it says which is nearest.
        """
        base, plus, variant = wanted.partition("+")
        name = _look_up("voice", base, self._voices())
        if not self._has_dictionary(name):
            raise PermanentError(f"espeak comes without the dictionary of its voice {base!r}: choose another voice")
        return name + plus + (_look_up("voice variant", variant, self._variants()) if plus else "")

    def choose(self, options: Options) -> None:
        """Set the voice, rate and pitch."""
        voice = self.find_voice(options.voice)
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise PermanentError(f"espeak cannot load its voice {voice!r}")
        self._library.espeak_SetParameter(_RATE, options.rate, 0)
        self._library.espeak_SetParameter(_PITCH, options.pitch, 0)

    def speak(self, text: str, speech: _Speech) -> None:
        """Speak the whole text into `speech`; what that raises ends the speech, and is raised here."""
        failure: list[BaseException] = []

        def on_sound(samples: ctypes._Pointer[ctypes.c_short], length: int, events: ctypes._Pointer[_Event]) -> int:
            try:
                _hear(samples, length, events, speech)
            except BaseException as error:  # noqa: BLE001 - it cannot pass through the C code
                failure.append(error)
                return 1
            return 0

        callback = _SynthCallback(on_sound)
        self._library.espeak_SetSynthCallback(callback)
        encoded = text.encode()
        result = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if failure:
            raise failure[0]
        if result:
            raise PermanentError(f"espeak failed to speak the text (its error {result})")

    def _voices(self) -> dict[str, str]:
        """Every way to name a voice, in small letters, to the file that it names."""
        names: list[tuple[int, str, str]] = []
        for voice in self._listed(None):
            file = voice.identifier.decode()
            if file.startswith("mb/"):
                continue  # MBROLA voices need another program.
            names += [(priority, language, file) for priority, language in _languages(voice.languages)]
            names += [(0, name, file) for name in (file, file.rpartition("/")[2], voice.name.decode())]
        # Several voices speak "en"; the one with the lowest number is meant.
        return {name.casefold(): file for _, name, file in sorted(names, reverse=True)}

    def _has_dictionary(self, file: str) -> bool:
        """A few voices are listed whose dictionaries are not built; they speak nothing."""
        lines = [line.split() for line in (self._data / "lang" / file).read_text("utf-8", "replace").splitlines()]
        stated = [line[1] for line in lines if line[:1] == ["dictionary"]]
        languages = [line[1].split("-")[0] for line in lines if line[:1] == ["language"]]
        return any((self._data / f"{name}_dict").exists() for name in stated or languages)

    def _variants(self) -> dict[str, str]:
        wanted = _Voice(languages=ctypes.cast(ctypes.c_char_p(b"variant"), ctypes.c_void_p))
        files = [voice.identifier.decode().removeprefix("!v/") for voice in self._listed(ctypes.byref(wanted))]
        return {name.casefold(): name for name in files}

    def _listed(self, wanted: object) -> Iterator[_Voice]:
        for pointer in self._library.espeak_ListVoices(wanted):
            if not pointer:
                return
            yield pointer.contents


def _hear(
    samples: ctypes._Pointer[ctypes.c_short], length: int, events: ctypes._Pointer[_Event], speech: _Speech
) -> None:
    for index in count():
        event = events[index]
        if event.type == _EVENT_LIST_TERMINATED:
            break
        if event.type == _EVENT_WORD:
            speech.marks.append((event.text_position - 1, event.sample))
        elif event.type == _EVENT_END:
            speech.ends.append(event.sample)
    if samples and length:
        speech.sound(ctypes.string_at(samples, length * 2))


def _languages(address: int) -> Iterator[tuple[int, str]]:
    """The languages of a voice: each is a byte of priority and a name; an empty entry ends them."""
    while entry := ctypes.string_at(address):
        yield entry[0], entry[1:].decode()
        address += len(entry) + 1


def _look_up(what: str, wanted: str, names: dict[str, str]) -> str:
    name = wanted.casefold()
    if name in names:
        return names[name]
    longer = [other for other in sorted(names, key=len) if other.startswith(name)]
    nearest = (longer or difflib.get_close_matches(name, names, 1, 0.0))[0]
    raise PermanentError(f"espeak has no {what} {wanted[:100]!r}; the nearest is {nearest!r}")

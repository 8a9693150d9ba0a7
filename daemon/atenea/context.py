"""What a hook gets beside the job: its work folder, options, log, progress, and the artifacts so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atenea.errors import PermanentError
from atenea.options import PluginOptions
from atenea.timing import TimedText, write_timing

if TYPE_CHECKING:  # the commands start faster without it
    from structlog.typing import FilteringBoundLogger

_SUFFIX = re.compile(r"(\.[a-z0-9_-]{1,16}){1,2}")
RESERVED_SUFFIXES = frozenset({".mp4", ".json", ".error.txt", ".progress.txt"})


@dataclass(kw_only=True)
class Context:
    """Passed to every hook as `ctx`.

    Attributes:
        workdir: a folder of this stage of this job alone. It outlives a crash, so work can go on from what it holds;
            it is removed when the job is done.
        cache: a folder that this plugin shares with all its jobs, and that nothing but the plugin cleans up; where it
            cannot be made (a full disk), one in `workdir`.
        models: where `atenea models download` puts the models of Hallo2.
        options: the plugin's validated `Options`.
        log: a structlog logger; its lines carry the job, the stage and the plugin.
        speech: the audio file with the speech, after the tts stage.
        wav: the speech as 16 kHz mono WAV, after the audio stage.
        video: the video as the last stage left it.
        timing: when each piece of the text is spoken, if the tts plugin said so; otherwise empty.
        stages: for post plugins, what the stages before did: `stage`, `plugin`, `version` and all `options` of each,
            as in the job's report.
        report: JSON values to keep in the job's report (NAME.json) under this stage.
    """

    workdir: Path
    cache: Path
    options: PluginOptions
    log: FilteringBoundLogger
    on_progress: Callable[[float, str], None]
    models: Path = Path("models")
    speech: Path | None = None
    wav: Path | None = None
    video: Path | None = None
    timing: tuple[TimedText, ...] = ()
    stages: tuple[Mapping[str, Any], ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, Path] = field(default_factory=dict)

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the stage is (0 to 1), in a few words if useful; call it often, it is cheap.

        Raises:
            Cancelled: the job was cancelled; let it pass through.
        """
        # In this order, because 0/0 is not greater than 0; and a float, because JSON knows none of numpy's.
        self.on_progress(float(min(max(0.0, fraction), 1.0)), text)

    def attach(self, path: Path, suffix: str) -> None:
        """Publish the file `path` beside the video, as the job's name plus `suffix` (such as ".jpg" or ".en.srt").

        Raises:
            PermanentError: the suffix is not one, or is the daemon's own.
        """
        if not _SUFFIX.fullmatch(suffix) or suffix in RESERVED_SUFFIXES:
            raise PermanentError(f"cannot attach a file with the suffix {suffix!r}: use one like '.jpg'")
        self.attachments[suffix] = path

    @property
    def timing_file(self) -> Path:
        """Where `save_timing` writes."""
        return self.workdir / "timing.json"

    def save_timing(self, pieces: Iterable[TimedText]) -> None:
        """For tts plugins: tell later stages when each piece of the text is spoken."""
        write_timing(self.timing_file, pieces)

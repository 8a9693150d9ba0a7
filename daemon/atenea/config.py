"""The configuration: where it is found, what may stand in it, and its defaults."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from atenea import places
from atenea.credentials import with_folder
from atenea.errors import ConfigError, MistakesError
from atenea.jobfile import PROVENANCE, JobKeys, PostPlugins, StageDefaults, only_one, parse_toml
from atenea.mistakes import Invalid, validated

Seconds = Annotated[float, Field(ge=0, le=10 * 365 * 86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1024)]
Days = Annotated[float, Field(ge=0, le=36500, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paths(_Table):
    """Where everything lies; relative paths are relative to the configuration file."""

    inbox: Path = Path("inbox")
    """Drop jobs here."""
    outbox: Path = Path("outbox")
    """Videos appear here."""
    state: Path = Path("state")
    """The ledger and the jobs' folders. On the inbox's file system taking a job is a rename, elsewhere a copy."""
    cache: Path = Path("cache")
    """What plugins keep for later jobs."""
    assets: Path = Path("assets")
    """Pictures and sounds that many jobs name."""
    plugins: Path = Path("plugins")
    """Your own plugins, one file each."""
    models: Path = Path("models")
    """Weights of models."""

    def under(self, base: Path) -> Paths:
        """The same, absolute."""
        return Paths(**{name: Path(os.path.abspath(base / path)) for name, path in self})


_SERVICE_PATHS = Paths(cache=Path("/var/cache/atenea")).under(places.SERVICE_FOLDER)


class Watch(_Table):
    """How the inbox is watched."""

    settle_seconds: Seconds = 1.0
    """A file is taken when it did not change for so long."""
    rescan_seconds: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """The inbox is looked through at least so often, whatever the file system's events say."""
    polling: bool = False
    """Do without file system events."""


class Tts(StageDefaults):
    """Which plugin speaks."""

    plugin: str = "espeak"
    """The plugin that speaks."""


class Audio(StageDefaults):
    """Which plugin makes the 16 kHz WAV."""

    plugin: str = "wav"
    """The plugin that makes the 16 kHz WAV."""


class Render(StageDefaults):
    """Which plugin makes the picture speak."""

    plugin: str = "preview"
    """The plugin that makes the picture speak."""


class Post(BaseModel):
    """Which plugins change the finished video, in order, and their options under their names."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    plugins: PostPlugins = ()
    """Plugins that change the finished video or add to it, in this order."""

    def marked(self, preset: JobKeys | None = None) -> bool:
        """Whether videos go through `provenance` at the end, listed or not.

        `[post.provenance] enabled` says so, the preset's before the configuration's; otherwise, where the extra is
        installed.
        """
        options = {**(self.model_extra or {}).get(PROVENANCE, {}), **(preset or JobKeys()).post.options(PROVENANCE)}
        return bool(options.get("enabled", find_spec("c2pa") is not None))


class Outbox(_Table):
    """What else is written to the outbox."""

    progress_files: bool = False
    """Keep a `NAME.progress.txt` in the outbox while a job runs."""


def _cores() -> int:
    """number of cores"""
    return os.cpu_count() or 1


def _most_memory() -> float:
    """nine tenths of the machine's"""
    return 0.9 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


class Workers(_Table):
    """How many stages run at once, by what they need."""

    cpu: Count = Field(default_factory=_cores)
    """Stages at once whose plugins need `cpu`."""
    network: Count = 4
    """Stages at once whose plugins need `network`."""
    gpu: Count = 1
    """Stages at once whose plugins need `gpu`."""
    cancel_seconds: Seconds = 10.0
    """How long a cancelled stage may take to stop by itself."""
    idle_seconds: Seconds = 300.0
    """A worker process with nothing to do ends after so long."""


class Retry(_Table):
    """When a stage that failed for a passing reason is tried again."""

    attempts: Count = 10
    """How often a stage is tried that fails for a passing reason."""
    first_seconds: Seconds = 10.0
    """The wait before the second attempt."""
    factor: Annotated[float, Field(ge=1, le=100)] = 3.0
    """Each wait is so many times the one before it."""
    max_seconds: Seconds = 1800.0
    """The longest wait."""
    worker_deaths: Count = 3
    """A job whose workers died so often is set aside as failed."""


class Limits(_Table):
    """What is too much."""

    job_file_bytes: int = Field(1_048_576, ge=1)
    """The largest TOML job file."""
    text_characters: int = Field(200_000, ge=1)
    """The longest text."""
    file_bytes: int = Field(4 * 1024**3, ge=1)
    """The largest picture or sound file that a job may name."""
    picture_pixels: int = Field(100_000_000, ge=1)
    """The largest picture."""
    wait_for_files_seconds: Seconds = 600.0
    """How long a job waits for files that it names."""
    silence_seconds: Seconds = 900.0
    """A stage that neither ends nor reports progress for so long is ended."""
    memory_gigabytes: float = Field(default_factory=_most_memory, gt=0, allow_inf_nan=False)
    """A stage whose processes use more memory is ended, and tried again."""
    work_gigabytes: float = Field(100.0, gt=0, allow_inf_nan=False)
    """A stage that writes more into its work folder is ended, and the job fails."""


class Retention(_Table):
    """How long the state folder keeps what finished jobs were made from (for `atenea retry`)."""

    done_days: Days = 30.0
    """How long the original of a finished job is kept in the state folder."""
    failed_days: Days = 90.0
    """The same for failed and cancelled jobs."""
    history_days: Days = 365.0
    """How long a finished job is listed."""
    max_gigabytes: float = Field(50.0, gt=0)
    """What finished jobs may leave behind in all; the oldest goes first."""


class Settings(_Table):
    """What may stand in `atenea.toml`."""

    paths: Paths = Paths()
    watch: Watch = Watch()
    outbox: Outbox = Outbox()
    tts: Tts = Tts()
    audio: Audio = Audio()
    render: Render = Render()
    post: Post = Post()
    workers: Workers = Field(default_factory=Workers)
    retry: Retry = Retry()
    limits: Limits = Field(default_factory=Limits)
    retention: Retention = Retention()
    presets: dict[str, JobKeys] = Field(default_factory=dict)
    """Keys of a job file, as defaults for jobs dropped into the inbox's folder `NAME`, which the daemon makes."""

    @field_validator("presets")
    @classmethod
    def _names_of_folders(cls, presets: dict[str, JobKeys]) -> dict[str, JobKeys]:
        for name, keys in presets.items():
            if "/" in name or name.startswith(".") or not name.isprintable():
                raise ValueError(f"{name!r} cannot be the name of a folder; rename the preset")
            if len(keys.sources) > 1:
                raise ValueError(f"{name}: {only_one(keys.sources)}")
        return presets


class Config(Settings):
    """The settings of a running instance, with absolute paths."""

    file: Path | None = None
    overrides: JobKeys = JobKeys()
    """Keys that win over every job's own (of `atenea generate`)."""

    @property
    def jobs(self) -> Path:
        """Where the jobs' folders lie."""
        return self.paths.state / "jobs"


def load_config(file: Path | None = None) -> Config:
    """The configuration from `file`, or from where it is found, or the defaults.

    Raises:
        ConfigError: it cannot be read, others may have written it, or it has mistakes; all of them are named.
        UsageError: there is none, and no working directory either.
    """
    file = file or places.find_config()
    if file is None:
        cache = Path(os.environ.get("CACHE_DIRECTORY", "cache"))  # systemd's, for a service
        return Config(paths=Paths(cache=cache).under(places.working_directory()))
    try:
        table = with_folder(parse_toml(_read(file), str(file)))
        settings = validated(Settings, table)
    except OSError as error:
        raise ConfigError(str(file), [f"cannot be read: {error.strerror}; see --config"]) from None
    except Invalid as invalid:
        raise ConfigError(str(file), invalid.mistakes) from None
    except MistakesError as error:
        raise ConfigError(error.subject, error.mistakes) from None
    base = Path(os.path.abspath(file)).parent
    paths = settings.paths.under(base)
    if base / file.name == places.SERVICE_FILE:
        paths = _SERVICE_PATHS.model_copy(
            update={name: getattr(paths, name) for name in settings.paths.model_fields_set}
        )
    if paths.outbox in {paths.inbox, *(paths.inbox / preset for preset in settings.presets)}:
        raise ConfigError(
            str(file),
            ["paths.outbox: is the inbox too, or a preset's folder in it, which would take its own answers for jobs"],
        )
    return Config(**{**dict(settings), "paths": paths, "file": base / file.name})


def _read(file: Path) -> bytes:
    """The content of the configuration, which names programs that are run."""
    with file.open("rb") as opened:
        places.check_trust(file, opened.fileno())
        return opened.read()

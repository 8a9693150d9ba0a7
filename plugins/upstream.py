"""upstream: renders with a checkout of the published Hallo2 code, so that its videos can be compared with others.

The checkout (https://github.com/fudan-generative-vision/hallo2) and its Python environment are the user's own. Each job
runs `scripts/inference_long.py` as a program of its own, with a configuration made from the job, in a folder of the
job: nothing is written into the checkout. Its repeated and missing frames are left as they are; only their number is
made to fit the speech.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator
from structlog.typing import FilteringBoundLogger

from atenea import Context, Finding, Job, PermanentError, TransientError, hookimpl
from atenea.finding import finding_of
from atenea.media.audio import frame_count, opened, wav_info
from atenea.media.mux import VideoWriter, check_video, picture_of
from atenea.media.pictures import load_avatar
from atenea.options import SquareVideoOptions

needs = {"gpu"}

FPS = 25
SEED = 42
MAX_AVATAR_PIXELS = 100_000_000
SILENCE_SECONDS = 900.0
"""A program that prints nothing for so long hangs: loading the models takes minutes, a denoising step seconds."""

END_SECONDS = 3.0
"""How long the program may take to end after it was asked to."""

_SCRIPT = Path("scripts/inference_long.py")
_MODELS = (
    "hallo2/net.pth",
    "stable-diffusion-v1-5/unet/config.json",
    "motion_module/mm_sd_v15_v2.ckpt",
    "sd-vae-ft-mse/config.json",
    "wav2vec/wav2vec2-base-960h/config.json",
    "audio_separator/Kim_Vocal_2.onnx",
    "face_analysis/models/scrfd_10g_bnkps.onnx",
    "face_analysis/models/glintr100.onnx",
    "face_analysis/models/face_landmarker_v2_with_blendshapes.task",
)
"""What the published code loads."""

_TICK_SECONDS = 0.25
_CHUNK = 1 << 16
_PIPE = 1 << 20
_LINE = 1_000
_TAIL_LINES = 50

_WATCHDOG = "trap '' HUP INT TERM; read -r _; kill -KILL 0"
"""A shell that ends its process group, itself too, at the end of its standard input."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CLIP = re.compile(r"\[(\d+)/(\d+)\]")
_BAR = re.compile(r"(?P<title>.*?)\s*\d+%\|.*\|\s*(?P<done>\d+)/(?P<total>\d+) \[")
_NO_FACE = re.compile(r"No faces detected|#face is invalid")
_NO_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"
    r"|Failed to allocate memory"
)
_EXCEPTION = re.compile(r"[A-Za-z_.]*(?:Error|Exception)\b")
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
_NO_FILE = re.compile(r"(?:FileNotFoundError|NotADirectoryError): .*?'([^']+)'")


def _absolute(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute():
        raise ValueError(f"should be an absolute path, but is {str(path)!r}")
    return path


Folder = Annotated[Path, AfterValidator(_absolute)]


class Options(SquareVideoOptions):
    """Options of the plugin. Names and defaults are those of the published configuration where it has them.

    Attributes:
        checkout: the folder of the published repository; without it, no job can be rendered.
        python: the interpreter of the environment with the checkout's requirements: a path, or a program on PATH.
        models: the folder with the published models; `pretrained_models` in the checkout if it is not set.
        weight_dtype: the precision of the networks.
        num_inference_steps: denoising steps per clip of 16 frames.
        guidance_scale: how much the speech and the face steer; the published code cannot work without guidance.
        pose_weight: how much the speech moves the head.
        face_weight: how much it moves the face.
        lip_weight: how much it moves the lips.
        face_expand_ratio: by how much the box around the face is grown.
        mask_rate: the part of the last frames' background that is hidden from the next clip.
        fps: the published code writes 25 frames per second and no others.
        seed: fixed in the published code.
    """

    configuration_only: ClassVar = frozenset({"checkout", "python", "models"})

    checkout: Folder | None = None
    python: str = Field("python3", min_length=1)
    models: Folder | None = None
    weight_dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    num_inference_steps: int = Field(40, ge=1, le=1000)
    guidance_scale: float = Field(3.5, gt=1)
    pose_weight: float = Field(1.0, ge=0)
    face_weight: float = Field(1.0, ge=0)
    lip_weight: float = Field(1.0, ge=0)
    face_expand_ratio: float = Field(1.2, gt=0)
    mask_rate: float = Field(0.25, ge=0, le=1)
    fps: int = FPS
    seed: int = SEED

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.fps != FPS:
            raise ValueError(f"fps must be {FPS}, not {self.fps}: the published code writes no other video")
        if self.seed != SEED:
            raise ValueError(f"seed must be {SEED}, not {self.seed}: it is fixed in the published code")
        return self

    @property
    def program(self) -> str | None:
        """The interpreter as a path, None if there is none."""
        return shutil.which(os.path.expanduser(self.python))


@hookimpl
def check(job: Job, ctx: Context) -> list[str]:
    """Refuse a job without a picture, and a checkout that lacks something."""
    mistakes = []
    if job.avatar is None:
        mistakes.append(
            "the published code needs a picture: set avatar, or put a picture of the same name beside the text"
        )
    try:
        _command(_options(ctx))
        _models(_options(ctx))
    except PermanentError as error:
        mistakes.append(str(error))
    return mistakes


@hookimpl
def diagnose(ctx: Context) -> list[Finding]:
    """Look for the checkout, its interpreter with torch, the models, and FFmpeg, which the published code starts."""
    options = _options(ctx)
    found = []
    if shutil.which("ffmpeg") is None:
        found.append(
            Finding("ffmpeg", "problem", "the published code needs ffmpeg, which is missing", "apt install ffmpeg")
        )
    try:
        python, script = _command(options)
        found += [Finding("checkout", "ok", f"{script} is there"), _interpreter(python)]
        found.append(Finding("models", "ok", f"all that the published code loads is in {_models(options)}"))
    except PermanentError as error:
        found.append(finding_of("checkout", "problem", str(error), "set it up as its README.md says"))
    return found


def _interpreter(python: str) -> Finding:
    """Whether the interpreter starts, and has torch."""
    script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    command = [python, "-E", "-c", script]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("python", "problem", f"{python} cannot be started: {error}", "set python to another interpreter")
    if done.returncode:
        cure = "install the checkout's requirements.txt into its environment, or set python to the one that has them"
        return Finding("python", "problem", f"{python} has no torch", cure)
    return Finding("python", "ok", f"{python} has torch")


@hookimpl
def render(job: Job, wav: Path, ctx: Context) -> Path:
    """Run the published code; its video as it is, or with frames cut off or repeated at its end where they do not fit.

    Raises:
        PermanentError: the checkout, its environment or the picture cannot be used, or the published code failed.
        TransientError: it ran out of memory, was killed, or hangs.
        Cancelled: the job was cancelled; the program and all that it started have ended.
    """
    options = _options(ctx)
    if job.avatar is None:
        raise PermanentError("the job has no avatar, and the published code needs one: set avatar")
    command, models = _command(options), _models(options)
    folder = _fresh(ctx.workdir / "upstream", models)
    avatar, speech, settings = folder / "avatar.png", folder / "speech.wav", folder / "long.yaml"
    load_avatar(job.avatar, max_pixels=MAX_AVATAR_PIXELS).save(avatar)
    shutil.copyfile(wav, speech)
    values = configuration(options, models=models, avatar=avatar, speech=speech, folder=folder)
    settings.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")  # JSON is YAML too
    _run([*command, "--config", str(settings)], folder, _Account(options.num_inference_steps, ctx.log), ctx)
    video = folder / "output" / avatar.stem / "merge_video.mp4"
    if not video.is_file():
        raise PermanentError(f"the published code ended without its video {video.name}: see the log for what it said")
    return _fitted(video, wav_info(wav), ctx)


def _options(ctx: Context) -> Options:
    assert isinstance(ctx.options, Options)  # noqa: S101 - the plugin manager validated them
    return ctx.options


def _checkout(options: Options) -> Path:
    if options.checkout is None:
        raise PermanentError(
            "checkout is not set: name the folder of your checkout of the published Hallo2 code in the"
            " configuration, under [render.upstream]"
        )
    return options.checkout


def _command(options: Options) -> list[str]:
    """The interpreter and the script.

    Raises:
        PermanentError: one of them is missing.
    """
    script = _checkout(options) / _SCRIPT
    if not os.path.isfile(script):  # False too if it cannot be looked at
        raise PermanentError(f"checkout: {options.checkout} is no checkout of Hallo2, because it has no {_SCRIPT}")
    if options.program is None:
        raise PermanentError(
            f"python: there is no program {options.python!r}; name the interpreter of the checkout's environment"
        )
    return [options.program, str(script)]


def _models(options: Options) -> Path:
    """The folder with the models.

    Raises:
        PermanentError: a model is missing.
    """
    folder = options.models or _checkout(options) / "pretrained_models"
    missing = next((name for name in _MODELS if not os.path.isfile(folder / name)), None)
    if missing:
        raise PermanentError(
            f"models: {folder / missing} is missing, or cannot be read; download the published models, as the"
            " checkout's README.md says"
        )
    return folder


def _fresh(folder: Path, models: Path) -> Path:
    """An empty folder to run in: all videos that an earlier attempt has left would be merged into this one's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # The published code looks for one model here, whatever its configuration says.
    (folder / "pretrained_models").symlink_to(models)
    return folder


def configuration(options: Options, *, models: Path, avatar: Path, speech: Path, folder: Path) -> dict[str, Any]:
    """All keys of the published `configs/inference/long.yaml`, with absolute paths."""
    return {
        "source_image": str(avatar),
        "driving_audio": str(speech),
        "weight_dtype": options.weight_dtype,
        "data": {
            "n_motion_frames": 2,
            "n_sample_frames": 16,
            "source_image": {"width": options.width, "height": options.height},
            "driving_audio": {"sample_rate": 16_000},
            "export_video": {"fps": options.fps},
        },
        "inference_steps": options.num_inference_steps,
        "cfg_scale": options.guidance_scale,
        "use_mask": True,
        "mask_rate": options.mask_rate,
        "use_cut": True,
        "audio_ckpt_dir": str(models / "hallo2"),
        "save_path": str(folder / "output"),
        "cache_path": str(folder / "cache"),
        "base_model_path": str(models / "stable-diffusion-v1-5"),
        "motion_module_path": str(models / "motion_module/mm_sd_v15_v2.ckpt"),
        "face_analysis": {"model_path": str(models / "face_analysis")},
        "wav2vec": {"model_path": str(models / "wav2vec/wav2vec2-base-960h"), "features": "all"},
        "audio_separator": {"model_path": str(models / "audio_separator/Kim_Vocal_2.onnx")},
        "vae": {"model_path": str(models / "sd-vae-ft-mse")},
        "face_expand_ratio": options.face_expand_ratio,
        "pose_weight": options.pose_weight,
        "face_weight": options.face_weight,
        "lip_weight": options.lip_weight,
        **_NETWORKS,
    }


_NETWORKS: dict[str, Any] = {
    "unet_additional_kwargs": {
        "use_inflated_groupnorm": True,
        "unet_use_cross_frame_attention": False,
        "unet_use_temporal_attention": False,
        "use_motion_module": True,
        "use_audio_module": True,
        "motion_module_resolutions": [1, 2, 4, 8],
        "motion_module_mid_block": True,
        "motion_module_decoder_only": False,
        "motion_module_type": "Vanilla",
        "motion_module_kwargs": {
            "num_attention_heads": 8,
            "num_transformer_block": 1,
            "attention_block_types": ["Temporal_Self", "Temporal_Self"],
            "temporal_position_encoding": True,
            "temporal_position_encoding_max_len": 32,
            "temporal_attention_dim_div": 1,
        },
        "audio_attention_dim": 768,
        "stack_enable_blocks_name": ["up", "down", "mid"],
        "stack_enable_blocks_depth": [0, 1, 2, 3],
    },
    "enable_zero_snr": True,
    "noise_scheduler_kwargs": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "linear",
        "clip_sample": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "sampler": "DDIM",
}
"""What the published weights were trained for: constants of the published configuration."""


class _Account:
    """What the program says of its work.

    Attributes:
        fraction: how much of the clips is done, 0 to 1.
        text: what it does now.
        tail: its last lines, without progress bars.
    """

    def __init__(self, steps: int, log: FilteringBoundLogger) -> None:
        self.fraction = 0.0
        self.text = "loading the models"
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._steps = steps
        self._clip, self._clips = 0, 0
        self._log = log

    def hear(self, line: str) -> None:
        """Take in one line.

        Raises:
            PermanentError: no face was found in the picture, which the published code would not mind.
        """
        if bar := _BAR.match(line):
            if not bar["title"] and int(bar["total"]) == self._steps:
                self._reach(int(bar["done"]))
            return
        self.tail.append(line)
        self._log.info("published code", line=line)
        if clip := _CLIP.fullmatch(line):
            self._clip, self._clips = int(clip[1]), int(clip[2])
            self._reach(0)
        elif _NO_FACE.match(line):
            raise PermanentError(
                "the published code finds no face in the avatar: take a picture that shows one face from the front"
            )
        elif line.casefold().startswith("moviepy - building"):
            self.text = "writing the video"

    def _reach(self, step: int) -> None:
        if self._clip and self._clips:
            reached = (self._clip - 1 + step / self._steps) / self._clips
            self.fraction = max(self.fraction, min(1.0, reached))
            self.text = f"clip {self._clip} of {self._clips}"


class _Lines:
    """Cuts what a program prints into lines; progress bars end theirs with a carriage return."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, chunk: bytes) -> Iterator[str]:
        """The lines that are complete now, without colours, empty ones and ends of long ones."""
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + chunk)
        if len(self._rest) > _CHUNK:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if text := _COLOUR.sub("", line[:_LINE].decode(errors="backslashreplace")).strip():
                yield text


def _run(command: Sequence[str], folder: Path, account: _Account, ctx: Context) -> None:
    """Run the program to its end.

    Raises:
        PermanentError: it failed, or cannot be started.
        TransientError: it ran out of memory, was killed, or hangs.
        Cancelled: the job was cancelled.
    """
    with _started(command, folder) as program:
        _follow(program, account, ctx)
    if program.returncode:
        raise _failure(program.returncode, account.tail, command[0])


@contextmanager
def _started(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program. With this block, and with this process however it ends, the program and all that it started end.

    They are one process group. Its leader is a shell that waits for the end of its input, which nobody but this
    process holds open, and then kills the group.
    """
    watchdog = subprocess.Popen(["/bin/sh", "-c", _WATCHDOG], stdin=subprocess.PIPE, process_group=0)
    with watchdog:
        try:
            with _start(command, folder, watchdog.pid) as program:
                try:
                    yield program
                finally:
                    _end(program, watchdog.pid)
        finally:
            os.killpg(watchdog.pid, signal.SIGKILL)


def _start(command: Sequence[str], folder: Path, group: int) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONHOME", "PYTHONPATH"}}
    try:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=group,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise PermanentError(f"python: {command[0]} cannot be started: {error.strerror}") from error


def _end(program: subprocess.Popen[bytes], group: int) -> None:
    """Ask the program to end if it runs, and end it and what it leaves behind."""
    if program.poll() is None:
        os.killpg(group, signal.SIGTERM)
        try:
            program.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    os.killpg(group, signal.SIGKILL)


def _follow(program: subprocess.Popen[bytes], account: _Account, ctx: Context) -> None:
    """Read what the program prints until it ends."""
    assert program.stdout  # noqa: S101 - it is a pipe
    output = program.stdout.fileno()
    os.set_blocking(output, False)
    poller = select.poll()
    poller.register(output, select.POLLIN)
    lines = _Lines()
    heard = time.monotonic()
    while program.poll() is None:
        if poller.poll(_TICK_SECONDS * 1000):
            heard = time.monotonic()
            if not (chunk := os.read(output, _CHUNK)):
                poller.unregister(output)
            for line in lines.cut(chunk):
                account.hear(line)
        ctx.progress(account.fraction, account.text)
        if time.monotonic() - heard > SILENCE_SECONDS:
            raise TransientError(f"the published code said nothing for {SILENCE_SECONDS:g} seconds and was ended")
    for line in lines.cut(_left(output) + b"\n"):
        account.hear(line)
    ctx.progress(account.fraction, account.text)


def _left(output: int) -> bytes:
    """What stands in the pipe; whatever the program has started may hold that open."""
    try:
        return os.read(output, _PIPE)
    except BlockingIOError:
        return b""


def _failure(code: int, tail: Sequence[str], python: str) -> PermanentError | TransientError:
    """What the exit code and the last lines mean."""
    if any(map(_NO_MEMORY.search, tail)):
        return TransientError(
            "the published code needs more graphics memory than is free:"
            " end other programs that use it, or set a smaller width and height"
        )
    if code < 0:
        hint = " (out of memory?)" if code == -signal.SIGKILL else f" ({signal.strsignal(-code)})"
        return TransientError(f"the published code was killed by signal {-code}{hint}")
    # The last one: libraries print exceptions that they have caught, too.
    exception = next((line for line in reversed(tail) if _EXCEPTION.match(line)), "")
    if module := _NO_MODULE.match(exception):
        return PermanentError(
            f"python: {python} has no module {module[1]!r}: install the checkout's requirements.txt into its"
            " environment, or set python to the interpreter that has them"
        )
    if file := _NO_FILE.match(exception):
        return PermanentError(f"the published code misses {file[1]}: put it there, as the checkout's README.md says")
    last = " | ".join(islice(tail, max(0, len(tail) - 5), None)) or "nothing"
    return PermanentError(f"the published code ended with exit code {code}; its last lines: {last[-_LINE:]}")


def _fitted(video: Path, samples: int, ctx: Context) -> Path:
    """The video if it has the frames that the speech needs, else a silent one that has.

    The published code finds the number of frames by rounded times: a few are often too many, sometimes too few.
    """
    try:
        check_video(video, samples)
    except PermanentError as error:
        ctx.log.warning("the video does not fit the speech; its end is cut or stands still", reason=str(error))
    else:
        return video
    target = ctx.workdir / "fitted.mp4"
    frames = frame_count(samples, FPS)
    with opened(video) as container:
        picture = picture_of(container, video)
        size = picture.width, picture.height
        with VideoWriter(target, *size, FPS, crf=10, preset="medium") as writer:
            for frame in islice(container.decode(picture), frames):
                shown = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                writer.write(shown)
                ctx.progress(1.0, "fitting the video to the speech")
            ctx.report["frames_repeated_at_the_end"] = frames - writer.frames
            if not writer.frames:
                raise PermanentError(f"the published code wrote {video.name} without a frame")
            while writer.frames < frames:
                writer.write(shown)
    return target

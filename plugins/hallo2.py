"""hallo2: makes the person in the avatar speak, with the Hallo2 engine on an NVIDIA GPU.

The engine is loaded when the first job needs it and stays in the worker for the jobs after it. A video is computed in
clips of 16 frames. Each is encoded into a segment of its own while the next one is computed, and synced to the disk
with the state to go on from: after a crash or a power cut the render continues behind the last finished clip, and on
the same machine the video is the one that it would have been.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import re
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from PIL import Image
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from atenea import Context, Finding, Job, PermanentError, TransientError, durable, hookimpl
from atenea.doctor import bundle_findings, package_findings
from atenea.installing import pip
from atenea.media.audio import SAMPLE_RATE, SoundReader, frame_count, keeps_time, opened, sound_of, wav_info
from atenea.media.mux import Encoder, can_encode
from atenea.media.pictures import FORMATS
from atenea.media.segments import Pictures, SegmentEncoder, SegmentStore, join_segments
from atenea.models import missing_files
from atenea.models.lockfile import read_lock
from atenea.models.manifest import wanted_paths
from atenea.options import SquareVideoOptions

if TYPE_CHECKING:
    import torch
    from transformers import Wav2Vec2Model

    from hallo2 import Clip, ClipState, Hallo2Pipeline, Portrait
    from hallo2.face import FaceAnalysis
    from hallo2.machine import Gpu, Machine
    from hallo2.vocals import VocalSeparator

needs = {"gpu"}

PACKAGES = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "safetensors": "safetensors",
    "einops": "einops",
    "onnxruntime": "onnxruntime",
    "cv2": "opencv-python-headless",
}
"""What the engine imports, and the packages that have it; all of them come with the extra `hallo2`."""

CLIP_FRAMES = 16

WEIGHTS_GIB = 5.0
"""GPU memory of all loaded networks with 2 bytes a number."""

ACTIVATIONS_GIB = 2.0
"""GPU memory of one render on top of that, at 512 x 512 with 2 bytes a number; it grows with the number of pixels. Both
are measured (docs/benchmarks.md)."""

_GIB = 1 << 30
_ORIENTATION = 0x0112
"""The EXIF tag; from 5 on the picture lies on its side."""

_FACES, _SEPARATOR = "face_analysis", "audio_separator/Kim_Vocal_2.onnx"


def _absolute(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute():
        raise ValueError(f"should be an absolute path, but is {str(path)!r}")
    return path


def _device_name(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", name):
        raise ValueError(f'should be "cuda", "cuda:1" for the second GPU, or "cpu", but is {name!r}')
    return name


def _crop(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(tuple(value) if isinstance(value, list) else value)
    except ValidationError:
        raise ValueError(
            f'should be "face", "none", or left, top and side of a square such as [0, 80, 640], but is {value!r}'
        ) from None


Crop = Annotated[Literal["face", "none"] | tuple[NonNegativeInt, NonNegativeInt, PositiveInt], WrapValidator(_crop)]
Box = tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]


class Options(SquareVideoOptions):
    """Options of the plugin; those of the networks have the names and defaults of the published configuration.

    Attributes:
        num_inference_steps: denoising steps of each clip: fewer are faster and rougher.
        guidance_scale: how much the speech and the face steer; up to 1 there is no guidance, which is twice as fast.
        seed: of the random numbers: the same seed gives the same video.
        fps: frames per second; the networks were trained with 25.
        pose_weight: how much the speech moves the head.
        face_weight: how much it moves the face.
        lip_weight: how much it moves the lips.
        face_expand_ratio: by how much the box around the face, in which it may move, is grown.
        mask_rate: the part of the last frames' background that is hidden from the next clip.
        crop: "face", the square around the face; "none", as much of the picture as a square can hold; or left, top and
            side of a square, in pixels of the picture.
        face_box: left, top, right and bottom of the face that speaks, in pixels; without it the face is looked for.
        separate_vocals: whether music is taken out of an audio_file before the networks hear it; the video keeps it.
        device: "cuda", "cuda:1" for another GPU than the first, or "cpu", which takes hours for a minute.
        dtype: the precision of the networks; float16 on a GPU, float32 on a CPU if it is not set.
        models: the folder of the models; `paths.models` if it is not set.
        decode_batch_size: how many frames are decoded at once; fewer take less memory.
        encoder: what the frames are encoded with: "libx264" on the CPU, or "h264_nvenc" on a GPU that has an encoder;
            where there is none, libx264 takes its place.
        keep_loaded_seconds: how long the models stay loaded after the last job.
    """

    configuration_only: ClassVar = frozenset(
        {"device", "dtype", "models", "decode_batch_size", "encoder", "keep_loaded_seconds"}
    )

    num_inference_steps: int = Field(40, ge=1, le=1000)
    guidance_scale: float = Field(3.5, ge=0, le=100)
    seed: int = Field(42, ge=0, lt=1 << 63)
    fps: int = Field(25, ge=1, le=60)
    pose_weight: float = Field(1.0, ge=0, le=100)
    face_weight: float = Field(1.0, ge=0, le=100)
    lip_weight: float = Field(1.0, ge=0, le=100)
    face_expand_ratio: float = Field(1.2, gt=0, le=10)
    mask_rate: float = Field(0.25, ge=0, le=1)
    crop: Crop = "face"
    face_box: Box | None = None
    separate_vocals: bool = False
    device: Annotated[str, AfterValidator(_device_name)] = "cuda"
    dtype: Literal["float16", "bfloat16", "float32"] | None = None
    models: Annotated[Path, AfterValidator(_absolute)] | None = None
    decode_batch_size: int = Field(2, ge=1, le=CLIP_FRAMES)
    encoder: Encoder = "libx264"
    keep_loaded_seconds: float = Field(600.0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.face_box and (self.face_box[0] >= self.face_box[2] or self.face_box[1] >= self.face_box[3]):
            raise ValueError(f"face_box must be left, top, right and bottom of a face, not {list(self.face_box)}")
        return self

    @property
    def precision(self) -> Literal["float16", "bfloat16", "float32"]:
        """The precision that is used."""
        return self.dtype or ("float32" if self.device == "cpu" else "float16")


@hookimpl
def check(job: Job, ctx: Context) -> list[str]:
    """Refuse a job without a picture, and a machine without the engine or its models."""
    found: str | None
    if job.avatar is None:
        found = "an avatar is needed: set avatar, or put a picture of the same name beside the text"
    else:
        found = _outside(job.avatar, _options(ctx))
    return [sentence for sentence in (found, _lacking(job, ctx)) if sentence]


@hookimpl
def render(job: Job, wav: Path, ctx: Context) -> Path:
    """Animate the avatar clip by clip, or go on with the clips that an earlier attempt has finished.

    Raises:
        PermanentError: the picture, the models or the GPU cannot be used.
        TransientError: there is too little free memory on the GPU now.
        Cancelled: the job was cancelled.
    """
    if job.avatar is None:
        raise PermanentError("the job has no avatar: set avatar, or put a picture of the same name beside the text")
    if lacking := _lacking(job, ctx):
        raise PermanentError(lacking)
    options = _options(ctx)
    samples = wav_info(wav)
    batch = _DecodeBatch(ctx.workdir / "decode_batch_size", options.decode_batch_size)
    with _out_of_memory_told(options, batch):
        engine = _engine(ctx)
        began = time.monotonic()
        engine.pipeline.decode_batch_size = batch.size
        portrait, warnings = _portrait(job.avatar, engine, ctx)
        heard = _vocals(job, wav, samples, ctx) if _separates(job, options) else wav
        facts = _facts(job.avatar, heard, engine, ctx)
        store = SegmentStore(ctx.workdir / "clips", facts, options.fps, _encoder(options, ctx))
        if store.count:
            ctx.log.info("an earlier attempt is continued", clips=store.count)
        pace = _animate(engine, portrait, heard, store, ctx, began=began)
    target = ctx.workdir / "hallo2.mp4"
    join_segments(store.paths, target, progress=lambda _: ctx.progress(1.0, "joining the clips"))
    ctx.report.update(
        model=_bundle(_models(ctx)),
        seed=options.seed,
        clips=store.count,
        fps=options.fps,
        dtype=options.precision,
        device=facts["device"],
        seconds_per_clip=pace.seconds_per_clip,
        first_clip_seconds=pace.first_clip_seconds,
        peak_memory_gib=_peak_memory_gib(engine),
        load_seconds=engine.load_seconds,
        fused=engine.pipeline.fused,
        warnings=list(warnings),
    )
    return target


def _options(ctx: Context) -> Options:
    assert isinstance(ctx.options, Options)  # noqa: S101 - the plugin manager validated them
    return ctx.options


def _models(ctx: Context) -> Path:
    return _options(ctx).models or ctx.models


def _encoder(options: Options, ctx: Context) -> Encoder:
    """The one that is asked for, if this machine has it."""
    if options.encoder == "libx264" or can_encode(options.encoder, options.width, options.height):
        return options.encoder
    ctx.log.warning("this GPU or its driver has no such encoder; libx264 takes its place", encoder=options.encoder)
    return "libx264"


def _separates(job: Job, options: Options) -> bool:
    """Synthesised speech has no music in it."""
    return options.separate_vocals and job.audio_file is not None


def _outside(avatar: Path, options: Options) -> str | None:
    """Which of crop and face_box does not lie in the picture; reads only its size."""
    ends = {"face_box": options.face_box[2:]} if options.face_box else {}
    if not isinstance(options.crop, str):
        left, top, side = options.crop
        ends["crop"] = left + side, top + side
    width, height = _size(avatar) if ends else (0, 0)
    for name, (right, bottom) in ends.items():
        if right > width or bottom > height:
            return f"{name} ends at {right:g}, {bottom:g}, and {avatar.name} has but {width} x {height} pixels"
    return None


def _size(avatar: Path) -> tuple[float, float]:
    """Width and height of the picture upright; endless if it cannot be read, because intake says that itself."""
    try:
        with Image.open(avatar, formats=FORMATS) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1) > 4
            return picture.size[::-1] if turned else picture.size
    except Exception:  # noqa: BLE001 - damaged pictures make Pillow raise anything
        return math.inf, math.inf


def _lacking(job: Job, ctx: Context) -> str | None:
    """What this machine lacks for the job; looks for files and packages only."""
    if packages := [package for name, package in PACKAGES.items() if find_spec(name) is None]:
        lacking = f"the Hallo2 engine needs Python packages that are missing ({', '.join(packages)})"
        return f"{lacking}; run: {pip('install', 'atenea[hallo2]')}"
    vocals = _separates(job, _options(ctx))
    if missing := missing_files(_models(ctx), vocals=vocals):
        rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        command = "atenea models download" + (" --vocals" if vocals else "")
        return f"the models are not there: {_models(ctx)} lacks {missing[0]}{rest}; run {command}"
    return None


# The engine


@dataclass(frozen=True, eq=False)
class _Engine:
    """All networks, loaded.

    Attributes:
        key: which models they are, and where and how they were loaded.
        wav2vec: in the memory of the CPU.
        load_seconds: how long that took.
    """

    key: tuple[Any, ...]
    pipeline: Hallo2Pipeline
    wav2vec: Wav2Vec2Model
    faces: FaceAnalysis
    load_seconds: float


_resident: list[_Engine] = []
"""The engine of this worker; it ends with the worker."""


def _engine(ctx: Context) -> _Engine:
    """The engine that the configuration asks for, loaded if it is not there yet."""
    import torch  # noqa: PLC0415 - intake imports this file too

    options, models = _options(ctx), _models(ctx)
    device = _device(options)
    key = models, _sizes(models), str(device), options.precision
    if _resident and _resident[0].key != key:
        _release()
    _check_memory(options, device, loaded=bool(_resident))
    if not _resident:
        engine = _loaded(key, models, device, ctx)
        _resident.append(engine)
        ctx.log.info("the models are loaded", seconds=engine.load_seconds, device=str(device), dtype=options.precision)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return _resident[0]


def _device(options: Options) -> torch.device:
    import torch  # noqa: PLC0415 - intake imports this file too

    device = torch.device(options.device)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise PermanentError(
                f"device: torch sees {count} NVIDIA GPUs here, so {options.device!r} cannot be used; see what "
                "nvidia-smi says, and set device under [render.hallo2]"
            )
        device = torch.device("cuda", device.index or 0)
    return device


def _loaded(key: tuple[Any, ...], models: Path, device: torch.device, ctx: Context) -> _Engine:
    import torch  # noqa: PLC0415 - intake imports this file too

    from hallo2 import Hallo2Pipeline  # noqa: PLC0415 - likewise
    from hallo2.face import FaceAnalysis  # noqa: PLC0415 - likewise
    from hallo2.weights import load_wav2vec  # noqa: PLC0415 - likewise

    ctx.progress(0.0, "loading the models")
    # Compiled kernels are kept, so that a daemon that starts again need not wait for them.
    os.environ.setdefault("TRITON_CACHE_DIR", str(ctx.cache / "triton"))
    began = time.monotonic()
    try:
        dtype = getattr(torch, _options(ctx).precision)
        faces = FaceAnalysis.from_pretrained(models / _FACES)
        wav2vec = load_wav2vec(models)
        ctx.progress(0.0, "loading the models")
        pipeline = Hallo2Pipeline.from_pretrained(models, device=device, dtype=dtype)
    except (FileNotFoundError, ValueError) as error:
        raise PermanentError(f"the models cannot be loaded: {error}") from error
    return _Engine(key, pipeline, wav2vec, faces, round(time.monotonic() - began, 1))


def _release() -> None:
    import torch  # noqa: PLC0415 - intake imports this file too

    _resident.clear()
    gc.collect()
    torch.cuda.empty_cache()


# Memory of the GPU


def needed_gib(options: Options, *, loaded: bool) -> float:
    """How much memory of the GPU a render will take, on top of what the loaded models have taken already."""
    width = 2.0 if options.precision == "float32" else 1.0
    activations = ACTIVATIONS_GIB * options.width * options.height / 512**2
    return width * (activations if loaded else WEIGHTS_GIB + activations)


def _check_memory(options: Options, device: torch.device, *, loaded: bool) -> None:
    """Wait for others to let go of the GPU rather than to run out of its memory in the middle.

    Raises:
        TransientError: too little is free.
    """
    import torch  # noqa: PLC0415 - intake imports this file too

    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    needed = needed_gib(options, loaded=loaded)
    if free < needed * _GIB:
        raise TransientError(
            f"the GPU has {free / _GIB:.1f} GiB of memory free, and this render needs about {needed:.1f} GiB (it has "
            f"{total / _GIB:.1f} GiB in all): end what else uses it, or choose a smaller width and height"
        )


def _peak_memory_gib(engine: _Engine) -> float | None:
    """The most memory of the GPU that this render had at a time, models included; None on a CPU."""
    import torch  # noqa: PLC0415 - intake imports this file too

    device = engine.pipeline.device
    return round(torch.cuda.max_memory_allocated(device) / _GIB, 2) if device.type == "cuda" else None


class _DecodeBatch:
    """How many frames are decoded at once: half as many in the attempt after one that ran out of memory."""

    def __init__(self, note: Path, configured: int) -> None:
        self._note = note
        self.size = configured
        if note.exists():
            self.size = min(configured, int(note.read_text()))

    @property
    def how(self) -> str:
        """In words."""
        return "one by one" if self.size == 1 else f"{self.size} at once"

    def halve(self) -> bool:
        """Note it for the next attempt; False if there is nothing to halve."""
        if self.size == 1:
            return False
        self.size //= 2
        durable.write_atomic(self._note, str(self.size).encode())
        return True


@contextmanager
def _out_of_memory_told(options: Options, batch: _DecodeBatch) -> Iterator[None]:
    """Have a render that ran out of memory tried again in a new worker, with smaller batches, as long as there are any.

    Raises:
        TransientError: the next attempt will decode fewer frames at once.
        PermanentError: it could not decode fewer.
    """
    import torch  # noqa: PLC0415 - intake imports this file too

    try:
        yield
    except torch.OutOfMemoryError as error:
        _resident.clear()
        said = " ".join(str(error).split(". If ")[0].split())
        needed = (
            f"a video of {options.width} x {options.height} needs about {needed_gib(options, loaded=False):.1f} GiB"
        )
        if batch.halve():
            raise TransientError(
                f"the GPU ran out of memory: {needed}; from now on frames are decoded {batch.how} ({said})"
            ) from error
        raise PermanentError(
            f"the GPU has too little memory, even with frames decoded one by one: {needed}; choose a smaller width and "
            f"height, or end what else uses it ({said})"
        ) from error


# What the networks see and hear


def _portrait(avatar: Path, engine: _Engine, ctx: Context) -> tuple[Portrait, tuple[str, ...]]:
    from hallo2.face import FaceError, prepare_portrait  # noqa: PLC0415 - intake imports this file too

    options = _options(ctx)
    ctx.progress(0.0, "looking at the picture")
    try:
        prepared = prepare_portrait(
            avatar,
            engine.faces,
            size=options.width,
            face_expand_ratio=options.face_expand_ratio,
            crop=options.crop,
            face_box=options.face_box,
        )
    except FaceError as error:
        raise PermanentError(f"avatar: {error}") from error
    for warning in prepared.warnings:
        ctx.log.warning(warning)
    return prepared.portrait, prepared.warnings


def _vocals(job: Job, wav: Path, samples: int, ctx: Context) -> Path:
    """The recording without its music, as a WAV like `wav`; that of an earlier attempt if it is the same.

    It is made of the recording itself, which has more than 16 kHz, unless the audio stage has cut or stretched that.
    """
    from hallo2.vocals import VocalSeparator  # noqa: PLC0415 - intake imports this file too

    source = job.audio_file if job.audio_file and keeps_time(job.audio_file, samples) else wav
    target = ctx.workdir / f"vocals-{durable.sha256_file(source)[:16]}-{samples}.wav"
    if target.exists():
        return target
    unfinished = target.with_suffix(".part")
    try:
        separator = VocalSeparator(_models(ctx) / _SEPARATOR)
    except (FileNotFoundError, ValueError) as error:
        raise PermanentError(str(error)) from error
    _write_vocals(source, separator, unfinished, samples, ctx)
    durable.fsync_file(unfinished)
    durable.replace(unfinished, target)
    return target


def _write_vocals(source: Path, separator: VocalSeparator, target: Path, samples: int, ctx: Context) -> None:
    """Write exactly `samples` samples, piece by piece."""
    import torch  # noqa: PLC0415 - intake imports this file too
    from av import AudioFrame, AudioResampler  # noqa: PLC0415 - only recordings pay for it

    from hallo2.vocals import SAMPLE_RATE as VOCALS_RATE  # noqa: PLC0415 - intake imports this file too

    def progress(fraction: float) -> None:
        ctx.progress(0.0, f"taking the music out, {fraction:.0%}")

    with opened(source) as container:
        # One channel is not spread over two by the reader, which would lower it.
        layout = "mono" if sound_of(container, source).channels == 1 else "stereo"
    reader = SoundReader(source, VOCALS_RATE, layout, progress=progress)
    resampler = AudioResampler("s16", "mono", SAMPLE_RATE)

    def frames() -> Iterator[AudioFrame | None]:
        for vocals in separator.stream(torch.from_numpy(piece).expand(2, -1) for piece in reader):
            frame = AudioFrame.from_ndarray(vocals.mean(0, keepdim=True).numpy(), "fltp", "mono")
            frame.sample_rate = VOCALS_RATE
            yield frame
        yield None

    left = 2 * samples
    with wave.open(str(target), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        for frame in frames():
            for resampled in resampler.resample(frame):
                data = resampled.to_ndarray().tobytes()[:left]
                left -= len(data)
                file.writeframesraw(data)
        file.writeframesraw(bytes(left))


# Rendering


class _Pace:
    """How far the render is, and how fast.

    Attributes:
        first_clip_seconds: from the start of the render, models loaded, until the frames of its first clip were there;
            None before that.
    """

    def __init__(self, clips: int, done: int, began: float, ctx: Context) -> None:
        self._clips, self._clip = clips, done
        self._first = done
        self._ctx = ctx
        self._began, self._started = began, time.monotonic()
        self.first_clip_seconds: float | None = None

    def on_step(self, step: int, steps: int) -> None:
        """The GPU has a step of the current clip to do; this is where a cancelled job stops."""
        done, total = self._clip * steps + step, self._clips * steps
        self._ctx.progress(done / total, f"clip {self._clip + 1} of {self._clips}, step {step} of {steps}")

    def on_clip(self) -> None:
        """It has all of the current clip to do."""
        self._clip += 1

    def on_frames(self) -> None:
        """The frames of a clip are there."""
        if self.first_clip_seconds is None:
            self.first_clip_seconds = round(time.monotonic() - self._began, 3)

    @property
    def seconds_per_clip(self) -> float | None:
        """On the average of this attempt; None if it has computed none."""
        computed = self._clip - self._first
        return round((time.monotonic() - self._started) / computed, 3) if computed else None


def _animate(
    engine: _Engine, portrait: Portrait, heard: Path, store: SegmentStore, ctx: Context, *, began: float
) -> _Pace:
    """Compute the clips that the store lacks."""
    from safetensors.torch import save  # noqa: PLC0415 - likewise

    from hallo2.audio import SpeechFeatures  # noqa: PLC0415 - intake imports this file too

    options = _options(ctx)
    frames = frame_count(wav_info(heard), options.fps)
    features = SpeechFeatures(engine.wav2vec, heard, options.fps, CLIP_FRAMES, engine.pipeline.device)
    pace = _Pace(len(features) // CLIP_FRAMES, store.count, began, ctx)
    if store.count * CLIP_FRAMES >= frames:
        return pace
    clips = engine.pipeline(
        portrait,
        features,
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        motion_scale=(options.pose_weight, options.face_weight, options.lip_weight),
        mask_rate=options.mask_rate,
        seed=options.seed,
        state=_restored(store),
        on_step=pace.on_step,
    )

    def fetched(clip: Clip) -> tuple[Pictures, bytes]:
        pictures = clip.images()[: frames - (clip.state.clips - 1) * CLIP_FRAMES].numpy()
        pace.on_frames()
        return pictures, save(clip.state.to_tensors())

    with SegmentEncoder(store) as encoder:
        for clip in clips:
            encoder.put(partial(fetched, clip))
            pace.on_clip()
            del clip  # its frames need not stay in the GPU's memory until the next ones are there
    return pace


def _restored(store: SegmentStore) -> ClipState | None:
    from safetensors.torch import load  # noqa: PLC0415 - likewise

    from hallo2 import ClipState  # noqa: PLC0415 - intake imports this file too

    return None if store.state is None else ClipState.from_tensors(load(store.state))


def _facts(avatar: Path, heard: Path, engine: _Engine, ctx: Context) -> dict[str, Any]:
    """All that shapes the video: clips are gone on with only where none of it has changed.

    How many frames are decoded at once is not among it: an attempt that ran out of memory would have to start over.
    """
    import torch  # noqa: PLC0415 - intake imports this file too

    options = _options(ctx)
    device = engine.pipeline.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    irrelevant = {"models", "decode_batch_size", "keep_loaded_seconds", "device", "dtype"}
    return {
        "options": options.model_dump(mode="json", exclude=irrelevant),
        "avatar": durable.sha256_file(avatar),
        "speech": durable.sha256_file(heard),
        "models": _sizes(_models(ctx)),
        "device": name,
        "dtype": options.precision,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "versions": {name: _version(name) for name in ("atenea", "av", *PACKAGES.values())},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return None


def _sizes(models: Path) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of change of each file that shapes a video."""
    found = ((path, (models / path).stat()) for path in wanted_paths())
    return tuple((path, status.st_size, status.st_mtime_ns) for path, status in found)


def _bundle(models: Path) -> dict[str, Any]:
    """Which models they are: what was downloaded, by the lock, or the sizes of files that were put there."""
    lock = read_lock(models)
    if lock is None:
        return {"commit": None, "bytes": {path: size for path, size, _ in _sizes(models)}}
    return {
        "commit": lock.commit,
        "sha256": {path: lock.files[path].sha256 for path in wanted_paths() if path in lock.files},
    }


# What `atenea doctor` is told


@hookimpl
def diagnose(ctx: Context) -> list[Finding]:
    """The packages, the models, and the GPU with its free memory."""
    options = _options(ctx)
    found = [
        *package_findings("hallo2", PACKAGES),
        *bundle_findings(_models(ctx), vocals=options.separate_vocals),
    ]
    if all(find_spec(name) for name in PACKAGES):
        from hallo2.machine import look  # noqa: PLC0415 - intake imports this file too

        found += judged(look(options.device), options)
    return found


def judged(machine: Machine, options: Options) -> Iterator[Finding]:
    """What a machine means for a render."""
    yield from _onnx_findings(machine, options)
    if options.device == "cpu":
        text = 'device is "cpu": a second of video takes many minutes'
        yield Finding("gpu", "note", text, 'set device = "cuda" under [render.hallo2] where there is an NVIDIA GPU')
    elif machine.gpu is None or not machine.has_kernels:
        yield Finding("gpu", "problem", *_unusable(machine, options))
    else:
        major, minor = machine.gpu.capability
        driver = f"driver {machine.driver}, " if machine.driver else ""
        text = f"{machine.gpu.name}, compute capability {major}.{minor}; {driver}torch for CUDA {machine.cuda}"
        yield Finding("gpu", "ok", text)
        yield _memory_finding(machine.gpu, options)
        yield _kernels_finding(machine)


def _onnx_findings(machine: Machine, options: Options) -> Iterator[Finding]:
    """What the networks for onnxruntime run on: the engine asks for the CPU, whatever else is there."""
    works = {"faces": "onnxruntime looks at faces on the CPU, as it should: once for each video"}
    if options.separate_vocals:
        works["vocals"] = "onnxruntime takes music out of recordings on the CPU, as it should: once for each recording"
    for check, text in works.items():
        if machine.runs_onnx:
            yield Finding(check, "ok", text)
        else:
            lacking = f"onnxruntime cannot run networks on the CPU, only on {', '.join(machine.providers) or 'nothing'}"
            yield Finding(check, "problem", lacking, pip("install", "--force-reinstall", "onnxruntime"))


def _unusable(machine: Machine, options: Options) -> tuple[str, str]:
    """Why the engine cannot have the GPU, and what to do."""
    if machine.cuda is None:
        cure = "install a torch that is built with CUDA: https://pytorch.org/get-started/locally/"
        return "torch is built without CUDA, and can use no GPU", cure
    if machine.gpu:
        capability = "{}.{}".format(*machine.gpu.capability)
        text = f"torch has no kernels for {machine.gpu.name}, whose compute capability is {capability}"
        return text, f"install a torch that has them; this one is for {', '.join(machine.architectures)}"
    if machine.fault is None:
        text = f"torch sees {machine.gpus} NVIDIA GPUs here, so {options.device!r} cannot be used"
        return text, "see what nvidia-smi says, and set device under [render.hallo2]"
    driver = f"driver {machine.driver}" if machine.driver else "no NVIDIA driver is seen"
    text = f"torch cannot use the GPU: {machine.fault} ({driver}, torch for CUDA {machine.cuda})"
    return text, "let nvidia-smi show the GPU to this user, with a driver that is new enough for that CUDA"


def _memory_finding(gpu: Gpu, options: Options) -> Finding:
    """A render that finds too little memory waits, because others may let go of it; not so if there is too little."""
    needed, free, total = needed_gib(options, loaded=False), gpu.free_bytes / _GIB, gpu.total_bytes / _GIB
    takes = f"a render of {options.width} x {options.height} takes about {needed:.1f} GiB"
    if total < needed:
        text = f"the GPU has {total:.1f} GiB of memory, and {takes}"
        return Finding("memory", "problem", text, "choose a smaller width and height, or a GPU with more memory")
    if free < needed:
        text = f"{free:.1f} of the GPU's {total:.1f} GiB of memory are free, and {takes}: it would wait for more"
        cure = "end what else uses it, as nvidia-smi shows, unless that is a daemon with its models loaded"
        return Finding("memory", "note", text, cure)
    return Finding("memory", "ok", f"{free:.1f} of the GPU's {total:.1f} GiB of memory are free, and {takes}")


def _kernels_finding(machine: Machine) -> Finding:
    """Whether the fused kernels are used; without them a render takes twice the time."""
    if not machine.can_fuse:
        text = "the engine's own kernels are for Hopper GPUs; on this one torch's compute the same, more slowly"
        return Finding("kernels", "ok", text)
    if machine.lacks_for_kernels:
        lacking = ", ".join(machine.lacks_for_kernels)
        text = f"the engine's own kernels cannot be compiled ({lacking} missing), so a render takes twice the time"
        return Finding("kernels", "note", text, f"apt install gcc python3-dev, and {pip('install', 'atenea[hallo2]')}")
    return Finding("kernels", "ok", "the engine's own kernels can be compiled")

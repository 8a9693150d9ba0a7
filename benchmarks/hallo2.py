"""How fast the Hallo2 engine renders, what each stage takes, and how far its precision is from float32.

python benchmarks/hallo2.py [--size 512] [--steps 40] [--clips 3] [--dtype float16] [--device cuda] [--json FILE]

The networks have their full size and weights drawn from their names (`tests/data/golden/seeded.py`): time and rounding
do not ask what weights were trained for.
"""

from __future__ import annotations

import sys

# This file has the name of the package that it measures: the folder it is in must come last.
sys.path.append(sys.path.pop(0))

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import drawn
import torch
from machine import describe, headline
from torch import Tensor

from atenea.media.mux import VideoWriter
from hallo2 import Clip, Hallo2Config, Hallo2Pipeline, Portrait

MATMUL = 8192


@dataclass
class Figures:
    """What is measured; seconds are medians.

    Attributes:
        load_seconds: to make the networks and fill them (drawn, not read from a disk).
        step_seconds: of one call of the denoising UNet, both halves.
        step_tflop: what that call computes in products, convolutions and attention (`tests/operation_counter.py`).
        step_kernels: how many kernels it starts, with a GPU.
        enqueue_seconds: for how long the processor is busy with starting them.
        portrait_seconds: everything that is computed once for a video.
        motion_seconds: the reference UNet over the motion frames, once a clip.
        decode_seconds: 16 frames.
        copy_seconds: 16 frames as 8-bit pictures to the host.
        encode_seconds: 16 frames to H.264.
        first_clip_seconds: from the call to the first clip's frames, all compiled and warm.
        clip_seconds: a clip in a running video.
        frames_per_second: 16 of `clip_seconds`.
        matmul_tflops: a product of two 8192 x 8192 matrices, in TFLOP/s.
        peak_gib: of memory allocated while the video ran.
        weights_gib: of memory allocated before.
        busy_share: of the video's time that in which the GPU had something to do, as its driver counts it; None
            without a driver.
        error: of the latents after all steps against float32 with the same noise, relative; None if not measured.
    """

    size: int
    steps: int
    dtype: str
    load_seconds: float = 0.0
    step_seconds: float = 0.0
    step_tflop: float = 0.0
    step_kernels: int = 0
    enqueue_seconds: float = 0.0
    portrait_seconds: float = 0.0
    motion_seconds: float = 0.0
    decode_seconds: float = 0.0
    copy_seconds: float = 0.0
    encode_seconds: float = 0.0
    first_clip_seconds: float = 0.0
    clip_seconds: float = 0.0
    frames_per_second: float = 0.0
    matmul_tflops: float = 0.0
    peak_gib: float = 0.0
    weights_gib: float = 0.0
    busy_share: float | None = None
    error: float | None = None
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)


class Bench:
    """One pipeline and what it is measured with."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.dtype: torch.dtype = getattr(torch, arguments.dtype)
        self.size, self.steps, self.clips = arguments.size, arguments.steps, arguments.clips
        self.repeats, self.compares = arguments.repeats, not arguments.no_error
        self.fused: bool | None = False if arguments.eager else None
        self.config = drawn.TINY if arguments.tiny else Hallo2Config()
        self.seeded = drawn.seeded
        self.figures = Figures(self.size, self.steps, arguments.dtype)

    def pipeline(self, dtype: torch.dtype) -> Hallo2Pipeline:
        """The engine with drawn weights."""
        networks = drawn.networks(self.config, self.device, dtype)
        vae = drawn.autoencoder(self.device, dtype, tiny=self.config is drawn.TINY)
        return Hallo2Pipeline(networks, vae, fused=self.fused)

    def portrait(self) -> Portrait:
        """A face of noise; the masks have the shape of real ones."""

        def drawn(name: str, *shape: int) -> Tensor:
            return self.seeded.seeded_tensor(f"bench.{name}", shape)

        def masks(name: str) -> tuple[Tensor, ...]:
            return tuple(drawn(f"{name}.{k}", 1, (self.size // 8 // 2**k) ** 2).sigmoid() for k in range(4))

        return Portrait(
            pixels=drawn("pixels", 3, self.size, self.size).clamp(-3, 3) / 3,
            face_region=(drawn("region", 1, self.size, self.size) > 0).float(),
            face_embedding=drawn("embedding", self.config.face_embedding_dim),
            full_masks=masks("full"),
            face_masks=masks("face"),
            lip_masks=masks("lip"),
        )

    def audio(self, clips: int) -> Tensor:
        """Features of noise."""
        shape = (16 * clips, self.config.audio_blocks, self.config.audio_channels)
        return self.seeded.seeded_tensor("bench.audio", shape)

    def video(self, pipeline: Hallo2Pipeline, clips: int = 1) -> Iterator[Clip]:
        """So many clips."""
        return pipeline(self.portrait(), self.audio(clips), num_inference_steps=self.steps)

    def seconds(self, name: str, work: Callable[[], object], *, finished: bool = True) -> float:
        """The median of a few repeats after two for warming up; until a GPU has only been told if not `finished`."""
        times = []
        for repeat in range(self.repeats + 2):
            self.wait()
            start = time.perf_counter()
            work()
            if finished:
                self.wait()
            if repeat >= 2:
                times.append(time.perf_counter() - start)
        self.figures.spread[name] = (min(times), max(times))
        return statistics.median(times)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def measure(self) -> Figures:
        """Everything but the error."""
        start = time.perf_counter()
        pipeline = self.pipeline(self.dtype)
        self.wait()
        self.figures.load_seconds = time.perf_counter() - start
        if self.device.type == "cuda":
            self.figures.weights_gib = torch.cuda.memory_allocated() / 2**30
        self._stages(pipeline)
        self._video(pipeline)
        self.figures.matmul_tflops = self._matmul()
        if self.compares:
            self.latents = next(self.video(pipeline)).latents
        return self.figures

    def _stages(self, pipeline: Hallo2Pipeline) -> None:
        figures, call = self.figures, _Captured(pipeline)
        clip = call.first_clip(lambda: next(self.video(pipeline)))
        figures.step_tflop = drawn.count_step(pipeline.fused, self.size, self.config).tflop
        figures.step_kernels = self._kernels(call.step)
        figures.step_seconds = self.seconds("step", call.step)
        figures.enqueue_seconds = self.seconds("enqueue", call.step, finished=False)
        figures.portrait_seconds = self.seconds("portrait", call.portrait)
        figures.motion_seconds = self.seconds("motion", call.motion)
        figures.decode_seconds = self.seconds("decode", call.decode)
        figures.copy_seconds = self.seconds("copy", clip.images)
        figures.encode_seconds = self.seconds("encode", lambda: _encode(clip))

    def _kernels(self, work: Callable[[], object]) -> int:
        if self.device.type != "cuda":
            return 0
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            work()
            self.wait()
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())

    def _video(self, pipeline: Hallo2Pipeline) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with _busy(self.device) as busy:
            times = self._rendered(self.video(pipeline, self.clips))
        self.figures.busy_share = busy.share
        taken = [end - start for start, end in pairwise(times)]
        self.figures.first_clip_seconds = taken[0]
        self.figures.clip_seconds = statistics.median(taken[1:] or taken)
        self.figures.frames_per_second = 16 / self.figures.clip_seconds
        if self.device.type == "cuda":
            self.figures.peak_gib = torch.cuda.max_memory_allocated() / 2**30

    @staticmethod
    def _rendered(video: Iterator[Clip]) -> list[float]:
        """When the video was begun, and when the pictures of each clip were there, the next one being computed."""

        def fetched(clip: Clip) -> float:
            clip.images()
            return time.perf_counter()

        with ThreadPoolExecutor(1) as pool:
            start = time.perf_counter()
            pictures = [pool.submit(fetched, clip) for clip in video]
        return [start, *(there.result() for there in pictures)]

    def _matmul(self) -> float:
        side = MATMUL if self.device.type == "cuda" else 256
        a, b = (torch.randn(side, side, device=self.device, dtype=self.dtype) for _ in range(2))
        return 2 * side**3 / self.seconds("matmul", lambda: a @ b) / 1e12

    @torch.no_grad()
    def error(self) -> float:
        """Of the first clip's latents against float32, the noise being the same."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.fused = False
        exact = self.pipeline(torch.float32)
        exact.noise_dtype = self.dtype
        expected = next(self.video(exact)).latents
        return float((self.latents - expected).norm() / expected.norm())


class _Captured:
    """The calls of one clip, to be repeated."""

    def __init__(self, pipeline: Hallo2Pipeline) -> None:
        self._pipeline = pipeline
        self._calls: dict[str, Callable[[], object]] = {}

    def first_clip(self, work: Callable[[], Clip]) -> Clip:
        """Run `work` and keep with what each stage was called."""
        stages = {"step": "_velocity", "portrait": "_look_at", "motion": "_motion_features", "decode": "_decode"}
        for stage, method in stages.items():
            self._watch(stage, method)
        clip = work()
        for method in stages.values():
            delattr(self._pipeline, method)
        return clip

    def _watch(self, stage: str, method: str) -> None:
        original = getattr(self._pipeline, method)

        def watched(*args: object, **kwargs: object) -> object:
            self._calls.setdefault(stage, lambda: original(*args, **kwargs))
            return original(*args, **kwargs)

        setattr(self._pipeline, method, watched)

    def __getattr__(self, stage: str) -> Callable[[], object]:
        return self._calls[stage]


@dataclass
class _Busy:
    share: float | None = None


@contextmanager
def _busy(device: torch.device) -> Iterator[_Busy]:
    """What share of the time the GPU is busy until the block ends, by the driver's samples."""
    busy, program = _Busy(), shutil.which("nvidia-smi")
    if device.type != "cuda" or not program:
        yield busy
        return
    query = (program, f"--id={device.index or 0}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
    with subprocess.Popen((*query, "--loop-ms=200"), stdout=subprocess.PIPE, text=True) as sampler:
        yield busy
        sampler.terminate()
        samples = [int(line) for line in sampler.communicate()[0].split()]
    # The first samples are of the time before.
    busy.share = statistics.mean(samples[10:]) / 100 if len(samples) > 20 else None


def _encode(clip: Clip) -> None:
    images = clip.images().numpy()
    height, width = images.shape[1:3]
    with (
        tempfile.TemporaryDirectory() as folder,
        VideoWriter(Path(folder) / "clip.mp4", width, height, 25) as writer,
    ):
        for image in images:
            writer.write(image)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try this script")
    parser.add_argument("--no-error", action="store_true", help="leave the comparison with float32 out")
    parser.add_argument("--eager", action="store_true", help="the readable path instead of the fused one")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _table(figures: Figures) -> str:
    share = figures.step_tflop / figures.step_seconds / figures.matmul_tflops
    rows = [
        ("a step", f"{figures.step_seconds * 1000:.1f} ms", f"{figures.step_kernels} kernels"),
        ("", f"{figures.step_tflop:.2f} TFLOP", f"{figures.step_tflop / figures.step_seconds:.0f} TFLOP/s"),
        ("", f"{figures.enqueue_seconds * 1000:.1f} ms", "of the processor's time"),
        ("", f"{share:.0%}", f"of {figures.matmul_tflops:.0f} TFLOP/s that a large product reaches"),
        ("portrait, once a video", f"{figures.portrait_seconds:.3f} s", ""),
        ("motion frames, once a clip", f"{figures.motion_seconds:.3f} s", ""),
        ("decode, 16 frames", f"{figures.decode_seconds:.3f} s", ""),
        ("copy, 16 frames", f"{figures.copy_seconds:.3f} s", ""),
        ("encode, 16 frames", f"{figures.encode_seconds:.3f} s", ""),
        ("the first clip", f"{figures.first_clip_seconds:.2f} s", ""),
        ("a clip", f"{figures.clip_seconds:.2f} s", f"{figures.frames_per_second:.2f} frames/s"),
        *([("the GPU is busy", f"{figures.busy_share:.1%}", "of the video's time")] if figures.busy_share else []),
        ("memory", f"{figures.peak_gib:.2f} GiB", f"of it {figures.weights_gib:.2f} GiB weights"),
    ]
    return "\n".join(f"{name:<28}{value:>14}   {more}".rstrip() for name, value, more in rows)


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = _arguments()
    bench = Bench(arguments)
    chip = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    print(headline())
    print(f"{chip}; {arguments.size} x {arguments.size}, {arguments.steps} steps, {arguments.dtype}\n", flush=True)
    figures = bench.measure()
    print(_table(figures), flush=True)
    if not arguments.no_error:
        figures = replace(figures, error=bench.error())
        print(f"{'error against float32':<28}{figures.error:>14.5f}")
    if arguments.json:
        written = {"machine": {**describe(), "chip": chip}, **asdict(figures)}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

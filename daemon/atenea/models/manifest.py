"""What is fetched: the files of the published Hallo2 bundle that are used, their origin and their licences.

The bundle also holds Stable Diffusion, AnimateDiff, super-resolution and training weights, which nothing here reads:
`hallo2/net.pth` contains every weight of the networks.
"""

from __future__ import annotations

from dataclasses import dataclass

REPOSITORY = "fudan-generative-ai/hallo2"
"""On the Hugging Face hub."""
COMMIT = "ba6eea56b2a4b5a4c1bd561f1b8f5e682fae926b"
"""The commit of the repository whose files are fetched: the last one of its branch `main`, of November 2024."""


@dataclass(frozen=True)
class Part:
    """One model of the bundle: what it is for, where it comes from, under which licence, and its files."""

    name: str
    purpose: str
    origin: str
    licence: str
    paths: tuple[str, ...]
    """Relative to the models folder, as in the repository."""
    optional: bool = False


PARTS = (
    Part(
        name="Hallo2",
        purpose="animates the portrait",
        origin="https://huggingface.co/fudan-generative-ai/hallo2",
        licence="MIT; trained from Stable Diffusion v1.5 (CreativeML Open RAIL-M) and AnimateDiff (Apache 2.0)",
        paths=("hallo2/net.pth",),
    ),
    Part(
        name="sd-vae-ft-mse",
        purpose="turns pictures into latents and back",
        origin="https://huggingface.co/stabilityai/sd-vae-ft-mse",
        licence="MIT",
        paths=("sd-vae-ft-mse/config.json", "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"),
    ),
    Part(
        name="wav2vec2-base-960h",
        purpose="hears the speech",
        origin="https://huggingface.co/facebook/wav2vec2-base-960h",
        licence="Apache 2.0",
        paths=(
            "wav2vec/wav2vec2-base-960h/config.json",
            "wav2vec/wav2vec2-base-960h/preprocessor_config.json",
            "wav2vec/wav2vec2-base-960h/model.safetensors",
        ),
    ),
    Part(
        name="InsightFace antelopev2",
        purpose="finds the face and tells whose it is",
        origin="https://github.com/deepinsight/insightface/tree/master/model_zoo",
        licence="for non-commercial research only",
        paths=("face_analysis/models/scrfd_10g_bnkps.onnx", "face_analysis/models/glintr100.onnx"),
    ),
    Part(
        name="MediaPipe Face Landmarker",
        purpose="finds the outlines of face and lips",
        origin="https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker",
        licence="Apache 2.0",
        paths=("face_analysis/models/face_landmarker_v2_with_blendshapes.task",),
    ),
    Part(
        name="Kim_Vocal_2",
        purpose="takes music out of a recording",
        origin="https://huggingface.co/huangjackson/Kim_Vocal_2",
        licence="not stated",
        paths=("audio_separator/Kim_Vocal_2.onnx",),
        optional=True,
    ),
)


def wanted_paths(*, vocals: bool = False) -> tuple[str, ...]:
    """The files that every render needs; with `vocals` also what takes music out of a recording."""
    return tuple(path for part in PARTS if vocals or not part.optional for path in part.paths)

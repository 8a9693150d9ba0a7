"""The pipeline as a library: going on after any clip, audio in pieces, sizes, guidance, cancelling, memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from golden import relative_error, seeded
from safetensors.torch import load, save
from tiny_networks import RESULTS, SETTINGS, run, tiny_audio, tiny_networks, tiny_portrait, tiny_vae
from torch import Tensor

from hallo2 import Clip, ClipState, Hallo2Pipeline, Portrait


@pytest.fixture(scope="module")
def pipeline() -> Hallo2Pipeline:
    return Hallo2Pipeline(tiny_networks(), tiny_vae())


@pytest.fixture(scope="module")
def clips(pipeline: Hallo2Pipeline) -> list[Clip]:
    return list(run(pipeline))


def portrait_of(size: int) -> Portrait:
    def drawn(name: str, *shape: int) -> Tensor:
        return seeded.seeded_tensor(f"{size}.{name}", shape)

    masks = tuple(drawn(f"mask.{k}", 1, (size // 8 // 2**k) ** 2).sigmoid() for k in range(4))
    return Portrait(
        pixels=drawn("pixels", 3, size, size).clamp(-3, 3) / 3,
        face_region=(drawn("region", 1, size, size) > 0).float(),
        face_embedding=drawn("embedding", SETTINGS["face_embedding_dim"]),
        full_masks=masks,
        face_masks=masks,
        lip_masks=masks,
    )


def test_a_clip_is_what_it_says(clips: list[Clip]) -> None:
    for number, clip in enumerate(clips, start=1):
        assert clip.frames.shape == (16, 3, 64, 64)
        assert clip.latents.shape == (1, 4, 16, 8, 8)
        assert 0 <= float(clip.frames.min()) < float(clip.frames.max()) <= 1
        assert clip.state.clips == number
        assert torch.equal(clip.state.motion_frames, clip.frames[-2:] * 2 - 1)


def test_pictures_are_rounded_down_as_in_the_published_code(clips: list[Clip]) -> None:
    images = clips[0].images()
    assert images.dtype == torch.uint8
    assert images.shape == (16, 64, 64, 3)
    assert torch.equal(images[3, 5, 7], torch.floor(clips[0].frames[3, :, 5, 7] * 255).to(torch.uint8))


def test_it_goes_on_after_any_clip_bit_for_bit(pipeline: Hallo2Pipeline, clips: list[Clip]) -> None:
    kept = load(save(clips[0].state.to_tensors()))
    [second] = run(Hallo2Pipeline(tiny_networks(), tiny_vae()), state=ClipState.from_tensors(kept))
    assert torch.equal(second.frames, clips[1].frames)
    assert torch.equal(second.latents, clips[1].latents)
    assert list(run(pipeline, state=clips[1].state)) == []


def test_one_seed_gives_one_video_and_another_another(pipeline: Hallo2Pipeline, clips: list[Clip]) -> None:
    assert torch.equal(next(run(pipeline)).frames, clips[0].frames)
    assert relative_error(next(run(pipeline, seed=43)).frames, clips[0].frames) > 0.01


def test_audio_in_pieces_of_any_length_is_the_same_audio(pipeline: Hallo2Pipeline, clips: list[Clip]) -> None:
    pieces = torch.split(tiny_audio(), [1, 19, 7, 5])
    settings = {name: SETTINGS[name] for name in ("guidance_scale", "motion_scale", "mask_rate", "seed")}
    video = pipeline(tiny_portrait(), iter(pieces), num_inference_steps=SETTINGS["steps"], **settings)
    for clip, whole in zip(video, clips, strict=True):
        assert torch.equal(clip.frames, whole.frames)


def test_nothing_of_a_clip_stays_when_the_next_is_there(pipeline: Hallo2Pipeline) -> None:
    video = run(pipeline, num_inference_steps=1)
    first = next(video)
    gone = [weakref.ref(x) for x in (first, first.frames, first.latents)]
    del first
    next(video)
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


def test_without_guidance_it_is_the_conditional_half_alone(pipeline: Hallo2Pipeline) -> None:
    alone = next(run(pipeline, guidance_scale=1.0))
    barely_guided = next(run(pipeline, guidance_scale=1.0 + 1e-6))
    assert relative_error(alone.latents, barely_guided.latents) < 1e-3
    assert relative_error(alone.latents, RESULTS["clip0.latents"]) > 0.01

    rows: list[int] = []
    hook = pipeline.networks.denoising_unet.register_forward_pre_hook(lambda _m, inputs: rows.append(len(inputs[0])))
    next(run(pipeline, guidance_scale=0.5, num_inference_steps=2))
    next(run(pipeline, num_inference_steps=2))
    hook.remove()
    assert rows == [16, 16, 32, 32]


@pytest.mark.parametrize("weights", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)])
def test_each_motion_scale_has_its_region(weights: tuple[float, ...]) -> None:
    """A region whose mask is zero everywhere moves as little as one whose weight is zero, but for the biases."""
    portrait = tiny_portrait()
    region = ("full_masks", "face_masks", "lip_masks")[weights.index(0.0)]
    nowhere = replace(portrait, **{region: tuple(torch.zeros_like(mask) for mask in getattr(portrait, region))})
    pipeline = Hallo2Pipeline(tiny_networks(), tiny_vae())
    for block, i in pipeline.networks.denoising_unet.layers():
        for _, zero_conv in block.audio_modules[i].block.regions:
            zero_conv.bias.zero_()
    settings = {"num_inference_steps": 2, "seed": 1}
    weighted = next(pipeline(portrait, tiny_audio(), motion_scale=weights, **settings))
    masked = next(pipeline(nowhere, tiny_audio(), motion_scale=(1.0, 1.0, 1.0), **settings))
    both = next(pipeline(portrait, tiny_audio(), motion_scale=(1.0, 1.0, 1.0), **settings))
    assert relative_error(weighted.latents, masked.latents) < 1e-3
    assert relative_error(weighted.latents, both.latents) > 1e-2


@pytest.mark.parametrize("size", [64, 128, 192])
def test_every_multiple_of_64_is_a_size(pipeline: Hallo2Pipeline, size: int) -> None:
    clip = next(pipeline(portrait_of(size), tiny_audio(), num_inference_steps=1))
    assert clip.frames.shape == (16, 3, size, size)
    assert clip.frames.isfinite().all()


@pytest.mark.parametrize("decode_batch_size", [1, 3, 16])
def test_frames_may_be_decoded_in_batches_of_any_size(clips: list[Clip], decode_batch_size: int) -> None:
    pipeline = Hallo2Pipeline(tiny_networks(), tiny_vae(), decode_batch_size=decode_batch_size)
    assert relative_error(next(run(pipeline)).frames, clips[0].frames) < 1e-4


class Cancelled(Exception):  # noqa: N818
    """What a caller raises to end a render."""


def test_each_step_is_told_and_may_be_the_last(pipeline: Hallo2Pipeline, clips: list[Clip]) -> None:
    told: list[tuple[int, int]] = []

    def on_step(step: int, steps: int) -> None:
        told.append((step, steps))
        if len(told) == 6:
            raise Cancelled

    video = run(pipeline, on_step=on_step)
    assert torch.equal(next(video).frames, clips[0].frames)
    with pytest.raises(Cancelled):
        next(video)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4), (1, 4), (2, 4)]
    assert torch.equal(next(run(pipeline)).frames, clips[0].frames)


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be at least 1."),
        ({"motion_scale": (1.0, 1.0)}, "motion_scale has 2 weights; it needs three: pose, face, lips."),
        ({"mask_rate": 1.5}, "mask_rate is 1.5; it must be within 0 and 1."),
    ],
)
def test_impossible_settings_are_refused_at_once(
    pipeline: Hallo2Pipeline, settings: dict[str, object], mistake: str
) -> None:
    with pytest.raises(ValueError) as caught:
        run(pipeline, **settings)
    assert str(caught.value) == mistake


@pytest.mark.parametrize("shape", [(3, 64, 128), (3, 96, 96)])
def test_a_portrait_that_does_not_fit_is_refused(pipeline: Hallo2Pipeline, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be square, with sides a multiple of 64"):
        pipeline(replace(tiny_portrait(), pixels=torch.zeros(shape)), tiny_audio())


def test_features_that_are_no_whole_clips_are_refused(pipeline: Hallo2Pipeline) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        pipeline(tiny_portrait(), tiny_audio()[:17])


def test_audio_features_are_asked_for_clip_by_clip(pipeline: Hallo2Pipeline) -> None:
    asked: list[int] = []

    def pieces() -> Iterator[Tensor]:
        for number in range(1000):
            asked.append(number)
            yield tiny_audio()

    video = pipeline(tiny_portrait(), pieces(), num_inference_steps=1)
    for _ in range(3):
        next(video)
    assert len(asked) <= 3

"""Hallo2 from top to bottom: a portrait and the features of speech become the frames of a video, clip by clip.

Cui et al., "Hallo2: Long-Duration and High-Resolution Audio-Driven Portrait Image Animation", arXiv 2410.07718.

A clip is 16 frames whose latents are denoised together. They are conditioned on the portrait (what a UNet of its own
sees of it, the picture's tokens attend to), on the identity of the face, on the speech (apart for picture, face and
lips), and on the last two frames of the clip before, so that the motion goes on. Of those frames, pixels are blanked at
random: how the person looks has to come from the portrait, and so errors do not add up over an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor

from hallo2.audio import Sliceable, clip_windows
from hallo2.clip import Clip, ClipState
from hallo2.machine import can_fuse
from hallo2.networks import Hallo2Networks
from hallo2.portrait import Portrait
from hallo2.sampling import denoise, timesteps
from hallo2.transfer import to_device
from hallo2.transformers import CLIP_FRAMES, MOTION_FRAMES
from hallo2.unet import Denoiser, Regions

# How much smaller than the pixels' the latents' variance is made: the scale that the networks were trained with.
LATENT_SCALE = 0.18215


@dataclass(frozen=True)
class _Sampling:
    """How clips are sampled; see `Hallo2Pipeline.__call__`."""

    num_inference_steps: int
    guidance_scale: float
    motion_scale: tuple[float, ...]
    mask_rate: float
    on_step: Callable[[int, int], None]

    @property
    def halves(self) -> int:
        """2 with guidance: without and with all that a clip is conditioned on. 1, the latter, without guidance."""
        return 2 if self.guidance_scale > 1 else 1


@dataclass(frozen=True)
class _Seen:
    """What is computed once for a whole video.

    Attributes:
        times: what the denoising UNet makes of the time of each step.
        face_area: where the face may move, (H, W), on the CPU.
        face_features: what the networks make of that, (1, c, h, w).
        face_tokens: without and with identity, (2, face_tokens, cross_attention_dim).
        contexts: what each layer of the denoising UNet sees of the portrait.
    """

    times: Sequence[Any]
    face_area: Tensor
    face_features: Tensor
    face_tokens: Tensor
    contexts: list[Any]


class Hallo2Pipeline:
    """The networks, ready to animate one portrait after the other; nothing of a video stays when it is done.

    Attributes:
        networks: the five Hallo2 networks.
        vae: between pixels and latents.
        decode_batch_size: how many frames are decoded at once; less takes less memory.
        fused: whether the denoising UNet runs in fused kernels (`hallo2.fused`).
        noise_dtype: in which noise is drawn; the networks', as in the published code, if nothing else is set.
    """

    def __init__(
        self,
        networks: Hallo2Networks,
        vae: AutoencoderKL,
        *,
        decode_batch_size: int = 2,
        fused: bool | None = None,
    ) -> None:
        """A pipeline of networks that are already where they shall compute.

        Args:
            networks: the five networks; their convolutions' weights are laid out anew.
            vae: the autoencoder, likewise.
            decode_batch_size: see the attribute.
            fused: see the attribute; None for where they can run: on Hopper GPUs, with Triton, a C compiler and
                Python's headers.
        """
        for module in (networks, vae):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not declare it
            module.requires_grad_(False).eval()
        self.networks = networks
        self.vae = vae
        self.decode_batch_size = decode_batch_size
        self.noise_dtype = self.dtype
        self.denoiser: Denoiser = networks.denoising_unet
        self.fused = can_fuse(self.device) if fused is None else fused
        if self.fused:
            from hallo2.fused import FusedDenoisingUNet, fuse_autoencoder  # noqa: PLC0415 - needs Triton

            self.denoiser = FusedDenoisingUNet(networks.denoising_unet)
            fuse_autoencoder(vae)

    @classmethod
    def from_pretrained(
        cls, bundle_dir: str | PathLike[str], *, device: str | torch.device = "cuda", dtype: torch.dtype = torch.float16
    ) -> Hallo2Pipeline:
        """The published weights.

        Args:
            bundle_dir: the folder of the published bundle, with `hallo2/net.pth` and `sd-vae-ft-mse/` in it.
            device: where to compute.
            dtype: in which precision.

        Raises:
            WeightsError: a file is missing or is not what it should be; the message names it, and the key.
        """
        from hallo2.weights import load_networks, load_vae  # noqa: PLC0415

        return cls(load_networks(bundle_dir, device, dtype), load_vae(bundle_dir, device, dtype))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        device: torch.device = self.networks.denoising_unet.conv_in.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        dtype: torch.dtype = self.networks.denoising_unet.conv_in.weight.dtype
        return dtype

    def __call__(
        self,
        portrait: Portrait,
        audio_features: Sliceable | Iterable[Tensor],
        *,
        num_inference_steps: int = 40,
        guidance_scale: float = 3.5,
        motion_scale: Sequence[float] = (1.0, 1.0, 1.0),
        mask_rate: float = 0.25,
        seed: int = 42,
        state: ClipState | None = None,
        on_step: Callable[[int, int], None] = lambda step, steps: None,
    ) -> Iterator[Clip]:
        """Animate a portrait; nothing is kept of the clips before.

        A clip is yielded when a GPU has been given all of its work, not when it has done it: while somebody else waits
        for the frames, the next clip can begin, and the GPU has something to do between them.

        Args:
            portrait: who speaks.
            audio_features: what is said, (frames, audio_blocks, audio_channels), frames a multiple of 16; anything that
                can be sliced by frames, or an iterable of pieces.
            num_inference_steps: denoising steps, at least 1.
            guidance_scale: of classifier-free guidance; up to 1 the unconditional half is not computed.
            motion_scale: weights of the speech's influence on pose, face and lips.
            mask_rate: share of the motion frames' pixels outside the face that are blanked, in [0, 1].
            seed: of the random numbers.
            state: of an earlier clip, to go on after it with the same arguments: bit-identical on the same machine.
            on_step: called as on_step(step, num_inference_steps) after each step of a clip; what it raises ends the
                video.

        Raises:
            ValueError: an argument is out of its range, or shapes do not fit.
        """
        _check(portrait, num_inference_steps, motion_scale, mask_rate)
        sampling = _Sampling(num_inference_steps, guidance_scale, tuple(motion_scale), mask_rate, on_step)
        state = state or ClipState.initial(portrait, seed)
        windows = clip_windows(
            audio_features, window=self.networks.config.audio_window, clip_frames=CLIP_FRAMES, first_clip=state.clips
        )
        return self._clips(portrait, windows, state, sampling)

    @torch.no_grad()
    def _clips(
        self, portrait: Portrait, windows: Iterator[Tensor], state: ClipState, sampling: _Sampling
    ) -> Iterator[Clip]:
        seen = self._look_at(portrait, sampling)
        generator = torch.Generator()
        generator.set_state(state.random_state)
        for window in windows:
            clip = self._clip(window, state, seen, sampling, generator)
            state = clip.state
            yield clip
            del clip  # whoever has it now decides how long its frames stay in memory

    def _clip(
        self,
        window: Tensor,
        before: ClipState,
        seen: _Seen,
        sampling: _Sampling,
        generator: torch.Generator,
    ) -> Clip:
        height, width = before.motion_frames.shape[-2:]
        motion_frames = self._blank(before.motion_frames, seen.face_area, sampling.mask_rate, generator)
        shape = (1, 4, CLIP_FRAMES, height // 8, width // 8)
        noise = torch.randn(shape, generator=generator, dtype=self.noise_dtype)
        latents = self._sample(noise[0].transpose(0, 1), motion_frames, window, seen, sampling)
        pixels, pictures = self._decode(latents)
        motion_frames = pixels[-MOTION_FRAMES:].float() * 2 - 1
        state = ClipState(before.clips + 1, motion_frames, generator.get_state())
        return Clip(pixels, pictures, latents.transpose(0, 1)[None], state)

    def _look_at(self, portrait: Portrait, sampling: _Sampling) -> _Seen:
        identity = self._to_device(portrait.face_embedding)[None]
        face_tokens = self.networks.imageproj(torch.cat([torch.zeros_like(identity), identity]))
        face_region = self._to_device(portrait.face_region).expand(1, 3, -1, -1)
        masks = (portrait.full_masks, portrait.face_masks, portrait.lip_masks)
        regions = Regions(
            tuple(tuple(self._to_device(mask) for mask in pyramid) for pyramid in masks), sampling.motion_scale
        )
        # In the published code the even frames of the conditional half attend to the portrait as seen without the
        # face's identity, the odd ones as seen with it. The networks were trained that way.
        latents = self._encode(portrait.pixels[None]).repeat(2, 1, 1, 1)
        features = self.networks.reference_unet(latents, face_tokens)
        contexts = self.denoiser.portrait_contexts(features, face_tokens[-sampling.halves :], regions)
        return _Seen(
            self.denoiser.times(to_device(timesteps(sampling.num_inference_steps), self.device)),
            portrait.face_region[0].cpu() > 0,
            self.networks.face_locator(face_region),
            face_tokens,
            contexts,
        )

    def _sample(self, noise: Tensor, motion_frames: Tensor, window: Tensor, seen: _Seen, sampling: _Sampling) -> Tensor:
        """The latents of one clip, (CLIP_FRAMES, 4, h, w), from noise of that shape."""
        contexts = self.denoiser.clip_contexts(
            seen.contexts,
            self._motion_features(motion_frames, seen.face_tokens, sampling.halves),
            self.networks.audioproj(self._to_device(window)),
        )

        def predict(latents: Tensor, step: int) -> Tensor:
            return self._velocity(latents, seen.times[step], contexts, seen.face_features)

        return denoise(
            predict,
            to_device(noise, self.device).float(),
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            on_step=sampling.on_step,
        )

    def _motion_features(self, motion_frames: Tensor, face_tokens: Tensor, halves: int) -> list[Tensor]:
        """Features of the motion frames for each half, (halves * MOTION_FRAMES, c, h, w) of every layer.

        The published code lays portrait, motion frame 1 and motion frame 2 out twice and gives the six rows the face
        tokens without and with identity in turn. So the unconditional half has frame 1 with identity and frame 2
        without, the conditional half the other way round. The networks were trained that way.
        """
        without, with_identity = 0, 1
        tokens_of_rows = [with_identity, without, without, with_identity][-halves * MOTION_FRAMES :]
        latents = self._encode(motion_frames).repeat(halves, 1, 1, 1)
        features: list[Tensor] = self.networks.reference_unet(latents, face_tokens[tokens_of_rows])
        return features

    def _velocity(self, latents: Tensor, time: Any, contexts: Sequence[Any], face_features: Tensor) -> Tensor:
        """What the denoising UNet predicts, in float32, in which the sampler computes."""
        latents = latents.to(self.dtype, memory_format=torch.channels_last)
        velocity = self.denoiser(latents, time, contexts, face_features)
        return velocity.float()

    @staticmethod
    def _blank(motion_frames: Tensor, face_area: Tensor, mask_rate: float, generator: torch.Generator) -> Tensor:
        """Motion frames with pixels outside the face blanked to mid-grey at random, (2, 3, H, W)."""
        kept = torch.rand(motion_frames.shape[-2:], generator=generator) > mask_rate
        return motion_frames * to_device(kept | face_area, motion_frames.device)

    def _encode(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) in [-1, 1] -> (n, 4, H / 8, W / 8): the mean of the posterior."""
        pixels = self._to_device(pixels).contiguous(memory_format=torch.channels_last)
        latents: Tensor = self.vae.encode(pixels).latent_dist.mean
        return latents * LATENT_SCALE

    def _decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 4, h, w) -> pixels (n, 3, 8 * h, 8 * w) in [0, 1], and pictures (n, 8 * h, 8 * w, 3) uint8."""
        latents = (latents.to(self.dtype) / LATENT_SCALE).contiguous(memory_format=torch.channels_last)
        pixels = latents.new_empty(len(latents), 3, *(8 * side for side in latents.shape[-2:]))
        pictures = rearrange(torch.empty_like(pixels, dtype=torch.uint8), "n c h w -> n h w c").contiguous()
        # The last frames first: it is them that the next clip needs.
        for first in reversed(range(0, len(latents), self.decode_batch_size)):
            batch = slice(first, first + self.decode_batch_size)
            pixels[batch] = (self.vae.decode(latents[batch]).sample / 2 + 0.5).clamp(0, 1)
            pictures[batch] = rearrange(pixels[batch].float() * 255, "n c h w -> n h w c").to(torch.uint8)
        return pixels, pictures

    def _to_device(self, x: Tensor) -> Tensor:
        return to_device(x, self.device).to(self.dtype)


def _check(portrait: Portrait, num_inference_steps: int, motion_scale: Sequence[float], mask_rate: float) -> None:
    height, width = portrait.pixels.shape[-2:]
    if height != width or height % 64:
        raise ValueError(f"The portrait is {width} x {height} pixels; it must be square, with sides a multiple of 64.")
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be at least 1.")
    if len(motion_scale) != 3:
        raise ValueError(f"motion_scale has {len(motion_scale)} weights; it needs three: pose, face, lips.")
    if not 0 <= mask_rate <= 1:
        raise ValueError(f"mask_rate is {mask_rate}; it must be within 0 and 1.")

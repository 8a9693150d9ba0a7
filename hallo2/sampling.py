"""DDIM with velocity prediction and classifier-free guidance: from noise to the latents of a clip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import Tensor


def ddim_scheduler() -> DDIMScheduler:
    """DDIM (Song et al., arXiv 2010.02502) as Hallo2 was trained: betas rescaled to zero terminal signal-to-noise ratio
    and trailing timesteps (Lin et al., arXiv 2305.08891), velocity prediction (Salimans and Ho, arXiv 2202.00512).
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )


def timesteps(num_inference_steps: int) -> Tensor:
    """The time of every step, (num_inference_steps,), falling."""
    scheduler = ddim_scheduler()
    scheduler.set_timesteps(num_inference_steps)
    times: Tensor = scheduler.timesteps
    return times


def denoise(
    predict: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    *,
    num_inference_steps: int,
    guidance_scale: float,
    on_step: Callable[[int, int], None],
) -> Tensor:
    """Denoise one clip.

    Args:
        predict: (halves * frames, 4, h, w) latents and the number of the step, from 0, to the velocity of the same
            shape; the unconditional half comes first.
        noise: (frames, 4, h, w), float32.
        num_inference_steps: steps, at least 1.
        guidance_scale: how far beyond the unconditional prediction; up to 1 there is only the conditional half.
        on_step: called as on_step(step, num_inference_steps) after each; what it raises ends the sampling.

    Returns:
        The latents, (frames, 4, h, w), float32.
    """
    scheduler = ddim_scheduler()
    scheduler.set_timesteps(num_inference_steps)
    latents = noise
    for step, timestep in enumerate(scheduler.timesteps):
        if guidance_scale > 1:
            unconditional, conditional = predict(torch.cat([latents, latents]), step).chunk(2)
            velocity = unconditional + guidance_scale * (conditional - unconditional)
        else:
            velocity = predict(latents, step)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
        on_step(step + 1, num_inference_steps)
    return latents

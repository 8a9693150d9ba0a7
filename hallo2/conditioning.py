"""The three small networks that turn what is known of speaker and speech into tokens and features."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hallo2.config import Hallo2Config


class FaceProjection(nn.Module):
    """A face embedding becomes a few tokens (key prefix `imageproj`)."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__()
        self.proj = nn.Linear(config.face_embedding_dim, config.face_tokens * config.cross_attention_dim)
        self.norm = nn.LayerNorm(config.cross_attention_dim)

    def forward(self, face_embedding: Tensor) -> Tensor:
        """(n, face_embedding_dim) -> (n, face_tokens, cross_attention_dim)."""
        tokens: Tensor = self.norm(self.proj(face_embedding).unflatten(-1, (-1, *self.norm.normalized_shape)))
        return tokens


class AudioProjection(nn.Module):
    """A window of audio features becomes the tokens of one video frame (key prefix `audioproj`)."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__()
        window_size = config.audio_window * config.audio_blocks * config.audio_channels
        self.proj1 = nn.Linear(window_size, config.audio_intermediate_dim)
        self.proj2 = nn.Linear(config.audio_intermediate_dim, config.audio_intermediate_dim)
        self.proj3 = nn.Linear(config.audio_intermediate_dim, config.audio_tokens * config.audio_attention_dim)
        self.norm = nn.LayerNorm(config.audio_attention_dim)

    def forward(self, windows: Tensor) -> Tensor:
        """(frames, audio_window, audio_blocks, audio_channels) -> (frames, audio_tokens, audio_attention_dim)."""
        hidden = torch.relu(self.proj1(windows.flatten(1)))
        hidden = torch.relu(self.proj2(hidden))
        tokens: Tensor = self.norm(self.proj3(hidden).unflatten(-1, (-1, *self.norm.normalized_shape)))
        return tokens


class FaceLocator(nn.Module):
    """Where the face may move, at the latents' resolution (key prefix `face_locator`)."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in pairwise(widths):
            self.blocks.append(nn.Conv2d(narrow, narrow, 3, padding=1))
            self.blocks.append(nn.Conv2d(narrow, wide, 3, stride=2, padding=1))
        self.conv_out = nn.Conv2d(widths[-1], config.block_out_channels[0], 3, padding=1)

    def forward(self, face_region: Tensor) -> Tensor:
        """(n, 3, H, W) in [0, 1] -> (n, block_out_channels[0], H / 8, W / 8)."""
        hidden = functional.silu(self.conv_in(face_region))
        for conv in self.blocks:
            hidden = functional.silu(conv(hidden))
        out: Tensor = self.conv_out(hidden)
        return out

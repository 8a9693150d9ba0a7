"""The sizes of the five Hallo2 networks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Hallo2Config:
    """Sizes of the networks; the defaults are those of the published weights.

    Attributes:
        block_out_channels: channels of the UNets' four resolutions, from the finest to the coarsest.
        cross_attention_dim: width of the face tokens.
        audio_attention_dim: width of the audio tokens.
        face_embedding_dim: length of the ArcFace embedding.
        face_tokens: tokens that a face embedding becomes.
        audio_blocks: layers of the audio encoder whose hidden states are used.
        audio_channels: width of those hidden states.
        audio_window: frames of audio features that each video frame sees.
        audio_intermediate_dim: inner width of the audio projection.
        audio_tokens: tokens that a window of audio features becomes.
        attention_heads: heads of every attention layer.
    """

    block_out_channels: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    cross_attention_dim: int = 768
    audio_attention_dim: int = 768
    face_embedding_dim: int = 512
    face_tokens: int = 4
    audio_blocks: int = 12
    audio_channels: int = 768
    audio_window: int = 5
    audio_intermediate_dim: int = 512
    audio_tokens: int = 32
    attention_heads: int = 8

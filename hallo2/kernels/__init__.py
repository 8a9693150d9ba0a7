"""Triton kernels of the denoising UNet's fused path: what torch would do in several passes over memory, in one.

All of them work on hidden states in channels-last layout, seen as tokens (n, h * w, c) in contiguous memory, in
float16, bfloat16 or float32, and add up in float32. Whether to use them is the caller's choice: nothing here falls back
to torch, and importing this package needs Triton. Tiles follow from the shapes alone and nothing is timed at run time,
so that the same shapes give the same bits in every process on one kind of GPU. No kernel allocates anything but its
result and, in group norm, its statistics: all can be captured in a CUDA graph.
"""

from hallo2.kernels.add_bias import add_bias
from hallo2.kernels.cross import token_attention
from hallo2.kernels.geglu import geglu, interleaved
from hallo2.kernels.group_norm import group_norm
from hallo2.kernels.layer_norm import add_layer_norm
from hallo2.kernels.merge import merge_attention
from hallo2.kernels.speech import speech_weights
from hallo2.kernels.temporal import temporal_attention

__all__ = [
    "add_bias",
    "add_layer_norm",
    "geglu",
    "group_norm",
    "interleaved",
    "merge_attention",
    "speech_weights",
    "temporal_attention",
    "token_attention",
]

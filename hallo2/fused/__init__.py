"""The denoising UNet for a GPU: what `hallo2.unet.DenoisingUNet` computes, in fewer and larger kernels.

It reads like that module and takes its weights over. What it does differently is exact but for rounding:

- Hidden states are tokens (n, h * w, c) from end to end; convolutions see the same memory as channels-last pictures.
- Queries, keys and values come from one product, and so do the time shifts of all residual blocks.
- A convolution's bias is added where its output is read next: with the time shift in the group norm, or with the sum.
- Norms take residual, SiLU and positions along, and GEGLU's linear map its gate (`hallo2.kernels`).
- A picture and its skip connection are nowhere laid side by side: norm and shortcut read them where they are.
- Pictures are convolved before they are enlarged, with the taps that would meet the same pixel added up.
- A transformer's last two linear maps, out of the feed-forward and out of the transformer, are one, and it is added to
  the picture in place. Its bias is added ahead, by the residual block, and taken off again where a norm reads.
- The four face tokens do not change during a video, the audio tokens not during a clip: the projections of queries and
  of what is attended to are folded into them. Of the attention to the speech, output projection and convolution are one
  matrix, since the mask between them is a number per token; what is left of it in silence, the biases, is the same in
  both halves.
- The even frames come before the odd ones, because those see the reference image alike: they are one row of queries.
- What the motion frames are in the temporal transformers before they have seen the others is computed once a clip.
- What is large and not needed any more is deleted at once, so that the next result can take its memory.
"""

from hallo2.fused.autoencoder import fuse_autoencoder
from hallo2.fused.unet import FusedDenoisingUNet

__all__ = ["FusedDenoisingUNet", "fuse_autoencoder"]

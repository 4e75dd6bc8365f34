"""Where a program's picture ends, for the Triton kernels of maps that hold pictures of different sizes."""

import triton
import triton.language as tl


@triton.jit
def picture(sizes, H, W):
    """Rows and columns of the program's picture: of ``sizes``, (B, 2), or of the whole map where that is None.

    Sizes beyond the map, which no one can check without waiting for the device, count as the map's.
    """
    if sizes is None:
        h = H
        w = W
    else:
        h = tl.minimum(tl.load(sizes + 2 * tl.program_id(2)), H)
        w = tl.minimum(tl.load(sizes + 2 * tl.program_id(2) + 1), W)
    return h, w

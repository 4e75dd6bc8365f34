"""Window attention: SEMA without the mean."""

from .sema import SEMAMixer


class WindowMixer(SEMAMixer):
    """Softmax attention inside windows and nothing else: SEMA without the mean, its ``averaging="none"``.

    Per head, at 2 w^2 d multiply-accumulates a token::

        out_i = sum_{j in i's window} softmax_j(s rope(q_i) . rope(k_j)) v_j
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads, window_size, averaging="none")

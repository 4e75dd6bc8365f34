"""Windowed attention plus the mean of all values (SEMA), on feature maps of any size.

Needs torch, and Triton for its CUDA kernels; imports nothing from mmsema or OpenMMLab. ``sema_attention`` is the
operator, ``mmsema_kernels.reference`` its definition.
"""

# Python run from the root of a checkout finds this folder as ``kernels``, too, and so do libraries that ask whether the
# package of that name is installed (transformers does). They find nothing: no operator can be registered twice.
if __name__ == "mmsema_kernels":
    from .depthwise import depthwise_residual, depthwise_silu, lepe_gate
    from .dispatch import available_backends, can_run_triton, sema_attention, sema_attention_packed
    from .launch import use_backend
    from .layer_norm import layer_norm
    from .reference import sema_attention_reference
    from .rope import apply_rope, expand_rope_table, rope_table
    from .sizes import can_read, count_tokens, each_alone, mean_tokens, real_tokens, zero_outside

__all__ = [
    "apply_rope",
    "available_backends",
    "can_read",
    "can_run_triton",
    "count_tokens",
    "depthwise_residual",
    "depthwise_silu",
    "each_alone",
    "expand_rope_table",
    "layer_norm",
    "lepe_gate",
    "mean_tokens",
    "real_tokens",
    "rope_table",
    "sema_attention",
    "sema_attention_packed",
    "sema_attention_reference",
    "zero_outside",
    "use_backend",
]

"""Windowed attention plus the mean of all values (SEMA), on feature maps of any size.

Needs torch, and Triton for its CUDA kernels; imports nothing from mmsema or OpenMMLab. ``sema_attention`` is the
operator, ``mmsema_kernels.reference`` its definition.
"""

from .depthwise import depthwise_residual, depthwise_silu, lepe_gate
from .dispatch import available_backends, can_run_triton, sema_attention, sema_attention_packed
from .launch import use_backend
from .reference import sema_attention_reference
from .rope import apply_rope, expand_rope_table, rope_table

__all__ = [
    "apply_rope",
    "available_backends",
    "can_run_triton",
    "depthwise_residual",
    "depthwise_silu",
    "expand_rope_table",
    "lepe_gate",
    "rope_table",
    "sema_attention",
    "sema_attention_packed",
    "sema_attention_reference",
    "use_backend",
]

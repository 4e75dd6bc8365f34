"""Marks for what torch 2.1, the oldest that we support, cannot do, and for packages that come with one stack only."""

from importlib.util import find_spec

import pytest
import torch

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))

needs_compiler = pytest.mark.skipif(TORCH < (2, 3), reason="torch.compile cannot follow our code before torch 2.3")
needs_half_on_cpu = pytest.mark.skipif(TORCH < (2, 2), reason="no float16 matrix products on the CPU before torch 2.2")
needs_fsdp_on_cpu = pytest.mark.skipif(TORCH < (2, 3), reason="FSDP asks for CUDA streams before torch 2.3")
HAS_MODULE_TRACKER = find_spec("torch.utils.module_tracker") is not None
needs_module_tracker = pytest.mark.skipif(
    not HAS_MODULE_TRACKER, reason="multiply-accumulates are not counted before torch 2.4"
)
needs_mmseg = pytest.mark.skipif(find_spec("mmseg") is None, reason="mmsegmentation is not installed")

"""Without a CUDA device the Triton kernels run in Triton's interpreter, which is chosen when they are imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    # Tests train in processes that are forked from this one. That needs autograd's first backward to come before the
    # first FakeTensorMode (of the config check or torch.compile), which makes autograd think that there is a GPU.
    torch.ones(1, requires_grad=True).sum().backward()


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))

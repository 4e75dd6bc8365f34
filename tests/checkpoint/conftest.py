"""A source of downloads, and mmengine without our reader."""

import http.server
import threading
from functools import partial
from typing import Callable

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader


@pytest.fixture
def without_guard(monkeypatch) -> Callable:
    """Call it to have mmengine read files as it does without us."""
    schemes = {"": mmengine_checkpoint.load_from_local, "http": mmengine_checkpoint.load_from_http}
    schemes["torchvision://"] = mmengine_checkpoint.load_from_torchvision
    monkeypatch.setattr(torch.serialization, "_default_to_weights_only", lambda module: False, raising=False)
    return lambda: monkeypatch.setattr(CheckpointLoader, "_schemes", dict(sorted(schemes.items(), reverse=True)))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An HTTP server on ``tmp_path``, which also is mmengine's source of torchvision's models; yields its address."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_address[1]}/hostile.pth"
        monkeypatch.setattr(mmengine_checkpoint, "get_torchvision_models", lambda: dict(resnet18=address))
        yield address
        running.shutdown()

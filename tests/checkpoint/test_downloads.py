"""Checkpoints from elsewhere than the disk: read and kept as mmengine does, or one clear line."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmsema.checkpoint import CheckpointError, read_checkpoint
from mmsema.checkpoint.hosts import load_from_mmsema


def test_downloads_are_kept_where_mmengine_keeps_them(server, tmp_path, without_guard):
    weights = dict(weight=torch.ones(1, 1), bias=torch.zeros(1))
    torch.save(weights, tmp_path / "hostile.pth")
    assert read_checkpoint(server).keys() == weights.keys()
    (tmp_path / "hostile.pth").unlink()  # from now on the server has nothing
    assert read_checkpoint(server).keys() == weights.keys()
    (tmp_path / "torch/hub/checkpoints/other.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"\(kept as .*; remove that to download it again\) .* it is empty"):
        read_checkpoint(server.replace("hostile", "other"))
    with pytest.raises(CheckpointError, match="cannot be downloaded to .*/torch/hub/checkpoints/third.pth: HTTP"):
        read_checkpoint(server.replace("hostile", "third"))
    without_guard()
    assert load_checkpoint(nn.Linear(1, 1), server).keys() == weights.keys()


def test_a_download_that_ends_early_is_not_kept(server, tmp_path, monkeypatch):
    torch.save(dict(weight=torch.ones(100)), tmp_path / "hostile.pth")
    content, lengths = (tmp_path / "hostile.pth").read_bytes(), [500, None]
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, file, progress: Path(file).write_bytes(content[: lengths.pop(0)])
    )
    with pytest.raises(CheckpointError, match=r"hostile.pth \(500 bytes\) is refused: it looks truncated"):
        read_checkpoint(server)
    assert read_checkpoint(server)["weight"].sum() == 100 and not lengths


def test_downloads_with_other_queries_are_other_files(server, tmp_path):
    for number in (1, 2):
        torch.save(dict(weight=torch.tensor(number)), tmp_path / "hostile.pth")
        assert read_checkpoint(f"{server}?id={number}")["weight"] == number


def test_downloads_that_cannot_be_kept(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot be downloaded to .*/file/hub/checkpoints/hostile.pth: "):
        read_checkpoint(server)


def test_names_that_mmengine_does_not_know_are_said(server):
    with pytest.raises(CheckpointError, match="torchvision://resnet19 is not among the 1 names"):
        load_checkpoint(nn.Linear(1, 1), "torchvision://resnet19")


def test_every_scheme_is_ours():
    assert set(CheckpointLoader._schemes.values()) == {load_from_mmsema}

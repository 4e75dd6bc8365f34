"""Two processes over gloo give the gradients of one with twice the batch, frozen stages and recomputation included."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from commands import free_port
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier
from runs import digits, run
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmsema import SEMA

ARCH = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
OPTIONS = {
    "plain": dict(),
    "frozen": dict(frozen_stages=2),
    "recomputed": dict(with_cp=True),
    "frozen and recomputed": dict(frozen_stages=1, with_cp=True),
    "fewer outputs": dict(out_indices=(1, 3)),
}


def build(options: dict) -> SEMA:
    """BatchNorm uses fixed statistics (``norm_eval``): half batches have others, and SyncBN exists on GPUs only."""
    torch.manual_seed(0)
    return SEMA(ARCH, norm_eval=True, **options).double().train()


def images() -> torch.Tensor:
    return torch.randn(4, 3, 45, 70, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(model: nn.Module, x: torch.Tensor) -> dict:
    sum(out.pow(3).mean() for out in model(x)).backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.requires_grad}


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name, options in OPTIONS.items():
        # two steps: unused parameters are reported when the second one starts
        model = DistributedDataParallel(build(options), find_unused_parameters=False)
        x = images()[2 * rank : 2 * rank + 2]
        found = gradients(model, x)
        torch.save(found, folder / f"{name}-{rank}.pth")
        model(x)[-1].sum()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def distributed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gradients")
    port = free_port()
    mp.spawn(worker, (port, folder), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_give_the_gradients_of_one(name, distributed):
    expected = gradients(build(OPTIONS[name]), images())
    assert all(gradient is not None for gradient in expected.values()), "unused parameters"
    for rank in (0, 1):
        found = torch.load(distributed / f"{name}-{rank}.pth", weights_only=True)
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-12)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    stem_trains = any(key.startswith("stem") for key in expected)
    assert stem_trains == ("frozen" not in name)


@MODELS.register_module()
class PartlyUnused(ImageClassifier):
    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.unused = nn.Linear(1, 1)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the wrapper is for machines without a CUDA device")
def test_unused_parameters_are_found_where_the_config_says_so(monkeypatch, tmp_path):
    launcher = dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    cfg = digits(tmp_path / "run")
    cfg.model.type, cfg.launcher, cfg.find_unused_parameters = "mmengine.PartlyUnused", "pytorch", True
    cfg.train_cfg.max_epochs = 1
    run(cfg)


def test_every_batchnorm_becomes_a_syncbn():
    model = build({})
    count = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    x = images()
    before = model.eval()(x)
    converted = convert_sync_batchnorm(model, "torch").eval()
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == count == 8
    for a, b in zip(before, converted(x), strict=True):
        torch.testing.assert_close(a, b)
    converted.train()  # norm_eval holds for the converted ones, too
    assert not any(module.training for module in converted.modules() if isinstance(module, nn.SyncBatchNorm))


@pytest.mark.gpu
def test_syncbn_trains_on_a_gpu():
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    dist.init_process_group("nccl", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        model = SEMA(ARCH).cuda().train()
        x = images().float().cuda()
        expected = gradients(model, x)
        expected = {name: gradient.clone() for name, gradient in expected.items()}
        model.zero_grad()
        found = gradients(DistributedDataParallel(convert_sync_batchnorm(model, "torch")), x)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
    finally:
        dist.destroy_process_group()

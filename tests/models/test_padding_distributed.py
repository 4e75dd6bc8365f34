"""SyncBatchNorm counts the real tokens of all processes: two of them over gloo give what one gives.

What the masks compute is what a GPU takes. On the CPU torch's own SyncBatchNorm, which full batches go to, refuses to
train; the sum over NCCL has not been run.
"""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from commands import free_port
from padded_batches import NARROW, batch, build, read_nothing, weighted_sum
from torch import nn

from mmsema.models.padding import batch_norm, real_tokens

SIZES = [(5, 6), (2, 3), (4, 1), (1, 1)]  # two pictures for each process
PICTURES = [(50, 41), (33, 70), (64, 64), (20, 9)]


def norm_of(cls: type) -> nn.Module:
    torch.manual_seed(0)
    norm = cls(8).double()
    for p in norm.parameters():
        nn.init.normal_(p)
    return norm


def run_norm(norm: nn.Module, part: slice) -> dict:
    """Result, gradients and statistics of these pictures; x is NaN outside them."""
    generator = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(4, 8, 5, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    sizes = torch.tensor(SIZES, dtype=torch.int32)
    x = x.masked_fill(~real_tokens(sizes, 5, 6)[:, None], torch.nan)[part].requires_grad_()
    out = batch_norm(norm, x, sizes[part])
    out.backward(grad[part])
    return dict(out=out.detach(), x=x.grad, weight=norm.weight.grad, bias=norm.bias.grad, state=norm.state_dict())


def run_backbone(sync: bool, part: slice) -> dict:
    """Maps, gradients and statistics of a backbone in training; all processes pad to the same size."""
    model = build(NARROW).train()
    if sync:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    outputs = model(batch(PICTURES)[part])
    weighted_sum(outputs, None).backward()
    return dict(
        outputs=[out.detach() for out in outputs],
        gradients={name: p.grad for name, p in model.named_parameters()},
        buffers=dict(model.named_buffers()),
    )


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    part = slice(2 * rank, 2 * rank + 2)
    alone = norm_of(nn.SyncBatchNorm)
    alone.process_group = [dist.new_group([r]) for r in range(2)][rank]
    on_cpu = run_norm(norm_of(nn.SyncBatchNorm), part)
    with pytest.MonkeyPatch.context() as patch:
        read_nothing(patch)
        found = dict(
            on_cpu=on_cpu,
            norm=run_norm(norm_of(nn.SyncBatchNorm), part),
            alone=run_norm(alone, part),
            backbone=run_backbone(True, part),
        )
    torch.save(found, folder / f"{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("sync")
    port = free_port()
    mp.spawn(worker, (port, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(2)]


def assert_joined(parts: list, whole: dict, batched: tuple, summed: tuple, equal: tuple) -> None:
    for key in batched:
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), whole[key])
    for key in summed:
        torch.testing.assert_close(sum(part[key] for part in parts), whole[key])
    for key in equal:
        for part in parts:
            torch.testing.assert_close(part[key], whole[key])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["norm", "on_cpu"])
def test_statistics_are_those_of_all_processes(found, case):
    expected = run_norm(norm_of(nn.BatchNorm2d), slice(None))
    assert_joined([one[case] for one in found], expected, ("out", "x"), ("weight", "bias"), ("state",))


@pytest.mark.slow
def test_a_process_group_is_kept_to(found):
    for rank, one in enumerate(found):
        expected = run_norm(norm_of(nn.BatchNorm2d), slice(2 * rank, 2 * rank + 2))
        torch.testing.assert_close(one["alone"], expected)


@pytest.mark.slow
def test_backbone_trains_as_in_one_process(found):
    expected = run_backbone(False, slice(None))
    parts = [one["backbone"] for one in found]
    for outputs in zip(*(part["outputs"] for part in parts), expected["outputs"], strict=True):
        torch.testing.assert_close(torch.cat(outputs[:2]), outputs[2])
    for name, gradient in expected["gradients"].items():
        total = sum(part["gradients"][name] for part in parts)
        assert (total - gradient).norm() <= 1e-11 * gradient.norm() + 1e-9, name  # biases before BatchNorm have 0
    for part in parts:
        torch.testing.assert_close(part["buffers"], expected["buffers"])

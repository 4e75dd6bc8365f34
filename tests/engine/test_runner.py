"""What mmengine's runners offer, on a small classifier of real digits: EMA, torch.compile, FSDP, mixed precision."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from old_torch import needs_compiler, needs_fsdp_on_cpu, needs_half_on_cpu
from torch import nn

from mmsema import SEMA
from mmsema.checkpoint import read_checkpoint
from mmsema.engine import CheckWeights
from mmsema.engine.launch import build_runner

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
FSDP = """
_base_ = {base!r}
model = dict(backbone=dict(arch=dict({arch!r}, _delete_=True)), head=dict(in_channels=64))
runner_type = "FlexibleRunner"
strategy = {strategy!r}
"""


def train(work_dir: Path, **changes):
    """Three iterations of 8 digits each, and the runner that did them."""
    cfg = Config.fromfile(str(ROOT / "configs/sema-pico_digits.py"))
    cfg.model.backbone.arch = SMALL
    cfg.model.head.in_channels = 64
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    cfg.randomness = dict(seed=0)
    cfg.train_dataloader.update(batch_size=8, collate_fn=dict(type="default_collate"))
    cfg.train_cfg = dict(by_epoch=False, max_iters=3)
    cfg.param_scheduler = None
    # Adam and larger steps magnify rounding errors
    cfg.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02))
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=3)
    for key in ("val_dataloader", "val_cfg", "val_evaluator", "test_dataloader", "test_cfg", "test_evaluator"):
        cfg[key] = None
    cfg.update(changes)
    runner = build_runner(cfg, min_matched=1.0)
    runner.train()
    return runner


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict:
    runner = train(tmp_path_factory.mktemp("plain"))
    return {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}


@pytest.mark.slow
def test_ema_saves_the_average_and_resumes(plain, tmp_path):
    hook = dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.25)
    train(tmp_path / "ema", custom_hooks=[hook])
    saved = read_checkpoint(tmp_path / "ema/iter_3.pth")
    name = "backbone.stages.3.0.mlp.fc1.weight"
    weights, average = saved["ema_state_dict"]["module." + name], saved["state_dict"][name]
    torch.testing.assert_close(weights, plain[name], rtol=1e-4, atol=1e-6)
    assert (average - plain[name]).abs().max() > 1e-5
    resumed = train(
        tmp_path / "ema",
        custom_hooks=[hook],
        resume=True,
        load_from=str(tmp_path / "ema/iter_3.pth"),
        train_cfg=dict(by_epoch=False, max_iters=4),
    )
    assert resumed.iter == 4


@pytest.mark.parametrize("name", ["module_list", "modules_", "blocks"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensors_whose_names_begin_like_a_wrappers_are_loaded(name, prefix, tmp_path):
    """mmengine cuts ``module`` and whatever character follows from the front of a name."""
    model, saved = nn.Module(), nn.Linear(2, 3)
    setattr(model, name, nn.Sequential(nn.Linear(2, 3)))
    tensors = {f"{prefix}{name}.0.{key}": value for key, value in saved.state_dict().items()}
    torch.save(dict(state_dict=tensors), tmp_path / "weights.pth")
    runner, hook = SimpleNamespace(model=model, logger=logging.getLogger("no handlers")), CheckWeights(1.0)
    runner.call_hook = lambda _, checkpoint: hook.after_load_checkpoint(runner, checkpoint)
    Runner.load_checkpoint(runner, str(tmp_path / "weights.pth"))
    assert torch.equal(getattr(model, name)[0].weight, saved.weight)


@pytest.mark.slow
@needs_compiler
def test_compiled_training_takes_the_same_steps(plain, tmp_path):
    runner = train(tmp_path / "compiled", compile=dict(backend="aot_eager"))
    assert "_TorchDynamo" in repr(runner.model.train_step) or hasattr(
        runner.model.train_step, "_torchdynamo_orig_callable"
    )
    for name, tensor in runner.model.state_dict().items():
        torch.testing.assert_close(tensor, plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes", [pytest.param(2, marks=needs_fsdp_on_cpu), pytest.param(1, marks=pytest.mark.gpu)]
)
def test_fsdp_trains(processes, tmp_path):
    """The shipped strategy; on the CPU its shards are saved as such, as torch 2.11 crashes gathering them there."""
    strategy = Config.fromfile(str(ROOT / "configs/sema-b_8xb128-fsdp_in1k.py")).strategy.to_dict()
    strategy["model_wrapper"]["auto_wrap_policy"]["min_num_params"] = 1000
    on_cpu = processes == 2
    if on_cpu:
        strategy["model_wrapper"].update(type="MMFullyShardedDataParallel", device_id="cpu")
        strategy["state_dict_cfg"] = "local"
    config = tmp_path / "fsdp.py"
    config.write_text(FSDP.format(base=str(ROOT / "configs/sema-pico_digits.py"), arch=SMALL, strategy=strategy))
    options = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=240", "default_hooks.checkpoint.interval=1"]
    command = [
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",  # the name of a machine need not lead to it
        f"--nproc_per_node={processes}",
        ROOT / "tools/train.py",
        config,
    ]
    command += ["--launcher", "pytorch", "--work-dir", tmp_path / "work", "--cfg-options", *options]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    saved = tmp_path / "work/epoch_1.pth"
    if on_cpu:
        assert sorted(shard.name for shard in saved.iterdir()) == ["rank0.pth", "rank1.pth"]
    else:
        assert read_checkpoint(saved)["state_dict"]["backbone.stages.3.0.mlp.fc1.weight"].shape == (256, 64)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=needs_half_on_cpu)])
def test_autocast_stays_close_to_float32(device, dtype):
    torch.manual_seed(0)
    model, x = SEMA(SMALL, norm_eval=True).to(device).train(), torch.randn(2, 3, 64, 64, device=device)
    outputs, gradients = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            maps = [out.float() for out in model(x)]
        sum((out * torch.linspace(-1, 1, out.numel(), device=device).view_as(out)).sum() for out in maps).backward()
        outputs.append(torch.cat([out.detach().flatten() for out in maps]))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert outputs[1].isfinite().all() and gradients[1].isfinite().all()
    assert (outputs[1] - outputs[0]).norm() < 0.02 * outputs[0].norm()
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [dict(dtype="float16", loss_scale="dynamic"), dict(dtype="bfloat16", loss_scale=1.0)]
)
def test_amp_trains_through_the_runner(settings, tmp_path):
    wrapper = dict(type="AmpOptimWrapper", optimizer=dict(type="AdamW", lr=1e-3), **settings)
    runner = train(tmp_path / "amp", optim_wrapper=wrapper)
    assert all(p.isfinite().all() for p in runner.model.parameters())

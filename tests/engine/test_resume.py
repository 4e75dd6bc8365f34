"""Runs that are killed, and what they go on from: the losses are those of a run that was never stopped, bit by bit."""

import os
import shutil
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator, Optional

import pytest
import torch
from mmdet.datasets.samplers import MultiSourceSampler
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook
from mmengine.registry import DATASETS
from mmengine.runner.loops import _InfiniteDataloaderIterator
from runs import At, digits, digits_by_iteration, kill, largest_difference, losses, run, shapes
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Sampler

from mmsema.checkpoint import CheckpointError, read_checkpoint
from mmsema.engine import ExactResume, UsageError
from mmsema.engine.resume import check_resumable, find_resumable, protect, resume


def averaged(folder: Path, loaders: str = "0") -> Config:
    """With averaged weights, gradients of two batches accumulated, and saving within epochs."""
    cfg = digits(folder, loaders)
    cfg.custom_hooks = [dict(type="EMAHook", momentum=0.1)]
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=2, max_keep_ckpts=2)
    return cfg


CASES = dict(
    epochs=digits,
    iterations=digits_by_iteration,
    passes=partial(digits_by_iteration, sampler="DefaultSampler"),
    detector=shapes,
    averaged=averaged,
)


def kill_while_writing(runner) -> None:
    os.fsync = lambda _: kill()


# training, workers ("p": persistent), the moment that it is killed at and the iterations done by then
KILLS = [
    ("epochs", "0", "after_train_iter", 5),
    ("epochs", "2", "before_train_iter", 6),
    ("epochs", "2p", "after_train_iter", 9),
    ("iterations", "0", "before_train_iter", 5),
    ("iterations", "2", "after_train_iter", 7),
    ("iterations", "2p", "before_train_iter", 10),
    ("passes", "2", "after_train_iter", 7),
    ("detector", "0", "after_train_iter", 6),
    ("detector", "2p", "before_train_iter", 9),
    ("averaged", "2", "after_train_iter", 8),
    ("epochs", "0", "before_save_checkpoint", 8),  # in the middle of the file
]
QUICK = (0, 10)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """The losses of a run of the case that was left alone, without workers."""
    folder, done = tmp_path_factory.mktemp("whole"), {}

    def find(case: str) -> dict:
        if case not in done:
            run(CASES[case](folder / case))
            done[case] = losses(folder / case)
        return done[case]

    return find


def check_kill(case: str, workers: str, moment: str, iteration: int, folder: Path, expected: dict) -> float:
    """Kill a run, resume it, and return the largest difference of a loss."""
    make = CASES[case]
    run(make(folder, workers), At(moment, iteration, kill_while_writing if "save" in moment else kill), code=-9)
    assert 0 < len(losses(folder)) < len(expected)
    run(make(folder, workers), go_on="latest")
    assert not list(folder.glob(".*.partial"))
    return largest_difference(losses(folder), expected)


@pytest.mark.slow
@pytest.mark.scorecard("kill")
@pytest.mark.parametrize(
    "number",
    [number if number in QUICK else pytest.param(number, marks=pytest.mark.long) for number in range(len(KILLS))],
)
def test_killed_and_resumed_is_never_stopped(number, never_stopped, tmp_path):
    assert check_kill(*KILLS[number], tmp_path / "run", never_stopped(KILLS[number][0])) == 0


@pytest.mark.long
@pytest.mark.parametrize("case", ["epochs", "iterations", "detector"])
def test_workers_change_nothing(case, never_stopped, tmp_path):
    for workers in ("2", "2p"):
        run(CASES[case](tmp_path / workers, workers))
        assert losses(tmp_path / workers) == never_stopped(case)


@pytest.mark.long
def test_seeds_matter_and_samples_differ_from_epoch_to_epoch(never_stopped, tmp_path):
    """A run without a seed draws one; all its samples would be the same in every epoch if they were seeded by index."""
    cfg = digits(tmp_path / "other")
    cfg.randomness = dict(seed=5)
    run(cfg)
    assert losses(tmp_path / "other") != never_stopped("epochs")
    saved = read_checkpoint(tmp_path / "other/epoch_3.pth")["meta"]
    assert saved["seed"] == 5 and saved["batches"] == dict(done=0, of=4, seed=5)


def test_samples_are_a_function_of_seed_iteration_and_place():
    from mmsema.engine.hooks.exact_resume import SeededDataset

    class Draws(torch.utils.data.Dataset):
        def __getitem__(self, index):
            return index, float(torch.rand(()))

        def __len__(self):
            return 4

    draws = SeededDataset(Draws(), seed=3, rank=0)
    assert draws[1, 7, 0] == draws[1, 7, 0] and draws[1, 7, 0][0] == 1
    values = [draws[1, 7, 0], draws[1, 8, 0], draws[1, 7, 1], SeededDataset(Draws(), 4, 0)[1, 7, 0]]
    values.append(SeededDataset(Draws(), 3, 1)[1, 7, 0])
    assert len({value for _, value in values}) == 5


def batches_from(
    sampler: Sampler, iteration: int = 0, checkpoint: Optional[dict] = None, seed: int = 1, cfg: Optional[dict] = None
) -> Iterator[list]:
    """What an iteration-based loop gets from there, and ``checkpoint``, if it is empty, from its third iteration."""
    loader = DataLoader(sampler.dataset, batch_size=4, sampler=sampler, collate_fn=list)
    loop = SimpleNamespace(
        dataloader=loader, dataloader_iterator=_InfiniteDataloaderIterator(loader), fast_forward_on_resume=False,
        iter=iteration, _iter=iteration, epoch=0, max_iters=9,
    )  # fmt: skip
    runner = SimpleNamespace(train_loop=loop, cfg=Config(cfg), seed=seed, rank=0, _resume=bool(iteration))
    hook = ExactResume()
    if iteration:
        hook.after_load_checkpoint(runner, checkpoint)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    if checkpoint == {}:
        checkpoint["meta"] = dict(epoch=0, iter=3)
        hook.before_save_checkpoint(runner, checkpoint)
    while True:
        yield next(loop.dataloader_iterator)


@pytest.mark.parametrize("read", [0, 7])
@pytest.mark.parametrize(
    "kind", [InfiniteSampler, partial(MultiSourceSampler, batch_size=4, source_ratio=[1, 3]), DefaultSampler]
)
def test_order_is_that_of_the_samplers_seed(kind, read):
    """Which the config may name, or which was drawn: another than the run's; ``read`` by workers of mmengine 0.10.7."""
    data, checkpoint = ConcatDataset([range(10), range(10, 50)]), {}
    whole = batches_from(kind(data, seed=5), 0, checkpoint)
    expected = [next(whole) for _ in range(8)]
    for seed in (5, 6):
        sampler = kind(data, seed=seed)
        next(islice(sampler, read, None))
        resumed = batches_from(sampler, 3, checkpoint)
        assert [next(resumed) for _ in range(5)] == expected[3:]


@pytest.mark.parametrize("named", [False, True])
def test_a_checkpoint_that_does_not_say_the_samplers_seed(named):
    """mmengine's own: the sampler was built with a seed that was drawn before the checkpoint's was known."""
    data = range(40)
    whole = batches_from(DefaultSampler(data, seed=5))
    expected = [next(whole) for _ in range(8)]
    cfg = dict(train_dataloader=dict(sampler=dict(type="DefaultSampler", **(dict(seed=5) if named else {}))))
    sampler, seed = (DefaultSampler(data, seed=5), 7) if named else (DefaultSampler(data, seed=6), 5)
    resumed = batches_from(sampler, 3, dict(meta=dict(epoch=0, iter=3)), seed, cfg)
    assert [next(resumed) for _ in range(5)] == expected[3:]


@pytest.mark.slow
def test_more_epochs_than_planned_are_warned_of(tmp_path):
    run(digits(tmp_path / "run"))
    assert "nothing is left to train: iteration 12 of 12 is done" in run(digits(tmp_path / "run"), go_on="latest")
    cfg = digits(tmp_path / "run")
    cfg.train_cfg.max_epochs = 4
    cfg.param_scheduler[1].update(T_max=16, end=16)
    output = run(cfg, go_on="latest")
    assert "CosineAnnealingLR: T_max is 16 in the config and 12 in the checkpoint, which counts" in output
    cfg = digits(tmp_path / "run")
    cfg.train_cfg.max_epochs = 5
    cfg.train_dataloader.num_batch_per_epoch = 2
    assert "an epoch has 2 batches and had 4" in run(cfg, go_on="latest")


@DATASETS.register_module()
class Stream(IterableDataset):
    """Samples one after the other, without numbers."""

    def __init__(self, dataset: dict) -> None:
        self.dataset = DATASETS.build(dataset)

    def __iter__(self) -> Iterator:
        return (self.dataset[i] for i in range(16))

    def __len__(self) -> int:
        return 16


@pytest.mark.slow
def test_streams_train_and_go_on(tmp_path):
    def stream(iterations: int) -> Config:
        cfg = digits_by_iteration(tmp_path / "run")
        loader = cfg.train_dataloader
        loader.pop("num_batch_per_epoch")
        loader.sampler, loader.dataset = None, dict(type="mmengine.Stream", dataset=deepcopy(loader.dataset))
        cfg.train_cfg.max_iters = iterations
        return cfg

    assert "exact resume needs samples by index" in run(stream(3))
    run(stream(6), go_on="latest")
    assert len(losses(tmp_path / "run")) == 6


def config(folder: Path) -> Config:
    return Config(dict(work_dir=str(folder)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A work folder with the checkpoints of two epochs."""
    cfg = digits(tmp_path_factory.mktemp("saved") / "run")
    cfg.train_cfg.max_epochs, cfg.default_hooks.checkpoint.max_keep_ckpts = 2, 2
    run(cfg)
    return Path(cfg.work_dir)


@pytest.fixture
def work_dir(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / "run")
    (tmp_path / "run/last_checkpoint").write_text(str(tmp_path / "run/epoch_2.pth"))
    return tmp_path / "run"


def goes_on_from(folder: Path) -> str:
    cfg = config(folder)
    resume(cfg, "latest")
    assert cfg.resume is True
    return Path(cfg.load_from).name


def test_newest_checkpoint_is_taken(work_dir, capsys):
    assert goes_on_from(work_dir) == "epoch_2.pth" and not capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", None])
def test_damaged_newest_falls_back_aloud(content, work_dir, capsys):
    newest = work_dir / "epoch_2.pth"
    newest.write_bytes(newest.read_bytes()[:-1000] if content is None else content)
    assert goes_on_from(work_dir) == "epoch_1.pth"
    said = capsys.readouterr().err
    assert f"checkpoint {newest}" in said and "is refused" in said
    assert f"going on from {work_dir / 'epoch_1.pth'}, the newest that loads" in said


@pytest.mark.parametrize("pointer", [None, "", "gone/epoch_9.pth"])
def test_without_last_checkpoint_the_folder_is_searched(pointer, work_dir, capsys):
    (work_dir / "last_checkpoint").unlink()
    if pointer is not None:
        (work_dir / "last_checkpoint").write_text(pointer)
    assert goes_on_from(work_dir) == "epoch_2.pth"
    assert "last_checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names, template",
    [
        (["epoch_10.pth", "epoch_9.pth", "best_acc_epoch_11.pth", "weights.pth"], None),
        (["interrupted.pth", "iter_300.pth"], None),
        (["epoch_11.pth", "iter_90000.pth"], None),  # of an older run
        (["step-0010.ckpt", "step-0009.ckpt", "epoch_99-3f2a9b77.pth"], "step-{:04d}.ckpt"),
    ],
)
def test_newest_is_so_by_its_name(names, template, work_dir, capsys):
    """A copied folder's files are as old as the copy, in any order."""
    for number, name in enumerate(names):
        shutil.copy(work_dir / "epoch_1.pth", work_dir / name)
        os.utime(work_dir / name, (number + 1e9, number + 1e9))
    (work_dir / "last_checkpoint").unlink()
    cfg = config(work_dir)
    cfg.default_hooks = dict(checkpoint=dict(type="CheckpointHook", filename_tmpl=template))
    assert Path(find_resumable(cfg)).name == names[0]
    assert f"is not there; the newest checkpoint is taken to be {work_dir / names[0]}" in capsys.readouterr().err


def test_nothing_to_resume_is_said(tmp_path, capsys):
    with pytest.raises(UsageError, match="nothing to resume in .*; to start from scratch leave --resume away"):
        resume(config(tmp_path), "latest")
    cfg = config(tmp_path)
    resume(cfg, "auto")
    assert not cfg.resume and "starts from scratch" in capsys.readouterr().out
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    resume(cfg, None)
    assert not cfg.resume and "starts from scratch" in capsys.readouterr().out


def test_a_config_says_where_to_start_when_there_is_nothing_to_resume(work_dir, tmp_path, capsys):
    """Fine-tuning that is always started with --resume auto; then the config that a resumed run has written."""
    cfg = Config(dict(work_dir=str(tmp_path / "new"), load_from="pretrained.pth"))
    resume(cfg, "auto")
    assert (cfg.resume, cfg.load_from) == (False, "pretrained.pth")
    assert "training starts from the weights in pretrained.pth" in capsys.readouterr().out
    earlier = str(work_dir / "epoch_1.pth")
    for folder, expected in ((tmp_path / "new", "epoch_1.pth"), (work_dir, "epoch_2.pth")):
        cfg = Config(dict(work_dir=str(folder), load_from=earlier, resume=True))
        resume(cfg, "auto")
        assert (cfg.resume, cfg.load_from) == (True, str(work_dir / expected))
    assert f"training goes on from {earlier}, as the config has it" in capsys.readouterr().out


def test_only_damaged_checkpoints_never_start_anew(work_dir):
    for name in ("epoch_1.pth", "epoch_2.pth"):
        (work_dir / name).write_bytes(b"")
    for how in ("latest", "auto"):
        with pytest.raises(UsageError, match="none of .*epoch_2.pth.* can be resumed from"):
            resume(config(work_dir), how)


def test_weights_only_are_said(work_dir):
    weights = work_dir / "weights.pth"
    torch.save(dict(state_dict=read_checkpoint(work_dir / "epoch_2.pth")["state_dict"]), weights)
    with pytest.raises(CheckpointError, match="has no epoch, iter, optimizer, message_hub.*load_from=.*weights.pth"):
        resume(config(work_dir), str(weights))
    with pytest.raises(UsageError, match="--resume nowhere.pth is not a file"):
        resume(config(work_dir), "nowhere.pth")
    check_resumable(str(work_dir / "epoch_2.pth"))


def test_protection_is_added_once_and_only_where_it_fits():
    cfg = Config(dict(train_dataloader=dict(num_workers=2), val_dataloader=dict(num_workers=0)))
    protect(cfg)
    protect(cfg)
    assert cfg.default_hooks.checkpoint.type == "mmsema.WholeCheckpointHook"
    names = ["mmsema.ExactResume", "mmsema.CheckFinite", "mmsema.StopOnSignal"]
    assert [hook.type for hook in cfg.custom_hooks] == names
    assert cfg.train_dataloader.timeout == 300 and "timeout" not in cfg.val_dataloader
    for hook in (CheckpointHook, "mmengine.CheckpointHook"):  # as configs in the new style name it
        cfg = Config(dict(default_hooks=dict(checkpoint=dict(type=hook)), custom_hooks=[dict(type=ExactResume)]))
        protect(cfg)
        assert cfg.default_hooks.checkpoint.type == "mmsema.WholeCheckpointHook"
        assert [hook.type for hook in cfg.custom_hooks] == [ExactResume, *names[1:]]
    cfg = Config(
        dict(default_hooks=dict(checkpoint=dict(type="MyHook")), train_dataloader=dict(num_workers=1, timeout=9))
    )
    protect(cfg)
    assert cfg.default_hooks.checkpoint.type == "MyHook" and cfg.train_dataloader.timeout == 9
    cfg.train_dataloader.num_workers = 0  # PyTorch refuses a timeout then
    protect(cfg)
    assert "timeout" not in cfg.train_dataloader

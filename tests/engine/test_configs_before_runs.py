"""What tools/train.py and tools/test.py make of a config and their arguments, before anything is built."""

import multiprocessing
import os
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmdet.engine.hooks import DetVisualizationHook
from mmengine.config import Config

from mmsema.engine import UsageError, launch

ROOT = Path(__file__).resolve().parents[2]


def arguments(folder: Path, text: str, **more) -> Namespace:
    """Those for the digits' config with more in it, and a checkpoint."""
    (folder / "changed.py").write_text(f"_base_ = {str(ROOT / 'configs/sema-pico_digits.py')!r}\n{text}\n")
    (folder / "weights.pth").touch()
    given = dict(config=str(folder / "changed.py"), checkpoint=str(folder / "weights.pth"), cfg_options=[])
    given.update(launcher="none", work_dir=str(folder / "work"), audit=False, show_dir=None, labels="auto", out=None)
    return Namespace(**{**given, **more})


@pytest.fixture
def tested(monkeypatch, tmp_path):
    """The config that tools/test.py builds a runner from."""
    monkeypatch.setattr(launch, "build_runner", lambda cfg, min_matched: SimpleNamespace(cfg=cfg, test=None))
    monkeypatch.setattr(launch, "run_or_fail", lambda runner, _: seen.append(runner.cfg))
    seen = []

    def test(text: str = "", **more) -> Config:
        launch.test(arguments(tmp_path, text, **more))
        return seen.pop()

    return test


def test_config_of_a_resumed_run_is_tested_without_resuming(tested, tmp_path):
    cfg = tested("resume = True\nload_from = 'epoch_3.pth'")
    assert (cfg.resume, cfg.load_from) == (False, str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("whole", [False, True])
def test_predictions_are_dumped_beside_the_metrics(whole, tested):
    accuracy = dict(type="Accuracy", topk=(1,))
    evaluator = dict(type="Evaluator", metrics=[accuracy]) if whole else accuracy
    cfg = tested(f"test_evaluator = dict(_delete_=True, **{evaluator})", out="out.pkl")
    metrics = cfg.test_evaluator.metrics if whole else cfg.test_evaluator
    assert metrics == [accuracy, dict(type="mmengine.DumpResults", out_file_path="out.pkl")]


def test_pictures_come_from_the_hook_that_the_config_has(tested):
    hook = tested(show_dir="pictures").default_hooks.visualization
    assert hook.enable and hook.out_dir == "pictures"
    # as in the new style: no scope, and the class itself
    cfg = Config(dict(default_hooks=dict(visualization=dict(type=DetVisualizationHook))))
    launch.show(cfg, "pictures", "auto")
    assert cfg.default_hooks.visualization == dict(type=DetVisualizationHook, draw=True, test_out_dir="pictures")
    for hooks in (None, dict(), dict(visualization=None), dict(visualization=dict(type="NoHook"))):
        with pytest.raises(UsageError, match="--show-dir needs a visualization hook of mmdet, mmpretrain or mmseg"):
            launch.show(Config(dict(default_hooks=hooks)), "pictures", "auto")


def test_learning_rate_is_not_scaled_without_a_batch_size(tmp_path):
    with pytest.raises(UsageError, match="--auto-scale-lr needs auto_scale_lr=dict"):
        launch.train(arguments(tmp_path, "auto_scale_lr = None", auto_scale_lr=True, amp=False, resume=None))


def import_formatter(cache: Path, patience: float) -> None:
    """In a process of its own: exit code 0 if it imports, 2 if it says that the cache is damaged."""
    for name in [name for name in sys.modules if name.startswith("yapf")]:
        del sys.modules[name]
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        launch.import_formatter(patience)
    except UsageError as error:
        sys.exit(2 if "yapf, which lays out configs, has a damaged cache" in str(error) else 3)


def test_a_half_written_cache_of_yapf_is_waited_for(tmp_path):
    """As the processes of a distributed start find it on a new machine, one of which writes it."""

    def start(patience: float) -> multiprocessing.Process:
        process = multiprocessing.get_context("fork").Process(target=import_formatter, args=(tmp_path, patience))
        process.start()
        return process

    def code(process: multiprocessing.Process) -> int:
        process.join()
        return process.exitcode

    assert code(start(0)) == 0
    (path,) = tmp_path.glob("YAPF/*/Grammar*.pickle")
    whole = path.read_bytes()
    for part in (0, 10000):
        path.write_bytes(whole[:part])
        assert code(start(0)) == 2
    waiting = start(60)
    waiting.join(1)
    assert waiting.is_alive()
    path.write_bytes(whole)
    assert code(waiting) == 0

"""Values with which a run would fail late, or come to nothing, are named before it begins."""

import copy
import logging
from contextlib import suppress
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from mmsema.engine.check import problem_of_work_dir, read
from mmsema.engine.check.values import check_values
from mmsema.engine.errors import UsageError
from mmsema.engine.failure import RunFailed, run_or_fail, what_happened
from mmsema.engine.launch import build_runner

ROOT = Path(__file__).resolve().parents[2]
LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
PIPELINE = "train_dataloader.dataset.pipeline"


def scheduler(**settings):
    return [dict(type="LinearLR", by_epoch=False, **settings)]


# place, value, words of the one line; the place is the line's first word unless it is given
FAULTS = [
    ("train_dataloader.batch_size", 0, "at least 1, got 0"),
    ("train_cfg.max_epochs", 0, "a whole number from 1, got 0"),
    ("train_cfg.max_epochs", 1.5, "got 1.5"),
    ("train_cfg.val_interval", 0, "got 0"),
    ("train_cfg.val_interval", float("inf"), "a whole number from 1, got inf"),
    ("train_cfg.max_epochs", float("nan"), "a whole number from 1, got nan"),
    ("optim_wrapper.optimizer.lr", -1e-3, "a number from 0, got -0.001"),
    ("optim_wrapper.optimizer.lr", "1e-3", "a number from 0, got '1e-3'"),
    ("optim_wrapper.optimizer.lr", None, "a number from 0, got None"),
    ("optim_wrapper.clip_grad.max_norm", -1.0, "above 0, got -1.0"),
    ("optim_wrapper.accumulative_counts", 0, "got 0"),
    ("optim_wrapper.head.optimizer.lr", -1, "a number from 0, got -1"),
    ("default_hooks.logger.interval", 0, "got 0"),
    ("default_hooks.checkpoint.interval", 0, "-1 for none, got 0"),
    ("default_hooks.checkpoint.save_best", "coco/bbox_map", "gives no 'coco/bbox_map'; did you mean coco/bbox_mAP?"),
    ("default_hooks.checkpoint.save_best", ["auto", "quality"], "gives no 'quality'; it gives coco/bbox_mAP, "),
    ("custom_hooks", [dict(type="EarlyStoppingHook", monitor="bbox_mAP")], "[0].monitor: val_evaluator gives no"),
    ("param_scheduler", scheduler(start_factor=0.0, end=5), "[0].start_factor: must be above 0"),
    ("param_scheduler", scheduler(start_factor=0.1, begin=5, end=2), "[0].end: must be above begin, 5, got 2"),
    ("randomness.seed", "abc", "got 'abc'"),
    ("randomness.seed", -5, "from 0 to 4294967295, or None, got -5"),
    ("model.data_preprocessor.std", [0, 0, 0], "above 0, got [0, 0, 0]"),
    ("model.rpn_head.anchor_generator.scales", [4, 0], "above 0, got [4, 0]"),
    ("model.test_cfg.rcnn.score_thr", 2, "below 1"),
    ("model.test_cfg.rcnn.nms.iou_threshold", 50, "1 at most, got 50"),
    (PIPELINE, [*LOAD, dict(type="RandomFlip", prob=1.5), dict(type="PackDetInputs")], "[2].prob: must be from 0 to 1"),
    (PIPELINE, [*LOAD, dict(type="Resize", scale=(0, 0)), dict(type="PackDetInputs")], "[2].scale: must be above 0"),
    (PIPELINE, LOAD, "must end with what packs it for the model, PackDetInputs, got LoadAnnotations"),
    (PIPELINE, [LOAD[1], dict(type="PackDetInputs")], "must load pictures first, with LoadImageFromFile"),
    (PIPELINE, [LOAD[0], dict(type="LoadAnnotations", with_bbox=True), dict(type="PackDetInputs")],
     "[1].with_mask: must be True, as model.roi_head has a mask_head"),
    ("work_dir", 5, "a text, got 5"),
    ("log_level", "LOUD", "'INFO', got 'LOUD'"),
    ("env_cfg.mp_cfg.mp_start_method", "forked", "fork"),
]  # fmt: skip


@pytest.fixture(scope="module")
def config():
    return Config.fromfile(ROOT / "configs/mask-rcnn_sema-pico_fpn_shapes.py")


def changed(config, place, value):
    cfg = copy.deepcopy(config)
    *above, last = place.split(".")
    here = cfg
    for key in above:
        if key not in here:
            here[key] = {}
        here = here[key]
    here[last] = value
    return cfg


@pytest.mark.scorecard("config")
@pytest.mark.parametrize(("place", "value", "words"), FAULTS, ids=lambda value: str(value)[:30])
def test_value_is_named(config, place, value, words):
    ((path, text),) = check_values(changed(config, place, value))
    assert path.startswith(place) and words in f"{path}: {text}", f"{path}: {text}"


@pytest.mark.parametrize(
    ("place", "others"),
    [("test_evaluator", "test_dataloader and test_cfg"), ("optim_wrapper", "train_dataloader and train_cfg")],
)
def test_missing_parts_are_named_when_a_runner_is_built(config, place, others):
    cfg = changed(config, place, None)
    assert check_values(cfg) == []  # there is more to do with a config than to run it
    with pytest.raises(UsageError, match=f"^{place}: missing, where {others} are given"):
        build_runner(cfg, min_matched=1.0)


def test_what_classes_refuse_is_one_line(config, tmp_path):
    cfg = changed(config, "model.data_preprocessor.mean", [1, 2])
    cfg.work_dir = str(tmp_path)
    with pytest.raises(UsageError, match="^the config cannot be used: AssertionError: `mean` should have 1 or 3"):
        build_runner(cfg, min_matched=1.0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("train_dataloader.dataset.pipeline", []),
        ("param_scheduler", None),
        ("default_hooks.checkpoint.save_best", "auto"),
        ("default_hooks.checkpoint.save_best", "coco/segm_mAP_50"),
        ("default_hooks.checkpoint.interval", -1),
        ("val_evaluator", [dict(type="CocoMetric", metric="bbox"), dict(type="MyMetric")]),
        ("randomness.seed", None),
        ("train_cfg.val_interval", 57300.0),
        ("custom_hooks", [dict(type="EMAHook")]),
    ],
)
def test_other_values_pass(config, place, value):
    assert check_values(changed(config, place, value)) == []


def test_names_of_a_loop_that_the_check_does_not_know(config):
    """mmdet's semi-supervised training."""
    cfg = changed(config, "val_cfg.type", "TeacherStudentValLoop")
    assert check_values(changed(cfg, "default_hooks.checkpoint.save_best", "teacher/coco/bbox_mAP")) == []


def test_names_of_a_metric_that_the_check_does_not_know(config):
    cfg = changed(config, "val_evaluator.metric", "proposal_fast")
    assert check_values(changed(cfg, "default_hooks.checkpoint.save_best", "coco/AR@100")) == []


def test_names_of_another_metric_that_is_called_alike(config, monkeypatch):
    """mmpose's."""
    monkeypatch.setitem(METRICS.module_dict, "CocoMetric", type("CocoMetric", (BaseMetric,), {}))
    cfg = changed(config, "default_hooks.checkpoint.save_best", "coco/AP")
    assert check_values(changed(cfg, "default_scope", "mmengine")) == [] != check_values(cfg)


def test_pipelines_that_pack_in_branches(config):
    """mmdet's semi-supervised training."""
    branches = dict(type="MultiBranch", branch_field=["sup"], sup=dict(type="PackDetInputs"))
    assert check_values(changed(config, PIPELINE, [*LOAD, branches])) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [("_base_ = 5\n", ":1: _base_ must be a file name or a list"), ("import sys\nsys.exit(0)\n", ":2: SystemExit: 0")],
)
def test_files_that_end_the_reading(text, words, tmp_path):
    (tmp_path / "planted.py").write_text(text)
    with pytest.raises(UsageError, match=f"planted.py{words}"):
        read(tmp_path / "planted.py")


def test_work_folder_without_a_name():
    assert "must name a folder, got ''" in problem_of_work_dir("", [], resume=False)


class Running:
    """As much of a runner as a failure needs."""

    logger = logging.getLogger("no handlers")

    def register_hook(self, hook):
        self.hook = hook


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`.\n",
         "RuntimeError: CUDA error: device-side assert triggered"),
        ("Expected to have finished reduction.\nParameter indices: 3 4\n In addition, you can set",
         "RuntimeError: Expected to have finished reduction."),
        ("Error(s) in loading state_dict for EMA:\n\tsize mismatch for a.weight",
         "RuntimeError: Error(s) in loading state_dict for EMA: size mismatch for a.weight"),
        ('Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
         '  File "a.py", line 1, in f\n    g()\nKeyError: 1\n\nDuring handling of the above exception:\n\n'
         'Traceback (most recent call last):\n  File "a.py", line 3, in f\n    h()\nValueError: bad picture\nat 7',
         "ValueError: bad picture"),
    ],
)  # fmt: skip
def test_what_happened_is_the_line_with_the_cause(text, words):
    assert what_happened(RuntimeError(text)) == words


@pytest.mark.parametrize(
    ("error", "started", "kind", "text"),
    [
        (ValueError("Invalid lr"), False, UsageError, "the config cannot be used: ValueError: Invalid lr"),
        (ValueError("Invalid lr"), True, RunFailed, "ValueError: Invalid lr"),
        (OSError("No space left on device"), False, RunFailed, "OSError: No space left on device"),
        (AssertionError(), True, RunFailed, r"AssertionError: raise error \(.*test_values.py:\d+\)"),
    ],
)
def test_who_can_mend_it(error, started, kind, text):
    runner = Running()

    def work():
        if started:
            runner.hook.before_train(runner)
        raise error

    with pytest.raises(kind, match=f"^{text}$"):
        run_or_fail(runner, work)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_full_disk_is_told_once_and_no_log_is_named_that_was_not_written(tmp_path, capsys):
    def work():
        runner.logger.error("a line of the run")
        runner.logger.error("%d", "no number")
        raise OSError("No space left on device")

    runner = Running()
    runner.logger = logging.Logger("of the run")
    for path, where in ((tmp_path / "a.log", rf" \(traceback in {tmp_path / 'a.log'}\)"), ("/dev/full", "")):
        runner.logger.handlers = [logging.FileHandler(path)]
        with pytest.raises(RunFailed, match=f"^OSError: No space left on device{where}$"):
            run_or_fail(runner, work)
        with suppress(OSError):
            runner.logger.handlers[0].close()
    assert "line of the run\nTraceback" in (tmp_path / "a.log").read_text()
    errors = capsys.readouterr().err  # mistakes in what is logged are still told
    assert errors.count("--- Logging error ---") == errors.count("TypeError: %d format") == 2

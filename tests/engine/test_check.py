"""Every planted fault is named in one line, alone and all at once; what ships is not blamed."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from config_faults import FAULTS, ROOT, SHAPES, plant
from mmengine.config import Config

from mmsema.engine.check import find_faults, problem_of_work_dir
from mmsema.engine.check.probe import quietly
from mmsema.engine.config import load_config, read_config
from mmsema.engine.errors import UsageError


def lines_on(path, options=(), **more) -> list:
    arguments = Namespace(config=str(path), cfg_options=list(options), launcher="none", work_dir=None, **more)
    with pytest.raises(UsageError) as caught:
        load_config(arguments)
    return str(caught.value).split("\nerror: ")


@pytest.mark.slow
@pytest.mark.scorecard("config")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_named_in_one_line(fault, tmp_path):
    lines = lines_on(plant(fault, tmp_path), fault.options)
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in fault.words), lines[0]
    assert "\n" not in lines[0] and len(lines[0]) < 400


def test_all_faults_at_once(tmp_path):
    text = (
        "optim_wraper = dict()\nmodel = dict(rpn_head=dict(feat_channel=4), neck=dict(in_channels=[8, 8, 8, 8]),"
        " roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))\n"
        "custom_hooks = [dict(type='EMAHok')]\n"
    )
    (tmp_path / "planted.py").write_text(f"_base_ = {str(SHAPES)!r}\n{text}")
    lines = lines_on(tmp_path / "planted.py", ["modle.a=1", "train_dataloader.batch_size=four"])
    starts = [line.split(": ")[0] for line in lines]
    assert sorted(starts) == sorted(
        [
            "--cfg-options modle.a",
            "--cfg-options train_dataloader.batch_size",
            "optim_wraper",
            "custom_hooks[0].type",
            "model.rpn_head.feat_channel",
            "model.neck.in_channels",
            "model.roi_head.bbox_head.num_classes",
            "model.roi_head.mask_head.num_classes",
        ]
    )


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_what_ships_passes(path):
    if "mmseg::" in path.read_text():
        pytest.importorskip("mmseg")
    read_config(path)


@pytest.mark.parametrize(
    "option",
    ["model.backbone.with_cp=True", "train_cfg.val_interval=2", "param_scheduler.0.end=10", "custom_hooks=[]",
     "default_hooks.checkpoint.by_epoch=True", "randomness.seed=1", "model.neck.in_channels=[32,64,128,256]",
     "optim_wrapper.optimizer.fused=True", "model.train_cfg.rcnn.sampler.num=8", "work_dir=elsewhere"],
)  # fmt: skip
def test_options_that_something_takes_pass(option):
    read_config(SHAPES, [option])


def test_imports_that_an_option_names_are_done(tmp_path, monkeypatch):
    (tmp_path / "has_a_mixer.py").write_text(
        "from mmsema.models.mixers import MIXERS\nMIXERS['of_an_option'] = MIXERS['sema']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    read_config(SHAPES, ["custom_imports.imports=[mmsema,has_a_mixer]", "model.backbone.mixer=of_an_option"])
    (line,) = lines_on(SHAPES, ["custom_imports.imports=[mmsema,has_no_mixer]"])
    assert line.startswith("custom_imports.imports: no module 'has_no_mixer'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone, channels",
    [
        (dict(type="ResNet", depth=50), [256, 512, 1024, 2048]),
        (dict(type="SwinTransformer"), [96, 192, 384, 768]),
        (dict(type="mmpretrain.ConvNeXt", arch="tiny", out_indices=(0, 1, 2, 3), gap_before_final_norm=False),
         [96, 192, 384, 768]),
    ],
)  # fmt: skip
def test_channels_of_any_backbone(backbone, channels, tmp_path):
    text = f"_base_ = {str(SHAPES)!r}\nmodel = dict(backbone=dict(_delete_=True, **{backbone}), neck=dict(in_channels="
    path = tmp_path / "planted.py"
    path.write_text(f"{text}{channels}))\n")
    read_config(path)
    path.write_text(f"{text}[8, 8, 8, 8]))\n")
    (line,) = lines_on(path)
    assert line.startswith(f"model.neck.in_channels: must be {channels}")


def test_switched_off(monkeypatch, tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(f"_base_ = {str(SHAPES)!r}\noptim_wraper = dict()\n")
    monkeypatch.setenv("MMSEMA_CONFIG_CHECK", "off")
    read_config(path)


@pytest.mark.parametrize(
    "scope, name, kind",
    [("mmdet", "Albu", "CocoDataset"), ("mmseg", "Albu", "ADE20KDataset"), ("mmpretrain", "Albumentations", "CIFAR10")],
)
def test_transforms_of_albumentations_are_not_ours_to_know(scope, name, kind):
    pytest.importorskip(scope)
    steps = [dict(type=name, transforms=[dict(type="RandomGamma", p=0.5)]), dict(type=f"No{name}")]
    data = dict(dataset=dict(type=kind, pipeline=steps))
    lines = find_faults(Config(dict(default_scope=scope, model=dict(type="mmsema.SEMA"), train_dataloader=data)))
    assert len(lines) == 1 and f"No{name}" in lines[0], lines


def test_the_random_state_is_as_it_was():
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    with quietly():
        torch.rand(3)
    assert torch.rand(1) == first


def test_work_folder_of_an_earlier_run(tmp_path):
    assert problem_of_work_dir(str(tmp_path / "new" / "folder"), resume=False) is None
    (tmp_path / "iter_7.pth").touch()
    assert "iter_7.pth" in problem_of_work_dir(str(tmp_path), resume=False)
    assert problem_of_work_dir(str(tmp_path), resume=True) is None


# what is wrong with configs that the hosts ship, or needs packages that are not installed here
HOSTS_OWN = (
    "CocoMetric has no eval_mode", "OpenMMLab 1.x", "names neither a type nor by_epoch", "nothing reads _delete",
    "LoRAModel cannot be built", "in mmengine; ", "is the module that registers it missing in custom_imports?",
    "no dataset 'MiniGPT4Dataset'", "the config has no model", "no metric 'MOTChallengeMetrics'",
    "VPD cannot be built: AssertionError: To use VPD model, please install",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("host", ["mmdet", "mmpretrain", "mmseg"])
def test_configs_of_the_hosts_pass(host):
    """Every tenth; docs/config_check.md has the result for all."""
    folder = Path(pytest.importorskip(host).__file__).parent / ".mim/configs"
    paths = [path for path in sorted(folder.rglob("*.py")) if "_base_" not in str(path)][::10]
    wrong, read = {}, 0
    for path in paths:
        try:
            cfg = Config.fromfile(str(path), import_custom_modules=False)
        except Exception:  # a base that the host does not ship
            continue
        read += 1
        lines = [line for line in find_faults(cfg) if not any(known in line for known in HOSTS_OWN)]
        wrong.update({path.name: lines} if lines else {})
    assert not wrong and read > 0.9 * len(paths)

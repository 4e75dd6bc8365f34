"""mmpretrain knows our classifiers by name, and is not imported for that."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIST = "from mmpretrain import list_models, get_model; names = list_models('sema*')"
CHECK = """
assert 'sema-t_8xb128_in1k' in names and 'sema-pico_digits' in names, names
assert not [name for name in list_models() if 'rcnn' in name]
model = get_model('sema-pico_digits')
assert type(model.backbone).__module__ == 'mmsema.models.sema'
assert sum(p.numel() for p in model.parameters()) == 1945562
"""


PRETRAINED = """
import torch
import mmsema
from mmpretrain import get_model
model = get_model('sema-pico_cifar10', pretrained=True)
stored = torch.load(FILE, weights_only=True)['state_dict']
state = model.state_dict()
assert set(state) == set(stored)
assert all(torch.equal(tensor, stored[name].to(tensor.dtype)) for name, tensor in state.items())
"""


def python(code: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=cwd)


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [f"import mmsema; {LIST}", f"import mmpretrain, mmsema; {LIST}"],
    ids=["mmsema first", "mmpretrain first"],
)
def test_list_models_and_get_model_know_our_names(imports, tmp_path):
    done = python(imports + CHECK, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_get_model_loads_the_published_weights(tmp_path):
    (file,) = (ROOT / "results/weights").glob("sema-pico_cifar10-*.pth")
    done = python(PRETRAINED.replace("FILE", repr(str(file))), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_importing_mmsema_imports_no_host_and_leaves_no_finder_behind(tmp_path):
    code = """
import sys
import mmsema
assert not {'mmpretrain', 'mmdet', 'mmcv'} & set(sys.modules)
waiting = [finder for finder in sys.meta_path if type(finder).__module__ == 'mmsema.hub']
assert len(waiting) == 1
import mmpretrain
assert waiting[0] not in sys.meta_path
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_second_registration_changes_nothing():
    from mmpretrain import list_models

    from mmsema.hub import register_classifiers

    before = list_models()
    register_classifiers()
    assert list_models() == before


def test_weights_are_the_repositorys_files_or_none():
    from mmsema import hub

    (file,) = (ROOT / "results/weights").glob("mask-rcnn_sema-pico_fpn_nuclei-*.pth")
    names = dict(
        here=f"results/weights/{file.name}", gone="results/weights/gone.pth", url="https://a.org/b.pth", none=None
    )

    class ModelHub:
        _models_dict = {name: SimpleNamespace(weights=weights) for name, weights in names.items()}
        has = staticmethod(lambda name: False)
        register_model_index = staticmethod(lambda index, config_prefix: None)

    hub._register(SimpleNamespace(ModelHub=ModelHub))
    weights = {name: model.weights for name, model in ModelHub._models_dict.items()}
    assert weights == dict(names, here=str(file), gone=None)

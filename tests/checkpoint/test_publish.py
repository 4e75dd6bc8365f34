import numpy as np
import pytest
import torch

from mmsema import SEMA
from mmsema.checkpoint import CheckpointError, load_weights, publish_model


def test_in_float16(tmp_path):
    trained = tmp_path / "epoch_1.pth"
    model = SEMA(arch=dict(embed_dims=8, depths=(1,), num_heads=(1,)), out_indices=(0,))
    state = model.state_dict()
    torch.save(dict(state_dict=state), trained)
    path = publish_model(trained, tmp_path / "sema.pth", half=True)
    published = torch.load(path, weights_only=True)["state_dict"]
    for name, tensor in state.items():
        assert torch.equal(published[name], tensor.half() if tensor.is_floating_point() else tensor)
    torch.nn.init.constant_(model.norm0.bias, 3.0)
    assert not load_weights(model, path).missing and not model.norm0.bias.any()
    assert all(tensor.dtype == state[name].dtype for name, tensor in model.state_dict().items())
    state["norm0.bias"][3] = 7e4
    torch.save(dict(state_dict=state), trained)
    with pytest.raises(CheckpointError, match=r"norm0.bias has 7e\+04, too large for float16"):
        publish_model(trained, tmp_path / "sema.pth", half=True)


def test_numpy_in_the_data_sets_facts_is_read_by_all(tmp_path):
    trained, palette = tmp_path / "epoch_1.pth", np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    meta = dict(dataset_meta=dict(classes=("a", "b"), palette=palette, more=[np.float32(0.5), {"n": np.int64(3)}]))
    torch.save(dict(state_dict=dict(a=torch.zeros(2)), meta=meta), trained)
    published = torch.load(publish_model(trained, tmp_path / "sema.pth"), weights_only=True)
    expected = dict(classes=("a", "b"), palette=[[1, 2, 3], [4, 5, 6]], more=[0.5, {"n": 3}])
    assert published["meta"]["dataset_meta"] == expected


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    torch.save(dict(state_dict=dict(a=torch.zeros(2))), tmp_path / "epoch_1.pth")
    with pytest.raises(CheckpointError, match="cannot be written: .*notes.txt"):
        publish_model(tmp_path / "epoch_1.pth", tmp_path / "notes.txt/sema.pth")

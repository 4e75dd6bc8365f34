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

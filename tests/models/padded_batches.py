"""Small backbones, batches of pictures of different sizes, and what must be so of each picture in one."""

import torch

from mmsema import SEMA
from mmsema.models import padding

NARROW = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 4))
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}  # relative, in norm


def build(arch=NARROW, dtype=torch.float64, cls=SEMA, **options):
    """In eval mode, with parameters and statistics that matter: as initialised, biases are 0 and attention uniform."""
    torch.manual_seed(0)
    model = cls(arch, **options).to(dtype).eval()
    for name, p in model.named_parameters():
        if "qk_proj.weight" in name:
            p.data *= 10
        if p.ndim == 1:
            p.data += 0.3 * torch.randn_like(p)
    for name, b in model.named_buffers():
        if "running_mean" in name:
            b.normal_(std=0.1)
        if "running_var" in name:
            b.uniform_(0.5, 2)
    return model


def batch(sizes, dtype=torch.float64, pad_value=0.0, seed=0):
    """Random pictures of these sizes, padded to the largest height and the largest width."""
    generator = torch.Generator().manual_seed(seed)
    H, W = (max(side) for side in zip(*sizes, strict=True))
    x = torch.full((len(sizes), 3, H, W), pad_value, dtype=dtype)
    for picture, (h, w) in zip(x, sizes, strict=True):
        picture[:, :h, :w] = torch.randn(3, h, w, generator=generator, dtype=torch.float64)
    return x


def random_sizes(count, smallest, largest, seed=0):
    sides = torch.randint(smallest, largest + 1, (count, 2), generator=torch.Generator().manual_seed(seed))
    return [tuple(size) for size in sides.tolist()]


def parts(outputs, i, size):
    """What belongs to picture i in maps of strides 4, 8, 16, 32, as a batch of one; the rest must be 0."""
    found = []
    for out in outputs:
        stride = 4 * out.shape[1] // outputs[0].shape[1]
        h, w = (-(-side // stride) for side in size)
        assert not out[i, :, h:].any() and not out[i, :, :, w:].any()
        found.append(out[i : i + 1, :, :h, :w])
    return found


def assert_near(actual, expected, dtype, name=""):
    error = (actual - expected).norm() / expected.norm().clamp(min=1e-6)
    assert actual.shape == expected.shape and error <= TOLERANCE[dtype], f"{name}: {error:.1e}"


def assert_alone(model, sizes, dtype, batch_size=4):
    """The maps of every picture in batches equal those of the picture alone."""
    with torch.no_grad():
        for first in range(0, len(sizes), batch_size):
            mates = sizes[first : first + batch_size]
            x = batch(mates, dtype, seed=first)
            together = model(x)
            for i, (h, w) in enumerate(mates):
                alone = model(x[i : i + 1, :, :h, :w])
                for out, expected in zip(parts(together, i, (h, w)), alone, strict=True):
                    assert_near(out, expected, dtype, f"{(h, w)} among {mates}")


def weighted_sum(outputs, sizes):
    """A loss of which every number of the maps, also those outside, has its own weight."""
    total = 0
    for out in outputs:
        row, col = (torch.arange(n, dtype=out.dtype) for n in out.shape[2:])
        total = total + (out.square() * (1 + row[:, None] / 7 + col.cos())).sum() + out.sum()
    return total


def read_nothing(patch):
    """Take the paths of devices whose numbers are not to be waited for."""
    from mmsema_kernels import eager, sizes

    for module in (eager, sizes, padding):
        patch.setattr(module, "can_read", lambda sizes: False)

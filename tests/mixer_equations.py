"""The equations of all mixers, from their papers, in float64: every n x n matrix of weights is built, head by head.

Written apart from mmsema: of a mixer under test only the parameters are used. RoPE's cosines and sines are rounded to
float32, as the operators' tables are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def turn(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """2-D RoPE of tokens (n, C), as complex numbers."""
    quarter = x.shape[1] // 4
    theta = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.cat([rows[:, None] * theta, cols[:, None] * theta], dim=1)
    factor = torch.complex(angle.cos().float().double(), angle.sin().float().double())
    turned = torch.complex(x[:, 0::2], x[:, 1::2]) * factor
    return torch.stack([turned.real, turned.imag], dim=-1).reshape(x.shape)


def softmax_of(scores: Tensor) -> Tensor:
    powers = (scores - scores.max(1, keepdim=True).values).exp()
    return powers / powers.sum(1, keepdim=True)


def positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, x.exp())  # elu + 1


def focused(x: Tensor, t: Tensor) -> Tensor:
    x = (x.clamp(min=0) + 1e-6) / (1 + t.exp()).log()
    cube = x * x * x
    return x.pow(2).sum(1, keepdim=True).sqrt() * cube / cube.pow(2).sum(1, keepdim=True).sqrt()


def local_convolution(v: Tensor, kernels: Tensor, bias: Tensor, H: int, W: int) -> Tensor:
    """Depthwise convolution of tokens (n, C) with kernels (C, side, side), tap by tap, zeros around the map."""
    side = kernels.shape[-1]
    around = F.pad(v.reshape(H, W, -1), (0, 0, side // 2, side // 2, side // 2, side // 2))
    out = bias.expand(H, W, -1)
    for i in range(side):
        for j in range(side):
            out = out + around[i : i + H, j : j + W] * kernels[:, i, j]
    return out.reshape(H * W, -1)


def grouped(x: Tensor, layer: torch.nn.Conv1d) -> Tensor:
    """A 1 x 1 convolution in groups, on one token (C,)."""
    parts = x.chunk(layer.groups)
    weights = layer.weight[..., 0].chunk(layer.groups)
    return torch.cat([w @ part for w, part in zip(weights, parts, strict=True)]) + layer.bias


def weights(name: str, q: Tensor, k: Tensor, rq: Tensor, rk: Tensor) -> Tensor:
    """(n, n), of one head; q, k after the feature map, (n, d), rq and rk turned."""
    n, d = q.shape
    s = d**-0.5
    if name == "softmax":
        return softmax_of(s * rq @ rk.T)
    if name == "linear":
        return rq @ rk.T / n / (q @ k.mean(0) + 1e-6)[:, None]
    if name == "inline":
        return s * q @ k.T / n + (1 - s * q @ k.mean(0))[:, None] / n
    if name == "focused":
        return q @ k.T / n / (q @ k.mean(0) + 1e-6)[:, None]
    if name == "mala":
        z = s * (q @ k.mean(0))[:, None]
        return (1 + 1 / (z + 1e-6)) * s * rq @ rk.T / n - z / n
    if name == "rala":
        share = softmax_of(s * (q.mean(0) @ k.T)[None])[0]
        return (rq @ rk.T * share) / (q @ (n * share[:, None] * k).mean(0) + 1e-6)[:, None]
    raise KeyError(name)


def attended(name: str, mixer: torch.nn.Module, x: Tensor, rope: bool = True) -> Tensor:
    """What a mixer makes of one picture (H, W, C), before LePE and gate: (n, C). SEMA's name has its averaging."""
    H, W, C = x.shape
    n, w, d = H * W, mixer.window_size, C // mixer.num_heads
    v = x.reshape(n, C)
    rows = torch.arange(H).repeat_interleave(W)
    cols = torch.arange(W).repeat(H)
    q, k = (v @ mixer.qk_proj.weight.T + mixer.qk_proj.bias).split(C, dim=1)
    plain_k = k
    if name in ("linear", "mala", "rala"):
        q, k = positive(q), positive(k)
    if name == "focused":
        q, k = focused(q, mixer.scale), focused(k, mixer.scale)
    windowed = name in ("mean", "none", "max", "weighted", "scaled")
    rq, rk = q, k
    if rope:
        rq, rk = (turn(t, rows % w, cols % w) if windowed else turn(t, rows, cols) for t in (q, k))
    same = ((rows // w)[:, None] == (rows // w)[None]) & ((cols // w)[:, None] == (cols // w)[None])
    heads = []
    for head in range(mixer.num_heads):
        part = slice(head * d, (head + 1) * d)
        if windowed:
            matrix = softmax_of((d**-0.5 * rq[:, part] @ rk[:, part].T).masked_fill(~same, -torch.inf))
            if name == "mean":
                matrix = matrix + 1 / n
            elif name == "scaled":
                matrix = matrix + mixer.average.factor / n
            elif name == "weighted":
                matrix = matrix + softmax_of(d**-0.5 * mixer.average.query[head : head + 1] @ plain_k[:, part].T)
        else:
            matrix = weights(name, q[:, part], k[:, part], rq[:, part], rk[:, part])
        heads.append(matrix @ v[:, part])
    out = torch.cat(heads, dim=1)
    if name == "max":
        out = out + v.max(0).values
    if name == "inline":
        first, _, second = mixer.local_kernel
        hidden = grouped(v.mean(0), first)
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        out = out + local_convolution(v, grouped(hidden, second).reshape(C, 3, 3), torch.zeros(C).double(), H, W)
    if name == "focused":
        kernels, bias = (t.repeat(mixer.num_heads, *[1] * (t.ndim - 1)) for t in (mixer.conv.weight, mixer.conv.bias))
        out = out + local_convolution(v, kernels[:, 0], bias, H, W)
    return out


def mixed(name: str, mixer: torch.nn.Module, x: Tensor, gate: Tensor) -> Tensor:
    """The whole mixer on maps (B, H, W, C), picture by picture."""
    H, W = x.shape[1:3]
    pictures = []
    for picture in x:
        lepe = local_convolution(picture.reshape(H * W, -1), mixer.lepe.weight[:, 0], mixer.lepe.bias, H, W)
        pictures.append((attended(name, mixer, picture) + lepe).reshape(picture.shape))
    return gate * torch.stack(pictures)

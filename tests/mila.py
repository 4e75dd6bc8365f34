"""MILA's classifier (arXiv 2405.16605), names of the tensors and arithmetic, written for the tests alone.

Nothing here is shared with mmsema: RoPE as complex numbers in float64, attention as an explicit n x n matrix.
"""

import torch
from torch import nn


def conv_norm(c_in, c_out, kernel, stride=1, bias=False, norm=True, groups=1):
    layers = nn.ModuleDict(dict(conv=nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)))
    if norm:
        layers["norm"] = nn.BatchNorm2d(c_out)
    return layers


def run_conv_norm(layers, x):
    for layer in layers.values():
        x = layer(x)
    return x


def rotate(x):  # (H, W, C)
    H, W, C = x.shape
    theta = 10000.0 ** (-torch.arange(C // 4, dtype=torch.float64) / (C // 4))
    row = torch.arange(H)[:, None, None] * theta  # (H, 1, C/4)
    col = torch.arange(W)[None, :, None] * theta
    angle = torch.cat([row.expand(H, W, -1), col.expand(H, W, -1)], dim=-1)
    turned = torch.complex(x[..., 0::2], x[..., 1::2]) * torch.polar(torch.ones_like(angle), angle)
    return torch.stack([turned.real, turned.imag], dim=-1).reshape(H, W, C)


class Rope(nn.Module):
    def __init__(self, side, channels):
        super().__init__()
        self.register_buffer("rotations", torch.zeros(side, side, channels // 2, 2))


class Attention(nn.Module):
    def __init__(self, channels, heads, side):
        super().__init__()
        self.heads = heads
        self.qk = nn.Linear(channels, 2 * channels)
        self.lepe = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.rope = Rope(side, channels)

    def forward(self, x):  # (C, H, W), one image
        C, H, W = x.shape
        tokens = x.permute(1, 2, 0)
        q, k = (nn.functional.elu(t) + 1 for t in self.qk(tokens).split(C, dim=-1))
        q_turned, k_turned = rotate(q), rotate(k)
        out = torch.empty(H * W, C, dtype=x.dtype)
        for head in range(self.heads):
            part = slice(head * C // self.heads, (head + 1) * C // self.heads)
            plain_q, plain_k = q[..., part].flatten(0, 1), k[..., part].flatten(0, 1)
            turned_q, turned_k = q_turned[..., part].flatten(0, 1), k_turned[..., part].flatten(0, 1)
            weights = turned_q @ turned_k.T / (H * W) / (plain_q @ plain_k.mean(0) + 1e-6)[:, None]  # (n, n)
            out[:, part] = weights @ tokens[..., part].flatten(0, 1)
        return out.T.reshape(C, H, W) + self.lepe(x[None])[0]


class Block(nn.Module):
    def __init__(self, channels, heads, side):
        super().__init__()
        depthwise = dict(kernel_size=3, padding=1, groups=channels)
        self.cpe1, self.cpe2, self.dwc = (nn.Conv2d(channels, channels, **depthwise) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.in_proj, self.act_proj, self.out_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.attn = Attention(channels, heads, side)
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(channels, 4 * channels), fc2=nn.Linear(4 * channels, channels)))

    def forward(self, x):  # (B, C, H, W)
        silu, last, first = nn.functional.silu, (0, 2, 3, 1), (0, 3, 1, 2)
        x = x + self.cpe1(x)
        u = self.norm1(x.permute(last))
        y = silu(self.dwc(self.in_proj(u).permute(first)))
        attended = torch.stack([self.attn(image) for image in y]).permute(last)
        x = x + self.out_proj(attended * silu(self.act_proj(u))).permute(first)
        x = x + self.cpe2(x)
        hidden = nn.functional.gelu(self.mlp["fc1"](self.norm2(x.permute(last))))
        return x + self.mlp["fc2"](hidden).permute(first)


class Classifier(nn.Module):
    def __init__(self, width, depths, heads, image_side, classes):
        super().__init__()
        half = width // 2
        self.patch_embed = nn.ModuleDict(
            dict(
                conv1=conv_norm(3, half, 3, stride=2),
                conv2=nn.ModuleList([conv_norm(half, half, 3), conv_norm(half, half, 3)]),
                conv3=nn.ModuleList([conv_norm(half, 4 * width, 3, stride=2), conv_norm(4 * width, width, 1)]),
            )
        )
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            c = width << stage
            layer = nn.Module()
            layer.blocks = nn.ModuleList(Block(c, heads[stage], image_side // 4 >> stage) for _ in range(depth))
            if stage + 1 < len(depths):
                layer.downsample = nn.Module()
                layer.downsample.conv = nn.ModuleList(
                    [
                        conv_norm(c, 8 * c, 1, bias=True, norm=False),
                        conv_norm(8 * c, 8 * c, 3, stride=2, bias=True, norm=False, groups=8 * c),
                        conv_norm(8 * c, 2 * c, 1, bias=True),
                    ]
                )
            self.layers.append(layer)
        self.norm = nn.LayerNorm(width << len(depths) - 1)
        self.head = nn.Linear(width << len(depths) - 1, classes)

    def forward(self, x):  # the last stage's map, normalised: (B, C, H/32, W/32)
        relu, stem = nn.functional.relu, self.patch_embed
        x = relu(run_conv_norm(stem["conv1"], x))
        x = x + run_conv_norm(stem["conv2"][1], relu(run_conv_norm(stem["conv2"][0], x)))
        x = run_conv_norm(stem["conv3"][1], relu(run_conv_norm(stem["conv3"][0], x)))
        for layer in self.layers:
            for block in layer.blocks:
                x = block(x)
            if hasattr(layer, "downsample"):
                for i, conv in enumerate(layer.downsample.conv):
                    x = run_conv_norm(conv, x)
                    x = relu(x) if i < 2 else x
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

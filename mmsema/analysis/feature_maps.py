"""See into a SEMA backbone: its maps, the attention of one window, and how much of the mixer is local.

The mixer of a block adds two things for a token i, what attention takes from i's window and the mean of all values::

    out_i = sum_j weights_ij v_j + mean(v)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from mmengine.config import Config
from mmsema_kernels import apply_rope, expand_rope_table
from torch import Tensor

from ..apis import PathLike, load_model, read_picture
from ..engine import UsageError
from ..engine.errors import require_folder
from ..models import SEMA
from ..models.mixers import SEMAMixer
from ..models.padding import picture_sizes

QUERY = dict(fill=False, edgecolor="cyan", linewidth=1.5)


def window_of(mixer: SEMAMixer, x: Tensor, row: int, column: int) -> Tuple[slice, slice]:
    """The rows and columns of the window that holds the token at (row, column) of a map (1, H, W, C)."""
    w = mixer.window_size
    top, left = row // w * w, column // w * w
    return slice(top, min(top + w, x.shape[1])), slice(left, min(left + w, x.shape[2]))


def attention_weights(mixer: SEMAMixer, x: Tensor, row: int, column: int) -> Tensor:
    """How much the token at (row, column) takes from each token of its window, by the operator's definition.

    Args:
        mixer: of a block.
        x: what the mixer was given, (1, H, W, C).

    Returns:
        (heads, h, w), h x w the size of the window; every head sums to 1.
    """
    rows, columns = window_of(mixer, x, row, column)
    window = x[:, rows, columns]  # (1, h, w, C)
    h, w = window.shape[1:3]
    maps = mixer.qk_proj(window).chunk(2, -1)
    if mixer.rope is not None:
        maps = [apply_rope(t, expand_rope_table(mixer.rope, h, w)) for t in maps]
    q, k = (t[0].unflatten(-1, (mixer.num_heads, -1)) for t in maps)  # (h, w, heads, d)
    q = q[row - rows.start, column - columns.start]  # (heads, d)
    scale = q.shape[-1] ** -0.5 if mixer.scale is None else mixer.scale
    scores = torch.einsum("nd,hwnd->nhw", q, k) * scale
    return scores.flatten(1).softmax(-1).view_as(scores)


def local_share(mixer: SEMAMixer, x: Tensor) -> Tensor:
    """|attention| / (|attention| + |mean|), norms over the channels, of every token of a map (1, H, W, C): (H, W)."""
    mean = x.mean((1, 2), keepdim=True)
    local = (mixer.attend(mixer.qk_proj(x), x) - mean).norm(dim=-1)[0]
    return local / (local + mean.norm())


def pca_colors(x: Tensor) -> np.ndarray:
    """The three strongest principal components of a map (1, H, W, C) as colours: (H, W, 3), 0 to 1."""
    tokens = x[0].flatten(0, 1).double()
    tokens = tokens - tokens.mean(0)
    directions = torch.linalg.eigh(tokens.T @ tokens)[1][:, -3:].flip(1)  # (C, 3), the strongest first
    strongest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    colors = tokens @ (directions * strongest.sign())  # the sign of an eigenvector means nothing: choose one
    low, high = (torch.quantile(colors, share, dim=0) for share in (0.02, 0.98))
    return ((colors - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).reshape(*x.shape[1:3], 3).numpy()


@dataclass
class Stage:
    """The last block of a stage: its mixer, what that was given, and the block's output; maps are (1, H, W, C)."""

    mixer: SEMAMixer
    x: Tensor
    output: Tensor

    def token(self, position: Tuple[float, float]) -> Tuple[int, int]:
        """Row and column of the token at a position (x, y) between 0 and 1."""
        H, W = self.x.shape[1:3]
        return min(int(position[1] * H), H - 1), min(int(position[0] * W), W - 1)


def run_stages(backbone: SEMA, images: Tensor) -> List[Stage]:
    """Run images (1, 3, H, W) through a backbone in eval mode and keep what the last block of every stage saw."""
    stages: List[Stage] = []
    hooks = []
    for blocks in backbone.stages:
        seen = {}
        mixer = blocks[-1].mixer
        hooks.append(mixer.register_forward_pre_hook(lambda _, given, seen=seen: seen.update(x=given[0].float())))
        hooks.append(
            blocks[-1].register_forward_hook(
                lambda block, _, out, seen=seen: stages.append(Stage(block.mixer, seen["x"], out.float()))
            )
        )
    try:
        with torch.no_grad():
            backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return stages


def shown_picture(images: Tensor, cfg: Config) -> np.ndarray:
    """What the model sees, (1, 3, H, W) normalised, as an RGB picture again: (H, W, 3), 0 to 1."""
    settings = cfg.model.get("data_preprocessor") or cfg.data_preprocessor
    mean, std = (
        np.asarray(settings[key]) if settings.get(key) else default for key, default in (("mean", 0), ("std", 1))
    )
    picture = images[0].permute(1, 2, 0).numpy() * std + mean
    rgb = settings.get("bgr_to_rgb") or settings.get("to_rgb")
    return (picture if rgb else picture[..., ::-1]).clip(0, 255) / 255


def _panel(axes: plt.Axes, shape: Sequence[int], title: str = "") -> None:
    axes.set(xlim=(0, shape[1]), ylim=(shape[0], 0), xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def _draw_attention(axes: plt.Axes, stage: Stage, position: Tuple[float, float], picture: np.ndarray):
    """The picture around the query's window, the weights (all heads averaged) over it, the query outlined."""
    H, W = stage.x.shape[1:3]
    height, width = picture.shape[0] / H, picture.shape[1] / W  # of a token, in pixels
    row, column = stage.token(position)
    rows, columns = window_of(stage.mixer, stage.x, row, column)
    weights = attention_weights(stage.mixer, stage.x, row, column).mean(0).numpy()
    grey = picture.mean(-1)
    axes.imshow(0.5 + 0.5 * grey, cmap="gray", vmin=0, vmax=1, extent=(0, picture.shape[1], picture.shape[0], 0))
    extent = (columns.start * width, columns.stop * width, rows.stop * height, rows.start * height)
    image = axes.imshow(weights / weights.max(), cmap="magma", vmin=0, vmax=1, alpha=0.8, extent=extent)
    axes.add_patch(
        Rectangle((column * width, row * height), width, height, fill=False, edgecolor="cyan", linewidth=1.5)
    )
    h, w = rows.stop - rows.start, columns.stop - columns.start
    _panel(axes, picture.shape, f"window of {h} x {w} tokens")
    margin = stage.mixer.window_size / 2
    axes.set_xlim(max(extent[0] - margin * width, 0), min(extent[1] + margin * width, picture.shape[1]))
    axes.set_ylim(min(extent[2] + margin * height, picture.shape[0]), max(extent[3] - margin * height, 0))
    return image


def draw_stages(
    stages: Sequence[Stage], picture: np.ndarray, position: Tuple[float, float], title: str, path: Path
) -> None:
    """Write a sheet to ``path``: per stage its map, the attention of the query's window, and the local share."""
    H, W = picture.shape[:2]
    figure, grid = plt.subplots(
        3, len(stages) + 1, figsize=(2.3 * (len(stages) + 1), 2.05 * 3 * min(max(H / W, 0.6), 1.4) + 0.8), dpi=130,
        layout="constrained",
    )  # fmt: skip
    figure.get_layout_engine().set(h_pad=0.08)
    full = (0, W, H, 0)
    grid[0, 0].imshow(picture, extent=full)
    for color, size in (("black", 4), ("white", 1.5)):
        grid[0, 0].plot(position[0] * W, position[1] * H, "+", color=color, markersize=12, markeredgewidth=size)
    _panel(grid[0, 0], (H, W), f"picture, {H} x {W}, query +")
    texts = (
        "weights of the query\nrelative to the largest,\nheads averaged",
        "share of the window's attention\nin what the mixer adds up,\n|attention| / (|attention| + |mean|)",
    )
    for axes, text in zip(grid[1:, 0], texts, strict=True):
        axes.axis("off")
        axes.text(1, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=9)
    for i, stage in enumerate(stages):
        height, width, channels = stage.output.shape[1:]
        top, middle, bottom = grid[:, i + 1]
        top.imshow(pca_colors(stage.output), extent=full)
        _panel(top, (H, W), f"stage {i + 1}: {channels} x {height} x {width}")
        weights = _draw_attention(middle, stage, position, picture)
        share = local_share(stage.mixer, stage.x).numpy()
        shares = bottom.imshow(share, cmap="RdBu_r", vmin=0, vmax=1, extent=full)
        _panel(bottom, (H, W), f"on average {share.mean():.2f}")
    pairs = ((weights, grid[1]), (shares, grid[2]))
    bars = [figure.colorbar(image, ax=row.tolist(), shrink=0.8, pad=0.01) for image, row in pairs]
    bars[1].set_ticks([0, 0.5, 1], labels=["0, all mean", "0.5", "1, all local"])
    for bar in bars:
        bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)
    plt.close(figure)


def draw_heads(stages: Sequence[Stage], position: Tuple[float, float], title: str, path: Path) -> None:
    """Write a sheet to ``path``: the query's attention weights, one row per stage, one column per head."""
    heads = max(stage.mixer.num_heads for stage in stages)
    figure, grid = plt.subplots(
        len(stages), heads, figsize=(max(0.9 * heads + 1.2, 5), 1.05 * len(stages) + 0.7), dpi=130, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes in grid.flat:
        axes.axis("off")
    for i, stage in enumerate(stages):
        row, column = stage.token(position)
        rows, columns = window_of(stage.mixer, stage.x, row, column)
        for head, weights in enumerate(attention_weights(stage.mixer, stage.x, row, column).numpy()):
            axes = grid[i, head]
            image = axes.imshow(weights / weights.max(), cmap="magma", vmin=0, vmax=1)
            corner = column - columns.start - 0.5, row - rows.start - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, **QUERY))
            axes.set_title(f"stage {i + 1}, head {head + 1}", fontsize=7)
    figure.colorbar(image, ax=grid.ravel().tolist(), shrink=0.8, pad=0.02).ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)
    plt.close(figure)


def draw_features(
    config: PathLike,
    image: PathLike,
    checkpoint: Optional[PathLike] = None,
    position: Tuple[float, float] = (0.5, 0.5),
    out_dir: PathLike = "outputs",
) -> List[Path]:
    """Run a picture through a config's backbone and write stages.png and heads.png to ``out_dir``; returns both paths.

    Args:
        config: path of a config with a SEMA backbone, or name of one that mmsema ships.
        image: path of a picture.
        checkpoint: weights; without them they are random, and the sheets say so.
        position: of the query, x and y as shares of the width and height that the model sees (without padding, unless
            the backbone has ``pad_value=None``).
        out_dir: made if it does not exist.

    Raises:
        UsageError, CheckpointError: one line says what cannot be used.
    """
    if not all(0 <= share <= 1 for share in position):
        raise UsageError(f"position must be two numbers from 0 to 1, got {tuple(position)}")
    pixels = read_picture(image)
    if pixels is None:
        raise UsageError(f"{image} is not a picture that can be read")
    folder = Path(out_dir)
    require_folder("out_dir", folder)
    loaded = load_model(config, checkpoint, device="cpu")
    backbone = loaded.model.backbone
    mixer = backbone.stages[0][0].mixer if isinstance(backbone, SEMA) else None
    if not isinstance(mixer, SEMAMixer) or mixer.averaging != "mean":
        raise UsageError(f"the backbone must be SEMA with its own mixer and the mean, {config} has another one")
    images = loaded.prepare(pixels)
    sizes = picture_sizes(images, None, backbone.pad_value)
    if sizes is not None:  # the maps of a padded picture are those of the picture alone
        h, w = sizes[0].tolist()
        images = images[:, :, :h, :w]
    folder.mkdir(parents=True, exist_ok=True)
    stages, picture = run_stages(backbone, images), shown_picture(images, loaded.cfg)
    paths = [folder / "stages.png", folder / "heads.png"]
    title = f"{Path(config).stem}, " + (Path(checkpoint).name if checkpoint else "random weights")
    with torch.no_grad():
        draw_stages(stages, picture, position, f"{title}: last block of each stage", paths[0])
        draw_heads(stages, position, f"{title}: attention of one query, relative to each head's largest", paths[1])
    return paths

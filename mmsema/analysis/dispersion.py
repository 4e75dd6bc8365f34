"""How attention spreads as the number of tokens n grows: its largest weight, its entropy, its distance from the mean.

With scores bounded by M, softmax attention over n tokens gives every token a weight between exp(-2M) / n and
exp(2M) / n (arXiv 2506.08297), and linear attention, with products phi(q) . phi(k) between a and b, one between
(a / b) / n and (b / a) / n: both disperse. SEMA's windows have w * w tokens, whatever n is.
"""

import csv
import math
from dataclasses import asdict, dataclass, fields
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from mmsema_kernels import apply_rope, expand_rope_table, rope_table
from rich.progress import track
from torch import Tensor

from ..apis import PathLike, load_model, read_picture
from ..engine.errors import UsageError
from ..models import SEMA

SIDES = (7, 16, 32, 64, 128, 256)  # of the map, in tokens: n from 49 to 65,536
QUICK_SIDES = (7, 16, 32, 64)
WINDOW, RANDOM_HEADS, RANDOM_DIM = 7, 4, 32
ATTENTIONS = ("softmax", "linear", "sema")
BLOCK = 32  # queries at a time: 32 x 65,536 weights per head


@dataclass
class Row:
    """One attention on n tokens: means over the sampled queries, heads and pictures."""

    inputs: str  # "random" or "trained"
    attention: str  # of "sema", the softmax in the windows; the mean comes on top
    tokens: int
    largest: float  # weight
    entropy: float  # in nats
    entropy_share: float  # of ln n, the entropy of equal weights
    lower: float  # what the theorem bounds every weight by, with the scores that were seen
    upper: float
    score: float  # M, the largest |score| seen; for linear attention, b / a
    to_mean: float  # |out - mean(v)| over the root mean square of |v|
    to_mean_relative: float  # |out - mean(v)| / |out|


@dataclass
class Sample:
    """q, k and v of one map, after the projection and before RoPE: (H, W, heads, d) each, and the window's side."""

    q: Tensor
    k: Tensor
    v: Tensor
    window: int


def random_sample(side: int, generator: torch.Generator) -> Sample:
    """Independent normal numbers, a map of side x side."""
    shape = (side, side, RANDOM_HEADS, RANDOM_DIM)
    return Sample(*(torch.randn(shape, generator=generator) for _ in range(3)), WINDOW)


def trained_samples(
    config: PathLike, checkpoint: PathLike, pictures: Sequence[PathLike], sides: Sequence[int]
) -> Iterator[Tuple[int, Sample]]:
    """What the last mixer of a trained backbone's first stage is given, for every picture resized to every side."""
    import cv2

    loaded = load_model(config, checkpoint, device="cpu")
    backbone = loaded.model.backbone
    if not isinstance(backbone, SEMA) or 0 not in backbone.out_indices:
        raise UsageError(
            f"the backbone of {config} must be SEMA and return its first stage, it is {type(backbone).__name__}"
        )
    mixer, seen = backbone.stages[0][-1].mixer, {}
    hook = mixer.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    preprocessor = loaded.model.data_preprocessor
    try:
        for path in pictures:
            pixels = read_picture(path)
            if pixels is None:
                raise UsageError(f"{path} is not a picture that can be read")
            for side in sides:
                resized = cv2.resize(pixels, (4 * side, 4 * side), interpolation=cv2.INTER_CUBIC)
                channels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
                image = preprocessor(dict(inputs=[channels], data_samples=None), False)["inputs"]
                with torch.no_grad():
                    backbone(image[:, :, : 4 * side, : 4 * side])
                    x = seen["x"][0]  # (side, side, C)
                    q, k = mixer.qk_proj(x).chunk(2, -1)
                heads = [t.float().unflatten(-1, (mixer.num_heads, -1)) for t in (q, k, x)]
                yield side, Sample(*heads, mixer.window_size)
    finally:
        hook.remove()


def _in_windows(scores: Tensor, queries: Tensor, width: int, window: int) -> Tensor:
    """Scores (heads, Q, n) of tokens outside a query's window become minus infinity."""
    token = torch.arange(scores.shape[-1])

    def name(index: Tensor) -> Tensor:
        return index // width // window * width + index % width // window

    return scores.masked_fill(name(queries)[:, None] != name(token), -torch.inf)


def measure(sample: Sample, attention: str, queries: Tensor) -> Dict[str, float]:
    """The columns of :class:`Row` that are measured, on one map, for the tokens ``queries``, (Q,), of all heads."""
    H, W, heads, d = sample.v.shape
    n = H * W
    q, k, v = (t.reshape(n, heads, d).transpose(0, 1) for t in (sample.q, sample.k, sample.v))  # (heads, n, d)
    if attention != "linear":  # RoPE makes weights of linear attention negative: no entropy
        cos_sin = expand_rope_table(rope_table(max(H, W), heads * d), H, W)
        q, k = (apply_rope(t.flatten(-2), cos_sin).reshape(n, heads, d).transpose(0, 1) for t in (sample.q, sample.k))
    else:
        q, k = F.elu(q) + 1, F.elu(k) + 1
    mean = v.mean(1, keepdim=True)
    size = v.square().sum(-1).mean(1).sqrt()  # (heads,)
    seen: Dict[str, List[Tensor]] = {key: [] for key in ("largest", "entropy", "to_mean", "to_mean_relative")}
    low, high = math.inf, -math.inf
    for part in queries.split(BLOCK):
        scores = q[:, part] @ k.transpose(-2, -1)  # (heads, Q, n)
        if attention == "linear":
            weights = scores / scores.sum(-1, keepdim=True)
        else:
            scores = scores * d**-0.5
            windowed = scores if attention == "softmax" else _in_windows(scores, part, W, sample.window)
            weights = windowed.softmax(-1)
            scores = scores[windowed > -torch.inf]
        low, high = min(low, scores.min().item()), max(high, scores.max().item())
        away = (weights @ v - mean).norm(dim=-1)
        seen["largest"].append(weights.amax(-1))
        seen["entropy"].append(torch.special.entr(weights).sum(-1))
        seen["to_mean"].append(away / size[:, None])
        seen["to_mean_relative"].append(away / (weights @ v).norm(dim=-1))
    row = {key: torch.cat(parts, 1).mean().item() for key, parts in seen.items()}
    most, fewest = n, n  # tokens that share the weight of one
    if attention == "sema":
        sizes = [{min(side, sample.window), side % sample.window or sample.window} for side in (H, W)]
        most, fewest = (math.prod(map(pick, sizes)) for pick in (max, min))
    spread = high / low if attention == "linear" else math.exp(2 * max(abs(low), abs(high)))
    score = spread if attention == "linear" else max(abs(low), abs(high))
    return dict(row, lower=1 / spread / most, upper=min(spread / fewest, 1.0), score=score)


def _average(inputs: str, attention: str, n: int, parts: Sequence[Dict[str, float]]) -> Row:
    means = {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
    means.update(
        lower=min(part["lower"] for part in parts),
        upper=max(part["upper"] for part in parts),
        score=max(part["score"] for part in parts),
    )
    return Row(inputs, attention, n, entropy_share=means["entropy"] / math.log(n), **means)


def dispersion(
    config: Optional[PathLike] = None,
    checkpoint: Optional[PathLike] = None,
    pictures: Sequence[PathLike] = (),
    sides: Sequence[int] = SIDES,
    queries: int = 256,
    seed: int = 0,
) -> List[Row]:
    """Measure random inputs and, with a checkpoint and pictures, trained ones.

    Args:
        config, checkpoint: a detector or classifier with a SEMA backbone, and its weights; or neither.
        pictures: files, resized to 4 pixels a token.
        sides: of the maps, in tokens.
        queries: how many tokens of each map are looked at, chosen at random; all their keys are.
        seed: of the random inputs and the choice of queries.

    Raises:
        UsageError, CheckpointError: one line says what cannot be used.
    """
    generator = torch.Generator().manual_seed(seed)
    if bool(checkpoint) != bool(config) or bool(checkpoint) != bool(pictures):
        raise UsageError("trained inputs need config, checkpoint and pictures, all three")
    found: Dict[Tuple[str, str, int], List[Dict[str, float]]] = {}

    def add(inputs: str, side: int, sample: Sample) -> None:
        chosen = torch.randperm(side * side, generator=generator)[:queries]
        for attention in ATTENTIONS:
            found.setdefault((inputs, attention, side * side), []).append(measure(sample, attention, chosen))

    for side in track(sides, "random inputs"):
        add("random", side, random_sample(side, generator))
    if checkpoint:
        samples = trained_samples(config, checkpoint, pictures, sides)
        for side, sample in track(samples, "trained inputs", total=len(sides) * len(pictures)):
            add("trained", side, sample)
    rows = [_average(*key, parts) for key, parts in found.items()]
    return sorted(rows, key=lambda row: (row.inputs, ATTENTIONS.index(row.attention), row.tokens))


def slope(rows: Sequence[Row], column: str) -> float:
    """Of log(column) over log(n), by least squares: -1 for what falls as 1 / n."""
    x, y = (np.log([getattr(row, key) for row in rows]) for key in ("tokens", column))
    return float(np.polyfit(x, y, 1)[0])


def groups(rows: Sequence[Row]) -> Dict[Tuple[str, str], List[Row]]:
    """The rows of each kind of inputs and each attention."""
    found: Dict[Tuple[str, str], List[Row]] = {}
    for row in rows:
        found.setdefault((row.inputs, row.attention), []).append(row)
    return found


def write_csv(rows: Sequence[Row], path: PathLike, **remarks: object) -> None:
    """One line a row; ``remarks``, the same on every line, say where the numbers come from."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(field.name for field in fields(Row)), *remarks])
        for row in rows:
            values = [f"{value:.6g}" if isinstance(value, float) else value for value in asdict(row).values()]
            writer.writerow([*values, *remarks.values()])


def plot(rows: Sequence[Row], path: PathLike) -> None:
    """Largest weight with its bounds, entropy, and distance from the mean, over n; shapes and dashes, no colours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    markers = dict(softmax="o", linear="s", sema="^")
    names = dict(softmax="softmax", linear="linear", sema="SEMA's windows")
    lines = dict(random=("-", "white"), trained=("--", "black"))
    figure, grid = pyplot.subplots(1, 3, figsize=(14.5, 3.9), dpi=120, layout="constrained")
    columns = dict(
        largest="largest weight", entropy_share="entropy / ln n", to_mean="|out - mean| / root mean square of |v|"
    )
    for axes, (column, title) in zip(grid, columns.items(), strict=True):
        for (inputs, attention), group in groups(rows).items():
            style, face = lines[inputs]
            x, y = [row.tokens for row in group], [getattr(row, column) for row in group]
            label = f"{names[attention]}, {inputs}"
            axes.plot(x, y, style, marker=markers[attention], color="black", markerfacecolor=face, label=label)
        n = [row.tokens for row in next(iter(groups(rows).values()))]
        if column == "largest":
            bounded = groups(rows)["random", "softmax"]
            for bound, label in (("upper", "the theorem's bounds: softmax, random"), ("lower", None)):
                axes.plot(n, [getattr(row, bound) for row in bounded], "-.", color="grey", label=label)
            axes.plot(n, [1 / value for value in n], ":", color="grey", label="1 / n, equal weights")
        axes.set(xscale="log", xlabel="tokens n", title=title, yscale="linear" if column == "entropy_share" else "log")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path)
    pyplot.close(figure)

"""Write the drawings of how_sema_works.md to docs/images/*.svg: python docs/make_figures.py

Each is a card with its own background, so that it can be read on a page of any theme; it follows the system's.
"""

from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH = 620
WINDOW = 7

# name: light, dark
PALETTE = {
    "paper": ("#fdfdfc", "#1b1e22"),
    "ink": ("#1f2933", "#e6e9ec"),
    "muted": ("#5d6a76", "#a3adb8"),
    "line": ("#8d99a5", "#76828e"),
    "faint": ("#e6e9ec", "#2b3036"),
    "local": ("#2f6db5", "#76aef0"),
    "local-soft": ("#d6e5f7", "#20354f"),
    "mean": ("#c8691a", "#eda35f"),
    "mean-soft": ("#fbe4cc", "#4b331b"),
    "conv": ("#2f8560", "#6cc79f"),
    "conv-soft": ("#d5eee2", "#1d3e30"),
    "norm": ("#7b8794", "#98a4b0"),
    "norm-soft": ("#e9edf0", "#2f353b"),
    "linear": ("#6f55a8", "#b39fe6"),
    "linear-soft": ("#e5ddf5", "#352b4e"),
}


def _style() -> str:
    def rules(shade: int) -> str:
        return "".join(
            f".f-{name}{{fill:{colors[shade]}}}.s-{name}{{stroke:{colors[shade]}}}" for name, colors in PALETTE.items()
        )

    return (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif}"
        ".f-hatch{fill:url(#hatch)}"
        f"{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}"
    )


class Drawing:
    """An SVG card that grows by shapes and text; colours are names of ``PALETTE``."""

    def __init__(self, height: int, title: str) -> None:
        self.parts: List[str] = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
            f"<title>{title}</title><style>{_style()}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" class="f-line"/></marker>'
            '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<path d="M0 0V6" class="s-line" stroke-width="1.6"/></pattern></defs>',
        ]
        self.rect(0.5, 0.5, WIDTH - 1, height - 1, "paper", "faint", radius=10)

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "", radius: float = 0, **more
    ) -> None:
        line = f' class="f-{fill} s-{stroke}"' if stroke else f' class="f-{fill}"'
        extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"{line}{extra}/>'
        )

    def text(
        self, x: float, y: float, text: str, size: float = 14, color: str = "ink", anchor: str = "middle", bold=False
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        place = f'x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"'
        self.parts.append(f'<text {place} class="f-{color}"{weight}>{text}</text>')

    def path(self, points: Sequence[Tuple[float, float]], tip: bool = True, color: str = "line") -> None:
        d = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        marker = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<path d="{d}" fill="none" stroke-width="1.6" class="s-{color}"{marker}/>')

    def box(self, x: float, y: float, width: float, text: str, kind: str, height: float = 34, note: str = "") -> None:
        """A step, centred at ``x``, its top at ``y``."""
        self.rect(x - width / 2, y, width, height, f"{kind}-soft", kind, radius=6, stroke_width=1.4)
        self.text(x, y + (height / 2 - 2 if note else height / 2 + 5), text, 14)
        if note:
            self.text(x, y + height / 2 + 14, note, 12, "muted")

    def sign(self, x: float, y: float, sign: str) -> None:
        """A sum or a product, centred."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="11" class="f-paper s-line" stroke-width="1.6"/>')
        self.text(x, y + 5.5, sign, 17)

    def tokens(self, x: float, y: float, cell: float, *layers: Tuple[np.ndarray, str]) -> None:
        """Tokens, one layer (H, W) of weights over the other; each is as strong in colour as its weight in [0, 1]."""
        height, width = layers[0][0].shape
        self.rect(x, y, width * cell, height * cell, "faint")
        for weights, color in layers:
            if np.ptp(weights) == 0:
                self.rect(x, y, width * cell, height * cell, color, fill_opacity=round(float(weights[0, 0]), 2))
                continue
            for i, j in np.argwhere(weights >= 0.01):
                place = (x + j * cell, y + i * cell, cell, cell)
                self.rect(*place, color, fill_opacity=round(float(weights[i, j]), 2))
        lines = [f"M{x:g} {y + i * cell:g}h{width * cell:g}" for i in range(1, height)]
        lines += [f"M{x + j * cell:g} {y:g}v{height * cell:g}" for j in range(1, width)]
        self.parts.append(f'<path d="{"".join(lines)}" class="s-paper"/>')

    def outline(self, x: float, y: float, width: float, height: float, line: float = 1.3) -> None:
        self.rect(x, y, width, height, "paper", "ink", radius=2, fill_opacity=0, stroke_width=line)

    def windows(self, x: float, y: float, cell: float, heights: Sequence[int], widths: Sequence[int]) -> None:
        """Outlines of windows of these heights and widths."""
        for i, height in enumerate(heights):
            for j, width in enumerate(widths):
                self.outline(x + sum(widths[:j]) * cell, y + sum(heights[:i]) * cell, width * cell, height * cell)

    def __str__(self) -> str:
        return "\n".join(self.parts) + "\n</svg>\n"


def _weights(height: int, width: int, row: float, column: float) -> np.ndarray:
    """Softmax weights to draw: some scores that fall with the distance from the query, no model's."""
    y, x = np.mgrid[:height, :width]
    scores = -((y - row) ** 2 + (x - column) ** 2) / 5 + 0.9 * np.sin(1.7 * y + 0.6 * x)
    weights = np.exp(scores - scores.max())
    return weights / weights.max()


def draw_windows_and_mean() -> Drawing:
    d = Drawing(262, "SEMA attention: softmax inside the window of a token, plus the mean of all values")
    cell, top, side = 11.5, 66, 2 * WINDOW
    lefts, row, column = (26, 230, 434), 3, 9
    local = np.zeros((side, side))
    local[:WINDOW, WINDOW:] = _weights(WINDOW, WINDOW, row, column - WINDOW)
    mean = np.full((side, side), 0.3)
    titles = ("inside the window", "the mean", "what token i takes")
    notes = ("softmax weights, 49 tokens", "1/n from each of n tokens", "focus, and the whole picture")
    for left, title, note in zip(lefts, titles, notes, strict=True):
        d.text(left + side * cell / 2, 30, title, 15, bold=True)
        d.text(left + side * cell / 2, 50, note, 12.5, "muted")
    d.tokens(lefts[0], top, cell, (local, "local"))
    d.tokens(lefts[1], top, cell, (mean, "mean"))
    d.tokens(lefts[2], top, cell, (mean, "mean"), (local, "local"))
    for left in lefts:
        d.windows(left, top, cell, (WINDOW, WINDOW), (WINDOW, WINDOW))
        d.outline(left + column * cell, top + row * cell, cell, cell, 2.6)
    for sign, left in (("+", lefts[0]), ("=", lefts[1])):
        d.text(left + side * cell + 21, top + side * cell / 2 + 8, sign, 24)
    d.text(
        WIDTH / 2, 250, "14 x 14 tokens, four windows; the framed one is token i. Its weights are made up.", 12, "muted"
    )
    return d


def draw_ragged_edge() -> Drawing:
    d = Drawing(356, "A map that the window does not divide: windows at the edge are smaller, nothing is filled up")
    cell, top, height, width, side = 17, 74, 10, 11, 2 * WINDOW
    row, column = 8, 9
    left, ragged = 28, np.zeros((height, width))
    d.text(left + side * cell / 2, 30, "filled up to whole windows", 15, bold=True)
    d.text(left + side * cell / 2, 50, "zeros take part, unless they are masked", 12.5, "muted")
    d.rect(left, top, side * cell, side * cell, "hatch")
    ragged[WINDOW:, WINDOW:] = 0.3
    d.tokens(left, top, cell, (ragged, "local"))
    d.rect(left + WINDOW * cell, top + WINDOW * cell, WINDOW * cell, WINDOW * cell, "local", fill_opacity=0.25)
    d.windows(left, top, cell, (WINDOW, WINDOW), (WINDOW, WINDOW))
    d.outline(left + column * cell, top + row * cell, cell, cell, 2.6)

    left = 366
    middle = left + width * cell / 2
    d.text(middle, 30, "SEMA", 15, bold=True)
    d.text(middle, 50, "windows at the edge are smaller", 12.5, "muted")
    ragged[WINDOW:, WINDOW:] = _weights(height - WINDOW, width - WINDOW, row - WINDOW, column - WINDOW)
    d.tokens(left, top, cell, (ragged, "local"))
    d.windows(left, top, cell, (WINDOW, height - WINDOW), (WINDOW, width - WINDOW))
    d.outline(left + column * cell, top + row * cell, cell, cell, 2.6)
    for i, line in enumerate(
        ("7 x 7, 7 x 4, 3 x 7 and 3 x 4 tokens:", "softmax over the real ones only,", "the mean over all 110")
    ):
        d.text(middle, top + height * cell + 28 + 18 * i, line, 12.5, "muted")
    d.text(WIDTH / 2, 341, "10 x 11 tokens. Hatched: no picture there.", 12, "muted")
    return d


def draw_padded_batch() -> Drawing:
    d = Drawing(300, "A batch of two pictures of different sizes: each one's windows and mean are its own")
    cell, top, side = 14, 66, 2 * WINDOW
    for left, (height, width), name in ((60, (side, side), "picture 1"), (364, (9, 11), "picture 2, padded")):
        d.text(left + side * cell / 2, 30, name, 15, bold=True)
        d.text(left + side * cell / 2, 50, f"mean over its {height} x {width} tokens", 12.5, "muted")
        d.rect(left, top, side * cell, side * cell, "hatch", "faint")
        d.tokens(left, top, cell, (np.full((height, width), 0.3), "mean"))
        rest = [[WINDOW, size - WINDOW] for size in (height, width)]
        d.windows(left, top, cell, *rest)
    d.text(
        WIDTH / 2,
        286,
        "Hatched: what the batch adds. It is zero for convolutions, and no token of any window.",
        12,
        "muted",
    )
    return d


def draw_block() -> Drawing:
    d = Drawing(856, "The block: position, gate, attention with LePE, and the MLP, with two residual sums")
    main, lepe, gate, side = 206, 384, 520, 46

    def down(top: float, bottom: float, x: float = main) -> None:
        d.path([(x, top), (x, bottom)])

    def around(start: float, end: float) -> None:
        """A residual connection past what stands between the two heights."""
        d.path([(main, start), (side, start), (side, end), (main - 12, end)])

    d.text(main, 28, "x", 16, bold=True)
    d.text(main + 14, 28, "(B, H, W, C)", 13, "muted", "start")
    down(36, 60)
    around(46, 118)
    d.box(main, 61, 220, "3 x 3 depthwise (CPE)", "conv")
    down(95, 106)
    d.sign(main, 118, "+")
    down(129, 156)
    d.box(main, 157, 130, "LayerNorm", "norm")
    down(191, 222)
    d.path([(main, 206), (gate, 206), (gate, 222)])
    d.box(main, 223, 130, "Linear", "linear")
    d.box(gate, 223, 130, "Linear, SiLU", "linear")
    down(257, 270)
    d.box(main, 271, 220, "3 x 3 depthwise, SiLU", "conv")
    down(305, 344, 136)
    down(305, 412, 246)
    d.text(256, 366, "v", 15, "ink", "start", bold=True)
    d.path([(246, 322), (lepe, 322), (lepe, 344)])
    d.box(136, 345, 130, "Linear", "linear")
    d.box(lepe, 345, 150, "3 x 3 depthwise", "conv", note="LePE", height=44)
    down(379, 412, 136)
    d.text(146, 400, "q, k with RoPE", 13, "muted", "start")
    d.rect(main - 130, 413, 260, 50, "local-soft", "local", radius=6, stroke_width=1.4)
    d.rect(main + 40, 413, 90, 50, "mean-soft", "mean", radius=6, stroke_width=1.4)
    d.text(main - 45, 435, "softmax", 14)
    d.text(main - 45, 452, "inside windows", 12, "muted")
    d.text(main + 85, 435, "+ mean", 14)
    d.text(main + 85, 452, "of all v", 12, "muted")
    down(463, 480)
    d.sign(main, 492, "+")
    d.path([(lepe, 389), (lepe, 492), (main + 12, 492)])
    down(503, 518)
    d.sign(main, 530, "x")
    d.path([(gate, 257), (gate, 530), (main + 12, 530)])
    d.text(gate + 10, 395, "gate", 13, "muted", "start")
    down(541, 556)
    d.box(main, 557, 130, "Linear", "linear")
    down(591, 606)
    d.sign(main, 618, "+")
    around(142, 618)
    down(629, 654)
    around(640, 712)
    d.box(main, 655, 220, "3 x 3 depthwise (CPE)", "conv")
    down(689, 700)
    d.sign(main, 712, "+")
    down(723, 750)
    d.box(main, 751, 250, "LayerNorm, Linear, GELU, Linear", "linear")
    around(737, 806)
    down(785, 794)
    d.sign(main, 806, "+")
    down(817, 842)
    return d


def draw_data_flow() -> Drawing:
    d = Drawing(360, "From the picture through stem and stages to the maps that a detector reads")
    d.text(54, 34, "picture", 15, bold=True)
    d.text(54, 52, "(B, 3, H, W)", 12, "muted")
    d.rect(20, 66, 68, 92, "faint", "line", radius=3)
    d.path([(88, 112), (112, 112)])
    d.box(150, 88, 76, "stem", "conv", 48, "stride 4")
    end = 188.0
    for i, (x, height) in enumerate(((238, 92), (346, 68), (446, 50), (542, 36))):
        width = 66 + 6 * i
        d.path([(end, 112), (x - width / 2 - 1, 112)])
        end = x + width / 2
        d.text(x, 34, f"stage {i + 1}", 15, bold=True)
        d.text(x, 52, ("C", "2C", "4C", "8C")[i], 12.5, "muted")
        d.rect(x - width / 2, 112 - height / 2, width, height, "local-soft", "local", radius=4, stroke_width=1.4)
        d.text(x, 117, "blocks", 13)
        d.path([(x, 112 + height / 2), (x, 186)])
        d.box(x, 187, 84, "LayerNorm", "norm", 30)
        d.path([(x, 217), (x, 250)])
        d.text(x + 6, 238, f"stride {4 << i}", 12, "muted", "start")
    d.text(96, 207, "(B, H, W, C) inside,", 12, "muted")
    d.text(96, 223, "(B, C, H, W) at the doors", 12, "muted")
    d.rect(194, 251, 392, 34, "linear-soft", "linear", radius=6, stroke_width=1.4)
    d.text(390, 273, "the host's neck and heads: FPN, RPN, RoI heads", 14)
    d.path([(390, 285), (390, 312)])
    d.text(390, 332, "losses, or boxes and masks", 14)
    return d


FIGURES = {
    "windows_and_mean": draw_windows_and_mean,
    "ragged_edge": draw_ragged_edge,
    "padded_batch": draw_padded_batch,
    "block": draw_block,
    "data_flow": draw_data_flow,
}


def render() -> Dict[Path, str]:
    """Every file, and what has to be in it."""
    return {IMAGES / f"{name}.svg": str(draw()) for name, draw in FIGURES.items()}


if __name__ == "__main__":
    for path, text in render().items():
        path.write_text(text)

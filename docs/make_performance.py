"""Draw the roofline of performance_gpu.csv as docs/images/performance_gpu.png: python docs/make_performance.py"""

import csv
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN = "2"
SHAPES = {"128x56x56x64": "o", "16x200x334x64": "s", "128x14x14x256": "^"}
# the configuration that the code has now; None is the only one there is
KERNELS = {
    "attention forward with RoPE": "warps 2 heads 1, registers 80",
    "attention forward with RoPE, without the mean": "warps 2 heads 1, registers 80",
    "attention backward with RoPE": "warps 2",
    "depthwise residual": "channels 64 columns 8 rows 16 warps 1",
    "LePE and gate": "channels 64 columns 8 rows 16 warps 1",
    "depthwise backward": "channels 64 columns 2 rows 32 warps 1",
    "LayerNorm forward": "torch under autocast (float32 between two casts)",
}


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with open(HERE / "performance_gpu.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == RUN]
    copy = next(float(row["gb_per_s"]) for row in rows if row["kernel"] == "copy") / 1e3
    product = next(float(row["tflop_per_s"]) for row in rows if row["kernel"] == "matrix product")
    figure, axes = pyplot.subplots(figsize=(8, 4.6), layout="constrained")
    intensity = [2**i for i in range(9)]
    axes.plot(intensity, [min(x * copy, product) for x in intensity], color="black", linewidth=1)
    axes.text(2.2, 2.4 * copy, f"copy {copy:.2f} TB/s", rotation=33, fontsize="small", va="bottom")
    for number, (kernel, configuration) in enumerate(KERNELS.items()):
        for shape, marker in SHAPES.items():
            row = next(
                r for r in rows if (r["kernel"], r["configuration"], r["shape"]) == (kernel, configuration, shape)
            )
            x = float(row["flop_per_byte"])
            axes.plot(
                x, x * float(row["gb_per_s"]) / 1e3, marker, color=f"C{number}", markersize=6,
                label=f"{kernel} (PyTorch)" * ("LayerNorm" in kernel) or kernel if marker == "o" else None,
            )  # fmt: skip
    for shape, marker in SHAPES.items():
        axes.plot([], [], marker, color="grey", label=shape)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte that must move", ylabel="TFLOP/s", xlim=(1, 256))
    axes.set_title("NVIDIA H200, bfloat16: kernels under the measured ceilings")
    axes.legend(fontsize="x-small", loc="lower right")
    figure.savefig(HERE / "images" / "performance_gpu.png", dpi=110)


if __name__ == "__main__":
    main()

"""Measure time and peak memory of every mixer over the number of tokens: a table of powers, a CSV file, a plot.

    OMP_NUM_THREADS=1 python tools/analysis_tools/mixer_cost.py --out-dir outputs/mixer_cost

docs/mixers.md says how it measures.
"""

import argparse
import shlex
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixers", nargs="+", help="by default all")
    parser.add_argument("--levels", nargs="+", choices=("mixer", "backbone"), default=("mixer", "backbone"))
    parser.add_argument("--limit", type=float, default=60, help="seconds that one run may be expected to take")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="pictures of up to 448 pixels")
    parser.add_argument("--out-dir", type=Path, default="outputs/mixer_cost", help="default: %(default)s")
    arguments = parser.parse_args()

    from rich.console import Console
    from rich.table import Table

    from mmsema.benchmark import mixer_cost
    from mmsema.benchmark.report import environment
    from mmsema.engine.errors import UsageError, require_folder
    from mmsema.models.mixers import MIXERS

    unknown = sorted(set(arguments.mixers or ()) - set(MIXERS))
    if unknown:
        parser.error(f"--mixers must be among {', '.join(MIXERS)}, got {', '.join(unknown)}")
    try:
        require_folder("--out-dir", arguments.out_dir)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    pixels = mixer_cost.QUICK_PIXELS if arguments.quick else mixer_cost.PIXELS
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    remarks = environment(arguments.device)
    if arguments.device == "cpu":
        remarks["threads"] = "1"
    remarks["command"] = shlex.join(["python", "tools/analysis_tools/mixer_cost.py", *sys.argv[1:]])
    names, rows = arguments.mixers or tuple(MIXERS), []
    for row in mixer_cost.mixer_cost(
        names, arguments.levels, pixels=pixels, limit=arguments.limit, device=arguments.device
    ):
        rows.append(row)
        mixer_cost.write_csv(rows, arguments.out_dir / "mixer_cost.csv", **remarks)  # what is done outlives a kill
    mixer_cost.plot(rows, arguments.out_dir / "mixer_cost.png")

    table = Table("level", "mode", "mixer")
    for name in ("time ~ n^p", "memory ~ n^p", "largest n", "seconds", "MB", "not run"):
        table.add_column(name, justify="right")
    for key, group in mixer_cost.groups(rows).items():
        done = [row for row in group if row.seconds]
        powers = [mixer_cost.power(group, column) for column in ("seconds", "memory_mb")]
        numbers = [f"{p:.2f}" if p is not None else "" for p in powers]
        if done:
            numbers += [f"{done[-1].tokens:,}", f"{done[-1].seconds:.3g}", f"{done[-1].memory_mb:.0f}"]
        else:
            numbers += [""] * 3
        table.add_row(*key, *numbers, ", ".join(str(row.pixels) for row in group if row.note))
    Console(width=120).print(table)
    for row in rows:
        if row.note:
            print(f"{row.level}, {row.mode}, {row.mixer}, {row.pixels} pixels: {row.note}")
    print(f"written: {arguments.out_dir / 'mixer_cost.csv'}, {arguments.out_dir / 'mixer_cost.png'}")


if __name__ == "__main__":
    main()

"""Check and time SEMA's operators, block and backbones against what else computes the same.

    python tools/analysis_tools/benchmark.py --preset gpu --out work_dirs/benchmark

Writes benchmark.csv and roofline.png into the folder. docs/performance.md says how to read them.
"""

import argparse
from pathlib import Path

PARTS = ("checks", "kernels", "block", "backbone", "scaling", "ceilings", "compiled", "detector", "sweep")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "gpu"], required=True, help="what to run, and where")
    parser.add_argument("--out", type=Path, required=True, help="folder for benchmark.csv and roofline.png")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="by default all, in this order")
    parser.add_argument("--minutes", type=float, default=9, help="start nothing new after so long (default: 9)")
    arguments = parser.parse_args()

    from mmsema.benchmark import run

    run(arguments.preset, arguments.parts, arguments.out, arguments.minutes)


if __name__ == "__main__":
    main()

"""Evaluate a checkpoint at several batch sizes, with and without knowledge of where padded pictures end."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import make_parser, parse, run  # noqa: E402


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--batch-sizes", nargs="+", type=int, default=[1, 8], metavar="N", help="of testing (default: 1 8)"
    )
    arguments = parse(parser)
    if min(arguments.batch_sizes) < 1:
        parser.error(f"--batch-sizes must be at least 1, got {arguments.batch_sizes}")

    from mmsema.analysis.padding_effect import evaluate_settings

    run(evaluate_settings, arguments)


if __name__ == "__main__":
    main()

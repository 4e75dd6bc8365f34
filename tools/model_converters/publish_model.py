"""Strip a training checkpoint to its weights, named by their hash; torch.load(..., weights_only=True) reads them."""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="what training wrote")
    parser.add_argument("out", metavar="out.pth", help="is written as out-<hash>.pth")
    parser.add_argument(
        "--drop",
        nargs="+",
        default=[],
        metavar="PREFIX",
        help="leave out tensors whose names start so, for instance head.fc, to train with other classes",
    )
    parser.add_argument(
        "--half", action="store_true", help="store in float16: half the size; test whether it scores the same"
    )
    arguments = parser.parse_args()
    if not arguments.out.endswith(".pth"):
        parser.error(f"out.pth must end in .pth, got {arguments.out}")

    from mmsema.checkpoint import CheckpointError, publish_model

    try:
        print(publish_model(arguments.checkpoint, arguments.out, arguments.drop, arguments.half))
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

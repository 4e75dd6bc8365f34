"""Find objects in pictures, folders of pictures or a video (or name their class) with a trained model."""

import argparse
import sys

from mmengine.logging import MMLogger

from .apis import predict
from .checkpoint import CheckpointError
from .engine import UsageError, ignore_known_warnings
from .engine.quiet import is_news


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mmsema", description=__doc__)
    parser.add_argument("config", help="config file (Python code that is executed), or the name of one of mmsema's")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("inputs", nargs="+", metavar="input", help="pictures and folders of pictures, or one video")
    parser.add_argument("--out-dir", default="outputs", help="folder to write to (default: %(default)s)")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="draw objects from this score on (default: %(default)s)"
    )
    parser.add_argument(
        "--labels",
        choices=("auto", "all", "none"),
        default="auto",
        help="name the drawn objects where there is room, all, or none (default: %(default)s)",
    )
    parser.add_argument("--top-k", type=int, default=5, help="classes that a classifier lists (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: the best there is)")
    arguments = parser.parse_args()
    if arguments.top_k < 1:
        parser.error(f"--top-k must be at least 1, got {arguments.top_k}")
    ignore_known_warnings()
    MMLogger.get_current_instance().addFilter(is_news)
    try:
        predictions = predict(**vars(arguments))
    except (UsageError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in predictions.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(f"{len(predictions.results)} results in {predictions.file}")
    return 1 if predictions.problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""Draw what a SEMA backbone makes of a picture: its maps, one window's attention, and the share that is local."""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file, or the name of one of mmsema's")
    parser.add_argument("image", help="a picture")
    parser.add_argument("--checkpoint", help="weights; without them they are random")
    parser.add_argument(
        "--position",
        nargs=2,
        type=float,
        default=(0.5, 0.5),
        metavar=("X", "Y"),
        help="of the query, from 0 (left, top) to 1 (right, bottom) of what the model sees (default: the middle)",
    )
    parser.add_argument("--out-dir", default="outputs", help="for stages.png and heads.png (default: %(default)s)")
    arguments = parser.parse_args()

    from mmsema.analysis.feature_maps import draw_features
    from mmsema.checkpoint import CheckpointError
    from mmsema.engine import UsageError, ignore_known_warnings

    ignore_known_warnings()
    try:
        for path in draw_features(**vars(arguments)):
            print(path)
    except (UsageError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

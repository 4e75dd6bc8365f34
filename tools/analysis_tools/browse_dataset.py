"""Draw the pictures of a config's training set as training sees them: augmented, with their annotations."""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file, or the name of one of mmsema's")
    parser.add_argument("--out-dir", default="outputs", help="folder to write to (default: %(default)s)")
    parser.add_argument("--number", type=int, default=20, help="of pictures (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.number < 1:
        parser.error(f"--number must be at least 1, got {arguments.number}")

    from mmsema.analysis.browse_dataset import browse
    from mmsema.engine import UsageError, ignore_known_warnings

    ignore_known_warnings()
    try:
        paths = browse(**vars(arguments))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{len(paths)} pictures in {arguments.out_dir}")


if __name__ == "__main__":
    main()

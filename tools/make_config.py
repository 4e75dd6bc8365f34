"""Write a config for your own pictures (COCO JSON, VOC XML, or one mask file per object), after auditing them."""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder with pictures and annotations; nothing of yours in it is changed")
    parser.add_argument("out", help="config to write, for instance configs/mine.py")
    parser.add_argument("--backbone", default="pico", help="pico, tiny, small or base (default: %(default)s)")
    parser.add_argument("--name", default="object", help="class of objects given by masks (default: %(default)s)")
    parser.add_argument("--weights", metavar="CHECKPOINT", help="start from the backbone of a detector's checkpoint")
    arguments = parser.parse_args()

    from mmsema.engine import UsageError
    from mmsema.make_config import make_config

    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        lines = make_config(arguments.data, arguments.out, arguments.backbone, arguments.name, arguments.weights)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(lines))


if __name__ == "__main__":
    main()

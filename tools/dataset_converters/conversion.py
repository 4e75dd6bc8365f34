"""What the converters' command lines share. Imports nothing heavy, so that --help answers at once."""

import argparse
import sys


def parse(description: str, source_help: str, target: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("source", help=source_help)
    parser.add_argument("target", nargs="?", default=target, help="folder to write to (default: %(default)s)")
    return parser.parse_args()


def run(convert, arguments: argparse.Namespace) -> None:
    """Call ``convert(source, target)``; exit code 1 says that something was left out, 2 that nothing was written."""
    from mmsema.datasets.converters.coco import ConversionError

    try:
        lines, problems = convert(arguments.source, arguments.target)
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    print("\n".join(lines))
    sys.exit(1 if problems else 0)

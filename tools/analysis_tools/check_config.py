"""Say everything that is wrong with a config, in seconds: nothing is built and no data is read."""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file (Python code that is executed), or the name of one of mmsema's")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="as tools/train.py takes them",
    )
    arguments = parser.parse_args()

    from mmsema.engine import UsageError, ignore_known_warnings
    from mmsema.engine.config import read_config

    ignore_known_warnings()
    try:
        read_config(arguments.config, arguments.cfg_options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.config}: no faults found")


if __name__ == "__main__":
    main()

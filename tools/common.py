"""Arguments that tools/train.py and tools/test.py share. Imports nothing heavy, so that --help answers at once."""

import argparse
import os
import sys


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file; configs are Python code that is executed, so use trusted ones")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (default: work_dirs/<config name>)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override settings of the config, for instance train_cfg.max_epochs=2 model.neck.in_channels=[1,2,3,4]",
    )
    parser.add_argument(
        "--no-audit", dest="audit", action="store_false", help="do not check the data first (docs/data_audit.md)"
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    arguments = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    return arguments


def run(function, arguments: argparse.Namespace) -> None:
    """Call ``function(arguments)``; a usage error or unusable checkpoint becomes one line on stderr and exit code 2.

    A run that fails after it has begun is one line and exit code 1; its log has the traceback.
    """
    from mmsema.checkpoint import CheckpointError
    from mmsema.engine import RunFailed, UsageError, ignore_known_warnings

    ignore_known_warnings()
    try:
        function(arguments)
    except (UsageError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)

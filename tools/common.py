"""Arguments that tools/train.py and tools/test.py share. Imports nothing heavy, so that --help answers at once."""

import argparse
import os
import sys
import traceback
from typing import Optional


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file; configs are Python code that is executed, so use trusted ones")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (default: work_dirs/<config name>)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override settings of the config, for instance train_cfg.max_epochs=2 model.neck.in_channels=[1,2,3,4]",
    )
    parser.add_argument(
        "--no-audit", dest="audit", action="store_false", help="do not check the data first (docs/data_audit.md)"
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error comes from")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    arguments = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    sys.excepthook = end  # from here on, as importing what run() needs takes seconds
    return arguments


def end(kind, error, where) -> None:
    """End on Ctrl-C with one line and exit code 130; while it trains, mmsema.StopOnSignal does."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, where)
        return
    if os.environ.get("RANK", "0") == "0":
        print("SIGINT: ended", file=sys.stderr)
    sys.exit(130)


def run(function, arguments: argparse.Namespace) -> None:
    """Call ``function(arguments)`` and end with one line on stderr for each error.

    What the caller can mend (arguments, config, checkpoint, data) has exit code 2; a run that fails has 1, and its log
    has the traceback. ``--traceback`` shows it here, whatever the error.
    """
    from mmsema.checkpoint import CheckpointError
    from mmsema.engine import RunFailed, UsageError, ignore_known_warnings

    ignore_known_warnings()
    try:
        function(arguments)
    except Exception as error:
        cause: Optional[BaseException] = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        if cause is not None:  # mmengine makes another error of it
            raise cause from None
        if arguments.traceback:
            traceback.print_exc()
        mendable = isinstance(error, (UsageError, CheckpointError))
        text = str(error)
        if not mendable and not isinstance(error, RunFailed):
            text = f"{type(error).__name__}: {' '.join(text.split())[:500]}; --traceback shows where"
        rank = os.environ.get("RANK", "0")
        if not mendable or rank == "0" or not rank.isdigit():  # every process finds the same in the arguments
            print(f"error: {text}", file=sys.stderr)
        sys.exit(2 if mendable else 1)

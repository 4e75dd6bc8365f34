"""Check the data sets of a config: annotations, names, pictures.

Exit code 0: what was audited is fit for use, 1: it is not, or no set is of a known form, 2: wrong usage.
"""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file, or the name of one of mmsema's")
    parser.add_argument("--decode", action="store_true", help="decode every picture, which also finds damage inside")
    arguments = parser.parse_args()

    from rich.console import Console
    from rich.progress import track

    from mmsema.audit import audit_config
    from mmsema.engine import UsageError, ignore_known_warnings
    from mmsema.engine.config import read_config

    ignore_known_warnings()
    try:
        cfg = read_config(arguments.config)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    reports = audit_config(cfg, pictures="decode" if arguments.decode else "all", compare=True, progress=track)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for report in reports:
        table = report.table()
        if table is not None:
            console.print(table)
        for line in report.lines():
            print(line)
        if report.pictures:
            print(f"{report.source} ({report.use}): {report.pictures} pictures, {report.annotations} annotations")
    stops = sum(len(report.stops) for report in reports)
    skipped = [f"{report.source} ({report.use})" for report in reports if report.not_audited]
    nothing = bool(skipped) and len(skipped) == len(reports)
    if skipped:
        print(f"data sets not audited: {len(skipped)}, {', '.join(skipped)}")
    if stops:
        print(f"not fit for use: {stops} causes to stop")
    elif nothing:
        print("not known to be fit for use: nothing was audited")
    else:
        print("fit for use, as far as audited" if skipped else "fit for use")
    sys.exit(1 if stops or nothing else 0)


if __name__ == "__main__":
    main()

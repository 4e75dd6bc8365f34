"""Evaluate a checkpoint of a detector or a classifier."""

from common import make_parser, parse, run


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", metavar="FILE.pkl", help="also write the predictions to a pickle file")
    parser.add_argument("--show-dir", help="also write pictures with the predictions to this folder")
    parser.add_argument(
        "--labels",
        choices=("auto", "all", "none"),
        default="auto",
        help="name the objects on these pictures where there is room, all, or none (default: %(default)s)",
    )
    arguments = parse(parser)

    from mmsema.engine import test

    run(test, arguments)


if __name__ == "__main__":
    main()

"""Train a detector or a classifier from a config."""

from common import make_parser, parse, run


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; without a path from the newest in the work folder that loads; "
        "'auto' does that too, and starts as the config has it if there is none",
    )
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (needs a CUDA device)")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size (linear rule)"
    )
    arguments = parse(parser)

    from mmsema.engine import train

    run(train, arguments)


if __name__ == "__main__":
    main()

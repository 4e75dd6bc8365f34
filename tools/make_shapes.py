"""Write the shapes data set: COCO-format instance segmentation, real JPEG files, the same bytes for the same seed."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where to write, for instance data/shapes")
    parser.add_argument("--train", type=int, default=1600, help="number of training pictures (default: %(default)s)")
    parser.add_argument("--val", type=int, default=200, help="number of validation pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    for name in ("train", "val"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")

    from mmsema.datasets.shapes import make_shapes

    try:
        make_shapes(arguments.folder, dict(train=arguments.train, val=arguments.val), arguments.seed)
    except OSError as error:
        parser.error(f"{error.filename or arguments.folder}: {error.strerror or error}")


if __name__ == "__main__":
    main()

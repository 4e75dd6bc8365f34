"""Check CIFAR-10 as folders of pictures (train/<class>/*, test/<class>/*) and copy it to where the configs look."""

from conversion import parse, run


def main() -> None:
    arguments = parse(__doc__, "the folder with train/ and test/", "data/cifar10")

    from mmsema.datasets.converters.class_folders import convert_cifar10

    run(convert_cifar10, arguments)


if __name__ == "__main__":
    main()

"""Convert the nuclei of the 2018 Data Science Bowl (stage1_train, one mask file per nucleus) to COCO's form."""

from conversion import parse, run


def main() -> None:
    arguments = parse(__doc__, "the folder stage1_train", "data/nuclei")

    from mmsema.datasets.converters.masks import convert_nuclei

    run(convert_nuclei, arguments)


if __name__ == "__main__":
    main()

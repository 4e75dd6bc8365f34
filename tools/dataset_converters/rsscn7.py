"""Check RSSCN7 (seven folders of pictures from above) and copy it, split, to where the configs look for it."""

from conversion import parse, run


def main() -> None:
    arguments = parse(__doc__, "the folder with aGrass/ to gParking/", "data/rsscn7")

    from mmsema.datasets.converters.class_folders import convert_rsscn7

    run(convert_rsscn7, arguments)


if __name__ == "__main__":
    main()

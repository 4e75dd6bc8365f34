"""Find the annotations in a folder of one's own pictures, and bring them to COCO's form."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

from .converters.coco import ConversionError, Picture, hold_out, write_coco
from .converters.files import read_picture, walk
from .converters.masks import describe, read_masks
from .converters.voc import read_voc, voc_split

OURS = "mmsema"  # the folder that converted annotations are written to, inside the data's
ROLES = dict(trainval="train", training="train", train="train", validation="val", valid="val", val="val", test="test")
ID = (int, float, str)
FIELDS = dict(
    images=dict(id=ID, file_name=(str,)),
    annotations=dict(image_id=ID, category_id=ID),
    categories=dict(id=ID),
)


@dataclass
class Part:
    """An annotation file in COCO's form, the folder that its file names start from, and its content."""

    file: Path
    pictures: Path
    content: dict


@dataclass
class OwnData:
    """What was found: the two parts, the classes in the order of their numbers, and lines for the terminal."""

    train: Part
    val: Part
    classes: List[str]
    lines: List[str]
    problems: List[str]


def _read_coco(file: Path) -> Optional[dict]:
    """The content of an annotation file, None if the JSON is something else.

    Raises:
        ConversionError: it cannot be read, so that it may be annotations or not.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{file} cannot be read: {error}; mend it or take it out of the folder") from None
    keys = ("images", "annotations", "categories")
    return content if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys) else None


def _require_entries(file: Path, content: dict) -> None:
    """Raise where an entry is of a kind that cannot even be looked at; what else is wrong is the audit's to say."""
    for key, fields in FIELDS.items():
        for i, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise ConversionError(f"{file}: {key}[{i}] is a {type(entry).__name__}, expected an object")
            for field, kinds in fields.items():
                if not isinstance(entry.get(field, ""), kinds):
                    names = " or ".join(kind.__name__ for kind in kinds)
                    raise ConversionError(f"{file}: {field} of {key}[{i}] is {entry[field]!r:.60}, expected {names}")


def _fits(place: Path, images: Sequence[dict]) -> bool:
    """Whether a folder has all pictures of a file, and the first one in the size that its entry says."""
    if not all((place / image["file_name"]).is_file() for image in images):
        return False
    picture, first = read_picture(place / images[0]["file_name"]), images[0]
    return picture is not None and picture.shape[:2] == (first.get("height"), first.get("width"))


def _picture_folder(file: Path, content: dict, folder: Path) -> Path:
    """The folder that the file names start from, as it has the first picture: the annotation file's own, the data's, or
    one of those below it, where one of the file's role goes before one without and one of another role.

    Raises:
        ConversionError: there is none; or several are as good, label maps of the pictures' names among them perhaps.
    """
    images = [image for image in content["images"] if image.get("file_name")]
    name = images[0]["file_name"] if images else ""
    role = _role(file, folder)
    order = [file.parent, folder, *dict(train=["train"], val=["val", "test"], test=["test", "val"]).get(role, []), None]

    def rank(place: Path) -> int:
        its = place if place in order else _role(place, folder) if role else None
        return order.index(its) if its in order else len(order)

    holding: Dict[int, List[Path]] = {}
    for place, _ in walk(folder):
        if name and (place / name).is_file():
            holding.setdefault(rank(place), []).append(place)
    if not holding:
        raise ConversionError(f"{file} names {name!r}, which is in no folder below {folder}")
    best = holding[min(holding)]
    if len(best) > 1:
        best = [place for place in best if _fits(place, images)] or best
    if len(best) > 1:
        raise ConversionError(
            f"{file} names {name!r}, which is in several folders ({', '.join(map(str, best))}); lay the annotation "
            f"file into the one that is meant, or take the others out of {folder}"
        )
    return best[0]


def _role(path: Path, folder: Path) -> Optional[str]:
    """Whether a path, its last part first, says train, val or test: as a word, or else as a part of one."""
    parts = path.relative_to(folder).as_posix().lower().split("/")[::-1]
    for pattern in ("[a-z]+", "|".join(ROLES)):
        for part in parts:
            found = [ROLES[word] for word in re.findall(pattern, part) if word in ROLES]
            if found:
                return found[-1]
    return None


def _mask_folder(folder: Path) -> Optional[Path]:
    """The folder whose pictures have folders of masks, ``folder`` or one below it."""
    pictures = [place.parent for place, _ in walk(folder) if place.name == "masks"]
    found = sorted({path.parent for path in pictures if path != folder and (path / "images").is_dir()})
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise ConversionError(f"{folder} has several folders of pictures with masks ({names}); name one of them")
    return found[0] if found else None


def _require_pictures(file: Path, pictures: Sequence, problems: Sequence[str] = ()) -> None:
    if not pictures:
        first = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
        raise ConversionError(
            f"no picture is left for {file}; at least one is needed to train and one to validate{first}"
        )


def _split_by_names(pictures: Sequence[Picture], folder: Path) -> Tuple[List[List[Picture]], List[str]]:
    held, lines = hold_out([picture.path.relative_to(folder).as_posix() for picture in pictures])
    parts = [[one for one, is_held in zip(pictures, held, strict=True) if is_held == side] for side in (False, True)]
    return parts, ["split by the pictures' names", *lines]


def _split_by_folders(pictures: Sequence[Picture], folder: Path) -> Optional[Tuple[List[List[Picture]], List[str]]]:
    """As the folders of the XML say, if every one does; of val and test the first is used."""
    roles = [_role(picture.source.parent, folder) for picture in pictures]
    sides = ["train", "val" if "val" in roles else "test"]
    if None in roles or not {*sides} <= {*roles}:
        return None
    parts = [[one for one, role in zip(pictures, roles, strict=True) if role == side] for side in sides]
    unused = len(pictures) - len(parts[0]) - len(parts[1])
    more = f"; {unused} pictures of test are not used, as there is val" if unused else ""
    return parts, [f"split as the folders say, {' and '.join(sides)}{more}"]


def _split_by_lists(pictures: Sequence[Picture], names: Sequence[Set[str]]) -> Tuple[List[List[Picture]], List[str]]:
    """As the lists to train and to validate on say; and what is in one place only."""
    problems = []
    listed, stems = set.union(*names), [one.path.stem for one in pictures]
    for what, found in (
        ("pictures are in neither list, train.txt or val.txt", [stem for stem in stems if stem not in listed]),
        ("names of train.txt or val.txt have no picture", sorted(listed - {*stems})),
    ):
        if found:
            first = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
            problems.append(f"{len(found)} {what}: {first}")
    return [[one for one in pictures if one.path.stem in side] for side in names], problems


def _write(folder: Path, name: str, pictures: Sequence[Picture], classes: Sequence[str]) -> Part:
    file = folder / OURS / f"instances_{name}.json"
    description = f"{folder.name}, {name}, written by tools/make_config.py"
    return Part(file, folder, write_coco(file, pictures, classes, folder, description))


def _split_coco(part: Part, folder: Path) -> Tuple[Part, Part, List[str]]:
    """Two files for one, by the pictures' names, and lines; the annotations stay as they are.

    Those of no picture go to training, so that the audit counts them.
    """
    images, parts = part.content["images"], []
    number, count = Counter(image.get("id") for image in images).most_common(1)[0] if images else (None, 0)
    if number is not None and count > 1:  # in two files it would not be seen, and one lose its annotations
        raise ConversionError(f"{part.file}: image id {number!r} is there {count} times")
    held, lines = hold_out([str(image.get("file_name")) for image in images])
    in_val = {image.get("id") for image, is_held in zip(images, held, strict=True) if is_held}
    for name, side in (("train", False), ("val", True)):
        own = [image for image, is_held in zip(images, held, strict=True) if is_held == side]
        annotations = [one for one in part.content["annotations"] if (one.get("image_id") in in_val) == side]
        file = folder / OURS / f"instances_{name}.json"
        _require_pictures(file, own)
        content = dict(part.content, images=own, annotations=annotations)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        parts.append(Part(file, part.pictures, content))
    return parts[0], parts[1], lines


def _own_coco(files: Sequence[Path], folder: Path) -> OwnData:
    roles: Dict[Optional[str], List[Path]] = {}
    for file in files:
        roles.setdefault(_role(file, folder) if len(files) > 1 else "train", []).append(file)
    unused = roles.pop("test", []) if "val" in roles else []
    if "test" in roles:
        roles["val"] = roles.pop("test")
    for role, found in roles.items():
        if role is None or len(found) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in (found if role else files))
            raise ConversionError(
                f"{folder} has several annotation files ({names}); leave one with train and one with val"
            )
    if "train" not in roles:
        raise ConversionError(f"{folder} has no annotation file with train in its name: {', '.join(map(str, files))}")
    read = {role: Part(file, folder, _read_coco(file)) for role, (file,) in roles.items()}
    for part in read.values():
        _require_entries(part.file, part.content)
        part.pictures = _picture_folder(part.file, part.content, folder)
    lines = [f"{part.file}: {len(part.content['images'])} pictures, in {part.pictures}" for part in read.values()]
    lines += [f"{file}: not used, as there is {read['val'].file}" for file in unused]
    if "val" not in read:
        read["train"], read["val"], more = _split_coco(read["train"], folder)
        lines += ["split by the pictures' names", *more]
        lines += [f"{part.file}: {len(part.content['images'])} of them" for part in read.values()]
    categories = read["train"].content["categories"]  # mmdet counts them in the file's order
    used = set()
    for part in read.values():  # whose files may number the same names in two ways
        names = {category.get("id"): str(category.get("name")) for category in part.content["categories"]}
        used |= {names.get(one.get("category_id")) for one in part.content["annotations"]}
    classes = [str(category.get("name")) for category in categories if str(category.get("name")) in used]
    return OwnData(read["train"], read["val"], classes, lines, [])


def find_own_data(folder: Path, name: str = "object") -> OwnData:
    """Annotations in COCO's form for the pictures below ``folder``, training and validation.

    In this order: one or two COCO files, told apart by train and val (or test) in their paths; one mask file per object
    (``<name>/images/*``, ``<name>/masks/*``); VOC's XML, split as ``ImageSets/Main`` or the folders say. Where there is
    no validation part, the pictures are split by :func:`hold_out`. What is converted or split is
    written to ``folder/mmsema``; no file of the user's is changed.

    Args:
        folder: the data.
        name: the class of objects that are given by masks.

    Raises:
        ConversionError: nothing was found, or too much.
    """
    if not folder.is_dir():
        raise ConversionError(f"data {folder} is not a folder")
    every = sorted(path for _, files in walk(folder) for path in files)
    coco = [path for path in every if path.suffix == ".json" and folder / OURS not in path.parents and _read_coco(path)]
    if coco:
        return _own_coco(coco, folder)
    masks = _mask_folder(folder)
    if masks is not None:
        pictures, problems, counts = read_masks(masks, name)
        parts, lines = _split_by_names(pictures, folder)
        lines = describe(counts) + lines
    elif any(path.suffix == ".xml" for path in every):
        pictures, problems = read_voc(folder)
        names = voc_split(folder, {one.path.stem for one in pictures})
        if names:
            parts, unlisted = _split_by_lists(pictures, names)
            lines, problems = ["split as ImageSets/Main/train.txt and val.txt say"], unlisted + problems
        else:
            parts, lines = _split_by_folders(pictures, folder) or _split_by_names(pictures, folder)
    else:
        raise ConversionError(
            f"{folder} has no annotations: a COCO file (*.json with images, annotations and categories), "
            "VOC's (*.xml), or masks (<name>/images/*, <name>/masks/*)"
        )
    for side, part in zip(("train", "val"), parts, strict=True):
        _require_pictures(folder / OURS / f"instances_{side}.json", part, problems)
    classes = sorted({one["category"] for picture in pictures for one in picture.objects})
    train, val = (_write(folder, side, part, classes) for side, part in zip(("train", "val"), parts, strict=True))
    lines += [f"{part.file}: {len(part.content['images'])} pictures, written" for part in (train, val)]
    return OwnData(train, val, classes, lines, problems)

"""COCO's annotation files, as mmdet's CocoDataset and pycocotools read them."""

import difflib
import gc
import json
import math
import os
from itertools import chain
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from .boxes import check_places
from .causes import CAUSES
from .masks import check_masks
from .pictures import Progress, check_pictures, quiet
from .remember import watch
from .report import Report, shown

NUMBER = (int, float)
LEFT_OUT = ("image-without-annotation", "image-small", "box-below-a-pixel")  # why little is left, where it is a note
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")  # of UTF-8 and UTF-16, which pycocotools does not read
EDGE = 2.0  # pixels that a box may reach over the edge; COCO's own do by fractions of one


def read_json(report: Report, path: str) -> Any:
    """The file's content, or None and a finding. Without the garbage collector, which takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"version https://git-lfs"):
            report.add("file-not-json", "Git-LFS pointer", "get the file itself with: git lfs pull")
        elif not data.strip():
            report.add("file-not-json", "empty file")
        elif data[:2] in (b"\x1f\x8b", b"PK"):
            report.add("file-not-json", "compressed file", "unpack it first")
        elif data.startswith(MARKS) or b"\0" in data[:4]:
            report.add("file-not-json", "not UTF-8, or with a byte order mark", "save it as UTF-8 without one")
        elif data[:200].lstrip()[:1] == b"<":
            report.add("file-not-json", "HTML or XML page", "the download gave a page instead of the file")
        else:
            return json.loads(data)
    except FileNotFoundError:
        report.add("file-missing", path)
    except OSError as error:
        report.add("file-missing", path, error.strerror or "")
    except UnicodeDecodeError as error:
        report.add("file-not-json", f"byte {error.start}", "not UTF-8")
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) - 1 or error.msg.startswith("Unterminated")
        report.add("file-not-json", f"character {error.pos} of {len(error.doc)}", "cut off" if cut else error.msg)
    except ValueError:  # of Python, for more than 4300 digits
        report.add("file-not-coco", "a number of thousands of digits")
    except RecursionError:
        report.add("file-not-coco", "brackets nested without end")
    finally:
        if enabled:
            gc.enable()
    return None


def _is_coco(report: Report, content: Any) -> bool:
    if isinstance(content, list):
        results = bool(content) and isinstance(content[0], dict) and "score" in content[0]
        what = "results of a detector" if results else "a list"
        report.add("file-not-coco", f"{what} of {len(content)} entries", "expected images, annotations, categories")
        return False
    if not isinstance(content, dict):
        report.add("file-not-coco", f"a {type(content).__name__}", "expected images, annotations, categories")
        return False
    needed = ["images", "categories"] if report.use == "predict" else ["images", "annotations", "categories"]
    missing = [key for key in needed if key not in content]
    if missing:
        keys = ", ".join(sorted(map(str, content))[:8]) or "nothing"
        report.add("file-not-coco", f"no {' and no '.join(missing)}", f"it has {keys}")
        return False
    for key in ("images", "annotations", "categories"):
        entries = content.get(key, [])
        if not isinstance(entries, list):
            report.add("file-not-coco", f"{key} is a {type(entries).__name__}", "expected a list")
            return False
        wrong = next((i for i, entry in enumerate(entries) if not isinstance(entry, dict)), None)
        if wrong is not None:
            report.add("file-not-coco", f"{key}[{wrong}] is a {type(entries[wrong]).__name__}", "expected an object")
            return False
    return True


def column(entries: Sequence[dict], key: str, types: Tuple[type, ...]) -> Tuple[list, np.ndarray]:
    """Values of ``key`` and which of them are of ``types`` (a bool is no int here)."""
    values = [entry.get(key) for entry in entries]
    if set(map(type, values)) <= set(types):
        return values, np.ones(len(values), bool)
    return values, np.array([type(value) in types for value in values], bool)


def _twice(values: Iterable) -> List[int]:
    """Rows whose value came before."""
    values, seen = list(values), set()
    if len(set(values)) == len(values):
        return []
    return [row for row, value in enumerate(values) if value in seen or seen.add(value)]


def check_classes(report: Report, classes: Any, names: Sequence[str], source: str = "data") -> bool:
    """Compare the config's classes with the names in the data, in both directions and in order."""
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes) or not classes:
        hint = "a comma is missing: ('name',)" if isinstance(classes, str) else "expected a tuple of names"
        report.add("classes-wrong", repr(classes), hint)
        return False
    for row in _twice(classes):
        report.add("classes-wrong", repr(classes[row]), "twice")
    unknown = [name for name in classes if name not in names]
    for name in unknown:
        near = difflib.get_close_matches(name, [other for other in names if other not in classes], n=1)
        has = f"the {source} has {', '.join(map(repr, names[:10]))}" + (", ..." if len(names) > 10 else "")
        report.add("class-unknown", repr(name), f"did you mean {near[0]!r}?" if near else has)
    chosen = [name for name in names if name in set(classes)]
    if not unknown and len(set(chosen)) == len(chosen) == len(classes) and chosen != list(classes):
        row = next(i for i, pair in enumerate(zip(chosen, classes, strict=True)) if pair[0] != pair[1])
        report.add("class-order", f"number {row}", f"config {classes[row]!r}, {source} {chosen[row]!r}")
    return not unknown


def _check_categories(report: Report, categories: List[dict], classes: Any) -> Tuple[Dict[Any, int], np.ndarray]:
    """Row of each category id, and which rows are among the classes."""
    ids, good = column(categories, "id", (int, str))
    names, named = column(categories, "name", (str,))
    rows = np.flatnonzero(good & named).tolist()
    report.add_rows("category-wrong", np.flatnonzero(~(good & named)), lambda row: f"categories[{row}]")
    again = [rows[i] for i in _twice(ids[row] for row in rows)]
    report.add_rows("category-id-twice", again, lambda row: f"id {ids[row]}", lambda row: repr(names[row]))
    for row in (rows[i] for i in _twice(names[row] for row in rows)):
        report.add("category-name-twice", repr(names[row]), f"id {ids[row]}")
    wanted = np.zeros(len(categories), bool)
    wanted[rows] = True
    if classes is not None and check_classes(report, classes, list(dict.fromkeys(names[row] for row in rows)), "file"):
        wanted[rows] = [names[row] in classes for row in rows]
    return {ids[row]: row for row in rows}, wanted


def _check_images(report: Report, images: List[dict]) -> Tuple[Dict[Any, int], np.ndarray, np.ndarray, np.ndarray]:
    """Row of each image id, (N, 2) sizes with NaN where wrong, and which rows are good."""
    ids, good = column(images, "id", (int, str))
    names, named = column(images, "file_name", (str,))
    sizes = np.full((len(images), 2), math.nan)
    for axis, key in enumerate(("width", "height")):
        values, numbers = column(images, key, NUMBER)
        sizes[numbers, axis] = [value for value, number in zip(values, numbers, strict=True) if number]
    sizes[~(sizes > 0) | ~np.isfinite(sizes)] = math.nan
    sized = np.isfinite(sizes).all(1)

    def lacks(row: int) -> str:
        keys = dict(id=good[row], file_name=named[row], height=sizes[row, 1] > 0, width=sizes[row, 0] > 0)
        return shown(images[row], [key for key, fine in keys.items() if not fine])

    usable = good & named & sized
    report.add_rows("image-wrong", np.flatnonzero(~usable), lambda row: f"image {ids[row]}", lacks)
    rows = np.flatnonzero(good).tolist()
    for row in (rows[i] for i in _twice(ids[row] for row in rows)):
        report.add("image-id-twice", f"image {ids[row]}", repr(names[row]))
    return {ids[row]: row for row in reversed(rows)}, sizes, usable, named


def _number(value: Union[int, str]) -> Optional[float]:
    """An id as the number that pycocotools makes of it; None where it cannot."""
    if type(value) is int:
        return value
    try:
        return float(value)
    except ValueError:
        return None


def _check_types(report: Report, what: str, ids: Iterable) -> None:
    """The evaluation sorts ids, which must be of one kind for that."""
    first = {type(i): i for i in ids}
    if len(first) > 1:
        report.add("id-types", f"ids of {what}", ", ".join(map(repr, first.values())))


def _boxes(annotations: List[dict]) -> Tuple[np.ndarray, np.ndarray]:
    """(N, 4) boxes, NaN where ``bbox`` is not four numbers, and where it is."""
    values = [annotation.get("bbox") for annotation in annotations]
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        flat = list(chain.from_iterable(values))
        if set(map(type, flat)) <= set(NUMBER):
            return np.array(flat, np.float64).reshape(-1, 4), np.ones(len(values), bool)
    good = np.array([type(v) is list and len(v) == 4 and set(map(type, v)) <= set(NUMBER) for v in values], bool)
    boxes = np.full((len(values), 4), math.nan)
    boxes[good] = [value for value, fine in zip(values, good, strict=True) if fine] or np.zeros((0, 4))
    return boxes, good


def _check_annotations(
    report: Report,
    annotations: List[dict],
    images: Dict[Any, int],
    sizes: np.ndarray,
    categories: Dict[Any, int],
    wanted: np.ndarray,
    category_names: List[str],
    masks: bool,
    poly2mask: bool,
    lvis: bool,
) -> np.ndarray:
    """Number of usable annotations of each image; -1 for one without any annotation."""
    ids, good = column(annotations, "id", (int, str))
    image_ids, image_good = column(annotations, "image_id", (int, float, str))
    category_ids, category_good = column(annotations, "category_id", (int, float, str))
    areas, area_good = column(annotations, "area", NUMBER)
    boxes, box_good = _boxes(annotations)
    area = np.array([a if fine else math.nan for a, fine in zip(areas, area_good, strict=True)], np.float64)
    area_good &= np.isfinite(area)
    image = np.array([images.get(i, -1) if f else -1 for i, f in zip(image_ids, image_good, strict=True)], np.int64)
    category = [categories.get(i, -1) if f else -1 for i, f in zip(category_ids, category_good, strict=True)]
    category = np.array(category, np.int64)

    def name(row: int) -> str:
        return f"annotation {ids[row]}"

    def lacks(row: int) -> str:
        columns = dict(id=good, image_id=image_good, category_id=category_good, bbox=box_good, area=area_good)
        return shown(annotations[row], [key for key, fine in columns.items() if not fine[row]])

    def box(row: int) -> str:
        return f"image {image_ids[row]}, bbox {annotations[row]['bbox']}"

    # mmdet leaves "ignore" out before it looks at anything else, and so does nobody need a box or an area there
    ignored = np.zeros(len(annotations), bool)
    if report.use == "train":
        ignored = np.array([bool(annotation.get("ignore")) for annotation in annotations], bool)
    whole = good & image_good & category_good & ((box_good & area_good) | ignored)
    report.add_rows("annotation-wrong", np.flatnonzero(~whole), name, lacks)
    rows = np.flatnonzero(good).tolist()
    report.add_rows("annotation-id-twice", [rows[i] for i in _twice(ids[row] for row in rows)], name)
    numbers = [(row, _number(ids[row])) for row in rows]
    report.add_rows("annotation-id-zero", [row for row, number in numbers if number == 0], name)
    report.add_rows("annotation-id-text", [row for row, number in numbers if number is None], name)
    report.add_rows(
        "annotation-of-no-image", np.flatnonzero(whole & (image < 0)), name, lambda row: f"image_id {image_ids[row]!r}"
    )
    report.add_rows(
        "annotation-of-no-category",
        np.flatnonzero(whole & (category < 0)),
        name,
        lambda row: f"category_id {category_ids[row]!r}",
    )
    left_out = np.bincount(category[whole & (category >= 0)], minlength=len(wanted)) * ~wanted
    for row in np.flatnonzero(left_out):
        report.add("category-unused", repr(category_names[row]), f"{left_out[row]} annotations left out")
    alive = whole & ~ignored & (image >= 0) & (category >= 0)
    alive[alive] = wanted[category[alive]] & np.isfinite(sizes[image[alive]]).all(1)
    crowds = [annotation.get("iscrowd") for annotation in annotations]
    if None in crowds and not lvis:
        report.add_rows("iscrowd-missing", [row for row in np.flatnonzero(alive) if crowds[row] is None], name)
    wrong = [row for row in np.flatnonzero(alive) if crowds[row] not in (0, 1, None)]
    report.add_rows("iscrowd-wrong", wrong, name, lambda row: f"iscrowd {crowds[row]!r:.60}")

    finite = np.isfinite(boxes).all(1)
    report.add_rows("box-not-finite", np.flatnonzero(alive & ~finite), name, box)
    x, y, width, height = np.where((alive & finite)[:, None], boxes, [0, 0, 9, 9]).T
    image_width, image_height = sizes[np.maximum(image, 0)].T if len(sizes) else np.zeros((2, len(annotations)))
    flat = (width <= 0) | (height <= 0)
    report.add_rows("box-no-size", np.flatnonzero(alive & flat), name, box)
    outside = (x >= image_width) | (y >= image_height) | (x + width <= 0) | (y + height <= 0)
    report.add_rows("box-outside", np.flatnonzero(alive & finite & ~flat & outside), name, box)
    empty = alive & ~flat & ~outside & (area <= 0)
    report.add_rows("area-zero", np.flatnonzero(empty), name, lambda row: f"area {areas[row]}")
    thin = alive & ~flat & ~outside & ((width < 1) | (height < 1))
    report.add_rows("box-below-a-pixel", np.flatnonzero(thin), name, box)
    over = (x < -EDGE) | (y < -EDGE) | (x + width > image_width + EDGE) | (y + height > image_height + EDGE)
    report.add_rows("box-over-the-edge", np.flatnonzero(alive & finite & ~flat & ~outside & over), name, box)
    usable = alive & finite & ~flat & ~outside & ~empty & ~thin
    if masks:
        rows = np.flatnonzero(alive if report.use == "evaluate" else usable)
        masked = [annotations[row] for row in rows]
        usable[rows] &= check_masks(report, masked, sizes[image[rows]], usable[rows], poly2mask)
    objects = usable & np.array([crowd in (0, None) for crowd in crowds], bool)
    if usable.any() and not objects.any() and not wrong:
        report.add("crowds-only", f"{usable.sum()} annotations")
    check_places(report, annotations, np.flatnonzero(objects), boxes, over, masks)
    report.annotations = len(annotations)
    per_image = np.full(len(sizes), -1)
    per_image[image[alive]] = 0
    np.add.at(per_image, image[usable], 1)
    return per_image


def _face(image: dict) -> str:
    """What tells an image from others of the same id."""
    return f"{os.path.basename(str(image.get('file_name')))} of {image.get('width')} x {image.get('height')}"


def compare_pictures(ann_file: str, evaluated: str) -> Report:
    """Whether an evaluator's annotation file has the pictures of the set that is tested, under their ids."""
    report, own = Report(evaluated, "evaluate"), Report(ann_file)  # the set's own faults are in its own report
    contents = [read_json(report, evaluated), read_json(own, ann_file)]
    if None in contents or not _is_coco(report, contents[0]) or not _is_coco(own, contents[1]):
        return report
    named, wanted = ({one.get("id"): _face(one) for one in content["images"]} for content in contents)
    other = [i for i, face in wanted.items() if named.get(i) != face]
    if other:
        first = other[0]
        text = f"image {first} is {named.get(first, 'not there')}, in {ann_file} {wanted[first]}"
        report.add("evaluator-pictures", f"{len(other)} of {len(wanted)}", text)
    return report


def audit_coco(
    ann_file: Union[str, os.PathLike],
    img_root: Union[str, os.PathLike],
    classes: Optional[Sequence[str]] = None,
    use: str = "train",
    masks: bool = True,
    poly2mask: bool = True,
    filter_empty_gt: bool = False,
    min_size: float = 0,
    pictures: str = "all",
    exif: bool = True,
    decoder: str = "cv2",
    lvis: bool = False,
    alone: bool = True,
    progress: Progress = quiet,
) -> Report:
    """Audit an annotation file and its pictures.

    Args:
        ann_file: COCO's JSON.
        img_root: folder that its file names start from.
        classes: what the model is to learn, in order; None: all categories of the file.
        use: "train", "evaluate" or "predict"; see :class:`Report`.
        masks: the segmentations are used.
        poly2mask, filter_empty_gt, min_size: as mmdet's LoadAnnotations and filter_cfg.
        pictures: "quick" (every file's existence, some headers), "all" (every header and end) or "decode".
        exif: the loader turns pictures as EXIF says.
        decoder: what decodes the pictures, as mmdet's ``imdecode_backend``; one that is not in
            :data:`mmsema.audit.pictures.DECODERS`: the files are looked for and nothing else.
        lvis: names come from LVIS v1's ``coco_url``.
        alone: no other set is used with it, so that it must have annotations.
        progress: ``rich.progress.track`` or alike.

    Raises:
        ValueError: ``use`` is none of these.
    """
    ann_file, img_root = str(ann_file), str(img_root)
    report = Report(ann_file, use)
    watch(report, ann_file)
    content = read_json(report, ann_file)
    if content is None or not _is_coco(report, content):
        return report
    images, categories = content["images"], content["categories"]
    annotations = content.get("annotations", []) if use != "predict" else []
    if lvis:
        for image in images:
            image["file_name"] = str(image.get("coco_url", "")).replace("http://images.cocodataset.org/", "")
    category_rows, wanted = _check_categories(report, categories, classes)
    category_names = [category.get("name") for category in categories]
    try:
        image_rows, sizes, usable, named = _check_images(report, images)
        per_image = _check_annotations(
            report, annotations, image_rows, sizes, category_rows, wanted, category_names, masks, poly2mask, lvis
        )
    except OverflowError:
        report.add("file-not-coco", "an integer beyond 1e308")
        return report
    _check_types(report, "images", image_rows)
    _check_types(report, "categories", category_rows)
    rows = np.flatnonzero(named)
    names = [images[row]["file_name"] for row in rows]
    if use == "train":
        small = usable & (sizes.min(1) < min_size)
        report.add_rows("image-small", np.flatnonzero(small), lambda row: f"image {images[row]['id']}")
        bare = usable & (per_image < 0)
        report.add_rows("image-without-annotation", np.flatnonzero(bare), lambda row: f"image {images[row]['id']}")
        usable &= ~small & ~(bare & filter_empty_gt)
    numbers = f"{usable.sum()} of {len(images)} images, {per_image.clip(0).sum()} of {len(annotations)} annotations"
    labelled = use == "predict" or (per_image > 0).any()
    bare_set = not labelled and (per_image < 0).all() and "annotation-of-no-image" not in report.counts
    if bare_set and not alone and usable.any():
        report.add("set-unlabelled", numbers)
    elif not usable.any() or not labelled:
        reasons = [f"{CAUSES[c].what}: {report.counts[c]}" for c in LEFT_OUT if c in report.counts]
        report.add("set-empty", numbers, ", ".join(reasons))

    def name(row: int) -> str:
        return f"image {images[rows[row]].get('id')}, {names[row]!r}"

    report.add_rows("picture-twice", _twice(names), name)
    ids = sizes[rows]
    del content, annotations
    check_pictures(report, img_root, names, name, ids, pictures, exif, decoder, progress)
    return report

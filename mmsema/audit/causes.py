"""Every fault that the data audit knows, and the one rule for each."""

from dataclasses import dataclass
from typing import Dict


@dataclass(frozen=True)
class Cause:
    """One kind of fault.

    ``rule`` is ``stop`` (training and testing do not start), ``drop`` (they do; the host leaves the thing out, which is
    counted and named) or ``note`` (harmless; only the tool shows it). ``evaluation`` is the rule for sets that results
    are compared with, where it differs. ``host`` says what mmdet, mmpretrain or mmseg do with such data on their own.
    """

    rule: str
    what: str
    host: str
    evaluation: str = ""

    def rule_for(self, use: str) -> str:
        return self.evaluation if self.evaluation and use == "evaluate" else self.rule


CAUSES: Dict[str, Cause] = {
    # the annotation file
    "file-missing": Cause("stop", "annotation file is not there", "traceback"),
    "file-not-json": Cause("stop", "annotation file is not JSON", "traceback without the file's name"),
    "file-not-coco": Cause(
        "stop", "JSON is not a COCO annotation file", "`{}` gives an empty set, the rest tracebacks"
    ),
    "set-empty": Cause(
        "stop", "nothing is left to use", "ValueError without the file's name; without annotations: learns background"
    ),
    "set-unlabelled": Cause("note", "set without annotations, beside another", "its pictures are background"),
    "evaluator-pictures": Cause(
        "stop", "the evaluator's file has other pictures than the set", "results are compared with other pictures"
    ),
    # classes
    "classes-wrong": Cause("stop", "classes are not a list of different names", "a text is searched for names in it"),
    "category-wrong": Cause("stop", "category without a usable id or name", "KeyError"),
    "category-id-twice": Cause("stop", "category id twice", "the last one wins"),
    "category-name-twice": Cause("stop", "category name twice", "all later labels move by one"),
    "class-unknown": Cause("stop", "class of the config is not in the data", "all later labels move by one"),
    "class-order": Cause("stop", "classes are in another order than in the data", "objects get each other's names"),
    "category-unused": Cause("drop", "category is not among the classes", "its annotations are left out"),
    # ids and keys
    "image-wrong": Cause("stop", "image entry lacks a usable id, file_name, height or width", "KeyError"),
    "image-id-twice": Cause("stop", "image id twice", "the last one wins and gets the boxes of both"),
    "annotation-wrong": Cause("stop", "annotation lacks a usable id, image_id, category_id, bbox or area", "KeyError"),
    "annotation-id-twice": Cause("stop", "annotation id twice", "a box is given twice, its namesake is lost"),
    "annotation-of-no-image": Cause("drop", "annotation of an image that is not listed", "left out"),
    "annotation-of-no-category": Cause("stop", "annotation of a category that is not listed", "left out in silence"),
    "iscrowd-missing": Cause("note", "annotation without iscrowd", "taken as 0; evaluation: KeyError", "stop"),
    "iscrowd-wrong": Cause("stop", "iscrowd is neither 0 nor 1", "any text, '0' too, means a crowd: object ignored"),
    "crowds-only": Cause("stop", "there are only crowds", "trains on background alone; evaluation: nothing to find"),
    "annotation-id-zero": Cause(
        "note",
        "annotation of number 0, which pycocotools never finds",
        "evaluation: an object that nobody finds",
        "drop",
    ),
    "annotation-id-text": Cause("note", "annotation id is a text and no number", "evaluation: ValueError", "stop"),
    "id-types": Cause("note", "ids are numbers and texts", "evaluation: TypeError, as they cannot be sorted", "stop"),
    "image-without-annotation": Cause("note", "image without annotations", "left out if filter_empty_gt, else kept"),
    "image-small": Cause("note", "image smaller than filter_cfg's min_size", "left out"),
    # boxes
    "box-not-finite": Cause("stop", "bbox with NaN or infinity", "left out, or NaN in the loss"),
    "box-no-size": Cause("drop", "bbox of zero or negative size", "left out; evaluation: an object that nobody finds"),
    "box-outside": Cause("drop", "bbox outside its picture", "left out; evaluation: an object that nobody finds"),
    "area-zero": Cause("drop", "area of zero or less", "left out; evaluation: an object of no size"),
    "box-below-a-pixel": Cause("note", "bbox narrower than a pixel", "left out"),
    "box-over-the-edge": Cause("note", "bbox more than 2 pixels over its picture's edge", "kept as it is"),
    "boxes-misplaced": Cause("stop", "most boxes are not where the objects are", "learns wrong boxes"),
    # masks, where the config uses them
    "mask-missing": Cause("stop", "no segmentation", "KeyError 'mask' without the file's name"),
    "mask-wrong": Cause("stop", "segmentation is neither a list of polygons nor an RLE", "TypeError"),
    "mask-empty": Cause("stop", "mask covers nothing of its picture", "an object without a pixel is learnt"),
    "polygon-not-finite": Cause("stop", "polygon with something else than finite numbers", "a wrong mask"),
    "polygon-short": Cause(
        "drop", "mask without a polygon of three points or more", "object ignored; evaluation: error", "stop"
    ),
    "polygon-part": Cause("drop", "part of a mask is no polygon", "part left out"),
    "rle-wrong": Cause("drop", "RLE without counts or size", "object ignored; evaluation: error", "stop"),
    "rle-unused": Cause("drop", "RLE where masks are kept as polygons (poly2mask=False)", "object ignored"),
    "rle-size": Cause("stop", "RLE of another size than its picture", "error, or a wrong mask"),
    "rle-runs": Cause("stop", "RLE that does not decode", "half an RLE becomes another mask"),
    # pictures
    "name-outside": Cause("stop", "file name leaves the folder of the pictures", "read wherever it leads"),
    "picture-missing": Cause("stop", "picture is not there", "FileNotFoundError, often hours later"),
    "picture-empty": Cause("stop", "picture of 0 bytes", "traceback without the file's name"),
    "picture-unreadable": Cause("stop", "file cannot be read as a picture", "traceback without the file's name"),
    "picture-truncated": Cause("stop", "picture is cut off or damaged", "OpenCV 4 makes up the rest in silence"),
    "picture-size": Cause("stop", "picture has another size than its entry says", "boxes in the wrong places"),
    "pictures-not-read": Cause(
        "note", "files that OpenCV or Pillow do not read, only looked for", "read by a transform"
    ),
    "picture-twice": Cause("note", "picture is listed twice", "used twice"),
    "picture-in-both": Cause("note", "same picture in the training and in another set", "judged on what was learnt"),
    # image folders and lists (mmpretrain)
    "folder-missing": Cause("stop", "folder is not there", "traceback"),
    "folder-hidden": Cause("stop", "hidden folder among the class folders", "becomes a class; all later labels move"),
    "folder-count": Cause("stop", "number of class folders is not the number of classes", "assertion"),
    "folder-names": Cause("stop", "class folders of two sets differ", "labels of one set mean other classes"),
    "folder-empty": Cause("drop", "class folder without a picture", "a class without examples"),
    "file-other": Cause("note", "file that is no picture", "left out"),
    "line-wrong": Cause("stop", "line is not a file name and a label", "ValueError without the line"),
    "label-outside": Cause("stop", "label is not one of the classes", "CUDA assertion in the loss"),
    "label-twice": Cause("stop", "file has two labels", "both are learnt"),
    # pictures with label maps (mmseg)
    "map-missing": Cause("stop", "label map is not there", "FileNotFoundError, often hours later"),
    "map-wrong": Cause("stop", "label map is not one channel of whole numbers", "IndexError, or wrong labels"),
    "map-values": Cause("stop", "label map has values that are no class", "CUDA assertion in the loss"),
    "map-unused": Cause("note", "label map without a picture", "left out"),
}

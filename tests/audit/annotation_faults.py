"""Faults inside COCO's annotation files."""

from planting import CLASSES, SIZE, find, json_fault

# classes


@json_fault("class-unknown", "class of the config is not in the data: 'square' (did you mean 'sqare'?)")
def class_misspelt_in_the_file(content):
    content["categories"][1]["name"] = "sqare"


@json_fault(
    "class-unknown",
    "class of the config is not in the data: 'sqare' (did you mean 'square'?)",
    classes=("circle", "sqare", "star"),
)
def class_misspelt_in_the_config(content):
    pass


@json_fault(
    "class-order",
    "classes are in another order than in the data: number 0 (config 'square', file 'circle')",
    classes=("square", "circle", "star"),
)
def classes_in_another_order(content):
    pass


@json_fault(
    "classes-wrong",
    "classes are not a list of different names: 'circle' (a comma is missing: ('name',))",
    classes="circle",
)
def classes_are_text(content):
    pass


@json_fault(
    "category-unused", "category is not among the classes: 'star' (2 annotations left out)", classes=CLASSES[:2]
)
def category_not_wanted(content):
    pass


@json_fault("category-name-twice", "category name twice: 'circle' (id 9)")
def category_name_twice(content):
    content["categories"].append(dict(id=9, name="circle"))


@json_fault("category-id-twice", "category id twice: id 7 ('moon')", also={"category-unused": 1})
def category_id_twice(content):
    content["categories"].append(dict(id=7, name="moon"))


@json_fault("category-wrong", "category without a usable id or name: categories[3]")
def category_without_name(content):
    content["categories"].append(dict(id=9))


# ids and keys


@json_fault("image-id-twice", "image id twice: image 1 ('empty.jpg')")
def image_id_twice(content):
    content["images"][3]["id"] = 1


@json_fault("annotation-id-twice", "annotation id twice: annotation 11")
def annotation_id_twice(content):
    find(content, 15)["id"] = 11


@json_fault("annotation-of-no-image", "annotation of an image that is not listed: annotation 15 (image_id 99)")
def annotation_of_no_image(content):
    find(content, 15)["image_id"] = 99


@json_fault("annotation-of-no-category", "annotation of a category that is not listed: annotation 15 (category_id 2)")
def annotation_of_no_category(content):
    find(content, 15)["category_id"] = 2


@json_fault(
    "annotation-wrong", "annotation lacks a usable id, image_id, category_id, bbox or area: annotation 12 (no bbox)"
)
def bbox_missing(content):
    del find(content, 12)["bbox"]


@json_fault(
    "annotation-wrong", "annotation lacks a usable id, image_id, category_id, bbox or area: annotation 12 (no area)"
)
def area_missing(content):
    del find(content, 12)["area"]


@json_fault(
    "annotation-wrong",
    "annotation lacks a usable id, image_id, category_id, bbox or area: annotation 12 (area nan)",
)
def area_is_nan(content):
    find(content, 12)["area"] = float("nan")


@json_fault(
    "annotation-wrong",
    "annotation lacks a usable id, image_id, category_id, bbox or area: annotation 12 (bbox [1, 2, 30])",
)
def bbox_of_three_numbers(content):
    find(content, 12)["bbox"] = [1, 2, 30]


@json_fault(
    "annotation-wrong",
    "annotation lacks a usable id, image_id, category_id, bbox or area: annotation 12 (bbox ['1', '2', '30', '40'])",
)
def bbox_of_texts(content):
    find(content, 12)["bbox"] = ["1", "2", "30", "40"]


@json_fault("iscrowd-missing", "annotation without iscrowd: annotation 12", use="evaluate")
def iscrowd_missing_where_evaluated(content):
    del find(content, 12)["iscrowd"]


@json_fault("image-wrong", "image entry lacks a usable id, file_name, height or width: image 4 (no height)")
def height_missing(content):
    del content["images"][3]["height"]


@json_fault("image-wrong", "image entry lacks a usable id, file_name, height or width: image 4 (width 0)")
def width_zero(content):
    content["images"][3]["width"] = 0


@json_fault("iscrowd-wrong", "iscrowd is neither 0 nor 1: annotation 12 (iscrowd '0')")
def iscrowd_as_text(content):
    find(content, 12)["iscrowd"] = "0"


@json_fault("crowds-only", "there are only crowds: 6 annotations")
def crowds_throughout(content):
    for entry in content["annotations"]:
        entry["iscrowd"] = 1


@json_fault("annotation-id-zero", "annotation of number 0, which pycocotools never finds: annotation 0", use="evaluate")
def annotation_numbers_from_zero(content):
    for entry in content["annotations"]:
        entry["id"] -= 11


@json_fault(
    "annotation-id-zero",
    "annotation of number 0, which pycocotools never finds: annotation 0; 6 in all, also annotation 00, "
    "annotation 000, annotation 0000, annotation 00000, ...",
    6,
    use="evaluate",
)
def annotation_numbers_of_zeros(content):
    for i, entry in enumerate(content["annotations"], 1):
        entry["id"] = "0" * i


@json_fault("annotation-id-text", "annotation id is a text and no number: annotation 7f3a-11", use="evaluate")
def annotation_id_is_a_text(content):
    find(content, 11)["id"] = "7f3a-11"


@json_fault("id-types", "ids are numbers and texts: ids of images ('four', 1)", use="evaluate")
def image_ids_of_two_kinds(content):
    content["images"][3]["id"] = "four"
    for entry in content["annotations"]:
        entry["image_id"] = {4: "four"}.get(entry["image_id"], entry["image_id"])


@json_fault("file-not-coco", "JSON is not a COCO annotation file: an integer beyond 1e308")
def box_beyond_all_numbers(content):
    find(content, 11)["bbox"][0] = 10**400


@json_fault(
    "set-empty",
    "nothing is left to use: 4 of 4 images, 0 of 6 annotations (image without annotations: 1, "
    "bbox narrower than a pixel: 6)",
)
def boxes_in_shares_of_the_picture(content):
    for entry in content["annotations"]:
        entry["bbox"] = [value / SIZE[i % 2] for i, value in enumerate(entry["bbox"])]


# boxes


@json_fault(
    "boxes-misplaced",
    "most boxes are not where the objects are: 3 of 5 (annotation 12: bbox [8.0, 10.0, 40.0, 30.0], its mask in "
    "[8, 10, 32, 20]; bbox is x, y, width, height in pixels)",
)
def boxes_as_two_corners(content):
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]


@json_fault(
    "boxes-misplaced",
    "most boxes are not where the objects are: 5 of 5 (annotation 11: bbox [13.5, 12.0, 19.0, 16.0], its mask in "
    "[4, 4, 20, 16]; bbox is x, y, width, height in pixels)",
)
def boxes_from_their_centres(content):
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x + width / 2, y + height / 2, width, height]


@json_fault(
    "boxes-misplaced",
    "most boxes are not where the objects are: 4 of 5 (annotation 11: bbox [44, 30, 40, 30] reaches over the edge; "
    "bbox is x, y, width, height in pixels)",
    masks=False,
)
def boxes_over_the_edge(content):
    for number in (11, 12, 14, 15):
        find(content, number)["bbox"] = [44, 30, 40, 30]


@json_fault("box-not-finite", "bbox with NaN or infinity: annotation 12 (image 1, bbox [nan, 2, 30, 40])")
def box_nan(content):
    find(content, 12)["bbox"] = [float("nan"), 2, 30, 40]


@json_fault("box-not-finite", "bbox with NaN or infinity: annotation 12 (image 1, bbox [1, 2, inf, 40])")
def box_infinite(content):
    find(content, 12)["bbox"] = [1, 2, float("inf"), 40]


@json_fault(
    "box-no-size",
    "bbox of zero or negative size: annotation 11 (image 1, bbox [10, 5, -4, 8]); 3 in all, "
    "also annotation 12, annotation 14",
    3,
)
def boxes_negative_and_zero(content):
    find(content, 11)["bbox"] = [10, 5, -4, 8]
    find(content, 12)["bbox"] = [10, 5, 4, 0]
    find(content, 14)["bbox"] = [10, 5, 0, 4]


@json_fault("box-outside", "bbox outside its picture: annotation 12 (image 1, bbox [64, 5, 10, 10])")
def box_outside(content):
    find(content, 12)["bbox"] = [64, 5, 10, 10]


@json_fault("area-zero", "area of zero or less: annotation 12 (area 0)")
def area_zero(content):
    find(content, 12)["area"] = 0


# masks


@json_fault("mask-missing", "no segmentation: annotation 12 (image 1, segmentation None)")
def segmentation_missing(content):
    del find(content, 12)["segmentation"]


@json_fault(
    "mask-wrong",
    "segmentation is neither a list of polygons nor an RLE: annotation 11 (image 1, segmentation [4, 4, 24...",
)
def polygon_not_in_a_list(content):
    find(content, 11)["segmentation"] = find(content, 11)["segmentation"][0]


@json_fault(
    "polygon-short",
    "mask without a polygon of three points or more: annotation 11 (image 1, segmentation [[4, 4, 24, 20]])",
)
def polygon_of_two_points(content):
    find(content, 11)["segmentation"] = [[4, 4, 24, 20]]


@json_fault(
    "polygon-short",
    "mask without a polygon of three points or more: annotation 11 (image 1, segmentation [[4, 4, 24, 4, 4, 20, 7]])",
)
def polygon_of_odd_length(content):
    find(content, 11)["segmentation"] = [[4, 4, 24, 4, 4, 20, 7]]


@json_fault(
    "polygon-short",
    "mask without a polygon of three points or more: annotation 14 "
    "(image 2, segmentation [[4, 4, 24, 20], [30, 20, 50, 20, 30, 36]])",
    use="evaluate",
)
def first_part_of_two_points_where_evaluated(content):  # pycocotools then takes every part for a box
    find(content, 14)["segmentation"][0] = [4, 4, 24, 20]


@json_fault(
    "polygon-part",
    "part of a mask is no polygon: annotation 14 (image 2, segmentation [[4, 4, 24, 4, 4, 20], [30, 20]])",
)
def polygon_part_of_one_point(content):
    find(content, 14)["segmentation"][1] = [30, 20]


@json_fault(
    "polygon-part",
    "part of a mask is no polygon: annotation 11 "
    "(image 1, segmentation [[4, 4, 24, 4, 4, 20], [1, 1, 9, 1, 9, None, 7]])",
)
def polygon_part_of_odd_length_without_numbers(content):
    find(content, 11)["segmentation"].append([1, 1, 9, 1, 9, None, 7])


@json_fault(
    "polygon-not-finite",
    "polygon with something else than finite numbers: annotation 11 (image 1, segmentation [[nan, 4, 24, 4, 4, 20]])",
)
def polygon_nan(content):
    find(content, 11)["segmentation"] = [[float("nan"), 4, 24, 4, 4, 20]]


@json_fault(
    "mask-empty", "mask covers nothing of its picture: annotation 11 (image 1, segmentation [[4, 4, 14, 9, 24, 14]])"
)
def polygon_on_a_line(content):
    find(content, 11)["segmentation"] = [[4, 4, 14, 9, 24, 14]]


@json_fault(
    "mask-empty",
    "mask covers nothing of its picture: annotation 11 (image 1, segmentation [[-24, 4, -4, 4, -24, 20]]); 4 in all, "
    "also annotation 14, annotation 15, annotation 16",
    4,
)
def polygons_beside_the_picture(content):
    find(content, 11)["segmentation"] = [[-24, 4, -4, 4, -24, 20]]
    find(content, 14)["segmentation"] = [[64, 4, 84, 4, 64, 20]]
    find(content, 15)["segmentation"] = [[4, -24, 24, -24, 4, 0]]
    find(content, 16)["segmentation"] = [[4, 48, 24, 48, 4, 64]]


@json_fault("mask-empty", "mask covers nothing of its picture: annotation 13 (image 1, RLE of zeros)")
def rle_of_zeros(content):
    find(content, 13)["segmentation"]["counts"] = [SIZE[0] * SIZE[1]]


@json_fault("rle-runs", "RLE that does not decode: annotation 12 (image 1, runs of...")
def rle_half(content):
    rle = find(content, 12)["segmentation"]
    rle["counts"] = rle["counts"][: len(rle["counts"]) // 2]


@json_fault("rle-runs", "RLE that does not decode: annotation 12 (image 1, counts are not COCO's compressed form)")
def rle_of_other_letters(content):
    find(content, 12)["segmentation"]["counts"] = "no RLE!"


@json_fault("rle-runs", "RLE that does not decode: annotation 13 (image 1, runs of 800 pixels in all, image has 3072)")
def crowd_of_too_few_runs(content):
    find(content, 13)["segmentation"]["counts"].pop()


@json_fault("rle-size", "RLE of another size than its picture: annotation 13 (image 1, size [64, 48], image 48 x 64)")
def rle_turned(content):
    find(content, 13)["segmentation"]["size"] = list(SIZE)


@json_fault("rle-wrong", "RLE without counts or size: annotation 13 (image 1, no counts, size [48, 64])")
def rle_without_counts(content):
    del find(content, 13)["segmentation"]["counts"]


@json_fault(
    "rle-unused",
    "RLE where masks are kept as polygons (poly2mask=False): annotation 12 (image 1); 2 in all, also annotation 13",
    2,
    poly2mask=False,
)
def rle_where_polygons_are_kept(content):
    pass

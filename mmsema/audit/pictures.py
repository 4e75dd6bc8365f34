"""Picture files: their names, whether they are there and whole, and their sizes."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .remember import watch
from .report import Report

QUICK_PICTURES = 4000  # headers that the quick form reads, evenly spread over the set
CHUNK = 64
THREADS = 8  # waiting for a disk, or decoding, both without the interpreter's lock
DECODERS = ("cv2", "pillow", "turbojpeg")
OPENCV_READS = {"JPEG", "MPO", "PNG", "BMP", "WEBP", "PPM"}  # and TIFF by its pixels: no 32 bits as colours, for one
ORIENTATION = 0x0112  # EXIF; 5 to 8 turn by a quarter
Progress = Callable[[Iterable, str], Iterable]


def quiet(items: Iterable, description: str) -> Iterable:
    """No progress bar."""
    return items


def name_fault(name: str) -> str:
    """Why a file name must not be joined to a folder, or an empty text."""
    if "\0" in name:
        return "null byte"
    if "://" in name:
        return "URL"
    if "\\" in name:
        return "backslash"
    if os.path.isabs(name):
        return "absolute path"
    return "'..'" if ".." in name.split("/") else ""


def _is_cut(path: str, image: Image.Image) -> bool:
    """Whether the end of a JPEG or PNG is missing; every other format counts as cut, so that it gets decoded."""
    end = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}.get(image.format)
    if end is None:
        return True
    with open(path, "rb") as file:
        file.seek(-len(end), os.SEEK_END)
        return file.read() != end


def _orientation(image: Image.Image, decoder: str) -> Any:
    """The orientation that a loader sees: EXIF's; Pillow, for its own loading, takes XMP's where EXIF has none."""
    if decoder == "pillow":
        return image.getexif().get(ORIENTATION, 1)
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return exif.get(ORIENTATION, 1)


def probe(path: str, decode: bool = False, exif: bool = True, decoder: str = "cv2") -> Tuple[str, str, Tuple[int, int]]:
    """Cause ("" when all is well), detail, and (width, height) of a picture as the hosts' loader gives it.

    Args:
        decode: decode all of it; otherwise only where the file's end is not what it should be.
        exif: the loader turns pictures as EXIF says, which OpenCV and Pillow do in mmcv for three channels and for one;
            which formats OpenCV turns depends on its version.
        decoder: one of :data:`DECODERS`.
    """
    size = (0, 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                size, detail = image.size, ""
                asked = image.format not in OPENCV_READS and decoder != "pillow"
                try:
                    turn = _orientation(image, decoder) if exif else 1
                except Exception as error:  # Pillow raises whatever malformed EXIF data lead it to
                    if decoder == "pillow":
                        return "picture-unreadable", f"EXIF: {error}", size
                    turn = None
                if not isinstance(turn, int):  # OpenCV goes its own way there
                    turn, asked = 1, decoder != "pillow"
                if 5 <= turn <= 8:
                    if image.format in ("JPEG", "MPO"):
                        size = size[::-1]
                    elif decoder == "pillow":
                        size = ImageOps.exif_transpose(image).size
                    else:
                        asked = True
                if decode or _is_cut(path, image):
                    image.load()
                if asked:
                    flag = cv2.IMREAD_COLOR if exif else cv2.IMREAD_UNCHANGED
                    read = cv2.imdecode(np.fromfile(path, np.uint8), flag)  # as mmcv does; imread differs for TIFFs
                    if read is None:
                        return "picture-unreadable", f"{image.format} is not read by OpenCV", size
                    size = read.shape[1::-1]
                if 5 <= turn <= 8 and size != image.size:
                    detail = f"EXIF orientation {turn} turns it"
                return "", detail, size
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        return "picture-unreadable", str(error).replace(path, "file"), size
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's decoders raise all of these
        if isinstance(error, OSError) and error.strerror:
            return "picture-unreadable", error.strerror, size
        return "picture-truncated", str(error), size
    except Exception as error:  # a last resort, so that the picture is named
        return "picture-unreadable", f"{type(error).__name__}: {error}", size


def spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` indices out of ``count``, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.zeros(0, int)


def list_folder(folder: str) -> Dict[str, os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except (OSError, ValueError):  # ValueError: half a character, which JSON can name and a file system cannot
        return {}


def walk(report: Report, root: str) -> Iterator[str]:
    """Names below ``root`` of all files but hidden ones; as in mmengine, in hidden folders and behind links too."""
    watch(report, root)
    for name, entry in sorted(list_folder(root).items()):
        with suppress(OSError):  # a link to itself
            if entry.is_dir():
                yield from (os.path.join(name, below) for below in walk(report, entry.path))
            elif entry.is_file() and not name.startswith("."):
                yield name


def find_files(
    report: Report, root: str, names: Sequence[str], name: Callable[[int], str], missing: str = "picture-missing"
) -> Tuple[List[str], np.ndarray]:
    """Paths of ``names`` below ``root``, and which of them are files with something in them; the others are added.

    A name must not lead out of ``root``; a link may, as subsets are made of such.
    """
    folders: Dict[str, Dict[str, os.DirEntry]] = {}
    paths, good = [], np.zeros(len(names), bool)
    for row, file_name in enumerate(names):
        path = os.path.join(root, file_name)
        paths.append(path)
        fault = name_fault(file_name)
        if fault:
            report.add_rows("name-outside", [row], name, lambda row, fault=fault: fault)
            continue
        folder, base = os.path.split(os.path.normpath(path))
        if folder not in folders:
            watch(report, folder)
            folders[folder] = list_folder(folder)
        entry = folders[folder].get(base)
        try:
            size = entry.stat().st_size if entry is not None else -1
        except OSError:  # a link to nothing
            size = -1
        if size <= 0:
            report.add_rows(missing if size < 0 else "picture-empty", [row], name, lambda row: "")
        good[row] = size > 0
    return paths, good


def in_threads(function: Callable, items: Sequence, progress: Progress, description: str) -> Iterator[tuple]:
    """Pairs of an item and ``function(item)``, in order."""
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        for chunk, found in zip(progress(chunks, description), results, strict=True):
            yield from zip(chunk, found, strict=True)


def check_pictures(
    report: Report,
    root: str,
    names: Sequence[str],
    name: Callable[[int], str],
    sizes: Optional[np.ndarray] = None,
    pictures: str = "all",
    exif: bool = True,
    decoder: str = "cv2",
    progress: Progress = quiet,
) -> np.ndarray:
    """Check the files ``names`` below ``root``.

    Args:
        name: what the report calls row i.
        sizes: (N, 2), width and height that the annotations give; NaN where they do not.
        pictures: "quick" (headers of :data:`QUICK_PICTURES` alone; existence and 0 bytes of all), "all" or "decode".
        exif: see :func:`probe`.
        decoder: what decodes the pictures; one that is not in :data:`DECODERS` reads files that this audit cannot.

    Returns:
        (N, 2), width and height of each picture that was read and found whole, 0 elsewhere.
    """
    paths, good = find_files(report, root, names, name)
    rows, found = np.flatnonzero(good), np.zeros((len(names), 2), np.int64)
    if decoder not in DECODERS and names:
        report.add("pictures-not-read", f"{len(names)} files", decoder and f"imdecode_backend {decoder}")
        rows = rows[:0]
    if pictures == "quick":
        rows = rows[spread(len(rows), QUICK_PICTURES)]

    def read(row: int) -> Tuple[str, str, Tuple[int, int]]:
        return probe(paths[row], pictures == "decode", exif, decoder)

    for row, (cause, detail, size) in in_threads(read, rows.tolist(), progress, f"Reading {root}"):
        if cause:
            report.add(cause, name(row), detail)
            continue
        found[row] = size
        if sizes is not None and np.isfinite(sizes[row]).all() and tuple(sizes[row]) != size:
            width, height = sizes[row]
            text = f"file {size[0]} x {size[1]}, entry {width:g} x {height:g}"
            report.add("picture-size", name(row), text + (f"; {detail}" if detail else ""))
    report.pictures += len(names)
    report.paths = [path for path, fine in zip(paths, good, strict=True) if fine]
    return found

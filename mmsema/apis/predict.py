"""Predict with a trained detector or classifier: pictures, folders and videos in, pictures and one JSON file out."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

import cv2
import mmcv
import numpy as np
from rich.progress import track

from ..engine.config import PathLike
from ..engine.errors import UsageError, require_folder
from .models import Classifier, Detector, load_model

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def list_inputs(inputs: Union[PathLike, Sequence[PathLike]]) -> Tuple[List[Path], Optional[Path]]:
    """The pictures that files and folders stand for, in order, or the one video.

    Raises:
        UsageError: something is missing, a folder has no pictures, or pictures and videos are mixed.
    """
    pictures: List[Path] = []
    for path in map(Path, [inputs] if isinstance(inputs, (str, Path)) else inputs):
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
            if not inside:
                raise UsageError(f"folder {path} has no pictures ({', '.join(IMAGES)})")
            pictures += inside
        elif not path.is_file():
            raise UsageError(f"input {path} is neither a file nor a folder")
        else:
            pictures.append(path)
    if not pictures:
        raise UsageError("inputs must name at least one picture, folder or video, got none")
    videos = [path for path in pictures if path.suffix.lower() in VIDEOS]
    if videos and len(pictures) > 1:
        raise UsageError(f"a video must be the only input, got {videos[0]} and {len(pictures) - 1} more")
    twice = sorted(name for name, count in Counter(path.name for path in pictures).items() if count > 1)
    if twice:
        raise UsageError(f"inputs must have different file names, got {twice[0]} twice")
    return ([], videos[0]) if videos else (pictures, None)


def read_picture(path: PathLike) -> Optional[np.ndarray]:
    """(H, W, 3) uint8 BGR, or None if the file is no picture that can be read."""
    try:
        return mmcv.imread(str(path))
    except (cv2.error, OSError):
        return None


@dataclass
class Predictions:
    """What :func:`predict` found and wrote."""

    results: List[dict]
    file: Path
    problems: List[str]  # one line for each picture that could not be read, predicted or drawn


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Output:
    """Takes the pictures one by one and writes what the model finds in them."""

    def __init__(
        self,
        model: Union[Detector, Classifier],
        folder: Path,
        names: Sequence[str],
        score_thr: float,
        labels: str,
        top_k: int,
    ) -> None:
        self.model, self.folder, self.score_thr, self.labels, self.top_k = model, folder, score_thr, labels, top_k
        self.results: List[dict] = []
        self.ids: Dict[str, int] = {}
        if isinstance(model, Detector):
            annotations = model.annotations()
            self.categories = model.category_ids(annotations)
            entries = [one for one in annotations.get("images", []) if "file_name" in one and "id" in one]
            images = [(Path(image["file_name"]).name, image["id"]) for image in entries]
            count = Counter(name for name, _ in images)
            known = {name: number for name, number in images if count[name] == 1}
            self.ids = {name: known[name] for name in names} if set(names) <= set(known) else {}

    def add(self, name: str, number: int, image: np.ndarray) -> Optional[np.ndarray]:
        """Keep the results for the ``number``-th picture; returns it with the objects drawn, None from a classifier."""
        head = dict(image_id=self.ids.get(name, number), file_name=name)
        if isinstance(self.model, Classifier):
            self.results.append(dict(head, classes=self.model.predict(image, self.top_k)))
            return None
        objects, drawn = self.model.predict(image, self.score_thr, self.labels)
        for one in objects:
            label = one.pop("label")
            self.results.append(
                dict(head, category_id=self.categories[label], category=self.model.classes[label], **one)
            )
        return drawn

    def add_pictures(self, paths: Sequence[Path]) -> List[str]:
        problems = []
        for number, path in enumerate(track(paths, "pictures"), 1):
            image = read_picture(path)
            if image is None:
                problems.append(f"{path} is not a picture that can be read")
                continue
            try:
                drawn = self.add(path.name, number, image)
                if drawn is not None:
                    name = path.name if path.suffix.lower() in IMAGES else f"{path.name}.png"  # which OpenCV can write
                    mmcv.imwrite(drawn, str(self.folder / name))
            except Exception as error:  # whatever the model or OpenCV raise, the other pictures are worth their time
                problems.append(f"{path}: {_line(error)}")
        if len(problems) == len(paths):
            raise UsageError("; ".join(problems))
        return problems

    def add_video(self, path: Path) -> List[str]:
        target = self.folder / f"{path.stem}.mp4"
        for name in map(str, (path, target)):
            try:
                name.encode()
            except UnicodeEncodeError:  # OpenCV ends the process at it
                raise UsageError(f"video {name!r} has a name that is not UTF-8; rename it") from None
        video = mmcv.VideoReader(str(path))
        if not video.opened or video.width < 1:
            raise UsageError(f"video {path} cannot be opened")
        writer, count, problems = None, 0, []
        frames: Iterator[np.ndarray] = iter(video)
        try:
            for count, frame in enumerate(track(frames, "frames", total=max(video.frame_cnt, 0) or None), 1):
                try:
                    drawn = self.add(path.name, count, frame)
                except Exception as error:
                    problems = [f"{path}: frame {count} of {video.frame_cnt}, the last one looked at: {_line(error)}"]
                    break
                if drawn is not None:
                    writer = writer or self._video_writer(target, video.fps, drawn.shape[1::-1])
                    writer.write(np.ascontiguousarray(drawn))
        finally:
            if writer is not None:
                writer.release()
        if not count:
            raise UsageError(f"video {path} has no frame that can be read")
        if problems and count == 1:
            raise UsageError(problems[0])
        missing = video.frame_cnt - count
        if missing > 0 and not problems:
            problems = [f"{path}: the last {missing} of {video.frame_cnt} frames cannot be read"]
        return problems

    @staticmethod
    def _video_writer(target: Path, fps: float, size: Tuple[int, int]) -> cv2.VideoWriter:
        writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not writer.isOpened():
            raise UsageError(f"video {target} cannot be written, with {fps:g} frames of {size[0]} x {size[1]} a second")
        return writer


def predict(
    config: PathLike,
    checkpoint: PathLike,
    inputs: Union[PathLike, Sequence[PathLike]],
    out_dir: PathLike = "outputs",
    score_thr: float = 0.3,
    top_k: int = 5,
    device: Optional[str] = None,
    labels: str = "auto",
) -> Predictions:
    """Run a model over pictures, folders of pictures, or one video, and write what it finds to ``out_dir``.

    A detector writes every picture (or the video, as .mp4) with the objects drawn on it, and ``results.json``: COCO's
    list of results, one dict per object with ``image_id``, ``file_name``, ``category_id``, ``category``, ``bbox``,
    ``score`` and ``segmentation``, which ``pycocotools`` reads with ``COCO.loadRes``. The numbers of images are those
    of the config's test set if it has all pictures, each file name once in whatever folder, otherwise they count from
    1; so do the frames of a video. A picture whose format OpenCV cannot write becomes ``<name>.png``. A classifier
    writes ``results.json`` alone: one dict per picture with ``classes``, the best ``top_k``.

    Args:
        config: path of a config, or name of one that mmsema ships.
        checkpoint: path of what training wrote, or of published weights.
        inputs: pictures and folders, or one video.
        out_dir: made if it does not exist; files of the same name are replaced.
        score_thr: objects are drawn from this score on; results.json has all that the model returns.
        top_k: how many classes a classifier lists.
        device: "cpu", "cuda:1", ...; by default the best there is.
        labels: which of the drawn objects are named: those whose label has room ("auto"), "all" or "none".

    Raises:
        UsageError: an argument names nothing that can be used; one line says which.
        CheckpointError: the checkpoint cannot be read or does not fit the config.
    """
    pictures, video = list_inputs(inputs)
    folder = Path(out_dir)
    if any(path.parent.resolve() == folder.resolve() for path in pictures or filter(None, [video])):
        raise UsageError(f"out_dir {folder} holds the inputs, which would be overwritten; name another folder")
    require_folder("out_dir", folder)
    file = folder / "results.json"
    if file.is_dir():
        raise UsageError(f"out_dir {folder}: {file} is a folder")
    model = load_model(config, checkpoint, device)
    folder.mkdir(parents=True, exist_ok=True)
    output = _Output(model, folder, [path.name for path in pictures], score_thr, labels, top_k)
    problems = output.add_pictures(pictures) if video is None else output.add_video(video)
    try:
        file.write_text(json.dumps(output.results))
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from None
    return Predictions(output.results, file, problems)

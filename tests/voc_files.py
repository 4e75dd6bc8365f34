"""VOC's folders, as small as they can be."""

from pathlib import Path

import cv2
import numpy as np

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


def item(name: str, *box: float, difficult: int = 0) -> str:
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>{BOX.format(*box)}</object>"


def write_voc(root: Path, name: str, *objects: str, size=(60, 80), said=None) -> Path:
    """A picture of (height, width) and its XML, in VOC's folders; returns the XML's path."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), np.full((*size, 3), 127, np.uint8))
    height, width = said or size
    path = root / f"Annotations/{name}.xml"
    sizes = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><filename>{name}.jpg</filename>{sizes}{''.join(objects)}</annotation>")
    return path

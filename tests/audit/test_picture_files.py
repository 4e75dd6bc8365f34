"""Sizes and faults of picture files are those that the hosts' loaders meet."""

import struct
from pathlib import Path

import mmcv
import pytest
from file_faults import cut
from PIL import Image, PngImagePlugin
from planting import (
    picture,
)

from mmsema.audit import pictures


def test_a_pixel_format_that_exif_leaves_alone(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    assert pictures.probe(str(path))[2] == (10, 20)
    assert pictures.probe(str(path), exif=False)[2] == (20, 10)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize(
    "data, causes",  # of OpenCV and of Pillow, which refuses what is no TIFF
    [
        (b"no TIFF at all", ("", "picture-unreadable")),
        (b"II*\0", ("", "picture-unreadable")),
        (b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 2, 2, b"6", 0), ("", "")),
        (b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 7, 1, b"\6", 0), ("", "")),  # which OpenCV obeys in a JPEG
    ],
    ids=["no TIFF", "cut off", "orientation is a text", "orientation is a byte"],
)
def test_malformed_exif_does_no_harm(data, causes, name, tmp_path):
    path = tmp_path / name
    Image.new("RGB", (20, 10)).save(path, exif=b"Exif\0\0" + data, dpi=(72, 72))
    for decoder, cause in zip(("cv2", "pillow"), causes, strict=True):
        found = pictures.probe(str(path), decoder=decoder)
        assert found[0] == cause, found
        if cause:
            with pytest.raises((SyntaxError, struct.error)):
                mmcv.imfrombytes(path.read_bytes(), backend=decoder)
        else:
            assert found[2] == mmcv.imfrombytes(path.read_bytes(), backend=decoder).shape[1::-1]


@pytest.mark.parametrize("flag", ["color", "grayscale", "unchanged"])
@pytest.mark.parametrize("decoder", ["cv2", "pillow"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_a_size_is_the_loaders(name, decoder, flag, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / name, exif=exif)
    loaded = mmcv.imfrombytes((tmp_path / name).read_bytes(), flag=flag, backend=decoder)
    found = pictures.probe(str(tmp_path / name), exif=flag != "unchanged", decoder=decoder)
    assert found[0] == "" and found[2] == loaded.shape[1::-1]


@pytest.mark.parametrize("exif", [False, True], ids=["XMP alone", "beside EXIF without one"])
@pytest.mark.parametrize("decoder", ["cv2", "pillow"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_an_orientation_in_xmp_is_pillows_alone(name, decoder, exif, tmp_path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    tags = Image.Exif()
    tags[0x010F] = "maker"
    options = dict(exif=tags) if exif else {}
    if name == "a.png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = info
    else:
        options["xmp"] = xmp
    Image.new("RGB", (20, 10)).save(tmp_path / name, **options)
    loaded = mmcv.imfrombytes((tmp_path / name).read_bytes(), backend=decoder)
    assert pictures.probe(str(tmp_path / name), decoder=decoder)[2] == loaded.shape[1::-1]


def test_a_tiff_that_opencv_reads_as_it_is_but_not_in_colours(tmp_path):
    path = str(tmp_path / "a.tif")
    Image.new("F", (20, 10)).save(path)
    for form in (False, True):
        assert pictures.probe(path, form) == ("picture-unreadable", "TIFF is not read by OpenCV", (20, 10))
        assert (
            pictures.probe(path, form, exif=False) == pictures.probe(path, form, decoder="pillow") == ("", "", (20, 10))
        )
    Image.new("RGB", (200, 100)).save(path)
    cut(Path(path), 0.5)
    assert pictures.probe(path)[0] == "picture-truncated"


@pytest.mark.parametrize("mode, name", [("CMYK", "a.jpg"), ("L", "a.png"), ("I;16", "a.png"), ("RGBA", "a.webp")])
def test_pictures_that_hosts_read(mode, name, tmp_path):
    Image.new(mode, (20, 10)).save(tmp_path / name)
    assert pictures.probe(str(tmp_path / name)) == ("", "", (20, 10))


def test_bytes_after_a_jpegs_end_are_no_fault(tmp_path):
    picture(tmp_path / "a.jpg", 0)
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(b"from a camera")
    assert pictures.probe(str(tmp_path / "a.jpg"))[0] == ""

"""One file in, one upright RGB picture out, or the reason why not."""

import importlib.util
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from clipzs.errors import ImageError
from clipzs.images import read_image, upright_rgb

Pixels = NDArray[np.int64]
RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (100, 100, 100)


def pixels(image: Image.Image) -> Pixels:
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


def row(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of an image, row by row."""
    return [tuple(colour) for colour in pixels(image).reshape(-1, 3).tolist()]


def saved(folder: Path, image: Image.Image, suffix: str, **how: object) -> str:
    path = folder / f"image{suffix}"
    image.save(path, **how)  # type: ignore[arg-type]
    return str(path)


def refusal(path: object, **how: float) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(str(path), **how)
    return str(caught.value)


@pytest.fixture
def colours() -> Image.Image:
    """16x8: left half red, right half blue, and a green stripe on top."""
    image = Image.new("RGB", (16, 8), (200, 30, 10))
    image.paste((10, 40, 220), (8, 0, 16, 8))
    image.paste((20, 180, 30), (0, 0, 16, 2))
    return image


# Formats


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".gif", ".webp", ".avif", ".jpg", ".ppm", ".tga", ".jp2"])
def test_common_formats_give_the_picture(tmp_path, colours, suffix):
    best: dict[str, dict[str, object]] = {
        ".webp": {"lossless": True},
        ".avif": {"quality": 100, "subsampling": "4:4:4"},
        ".jpg": {"quality": 100, "subsampling": 0},
    }
    found = pixels(read_image(saved(tmp_path, colours, suffix, **best.get(suffix, {}))))
    assert np.abs(found - pixels(colours)).max() <= (4 if suffix in (".avif", ".jpg") else 0)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tiff"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime", "blue")]
    path = saved(
        tmp_path,
        frames[0],
        suffix,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if suffix == ".webp" else {}),
    )
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert set(row(read_image(path))) == {RED}


def test_the_suffix_does_not_matter(tmp_path, colours):
    path = tmp_path / "photo.jpg"
    colours.save(path, "PNG")
    assert (pixels(read_image(str(path))) == pixels(colours)).all()


def test_a_photo_is_decoded_to_the_very_pixels_of_pillow(cat):
    with Image.open(cat) as image:
        assert (pixels(read_image(str(cat))) == np.asarray(image.convert("RGB"))).all()


# Modes and depths


def _palette(mode: str, colours: list[int]) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette(colours, mode)
    image.putdata([0, 1])
    return image


MODES = {
    "1": (Image.frombytes("1", (2, 1), b"\x40"), [(0, 0, 0), WHITE]),
    "L": (Image.frombytes("L", (2, 1), b"\x00\x64"), [(0, 0, 0), GREY]),
    "LA": (Image.frombytes("LA", (2, 1), b"\x64\xff\x00\x00"), [GREY, WHITE]),
    "LA half": (Image.frombytes("LA", (2, 1), b"\x00\x80\x64\xff"), [(127, 127, 127), GREY]),
    "P": (_palette("RGB", [255, 0, 0, 100, 100, 100]), [RED, GREY]),
    "P with RGBA palette": (_palette("RGBA", [255, 0, 0, 255, 0, 0, 0, 0]), [RED, WHITE]),
    "RGB": (Image.frombytes("RGB", (2, 1), b"\xff\x00\x00\x64\x64\x64"), [RED, GREY]),
    "RGBA": (Image.frombytes("RGBA", (2, 1), b"\xff\x00\x00\xff\x00\x00\x00\x00"), [RED, WHITE]),
    "RGBA half": (Image.frombytes("RGBA", (2, 1), b"\xff\x00\x00\x80\x64\x64\x64\xff"), [(255, 127, 127), GREY]),
    "RGBX": (Image.frombytes("RGBX", (2, 1), b"\xff\x00\x00\x00\x64\x64\x64\x00"), [RED, GREY]),
    "CMYK": (Image.frombytes("CMYK", (2, 1), b"\x00\xff\xff\x00\x00\x00\x00\x00"), [RED, WHITE]),
    "YCbCr": (Image.frombytes("YCbCr", (2, 1), b"\x64\x80\x80\xff\x80\x80"), [GREY, WHITE]),
    "HSV": (Image.frombytes("HSV", (2, 1), b"\x00\xff\xff\x00\x00\xff"), [RED, WHITE]),
    "I;16": (Image.frombytes("I;16", (2, 1), b"\x00\x00\xff\xff"), [(0, 0, 0), WHITE]),
    "I;16 middle": (Image.frombytes("I;16", (2, 1), struct.pack("<2H", 100 * 257, 257)), [GREY, (1, 1, 1)]),
    "I;16B": (Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 100 * 257, 65535)), [GREY, WHITE]),
    "I of 8 bits": (Image.fromarray(np.array([[100, 255]], np.int32)), [GREY, WHITE]),
    "I of 16 bits": (Image.fromarray(np.array([[25700, 65535]], np.int32)), [GREY, WHITE]),
    "I of 24 bits": (Image.fromarray(np.array([[0, 1 << 24]], np.int32)), [(0, 0, 0), WHITE]),
    "I with negatives": (Image.fromarray(np.array([[-5, 100]], np.int32)), [(0, 0, 0), GREY]),
    "F to 1": (Image.fromarray(np.array([[0.0, 1.0]], np.float32)), [(0, 0, 0), WHITE]),
    "F to 255": (Image.fromarray(np.array([[100.0, 255.0]], np.float32)), [GREY, WHITE]),
    "F with what is no number": (Image.fromarray(np.array([[np.nan, np.inf]], np.float32)), [(0, 0, 0), (0, 0, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("case", MODES)
def test_every_mode_becomes_the_rgb_a_person_sees(case):
    image, expected = MODES[case]
    assert row(upright_rgb(image)) == expected


@pytest.mark.parametrize(
    ("case", "suffix"),
    [("1", ".png"), ("L", ".png"), ("LA half", ".png"), ("P", ".gif"), ("RGBA half", ".png"), ("RGBA", ".webp"),
     ("CMYK", ".tiff"), ("YCbCr", ".tiff"), ("I;16 middle", ".png"), ("I;16B", ".tiff"), ("I of 24 bits", ".tiff"),
     ("F to 1", ".tiff")],
)  # fmt: skip
def test_every_mode_survives_the_way_through_a_file(tmp_path, case, suffix):
    image, expected = MODES[case]
    path = saved(tmp_path, image, suffix, **({"lossless": True} if suffix == ".webp" else {}))
    assert row(read_image(path)) == expected


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (_palette("RGB", [255, 0, 0, 0, 0, 0]), 1),
        (_palette("RGB", [255, 0, 0, 0, 0, 0]), b"\xff\x00"),
        (Image.frombytes("RGB", (2, 1), b"\xff\x00\x00\x00\x00\x00"), (0, 0, 0)),
    ],
    ids=["P, one colour", "P, alpha of each colour", "RGB with tRNS"],
)
def test_transparent_colours_in_a_png_are_laid_on_white(tmp_path, image, transparency):
    path = saved(tmp_path, image, ".png", transparency=transparency)
    with Image.open(path) as opened:
        assert "transparency" in opened.info
    assert row(read_image(path)) == [RED, WHITE]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_transparent_greys_in_a_png_are_laid_on_white(tmp_path, mode):
    image = Image.new(mode, (2, 1), 0)
    path = saved(tmp_path, image, ".png", transparency=0)
    assert row(read_image(path)) == [WHITE, WHITE]


def test_a_palette_with_an_alpha_channel_is_laid_on_white():
    image = Image.new("PA", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.putdata([(0, 255), (1, 0)])
    assert row(upright_rgb(image)) == [RED, WHITE]


def test_lab_colours_come_back_through_a_tiff(tmp_path, colours):
    lab = ImageCms.profileToProfile(
        colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    path = saved(tmp_path, lab, ".tiff")
    assert np.abs(pixels(read_image(path)) - pixels(colours)).max() <= 14  # 8-bit Lab is coarse in saturated colours


def test_a_photo_in_cmyk_keeps_its_colours(tmp_path, cat):
    with Image.open(cat) as image:
        path = saved(tmp_path, image.convert("CMYK"), ".jpg", quality=95)
        difference = pixels(read_image(path)) - np.asarray(image.convert("RGB")).astype(np.int64)
    assert np.abs(difference).mean() < 4


# Orientation

# What a camera stores for each EXIF orientation of an upright picture: the inverse of how a viewer turns it.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[:, ::-1].transpose(1, 0, 2),  # the camera was turned: the picture's top is on the stored right
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[::-1].transpose(1, 0, 2),
}


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_comes_out_upright(tmp_path, colours, orientation, suffix):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(colours))))
    how = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path, stored, suffix, exif=exif_of(orientation), **how)
    assert pixels(read_image(path)).tolist() == pixels(colours).tolist()


def test_a_camera_held_sideways_gives_an_upright_jpeg(tmp_path, cat):
    with Image.open(cat) as image:
        upright = image.convert("RGB")
    sideways = upright.rotate(90, expand=True)  # a quarter to the left: 6 asks the viewer for a quarter to the right
    found = read_image(saved(tmp_path, sideways, ".jpg", exif=exif_of(6), quality=95))
    assert found.size == upright.size
    assert np.abs(pixels(found) - pixels(upright)).mean() < 3


@pytest.mark.parametrize("mode", ["L", "I;16", "LA", "P", "CMYK", "F", "1"])
def test_other_modes_are_turned_too(tmp_path, mode):
    image = Image.new(mode, (3, 2))
    image.getexif()[0x0112] = 6
    assert upright_rgb(image).size == (2, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535, "6"])
def test_an_orientation_that_means_nothing_is_ignored(colours, orientation):
    colours.getexif()[0x0112] = orientation
    assert pixels(upright_rgb(colours)).tolist() == pixels(colours).tolist()


@pytest.mark.filterwarnings("ignore")  # Pillow's, which the command silences as well
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0garbage that is no TIFF", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"\xff" * 300],
    ids=["empty", "no TIFF", "cut off", "noise"],
)
def test_a_broken_exif_block_does_not_refuse_the_picture(tmp_path, colours, exif):
    path = saved(tmp_path, colours, ".jpg", exif=exif, quality=100, subsampling=0)
    assert np.abs(pixels(read_image(path)) - pixels(colours)).max() <= 12


@pytest.mark.filterwarnings("ignore")  # Pillow's, which the command silences as well
def test_the_orientation_counts_even_when_the_rest_of_exif_is_broken(tmp_path, colours):
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x927C, 5, 9, 0xFFFFFF)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0\0\0\0"
    path = saved(tmp_path, colours, ".jpg", exif=exif)
    assert read_image(path).size == (8, 16)


# Files that are no good


def test_a_text_file_called_jpg_is_named_as_such(tmp_path):
    (tmp_path / "note.jpg").write_text("Grüße, this is no picture\n" * 50, encoding="utf-8")
    assert refusal(tmp_path / "note.jpg") == "a text file, not an image"


def test_an_empty_file_is_named_as_such(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert refusal(tmp_path / "empty.jpg") == "the file is empty"


def test_bytes_of_no_known_format_are_named_as_such(tmp_path):
    (tmp_path / "noise.jpg").write_bytes(bytes(range(256)) * 4)
    assert refusal(tmp_path / "noise.jpg") == "not an image in a format that can be read"


def test_missing_files_and_folders_say_so(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    assert refusal(tmp_path / "none.jpg") == "no such file"
    assert refusal(tmp_path / "x.jpg") == "Is a directory"
    assert refusal(tmp_path / ("x" * 300)) == "File name too long"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_without_permission_says_so(tmp_path):
    (tmp_path / "locked.png").touch(mode=0)
    assert refusal(tmp_path / "locked.png") == "permission denied"


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_a_truncated_jpeg_is_refused_and_never_half_grey(tmp_path, cat, kept, orientation):
    stream = io.BytesIO()
    with Image.open(cat) as image:
        image.save(stream, "JPEG", exif=exif_of(orientation))
    (tmp_path / "cut.jpg").write_bytes(stream.getvalue()[: int(stream.tell() * kept)])
    assert refusal(tmp_path / "cut.jpg").startswith("damaged or truncated: ")


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_png_with_damaged_data_is_refused(tmp_path, cat, orientation):
    stream = io.BytesIO()
    with Image.open(cat) as image:
        image.save(stream, "PNG", exif=exif_of(orientation))
    content = bytearray(stream.getvalue())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    (tmp_path / "bad.png").write_bytes(content)
    assert refusal(tmp_path / "bad.png").startswith("damaged or truncated: ")


def test_heic_without_its_package_says_how_to_get_it(tmp_path):
    if importlib.util.find_spec("pillow_heif"):
        pytest.skip("pillow-heif is installed")
    for name, brand in (("IMG_1.HEIC", b"heic"), ("renamed.jpg", b"heix"), ("other.heif", b"mif1")):
        (tmp_path / name).write_bytes(struct.pack(">I4s4sI", 24, b"ftyp", brand, 0) + b"mif1heic" + bytes(600))
        assert refusal(tmp_path / name) == "HEIC needs one more package: pip install 'clipzs[heic]'"


# Size


def png_header(path: Path, width: int, height: int) -> Path:
    """A 1-bit PNG of any size, whose data holds nothing: whoever decodes it fails."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(
        PngImagePlugin._MAGIC + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.filterwarnings("ignore")  # Pillow's, which the command silences as well
@pytest.mark.parametrize(("width", "height", "megapixels"), [(20_000, 15_000, 300), (100_000, 100_000, 10_000)])
def test_a_bomb_is_refused_from_its_header(tmp_path, width, height, megapixels):
    bomb = png_header(tmp_path / "bomb.png", width, height)
    expected = f"{megapixels} megapixels, over the limit of 178; allow it with --max-megapixels"
    assert refusal(bomb) == expected


@pytest.mark.filterwarnings("ignore")  # Pillow's, which the command silences as well
def test_the_limit_can_be_lowered_and_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = saved(tmp_path, Image.new("1", (2000, 1000)), ".png")
    assert refusal(path, max_megapixels=1.5) == "2 megapixels, over the limit of 1.5; allow it with --max-megapixels"
    assert read_image(path, max_megapixels=2).size == (2000, 1000)
    bomb = png_header(tmp_path / "bomb.png", 20_000, 20_000)
    assert refusal(bomb, max_megapixels=399).startswith("400 megapixels, over the limit of 399")
    assert refusal(bomb, max_megapixels=400).startswith("damaged or truncated: ")  # allowed, so decoded
    assert refusal(bomb, max_megapixels=float("inf")).startswith("damaged or truncated: ")


def test_the_limit_is_an_option_of_the_command(run, tmp_path, cat):
    path = saved(tmp_path, Image.new("RGB", (1100, 1000)), ".png")
    result = run("classify", path, cat, "--labels", "cat,rocket", "--model", "tiny", "--max-megapixels", "1")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (3, f"{path}\t\t")
    assert result.stderr == (
        f"error: {path}: 1 megapixels, over the limit of 1; allow it with --max-megapixels\n"
        "error: 1 of 2 images could not be read\n"
    )

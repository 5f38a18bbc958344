"""From a file to a model's pixels: no more is decoded than is needed, and nobody can tell from the picture."""

import hashlib
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, Run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from test_images import STORED, exif_of

from clipzs import images
from clipzs.budget import DECODING, Budget
from clipzs.errors import ImageError
from clipzs.images import Memory, opened, pixels, read_image
from clipzs.preprocess import RESIZE_MODES, Preprocess

Pixels = NDArray[np.uint8]
PHOTOS = sorted(EXAMPLES.glob("*.jpg"))


def decoded(
    content: bytes, preprocess: Preprocess, *, exact: bool = False, limit: float = 178, memory: Memory = DECODING
) -> Pixels:
    found = np.asarray(pixels(io.BytesIO(content), "x", preprocess, max_megapixels=limit, exact=exact, memory=memory))
    assert (found.shape, found.dtype) == ((*preprocess.size, 3), np.uint8)
    return found


def both(content: bytes, preprocess: Preprocess) -> tuple[Pixels, Pixels]:
    return decoded(content, preprocess), decoded(content, preprocess, exact=True)


def file_of(image: Image.Image, format: str = "JPEG", **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **how)  # type: ignore[arg-type]
    return stream.getvalue()


def photo(name: str = "flower", size: tuple[int, int] | None = None) -> Image.Image:
    with Image.open(EXAMPLES / f"{name}.jpg") as image:
        rgb = image.convert("RGB")
    return rgb.resize(size, Image.Resampling.LANCZOS) if size else rgb


def edges(width: int, height: int) -> Image.Image:
    """Dark and light blocks of uneven sizes: whatever moves is seen."""
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    light = (np.sin(rows / height * 19) > 0.2) ^ (np.sin(columns / width * 23) > 0.3)
    return Image.fromarray(np.stack([light * 200 + 20, light * 90 + 120, 230 - light * 180], -1).astype(np.uint8))


def change(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def shift(moved: Pixels, fixed: Pixels) -> tuple[float, float]:
    """(down, right) by how many pixels one picture is moved against the other, to the first order."""
    one, other = moved.astype(float).mean(-1), fixed.astype(float).mean(-1)
    slopes = np.stack([-slope[1:-1, 1:-1].ravel() for slope in np.gradient(other)], 1)
    found, *_ = np.linalg.lstsq(slopes, (one - other)[1:-1, 1:-1].ravel(), rcond=None)
    return float(found[0]), float(found[1])


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(from, to) of every resize."""
    seen: list[tuple[tuple[int, int], tuple[int, int]]] = []
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *args: object, **more: object) -> Image.Image:
        seen.append((self.size, size))
        return resize(self, size, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watched)
    return seen


# Exactly as open_clip does it


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_exact_decoding_is_bit_equal_to_open_clip(path, resize_mode):
    preprocess = Preprocess((48, 48), (0.0,) * 3, (1.0,) * 3, resize_mode=resize_mode)
    transform = image_transform_v2(PreprocessCfg(**vars(preprocess)), is_train=False)
    with Image.open(path) as image:
        expected = transform(image).permute(1, 2, 0).numpy()
    found = decoded(path.read_bytes(), preprocess, exact=True)
    np.testing.assert_array_equal(found.astype(np.float32) / 255, expected)


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_a_photo_no_larger_than_needed_is_bit_equal_by_itself(path):
    for preprocess in (Preprocess((224, 224)), Preprocess((224, 224), resize_mode="squash")):
        np.testing.assert_array_equal(*both(path.read_bytes(), preprocess))


@settings(max_examples=120, deadline=None)
@given(
    width=st.integers(1, 420),
    height=st.integers(1, 420),
    frame=st.tuples(st.integers(1, 60), st.integers(1, 60)) | st.integers(1, 60).map(lambda n: (n, n)),
    resize_mode=st.sampled_from(RESIZE_MODES),
    format=st.sampled_from(["JPEG", "JPEG2000", "PNG"]),
    orientation=st.sampled_from(list(STORED)),
)
def test_whatever_the_size_a_reduced_picture_looks_the_same_and_a_small_one_is_the_same(
    width, height, frame, resize_mode, format, orientation
):
    ramp = np.add.outer(np.linspace(0, 90, height), np.linspace(0, 110, width))
    image = Image.fromarray(np.stack([ramp, 230 - ramp, ramp + 30], -1).astype(np.uint8))
    how = {"JPEG": {"quality": 95}, "JPEG2000": {"irreversible": True}}.get(format, {})
    exif = {} if format == "JPEG2000" else {"exif": exif_of(orientation)}
    content, preprocess = file_of(image, format, **how, **exif), Preprocess(frame, resize_mode=resize_mode)
    found, exact = both(content, preprocess)
    assert np.abs(found.astype(int) - exact).max() <= 14
    turned = format != "JPEG2000" and orientation >= 5
    size = (height, width) if turned else (width, height)
    target = preprocess.target(*size)
    scale = 0.0 if target is None else max(side / small for side, small in zip(size, target, strict=True))
    if scale < 4:
        np.testing.assert_array_equal(found, exact)


# Decoded smaller


@pytest.mark.parametrize("format", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [(1600, 1200), (1200, 1600), (1600, 304), (640, 640), (320, 1600)], ids=str)
def test_a_multiple_of_what_the_resize_makes_is_decoded_and_not_much_more(format, resize_mode, size, resized):
    content, preprocess = file_of(photo(size=size), format), Preprocess((32, 32), resize_mode=resize_mode)
    resized.clear()
    found, exact = both(content, preprocess)
    (reduced, target), (full, expected) = resized
    assert (target, full) == (expected, size)
    scales = [side / small for side, small in zip(reduced, target, strict=True)]
    least, largest = (2, 8) if format == "JPEG" else (4, math.inf)
    fits = min(side // (least * small) for side, small in zip(size, target, strict=True))
    power = min(largest, 2 ** (fits.bit_length() - 1)) if fits else 1
    assert min(scales) >= least or power == 1
    edge = 1 if format == "JPEG2000" and power > 1 else 0  # one more row and column, for what lies between
    assert reduced == tuple(math.ceil(side / power) + edge for side in size)
    assert change(found, exact) < 1.2


@pytest.mark.parametrize("size", [(33, 57), (48, 48)], ids=str)
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_turned_after_a_reduced_decoding(orientation, size, resized):
    upright = np.asarray(photo(size=(701, 467)))
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    content, preprocess = file_of(stored, exif=exif_of(orientation), quality=95), Preprocess(size)
    resized.clear()
    found, exact = both(content, preprocess)
    assert max(resized[0][0]) == math.ceil(701 / 4)
    assert change(found, exact) < 0.8
    assert change(found, decoded(file_of(Image.fromarray(upright), quality=95), preprocess)) < 1.2
    assert max(map(abs, shift(found, exact))) < 0.02


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1207), (1207, 1597), (999, 1999), (643, 2111)], ids=str)
@pytest.mark.parametrize("format", ["JPEG", "JPEG2000", "PNG"])
def test_nothing_moves(format, size, resize_mode):
    preprocess = Preprocess((48, 48), resize_mode=resize_mode, fill_color=128)
    found, exact = both(file_of(edges(*size), format), preprocess)
    assert max(map(abs, shift(found, exact))) < 0.02
    assert change(found, exact) < 1.5


def test_the_measure_of_movement_measures():
    exact = decoded(file_of(edges(1600, 1200)), Preprocess((48, 48)), exact=True)
    assert shift(np.roll(exact, 1, axis=1), exact)[1] > 0.3
    wide = np.asarray(Image.fromarray(exact).resize((480, 480), Image.Resampling.BICUBIC))
    moved = np.asarray(Image.fromarray(np.roll(wide, 1, axis=0)).resize((48, 48), Image.Resampling.BOX))
    still = np.asarray(Image.fromarray(wide).resize((48, 48), Image.Resampling.BOX))
    assert 0.05 < shift(moved, still)[0] < 0.15


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1, "restart_marker_rows": 1}),
        ("L", {}),
        ("L", {"progressive": True}),
        ("CMYK", {"quality": 95}),
    ],
    ids=str,
)
def test_jpegs_of_every_kind_are_reduced(mode, how, resized):
    content = file_of(photo(size=(1400, 935)).convert(mode), **how)
    resized.clear()
    found, exact = both(content, Preprocess((64, 64)))
    assert [size for size, _ in resized] == [(350, 234), (1400, 935)]
    assert change(found, exact) < 0.7


def test_of_an_mpo_the_first_picture_is_taken_reduced(resized):
    first, second = photo("flower", (1400, 935)), photo("cat", (1400, 935))
    content = file_of(first, "MPO", save_all=True, append_images=[second])
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    resized.clear()
    found, exact = both(content, Preprocess((64, 64)))
    assert [size for size, _ in resized] == [(350, 234), (1400, 935)]
    assert change(found, exact) < 0.7


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_jpeg_2000_is_decoded_at_a_lower_resolution(mode, resized):
    image = photo(size=(1408, 928))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    content = file_of(image if mode == "I;16" else image.convert(mode), "JPEG2000")
    resized.clear()
    found, exact = both(content, Preprocess((48, 48)))
    assert [size for size, _ in resized] == [(353, 233), (1408, 928)]
    assert change(found, exact) < 0.7


def test_jpeg_2000_with_few_resolutions_is_decoded_at_the_lowest_there_is(resized):
    for resolutions, width in ((1, 1408), (2, 705), (3, 353), (6, 353)):
        content = file_of(photo(size=(1408, 928)), "JPEG2000", num_resolutions=resolutions)
        resized.clear()
        found, exact = both(content, Preprocess((48, 48)))
        assert resized[0][0][0] == width
        assert change(found, exact) < 0.7


def test_sizes_that_pillow_refuses_at_a_lower_resolution_of_jpeg_2000_take_the_next(resized):
    content = file_of(photo(size=(1409, 928)), "JPEG2000")  # 1409 / 4 is 353 for the format, 352 for Pillow
    resized.clear()
    found, exact = both(content, Preprocess((48, 48)))
    assert [size for size, _ in resized] == [(706, 465), (1409, 928)]
    assert change(found, exact) < 0.7


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_jpeg_2000_is_laid_on_white_before_it_shrinks(mode, resized):
    image = photo(size=(704, 464))
    image.putalpha(128)
    content = file_of(image.convert(mode), "JPEG2000")
    resized.clear()
    np.testing.assert_array_equal(*both(content, Preprocess((90, 90))))
    assert [size for size, _ in resized] == [(704, 464)] * 2


# Other formats


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("I;16", "PNG"),
        ("1", "PNG"),
        ("RGB", "WEBP"),
        ("P", "GIF"),
        ("F", "TIFF"),
        ("CMYK", "TIFF"),
        ("RGB", "BMP"),
    ],
)
def test_other_formats_are_exact_until_they_are_very_large_and_then_nearly(mode, format):
    image = photo(size=(720, 480))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray((np.asarray(image.convert("L")) / 255).astype(np.float32))
    else:
        image = image.convert(mode)
    content = file_of(image, format)
    np.testing.assert_array_equal(*both(content, Preprocess((81, 81))))
    found, exact = both(content, Preprocess((40, 40)))
    assert 0 < change(found, exact) < 1.0


@pytest.mark.parametrize("orientation", [1, 4, 6, 7])
def test_very_large_pngs_are_turned_as_well(orientation):
    upright = np.asarray(photo(size=(720, 480)))
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    found, exact = both(file_of(stored, "PNG", exif=exif_of(orientation)), Preprocess((30, 40)))
    assert 0 < change(found, exact) < 1.0
    assert max(map(abs, shift(found, exact))) < 0.02


def test_16_bit_greys_are_scaled_by_their_full_range():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = np.asarray(images.upright_rgb(Image.fromarray(values)))[..., 0]
    np.testing.assert_array_equal(found, np.rint(values / 65535 * 255).astype(np.uint8))


def test_greys_are_resized_as_one_channel_to_the_very_numbers_of_three():
    for mode in ("bicubic", "bilinear"):
        grey, preprocess = photo(size=(333, 217)).convert("L"), Preprocess((50, 50), interpolation=mode)
        np.testing.assert_array_equal(preprocess(grey), preprocess(grey.convert("RGB")))
    padded = Preprocess((50, 50), resize_mode="longest", fill_color=77)
    np.testing.assert_array_equal(padded(grey), padded(grey.convert("RGB")))


# Files that are no good


def refusals(content: bytes, size: int = 32, **how: float) -> set[str]:
    said = set()
    for exact in (False, True):
        with pytest.raises(ImageError) as caught:
            decoded(content, Preprocess((size, size)), exact=exact, **how)
        said.add(str(caught.value))
    return said


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("how", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_truncated_jpeg_is_refused_in_the_same_words(tmp_path, how, kept, orientation):
    content = file_of(photo(), exif=exif_of(orientation), **how)
    content = content[: int(len(content) * kept)]
    (tmp_path / "cut.jpg").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(str(tmp_path / "cut.jpg"))
    assert refusals(content) == {str(caught.value)}
    assert str(caught.value).startswith("damaged or truncated: ")


@pytest.mark.parametrize("progression", ["LRCP", "RLCP", "RPCL", "PCRL", "CPRL"])
@pytest.mark.parametrize("kept", [0.1, 0.6, 0.98])
def test_a_truncated_jpeg_2000_is_refused_in_the_same_words(progression, kept):
    content = file_of(photo(size=(320, 240)), "JPEG2000", progression=progression)
    said = refusals(content[: int(len(content) * kept)])
    assert said == {"damaged or truncated: broken data stream when reading image file"}


@pytest.mark.filterwarnings("ignore")  # Pillow's, which the command silences as well
@pytest.mark.parametrize("format", ["JPEG", "PNG", "JPEG2000"])
def test_the_limit_counts_the_pixels_of_the_file_and_not_the_decoded_ones(format, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    content = file_of(Image.new("RGB", (2000, 1000)), format)
    said = "2 megapixels, over the limit of 1.5; allow it with --max-megapixels"
    assert refusals(content, limit=1.5) == {said}
    assert decoded(content, Preprocess((32, 32)), limit=2).max() == 0


def test_what_is_no_image_is_named_as_before(tmp_path):
    assert refusals(b"") == {"the file is empty"}
    assert refusals("Grüße, this is no picture\n".encode() * 50) == {"a text file, not an image"}
    assert refusals(bytes(range(256)) * 4) == {"not an image in a format that can be read"}


def test_no_memory_is_one_image_lost(monkeypatch):
    def load(*_: object) -> None:
        raise MemoryError

    content = file_of(photo())
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert refusals(content) == {"not enough memory to decode it"}


# One open file


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "JPEG2000", "GIF", "BMP", "AVIF"])
def test_a_file_can_be_hashed_before_it_is_decoded(tmp_path, format):
    path, preprocess = tmp_path / "image", Preprocess((64, 64))
    path.write_bytes(file_of(photo(), format, **({"compression": "tiff_lzw"} if format == "TIFF" else {})))
    with opened(str(path)) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        found = np.asarray(pixels(file, str(path), preprocess, max_megapixels=178))
        file.seek(0)
        again = np.asarray(pixels(file, str(path), preprocess, max_megapixels=178))
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(found, decoded(path.read_bytes(), preprocess))


def test_a_pipe_can_be_read_twice(tmp_path):
    pipe, content = tmp_path / "pipe", file_of(photo())
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    with opened(str(pipe)) as file:
        assert (file.read(), file.seek(0), file.read()) == (content, 0, content)
    writer.join()


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    for path, reason in (
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "a\0b", "a path cannot hold a NUL byte; a list made with -print0 needs --null"),
    ):
        with pytest.raises(ImageError) as caught, opened(str(path)):
            pass
        assert str(caught.value) == reason


def test_reading_that_fails_inside_the_block_is_the_files_fault_and_a_bug_is_not(cat):
    with pytest.raises(ImageError, match=r"^Input/output error$"), opened(str(cat)):
        raise OSError(5, "Input/output error")
    with pytest.raises(ValueError, match="a bug"), opened(str(cat)):
        raise ValueError("a bug")


# The budget


class Held:
    """What threads hold of a budget at the same time."""

    def __init__(self) -> None:
        self.now: list[int] = []
        self.most = 0
        self.order: list[str] = []
        self._lock = threading.Lock()

    def during(self, budget: Budget, amount: int, name: str = "", seconds: float = 0.002) -> None:
        with budget.hold(amount):
            with self._lock:
                self.now.append(amount)
                self.most = max(self.most, sum(self.now))
                self.order.append(name)
            time.sleep(seconds)
            with self._lock:
                self.now.remove(amount)


def together(calls: list[Callable[[], None]], pause: float = 0.0) -> None:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
        time.sleep(pause)
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"


def test_many_threads_never_hold_more_than_the_budget():
    budget, held = Budget(100), Held()
    amounts = np.random.default_rng(3).integers(0, 99, 200).tolist()
    together([lambda amount=amount: held.during(budget, amount) for amount in amounts])
    assert (len(held.order), held.now) == (200, [])
    assert 60 < held.most <= 100


def test_more_than_the_budget_goes_alone():
    budget, held = Budget(100), Held()
    together([lambda amount=amount: held.during(budget, amount) for amount in [10, 5000, 20, 100, 101, 30]])
    assert (len(held.order), held.most) == (6, 5000)
    with budget.hold(100):  # all of it was given back
        pass


def test_small_ones_do_not_overtake_a_large_one():
    budget, held = Budget(100), Held()
    calls = [("first", 60), ("large", 90), ("small", 10), ("small", 10)]
    together(
        [lambda name=name, amount=amount: held.during(budget, amount, name, 0.15) for name, amount in calls], pause=0.03
    )
    assert held.order == ["first", "large", "small", "small"]


def test_what_fails_gives_back_what_it_held():
    budget, held = Budget(100), Held()
    for _ in range(3):
        with pytest.raises(RuntimeError), budget.hold(80):
            raise RuntimeError
    together([lambda: held.during(budget, 100, "next")])
    assert held.order == ["next"]


def test_decoding_on_many_threads_stays_within_the_budget(monkeypatch):
    megapixel = file_of(photo(size=(1200, 840)), "PNG", compress_level=1)
    broken = megapixel[: len(megapixel) // 2]
    limit = 3 * 1200 * 840 * 4
    budget, held = Budget(limit), Held()
    asked: list[int] = []
    hold = budget.hold
    monkeypatch.setattr(budget, "hold", lambda amount: asked.append(amount) or hold(amount))
    load = Image.Image.load
    lock = threading.Lock()
    inside: list[int] = []

    def watched(self: Image.Image) -> object:
        if self.format != "PNG" or self._im is not None:
            return load(self)
        with lock:
            inside.append(1)
            held.most = max(held.most, len(inside))
        time.sleep(0.01)
        with lock:
            inside.pop()
        return load(self)

    monkeypatch.setattr(Image.Image, "load", watched)
    expected, found, refused = decoded(megapixel, Preprocess((224, 224)), exact=True), [], []

    def work(content: bytes) -> None:
        try:
            found.append(decoded(content, Preprocess((224, 224)), memory=budget))
        except ImageError as error:
            refused.append(str(error))

    together([lambda content=content: work(content) for content in [megapixel, broken] * 8])
    assert (len(found), len(refused), held.most) == (8, 8, 3)
    assert set(asked) == {1200 * 840 * 4}
    assert all((one == expected).all() for one in found)


def test_a_reduced_jpeg_asks_for_what_it_decodes_and_a_progressive_one_for_its_coefficients_too(monkeypatch):
    asked: list[int] = []
    hold = DECODING.hold
    monkeypatch.setattr(DECODING, "hold", lambda amount: asked.append(amount) or hold(amount))
    preprocess = Preprocess((64, 64))
    both(file_of(photo(size=(1600, 1200))), preprocess)
    both(file_of(photo(size=(1600, 1200)), progressive=True), preprocess)
    both(file_of(photo(size=(1600, 1200)), exif=exif_of(6)), preprocess)
    full, reduced = 1600 * 1200, 200 * 150
    assert asked == [4 * reduced, 4 * full, 4 * reduced + 6 * full, 10 * full, 4 * reduced, 8 * full]


# The command


def test_the_command_decodes_large_photos_reduced_unless_told_otherwise(run: Run, tmp_path: Path, cat: Path):
    path = tmp_path / "large.jpg"
    path.write_bytes(file_of(photo("cat", (1800, 1200))))
    command = ["classify", path, "--labels", "cat,rocket,temple", "--model", "tiny", "--json"]
    outputs = {}
    for name, more, env in (
        ("usual", [], {}),
        ("exact", ["--exact-decode"], {}),
        ("environment", [], {"CLIPZS_EXACT_DECODE": "1"}),
    ):
        result = run(*command, *more, env=env)
        assert (result.exit_code, result.stderr) == (0, "")
        outputs[name] = json.loads(result.stdout)
    assert outputs["exact"] == outputs["environment"]
    usual, exact = ({one["label"]: one["score"] for one in outputs[name]["scores"]} for name in ("usual", "exact"))
    assert usual != exact
    assert usual == pytest.approx(exact, abs=0.02)
    assert outputs["usual"]["config"] != outputs["exact"]["config"]  # what determines the numbers

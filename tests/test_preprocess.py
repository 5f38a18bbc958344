"""Image preparation is bit-equal to open_clip's evaluation transform. The reference is that transform itself."""

import numpy as np
import pytest
import torch
from conftest import EXAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipzs.preprocess import INTERPOLATIONS, RESIZE_MODES, Preprocess
from clipzs.towers import normalise

SIZES = [(224, 224), (96, 96), (35, 35), (64, 96), (97, 64), (1, 1)]
SHAPES = [(640, 427), (427, 640), (224, 224), (225, 224), (1, 1), (1, 300), (300, 1), (37, 41), (10, 400), (96, 64)]


def picture(width: int, height: int) -> Image.Image:
    """Noise over a gradient: every wrong pixel shows."""
    noise = np.random.default_rng(width * 10007 + height).integers(0, 128, (height, width, 3))
    ramp = np.linspace(0, 127, width)[None, :, None]
    return Image.fromarray((noise + ramp).astype(np.uint8))


def theirs(preprocess: Preprocess, image: Image.Image) -> np.ndarray:
    transform = image_transform_v2(PreprocessCfg(**vars(preprocess)), is_train=False)
    return transform(image).numpy()


def ours(preprocess: Preprocess, image: Image.Image) -> np.ndarray:
    pixels = preprocess(image)
    assert (pixels.shape, pixels.dtype) == ((*preprocess.size, 3), np.uint8)
    return normalise(torch.from_numpy(pixels)[None], preprocess)[0].numpy()


def assert_equal(preprocess: Preprocess, image: Image.Image) -> None:
    np.testing.assert_array_equal(ours(preprocess, image), theirs(preprocess, image))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_every_mode_is_bit_equal_for_odd_shapes(resize_mode, interpolation, size):
    for shape in SHAPES:
        if resize_mode != "longest" or max(shape) < 2 * min(size) * min(shape):  # else open_clip fails: no pixels left
            assert_equal(Preprocess(size, resize_mode=resize_mode, interpolation=interpolation), picture(*shape))


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_real_photos_are_bit_equal_with_the_statistics_of_other_models(resize_mode):
    preprocess = Preprocess((256, 256), (0.5, 0.5, 0.5), (0.5, 0.25, 0.125), "bilinear", resize_mode, 114)
    for path in sorted(EXAMPLES.glob("*.jpg")):
        assert_equal(preprocess, Image.open(path).convert("RGB"))


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 180),
    height=st.integers(1, 180),
    size=st.tuples(st.integers(2, 70), st.integers(2, 70)) | st.integers(2, 70).map(lambda n: (n, n)),
    interpolation=st.sampled_from(INTERPOLATIONS),
    resize_mode=st.sampled_from(RESIZE_MODES),
    fill_color=st.integers(0, 255),
)
def test_any_shape_into_any_frame_is_bit_equal(width, height, size, interpolation, resize_mode, fill_color):
    preprocess = Preprocess(size, interpolation=interpolation, resize_mode=resize_mode, fill_color=fill_color)
    image = picture(width, height)
    try:
        expected = theirs(preprocess, image)
    except ValueError:  # a side rounds to no pixels: open_clip fails there
        return
    np.testing.assert_array_equal(ours(preprocess, image), expected)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (2, 9000)], ids=str)
def test_a_thread_of_an_image_costs_little_memory_and_is_still_equal(shape, monkeypatch):
    preprocess, image = Preprocess((8, 8)), picture(*shape)
    expected, made = theirs(preprocess, image), []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *args, **more: made.append(args[1]) or resize(*args, **more))
    np.testing.assert_array_equal(ours(preprocess, image), expected)
    assert [max(size) for size in made] == [8 * 1000]


def test_the_long_side_can_be_fitted_even_if_the_short_one_nearly_vanishes():
    pixels = Preprocess((8, 8), resize_mode="longest")(Image.new("RGB", (1, 300), "white"))
    assert pixels.sum() == 255 * 3 * 8  # one white column, the rest is padding


def test_the_defaults_are_open_clips():
    defaults = vars(PreprocessCfg())
    mine = vars(Preprocess())
    assert {key: defaults[key] for key in mine if key != "size"} == {k: v for k, v in mine.items() if k != "size"}
    assert mine["size"] == (defaults["size"],) * 2

"""Images to embeddings: order, the cache between, and nothing lost when something fails."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipzs import budget, filehashes, pipeline, stream
from clipzs.budget import Budget
from clipzs.imagecache import ImageCache
from clipzs.images import Blob
from clipzs.paths import Found
from clipzs.pipeline import Batch, Pipeline
from clipzs.preprocess import Preprocess

SIZE = 4


class Colours:
    """A model a reader can predict: the embedding of an image is its mean colour. Knows what it was asked."""

    def __init__(self) -> None:
        self.passes: list[int] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        assert (pixels.dtype, pixels.shape[1:]) == (np.uint8, (8, 8, 3))
        self.passes.append(len(pixels))
        return pixels.mean(axis=(1, 2)).astype(np.float32)


def colour(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 7


def picture(folder: Path, number: int) -> Path:
    path = folder / f"{number}.png"
    Image.new("RGB", (9, 8), colour(number)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path_factory) -> list[Path]:
    """Twenty files."""
    folder = tmp_path_factory.mktemp("pictures")
    return [picture(folder, number) for number in range(20)]


@pytest.fixture(autouse=True)
def new_files_count_as_settled(monkeypatch):
    monkeypatch.setattr(filehashes, "_SETTLED_NS", 0)


def cache_in(folder: Path, *, model: str = "model", precision: str = "fp32", exact: bool = False) -> ImageCache:
    return ImageCache(folder / "cache", model, "digest", precision=precision, exact=exact)


def embedder(model, cache: ImageCache | None = None, *, size: int = SIZE, exact: bool = False) -> Pipeline:
    return Pipeline(model, Preprocess(size=(8, 8)), cache, size=size, max_megapixels=1.0, exact=exact, timeout=60)


def collected(batches: "Iterator[Batch]") -> list[tuple[str, str | list[float]]]:
    """(name, error or embedding) of every image."""
    found = []
    for batch in batches:
        rows = iter(batch.vectors.tolist())
        found += [
            (name, next(rows) if error is None else error)
            for name, error in zip(batch.names, batch.errors, strict=True)
        ]
        assert batch.vectors.dtype == np.float32
        assert next(rows, None) is None
    return found


def expected(paths: "list[Path]") -> list[tuple[str, list[float]]]:
    return [(str(path), [float(part) for part in colour(int(path.stem))]) for path in paths]


def test_every_kind_of_image_comes_out_in_order_under_its_name(pictures, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    given_ones = [
        pictures[3],
        np.full((5, 6, 3), 9, np.uint8),
        Found(str(pictures[4])),
        Found("folder", "cannot look into it"),
        str(tmp_path / "none.png"),
        Image.new("RGB", (4, 4), (1, 2, 3)),
        np.zeros(3),
        text,
    ]
    model = Colours()
    assert collected(embedder(model, cache_in(tmp_path))(given_ones)) == [
        (str(pictures[3]), [3, 0, 7]),
        ("image-1", [9, 9, 9]),
        (str(pictures[4]), [4, 0, 7]),
        ("folder", "cannot look into it"),
        (str(tmp_path / "none.png"), "no such file"),
        ("image-5", [1, 2, 3]),
        ("image-6", "an array of shape (3,) and type float64 is not an image"),
        (str(text), "a text file, not an image"),
    ]
    assert sum(model.passes) == 4


def test_nothing_in_is_nothing_out(tmp_path):
    assert collected(embedder(Colours(), cache_in(tmp_path))([])) == []


def test_what_was_seen_before_makes_no_pass_and_is_the_same_to_the_bit(pictures, tmp_path):
    cold, warm = Colours(), Colours()
    first = collected(embedder(cold, cache_in(tmp_path))(pictures))
    assert first == expected(pictures)
    assert cold.passes == [SIZE] * 5
    assert collected(embedder(warm, cache_in(tmp_path))(pictures)) == first
    assert warm.passes == []


@settings(max_examples=25, deadline=None)
@given(
    seen=st.sets(st.integers(0, 39)),
    order=st.lists(st.integers(0, 45), max_size=60),
    size=st.integers(1, 7),
    live=st.booleans(),
)
def test_any_mixture_of_seen_and_new_files_comes_out_in_order(tmp_path_factory, seen, order, size, live):
    folder = tmp_path_factory.mktemp("mixture")
    paths = [picture(folder, number) for number in range(40)]
    collected(embedder(Colours(), cache_in(folder))([paths[number] for number in sorted(seen)]))
    wanted = [folder / f"{number}.png" for number in order]
    model = Colours()
    found = collected(embedder(model, cache_in(folder), size=size)(wanted, live=live))
    assert found == [
        (str(path), "no such file") if number >= 40 else expected([path])[0]
        for path, number in zip(wanted, order, strict=True)
    ]
    assert sum(model.passes) == sum(number not in seen and number < 40 for number in order)
    assert max(model.passes, default=0) <= size


def test_known_images_come_in_large_batches_and_fill_up_those_of_new_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "KNOWN_AT_ONCE", 64)
    paths = [picture(tmp_path, number) for number in range(400)]
    collected(embedder(Colours(), cache_in(tmp_path))([path for path in paths if int(path.stem) % 10]))
    model = Colours()
    sizes = [len(batch.names) for batch in embedder(model, cache_in(tmp_path))(paths)]
    assert sum(sizes) == 400
    assert sorted(model.passes) == [SIZE] * 10
    assert max(sizes) > 30
    sizes = [len(batch.names) for batch in embedder(Colours(), cache_in(tmp_path))(paths)]
    assert sizes[-2:] == [64, 16]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"precision": "bf16"}),
        ({}, {"exact": True}),
        ({}, {"model": "other"}),
    ],
    ids=["precision", "decoding", "model"],
)
def test_what_is_computed_otherwise_is_not_shared(pictures, tmp_path, before, after):
    collected(embedder(Colours(), cache_in(tmp_path, **before))(pictures))
    model = Colours()
    collected(embedder(model, cache_in(tmp_path, **after))(pictures))
    assert sum(model.passes) == len(pictures)
    model = Colours()
    collected(embedder(model, cache_in(tmp_path, **before))(pictures))
    assert model.passes == []


def test_a_moved_or_copied_file_is_read_and_not_encoded(pictures, tmp_path):
    collected(embedder(Colours(), cache_in(tmp_path))(pictures))
    for path in pictures:
        path.rename(tmp_path / path.name)
    model = Colours()
    moved = [tmp_path / path.name for path in pictures]
    assert collected(embedder(model, cache_in(tmp_path))(moved)) == expected(moved)
    assert model.passes == []


def test_a_changed_file_is_encoded_anew(pictures, tmp_path):
    collected(embedder(Colours(), cache_in(tmp_path))(pictures))
    time.sleep(0.02)  # longer than a tick of the file system's clock
    Image.new("RGB", (9, 8), (200, 0, 0)).save(pictures[5])
    model = Colours()
    found = collected(embedder(model, cache_in(tmp_path))(pictures))
    assert found[5] == (str(pictures[5]), [200, 0, 0])
    assert found[:5] + found[6:] == expected(pictures[:5] + pictures[6:])
    assert model.passes == [1]


def test_an_image_that_cannot_be_read_stays_an_error(pictures, tmp_path):
    pictures[2].write_bytes(pictures[2].read_bytes()[:50])
    for _ in range(2):
        found = collected(embedder(Colours(), cache_in(tmp_path))(pictures))
        assert str(found[2][1]).startswith("damaged or truncated: ")
        pictures_but_one = pictures[:2] + pictures[3:]
        assert found[:2] + found[3:] == expected(pictures_but_one)


def test_without_a_cache_nothing_is_kept(pictures, tmp_path):
    for _ in range(2):
        model = Colours()
        assert collected(embedder(model)(pictures)) == expected(pictures)
        assert model.passes == [SIZE] * 5


def test_what_was_encoded_before_a_failure_is_kept(pictures, tmp_path):
    class Failing(Colours):
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            if len(self.passes) == 3:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    with pytest.raises(KeyboardInterrupt):
        collected(embedder(Failing(), cache_in(tmp_path))(pictures))
    model = Colours()
    assert collected(embedder(model, cache_in(tmp_path))(pictures)) == expected(pictures)
    assert model.passes == [SIZE] * 2


def test_what_was_encoded_is_kept_when_the_reader_stops(pictures, tmp_path):
    running = embedder(Colours(), cache_in(tmp_path))(pictures)
    next(running)
    running.close()
    model = Colours()
    collected(embedder(model, cache_in(tmp_path))(pictures))
    assert sum(model.passes) == 16


def test_files_are_decoded_while_the_model_works(pictures):
    decoded, ahead = [], []

    class Watched(Pipeline):
        def prepare(self, image, name):
            prepared = super().prepare(image, name)
            decoded.append(image)
            return prepared

    class Slow(Colours):
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            before = len(decoded)
            time.sleep(0.2)
            ahead.append(len(decoded) - before)
            return super().__call__(pixels)

    watched = Watched(Slow(), Preprocess((8, 8)), None, size=SIZE, max_megapixels=1.0, exact=False, timeout=60)
    assert collected(watched(pictures)) == expected(pictures)
    assert sum(ahead) >= SIZE


def test_no_more_pixels_wait_for_the_model_than_their_bytes_allow(pictures, monkeypatch):
    """However large a batch is."""
    monkeypatch.setattr(pipeline, "AHEAD_BYTES", (stream.THREADS + 2) * 8 * 8 * 3)
    working, go_on, read = threading.Event(), threading.Event(), []

    class Watched(Pipeline):
        def prepare(self, image, name):
            prepared = super().prepare(image, name)
            read.append(image)
            return prepared

    class Stuck(Colours):
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            working.set()
            assert go_on.wait(20)
            return super().__call__(pixels)

    watched = Watched(Stuck(), Preprocess((8, 8)), None, size=30, max_megapixels=1.0, exact=False, timeout=60)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(collected(watched(pictures * 5))))
    thread.start()
    assert working.wait(20)
    time.sleep(0.5)
    assert len(read) <= 30 + stream.THREADS + 2
    go_on.set()
    thread.join(20)
    assert found == expected(pictures * 5)


def test_images_in_memory_are_taken_no_further_than_their_bytes_allow(monkeypatch):
    """Eight megabytes each, three of them at once."""
    monkeypatch.setattr(stream, "WAITING_BYTES", 24_000_000)
    taken, alive, most = 0, threading.Semaphore(0), []

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for _ in range(12):
            taken += 1
            yield np.zeros((2000, 4000), np.uint8)

    class Slow(Colours):
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return super().__call__(pixels)

    def wait(self, image, name):
        alive.acquire(timeout=5)
        return prepare(self, image, name)

    prepare = Pipeline.prepare
    monkeypatch.setattr(Pipeline, "prepare", wait)
    running = embedder(Slow(), size=1)(source())
    thread = threading.Thread(target=lambda: most.append(len(collected(running))), daemon=True)
    thread.start()
    time.sleep(0.3)
    assert taken == 3
    for _ in range(12):
        alive.release()
    thread.join(20)
    assert (most, taken) == ([12], 12)


def test_a_live_source_is_answered_at_once_from_the_cache_and_from_the_model(pictures, tmp_path):
    collected(embedder(Colours(), cache_in(tmp_path))(pictures[:1]))
    gate = threading.Semaphore(0)

    def trickle() -> Iterator[Path]:
        for path in pictures[:4]:
            yield path
            assert gate.acquire(timeout=10)

    running = embedder(Colours(), cache_in(tmp_path), size=100)(trickle(), live=True)
    for path in pictures[:4]:
        assert collected(iter([next(running)])) == expected([path])
        gate.release()
    assert list(running) == []


def test_a_device_without_end_is_an_error_and_not_the_end_of_memory(tmp_path):
    ((name, error),) = collected(embedder(Colours(), cache_in(tmp_path))(["/dev/zero"]))
    assert (name, error) == ("/dev/zero", "a device, not a file")


def test_a_wrong_kind_of_image_is_raised_in_its_place(pictures, tmp_path):
    running = embedder(Colours(), cache_in(tmp_path))([*pictures[:2], None, pictures[2]])
    assert collected(iter([next(running)])) == expected(pictures[:2])
    with pytest.raises(TypeError, match="not NoneType"):
        next(running)


def test_large_files_are_held_one_after_the_other(tmp_path, monkeypatch):
    held, most = [], []

    class Watched(Budget):
        @contextmanager
        def hold(self, amount: int) -> Iterator[None]:
            with super().hold(amount):
                held.append(amount)
                most.append(len(held))
                time.sleep(0.02)
                yield
                held.pop()

    monkeypatch.setattr(budget, "FILES", Watched(10))
    noise = np.random.default_rng(1).integers(0, 256, (10, 2000, 1500, 3), np.uint8)
    paths = [tmp_path / f"{number}.bmp" for number in range(len(noise))]
    for path, one in zip(paths, noise, strict=True):
        Image.fromarray(one).save(path)
    cached = Pipeline(
        Colours(), Preprocess((8, 8)), cache_in(tmp_path), size=4, max_megapixels=9, exact=False, timeout=60
    )
    assert [name for name, found in collected(cached(paths)) if not isinstance(found, str)] == [*map(str, paths)]
    assert (len(most), max(most), held) == (10, 1, [])


def test_a_file_in_memory_is_decoded_like_one_on_disk_and_known_by_what_is_in_it(pictures, tmp_path):
    model = Colours()
    blobs = [Blob(f"part.tar/{path.name}", path.read_bytes()) for path in pictures]
    names = [blob.name for blob in blobs]
    on_disk = collected(embedder(model, cache_in(tmp_path))(pictures))
    assert sum(model.passes) == len(pictures)
    assert collected(embedder(model, cache_in(tmp_path))(blobs)) == [
        (name, vector) for name, (_, vector) in zip(names, on_disk, strict=True)
    ]
    assert sum(model.passes) == len(pictures)  # none anew
    without = embedder(model)
    with_errors = [blobs[1], Blob("empty.png", b""), Blob("torn.png", blobs[0].data[:40]), Blob("a.txt", b"no picture")]
    (first, vector), *rest = collected(without(with_errors))
    assert (first, vector) == (names[1], on_disk[1][1])
    assert [name for name, _ in rest] == ["empty.png", "torn.png", "a.txt"]
    assert rest[0][1] == "the file is empty"
    assert rest[2][1] == "a text file, not an image"


def test_single_images_can_be_prepared_on_many_threads_and_embedded_together(pictures, tmp_path):
    model = Colours()
    cache = cache_in(tmp_path)
    with embedder(model, cache, size=64) as pipeline, ThreadPoolExecutor(8) as threads:
        blobs = [Blob(path.name, path.read_bytes()) for path in pictures]
        prepared = [*threads.map(lambda blob: pipeline.prepare(blob, ""), blobs)]
        batch = pipeline.embed(prepared)
    assert model.passes == [len(pictures)]
    assert batch.vectors.tolist() == [vector for _, vector in expected(pictures)]
    assert [*batch.names] == [path.name for path in pictures]
    assert collected(embedder(model, cache_in(tmp_path))(pictures)) == expected(pictures)  # they were kept
    assert model.passes == [len(pictures)]

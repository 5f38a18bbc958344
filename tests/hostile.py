"""Images of every kind that Pillow writes, and what becomes of them when they are damaged: made, never stored.

`python -m tests.hostile --flips 2000` tries as many damaged copies of each and says what came of them.
"""

import argparse
import io
import json
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

SIZE = (61, 43)
CUTS = (0, 1, 2, 3, 4, 8, 11, 12, 16, 20, 24, 30, 40, 60, 100, 150, 200)

# What Pillow writes of each format: modes, and ways to write it. What it does not write of these is left out below.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B")
WAYS: dict[str, list[dict[str, object]]] = {
    "AVIF": [{}, {"quality": 100, "subsampling": "4:4:4"}],
    "BLP": [{"blp_version": "BLP1"}, {"blp_version": "BLP2"}],
    "BMP": [{}],
    "DDS": [{}, {"pixel_format": "DXT1"}, {"pixel_format": "DXT5"}, {"pixel_format": "BC5"}],
    "DIB": [{}],
    "GIF": [{}, {"interlace": 0}],
    "ICNS": [{}],
    "ICO": [{}, {"bitmap_format": "bmp"}],
    "IM": [{}],
    "JPEG": [
        {},
        {"progressive": True},
        {"quality": 100, "subsampling": 0},
        {"quality": 40, "subsampling": 2, "optimize": True},
        {"restart_marker_rows": 1},
        {"keep_rgb": True},
    ],
    "JPEG2000": [
        {},
        {"irreversible": True},
        {"num_resolutions": 2, "progression": "RPCL"},
        {"tile_size": (32, 32)},
        {"no_jp2": True},
    ],
    "MPO": [{"save_all": True}],
    "MSP": [{}],
    "PCX": [{}],
    "PNG": [{}, {"compress_level": 0}, {"optimize": True}],
    "PPM": [{}],
    "QOI": [{}],
    "SGI": [{}, {"bpc": 2}],
    "SPIDER": [{}],
    "TGA": [{}, {"rle": True}, {"orientation": 1}],
    "TIFF": [
        {"compression": name}
        for name in (None, "tiff_lzw", "packbits", "tiff_adobe_deflate", "group3", "group4", "jpeg", "lzma", "zstd")
    ]
    + [{"big_tiff": True}, {"compression": "tiff_lzw", "tiffinfo": {317: 2}}],
    "WEBP": [{}, {"lossless": True}, {"quality": 30, "method": 6}],
    "XBM": [{}],
}


@dataclass(frozen=True)
class Sample:
    """A file that is well, and what it is called."""

    name: str
    content: bytes


def picture(mode: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """Something with edges, gradients and noise in any mode."""
    width, height = size
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    noise = np.random.default_rng(7).integers(0, 40, (height, width))
    ramp = (rows * 200 // height + noise) % 256
    rgb = np.stack([ramp, (columns * 4 + rows) % 256 + 0 * ramp, 255 - ramp], -1).astype(np.uint8)
    image = Image.fromarray(rgb)
    if mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBX"):
        return image.convert(mode)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB") or image
    if mode in ("LA", "PA", "RGBA"):
        image = image.convert(mode[:-1] if mode != "PA" else "P")
        image.putalpha(Image.fromarray(((columns * 255 // max(1, width - 1)) + 0 * rows).astype(np.uint8)))
        return image.convert(mode)
    if mode == "I":
        return Image.fromarray((ramp.astype(np.int32) << 8) + 7)
    if mode == "F":
        return Image.fromarray((ramp / 255).astype(np.float32))
    grey = (ramp.astype(np.uint16) << 8) + 99
    return Image.frombytes(mode, size, grey.astype(">u2" if mode == "I;16B" else "<u2").tobytes())


def written(image: Image.Image, format: str, **how: object) -> bytes | None:
    """A file of it; None for what Pillow does not write, or could not read again."""
    stream = io.BytesIO()
    try:
        image.save(stream, format, **how)  # type: ignore[arg-type]
        Image.open(io.BytesIO(stream.getvalue())).close()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SystemError):
        return None
    return stream.getvalue()


def samples() -> Iterator[Sample]:
    """Every format in every mode and way, then what only some formats have."""
    for format, ways in WAYS.items():
        for number, way in enumerate(ways):
            for mode in MODES if format != "ICNS" else ("P", "RGBA"):  # which are made of ten pictures each
                content = written(picture(mode), format, **way)
                if content:
                    yield Sample(f"{format}-{mode}-{number}", content)
    yield from _special()


def _special() -> Iterator[Sample]:
    rgb, frames = picture("RGB"), [picture("RGB").rotate(angle) for angle in (30, 60, 90)]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for format in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"):
            content = written(rgb, format, exif=exif)
            if content:
                yield Sample(f"orientation-{orientation}-{format}", content)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "JPEG2000"):
        for name, how in (
            ("icc", {"icc_profile": profile}),
            ("icc-broken", {"icc_profile": b"no profile" * 30}),
            ("animated", {"save_all": True, "append_images": frames}),
        ):
            content = written(rgb, format, **how)
            if content:
                yield Sample(f"{name}-{format}", content)
    for format in WAYS:
        for size in ((1, 1), (1, 20000), (20000, 1)):
            content = written(picture("RGB", size), format) or written(picture("L", size), format)
            if content:
                yield Sample(f"{size[0]}x{size[1]}-{format}", content)
    yield Sample("interlaced-PNG", interlaced_png(np.asarray(rgb)))
    ycck = bytearray(written(picture("CMYK"), "JPEG", quality=95) or b"")
    place = ycck.find(b"Adobe")
    ycck[place + 11] = 2  # the transform of its colours: YCCK instead of CMYK
    yield Sample("ycck-JPEG", bytes(ycck))


def interlaced_png(pixels: "np.ndarray") -> bytes:
    """Adam7, which Pillow reads and does not write. uint8 [h, w, 3]."""
    height, width, _ = pixels.shape
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.tobytes() for y, x, down, right in passes for row in pixels[y::down, x::right] if row.size
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def damaged(sample: Sample, flips: int, seed: int = 20) -> Iterator[Sample]:
    """Cut off at many lengths; with bits and bytes changed; with other sizes in the header."""
    content, length = sample.content, len(sample.content)
    for cut in sorted({*CUTS, *(length * part // 12 for part in range(12)), length - 1}):
        if cut < length:
            yield Sample(f"{sample.name}-cut-{cut}", content[:cut])
    yield from (Sample(f"{sample.name}-forged-{n}", one) for n, one in enumerate(forged(content)))
    random = np.random.default_rng([seed, zlib.crc32(sample.name.encode())])
    for number in range(flips):
        changed = bytearray(content)
        # Headers are where it hurts; so half of the damage is there.
        reach = min(length, 200) if number % 2 else length
        for place in random.integers(0, reach, 1 + number % 7).tolist():
            if number % 3:
                changed[place] ^= 1 << int(random.integers(8))
            else:
                changed[place] = (0, 1, 0x7F, 0x80, 0xFF)[int(random.integers(5))]
        yield Sample(f"{sample.name}-flip-{number}", bytes(changed))


def forged(content: bytes) -> Iterator[bytes]:
    """Copies in which whatever looks like the width or height is another: of a bomb, of nothing, below nothing."""
    for size in SIZE:
        for kind in (">I", "<I", ">H", "<H"):
            looks = struct.pack(kind, size)
            start = content.find(looks, 2, 400)
            if start < 0:
                continue
            for lie in (0, 1, size + 1, 13_000, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF):
                if lie < 1 << 8 * len(looks):
                    forgery = content[:start] + struct.pack(kind, lie) + content[start + len(looks) :]
                    if content.startswith(b"\x89PNG") and start < 29:
                        forgery = forgery[:29] + struct.pack(">I", zlib.crc32(forgery[12:29])) + forgery[33:]
                    yield forgery


def main() -> None:
    """Decode damaged copies of everything in worker processes, and count what came of them."""
    from clipzs.decoders import DECODERS, Decoding
    from clipzs.errors import ImageError
    from clipzs.preprocess import Preprocess

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=100, help="damaged copies of each sample")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--keep", type=Path, help="folder for what crashed its decoder or took too long")
    parser.add_argument("--file", type=Path, default=Path("/dev/shm/hostile"), help="where each is written")
    options = parser.parse_args()
    how = Decoding(Preprocess((64, 64)), 178.0, False, 20.0)
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    end, slowest = time.monotonic() + options.seconds, (0.0, "")
    for sample in samples():
        for one in (sample, *damaged(sample, options.flips, options.seed)):
            if time.monotonic() > end:
                break
            options.file.write_bytes(one.content)
            begun = time.monotonic()
            try:
                outcome = "pixels" if len(DECODERS.decode(str(options.file), how)) == 64 * 64 * 3 else "nonsense"
            except ImageError as error:
                outcome = next(
                    (mark for mark in ("crashed", "killed", "took longer", "memory") if mark in str(error)), "refused"
                )
                reasons[str(error)[:60]] += 1
            slowest = max(slowest, (time.monotonic() - begun, one.name))
            outcomes[outcome] += 1
            if outcome not in ("pixels", "refused"):
                print(outcome, one.name, flush=True)
                if options.keep:
                    (options.keep / one.name).write_bytes(one.content)
    DECODERS.close()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "peak of a worker, MB": peak / 1e6}, indent=1))
    print(json.dumps(reasons.most_common(25), indent=1))


if __name__ == "__main__":
    main()

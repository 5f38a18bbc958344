"""Every default in one place: the model, the template set, limits and folders."""

import os
from pathlib import Path

import platformdirs

MODEL = "ViT-B-32-256:datacomp_s34b_b86k"
TEMPLATES = "default"
PLACEHOLDERS = ("<>", "{c}", "{}")  # where a label goes in a template; the first is what they all become
BATCH_SIZE = 32
TEXT_BATCH_SIZE = 256
TABLE_TOP_K = 5
UNKNOWN_LABEL = "unknown"
THRESHOLD = 0.5  # of probabilities that labels have each for itself
SIMILAR = 0.97  # cosine from which on two images are nearly the same
FOUND = 10  # images that a search shows
PART_SIZE = 4096  # images of a part of a batch, where it can be chosen: a multiple of what goes through the model
DECIMALS = 4  # of scores: those behind them are not the same for every batch size

MAX_MEGAPIXELS = 178.0  # about Pillow's own limit against decompression bombs
DECODING_BYTES = 512_000_000  # of images in decoding, all together; a larger one goes alone
IMAGE_TIMEOUT_S = 60.0  # that one file may take to be read and decoded
CACHE_LIMIT = "10GB"  # the compiled towers of all presets, and the embeddings of a million images
NETWORK_TIMEOUT_S = 4.0  # how long to look for a network before saying there is none


def cache_dir() -> Path:
    """Folder of the cache: CLIPZS_CACHE_DIR, or the platform's user cache."""
    return Path(os.environ.get("CLIPZS_CACHE_DIR") or platformdirs.user_cache_dir("clipzs", appauthor=False))


def file_name(model: str) -> str:
    """A model's name as it can stand in a file name, for people who look into the cache folder."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in model)[:60]


def prompts_dir() -> Path:
    """Folder of the user's own template sets: CLIPZS_PROMPTS_DIR, or the platform's user config."""
    return Path(
        os.environ.get("CLIPZS_PROMPTS_DIR") or platformdirs.user_config_path("clipzs", appauthor=False) / "prompts"
    )

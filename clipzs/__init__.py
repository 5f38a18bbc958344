"""Zero-shot image classification: name classes in words, point at images, get scores."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Blob", "Classifier", "ClipzsError", "Label", "Options", "Result", "Score", "__version__"]

if TYPE_CHECKING:
    from clipzs.classifier import Classifier
    from clipzs.errors import ClipzsError
    from clipzs.images import Blob
    from clipzs.labels import Label
    from clipzs.options import Options
    from clipzs.results import Result, Score

_HOME = {
    "Blob": "clipzs.images",
    "Classifier": "clipzs.classifier",
    "ClipzsError": "clipzs.errors",
    "Label": "clipzs.labels",
    "Options": "clipzs.options",
    "Result": "clipzs.results",
    "Score": "clipzs.results",
}


def __getattr__(name: str) -> object:
    """Public names are loaded when first used, so that the command line starts without numpy and Pillow."""
    if name not in _HOME:
        raise AttributeError(f"module 'clipzs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)

"""The failures a user can fix, and the exit codes they lead to.

ClipzsError                 exit 1, something failed
├── UsageProblem            exit 2, the request itself cannot be served
│   ├── LabelsError         labels or a labels file
│   ├── TemplatesError      prompt templates or a template file
│   ├── HeadError           a file of a fitted classifier
│   ├── TruthError          labelled images, or a file that says what is right
│   ├── RecordsError        results of an earlier run that are read again
│   ├── EmbeddingsError     a file of embeddings
│   ├── ServerProblem       a server that refuses, or is none of clipzs'
│   │   └── NoAnswer        a server that does not answer
│   ├── UnknownModel        a model name or tag that does not exist
│   └── DeviceError         a device or precision this machine lacks
├── ModelError              weights that cannot be read or do not fit
│   └── ModelUnavailable    weights neither on this machine nor downloadable
├── ListenProblem           an address that a server cannot have
├── ImageError              one image; becomes that image's error record
├── SourceError             an archive or table of images that cannot be reached; the others of a job can
└── OutputError             a result that cannot be written
"""

from collections.abc import Sequence

NAMED = 3  # names in one line; of the others, their number

FAILED = 1
USAGE = 2
SOME_IMAGES_FAILED = 3
SIGNALLED = 128  # and the number of the signal
INTERRUPTED = 130  # by Ctrl-C


class ClipzsError(Exception):
    """A failure with a cause the user can act on; `hint` is the next thing to try."""

    exit_code = FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageProblem(ClipzsError):
    """The options contradict each other or name something that does not exist."""

    exit_code = USAGE


class LabelsError(UsageProblem):
    """Labels that are missing, empty, duplicate, or in a file that cannot be read."""


class TemplatesError(UsageProblem):
    """A template set that is unknown or malformed."""


class TruthError(UsageProblem):
    """Labelled images that are missing, too few, or named by a file that cannot be read."""


class RecordsError(UsageProblem):
    """A file of earlier results that cannot be read, or is something else."""


class EmbeddingsError(UsageProblem):
    """A file of embeddings that cannot be read, or was made with another model."""


class HeadError(UsageProblem):
    """A file of a fitted classifier that cannot be read, or was made for another model."""


class ServerProblem(UsageProblem):
    """A server that is none of clipzs', refuses, or has another model."""


class NoAnswer(ServerProblem):
    """A server that nobody can reach, or that has stopped answering."""


class UnknownModel(UsageProblem):
    """A model name or pretrained tag that open_clip does not have."""


class DeviceError(UsageProblem):
    """A device or precision that does not exist here."""


class ModelError(ClipzsError):
    """Weights or a config that cannot be read, or do not belong together."""


class ModelUnavailable(ModelError):
    """Weights that are not on this machine and could not be downloaded; `why` says what stood in the way."""

    def __init__(self, message: str, *, why: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.why = why


class ListenProblem(ClipzsError):
    """An address that a server cannot have: taken, or none of this machine."""


class ImageError(ClipzsError):
    """One image that cannot be read; the message is the image's error record."""


class SourceError(ClipzsError):
    """An archive or table of images that cannot be reached now; trying again may help."""


class OutputError(ClipzsError):
    """A result file that cannot be written."""


def listed(names: Sequence[str]) -> str:
    """The first few of some names, for a message, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def quoted(names: Sequence[str]) -> str:
    """As `listed`, each in quotes."""
    return listed([repr(name) for name in names])

"""Files of Hugging Face repositories: from the local hub cache first, from the network only when they are not there.

All that clipzs takes from a network passes through here. Files end up where the hub's own client keeps them; large
ones are fetched by the code below, which goes on where a broken download stopped and compares what came with the
SHA-256 the hub has of it.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipzs import defaults
from clipzs.errors import ModelError, ModelUnavailable

if TYPE_CHECKING:
    from huggingface_hub.file_download import HfFileMetadata

log = logging.getLogger("clipzs")

CONFIG = "open_clip_config.json"
SAFETENSORS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"
TEXT_CONFIG = "config.json"  # of a text tower of the transformers package
# All a tokenizer of the transformers package may be made of; vocabularies last, so that where one is all is.
TOKENIZER = (
    TEXT_CONFIG, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "vocab.json",
    "spm.model", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "tokenizer.json",
)  # fmt: skip
_VOCABULARY = re.compile(r"tokenizer\.json|vocab\.txt|.*\.model").fullmatch
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII).fullmatch
_SHA256 = re.compile(r"[0-9a-f]{64}").fullmatch
_SHA1 = re.compile(r"[0-9a-f]{40}").fullmatch
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REF = Path("refs", "main")
_TRIES = 2  # of a download that arrives damaged


class MissingFile(ModelError):
    """A repository that exists without the file that was asked for."""


@dataclass(frozen=True)
class Remote:
    """A file that is not here, as the hub describes it.

    Attributes:
        repo: its repository, and
        filename: its name in it.
        commit: the version of the repository described; None if unknown.
        etag: what the cache names it by: SHA-256 of a large file, git's hash of a small one; None if unknown.
        bytes: its size; None if unknown.
    """

    repo: str
    filename: str
    commit: str | None = None
    etag: str | None = None
    bytes: int | None = None


def cached(repo: str, filename: str) -> Path | None:
    """The file in the local hub cache, or None. No network.

    Raises:
        ModelError: a name no repository can have.
    """
    if not _NAME(repo):
        raise _no_name(repo)
    commit = _commit(repo)
    # The hub's own look-up takes longer to import than some runs take as a whole.
    path = _folder(repo) / "snapshots" / str(commit) / filename
    return path if commit and path.is_file() else None


def remote(repo: str, filename: str) -> Remote:
    """What the hub knows of a file, asked now. Gives up within seconds where there is no network.

    Raises:
        ModelUnavailable: no network, one that must not be used, or a hub in trouble.
        MissingFile, ModelError: the file or the repository does not exist, or is not open to you.
    """
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise _unavailable(repo, filename, "--offline or HF_HUB_OFFLINE is set")
    with _problems(repo, filename):
        found = _asked(repo, filename)
    commit = found.commit_hash
    return Remote(repo, filename, commit, found.etag if commit else None, found.size)


def download(file: Remote) -> Path:
    """Fetch a file into the hub cache, over a damaged one if there is one; progress shows on a terminal.

    What came stays when the connection breaks or the user has had enough; the next call goes on from there.

    Raises:
        ModelUnavailable: the download failed, or there is no space left for it.
        ModelError: it arrived damaged twice.
    """
    import huggingface_hub

    with _problems(file.repo, file.filename, file.bytes):
        if file.etag and _SHA256(file.etag):
            _download_large(file, file.etag)
        path = Path(huggingface_hub.hf_hub_download(file.repo, file.filename, revision=file.commit))
        if not path.is_symlink():  # where there are no links, the client has copied it
            with suppress(OSError):
                (_folder(file.repo) / "blobs" / str(file.etag)).unlink()
        if file.commit and _commit(file.repo) != file.commit:
            ref = _folder(file.repo) / _REF
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(file.commit, encoding="ascii")
    return path


def fetched(repo: str, filename: str) -> Path:
    """The file, downloaded unless it is cached.

    Raises:
        ModelUnavailable: no network, or the download failed.
        MissingFile, ModelError: the repository or the file does not exist, or is not open to you.
    """
    return cached(repo, filename) or download(remote(repo, filename))


def damaged(path: Path) -> bool:
    """Whether a file of the hub cache differs from what the hub has; False for one without a hash of it. Reads it all.

    Raises:
        OSError: it cannot be read.
    """
    blob = path.resolve()
    return blob.parent.name == "blobs" and not _is(blob, blob.name)


def cache_folder() -> Path:
    """The hub cache. It may not be there yet."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def free_space() -> int:
    """Bytes free on the disk of the hub cache.

    Raises:
        OSError: it cannot be asked.
    """
    place = cache_folder().absolute()
    return shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free


def begun(file: Remote) -> int:
    """Bytes here of a file whose download was broken off."""
    with suppress(OSError):
        return _part(file).stat().st_size
    return 0


def go_offline() -> None:
    """Never use the network in this process, be it by clipzs or by the libraries it calls."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read by the hub's client when it is imported, and transformers asks that
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


# The parts of a model


def weights_names(filename: str | None, *, allow_pickle: bool) -> tuple[str, ...]:
    """Names a repository's weights may have, best first; `filename` is the one it is known by, if it is not the usual.

    >>> weights_names(None, allow_pickle=True)
    ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
    """
    known = filename or PICKLE
    safe = SAFETENSORS if known == PICKLE else f"{known.rpartition('.')[0]}.safetensors"
    return (safe, known) if allow_pickle and known != safe else (safe,)


def cached_weights(repo: str, filename: str | None = None, *, allow_pickle: bool = False) -> Path | None:
    """The weights of an open_clip repository in the local hub cache, or None. No network."""
    found = (cached(repo, name) for name in weights_names(filename, allow_pickle=allow_pickle))
    return next((path for path in found if path is not None), None)


def remote_weights(repo: str, filename: str | None = None, *, allow_pickle: bool = False) -> Remote:
    """The weights of an open_clip repository as the hub describes them: safetensors unless pickles are allowed too.

    Raises:
        ModelUnavailable: no network.
        ModelError: no weights in a form that is allowed.
    """
    safe, *pickle = weights_names(filename, allow_pickle=allow_pickle)
    try:
        return remote(repo, safe)
    except ModelUnavailable as error:
        if not allow_pickle and cached_weights(repo, filename, allow_pickle=True):
            hint = "a .bin file of it is here: --allow-pickle takes it"
            raise ModelUnavailable(str(error), why=error.why, hint=hint) from error
        raise
    except MissingFile as error:
        if pickle:
            return remote(repo, pickle[0])
        raise ModelError(
            f"{repo} has no weights as safetensors", hint="--allow-pickle also takes .bin files (read weights-only)"
        ) from error


def weights(repo: str, filename: str | None = None, *, allow_pickle: bool = False) -> Path:
    """The weights of an open_clip repository, downloaded unless they are cached.

    Raises:
        ModelUnavailable: no network, or the download failed.
        ModelError: no weights in a form that is allowed.
    """
    local = cached_weights(repo, filename, allow_pickle=allow_pickle)
    return local or download(remote_weights(repo, filename, allow_pickle=allow_pickle))


def cached_tokenizer(name: str) -> Path | None:
    """The folder of a tokenizer of the transformers package, if its vocabulary is there; None otherwise. No network.

    Args:
        name: of a repository; or a folder, which is taken as it is.
    """
    if os.path.isdir(name):
        return Path(name)
    here = [path for path in (cached(name, file) for file in TOKENIZER) if path]
    return here[0].parent if _has_vocabulary({path.name for path in here}) else None


def remote_tokenizer(name: str) -> list[Remote]:
    """What is not here of a tokenizer's files, as the hub describes them.

    Args:
        name: of its repository.

    Raises:
        ModelUnavailable: no network.
        ModelError: no such repository.
    """
    return list(_existing(name, [file for file in TOKENIZER if not cached(name, file)]))


def tokenizer(name: str) -> Path:
    """The folder of a tokenizer with all that its repository has of it, downloaded where it is not here.

    Args:
        name: of a repository.

    Raises:
        ModelUnavailable: no network, or a download failed.
        ModelError: no such repository, or none of a tokenizer.
    """
    for file in remote_tokenizer(name):
        download(file)
    here = next((path for path in (cached(name, file) for file in TOKENIZER[1:]) if path), None)
    if here is None:
        raise ModelError(f"{name} has no tokenizer", hint="does the model's config name the right one?")
    return here.parent


def _has_vocabulary(names: Collection[str]) -> bool:
    return any(map(_VOCABULARY, names)) or {"vocab.json", "merges.txt"} <= set(names)


def text_config(name: str) -> Path:
    """The folder with the config of a text tower of the transformers package, downloaded unless it is cached.

    Args:
        name: of a repository, or a folder.

    Raises:
        ModelUnavailable: no network, or the download failed.
        ModelError: no such repository, or none with a config.
    """
    return Path(name) if os.path.isdir(name) else fetched(name, TEXT_CONFIG).parent


# The network


def _folder(repo: str) -> Path:
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def _part(file: Remote) -> Path:
    """Where a file is until all of it is here."""
    return _folder(file.repo) / "blobs" / f"{file.etag}.incomplete"


def _commit(repo: str) -> str | None:
    """The version of a repository that is in the cache, if one is."""
    with suppress(OSError, ValueError):
        return (_folder(repo) / _REF).read_text(encoding="ascii").strip()
    return None


def _existing(repo: str, names: Collection[str]) -> Iterator[Remote]:
    for name in names:
        with suppress(MissingFile):
            yield remote(repo, name)


def _asked(repo: str, filename: str) -> "HfFileMetadata":
    """The hub's answer for the version that is in the cache, so that what is there and what is fetched go together."""
    import huggingface_hub
    from huggingface_hub import errors

    known = _commit(repo)
    if known:
        with suppress(errors.RevisionNotFoundError):  # the hub may have forgotten it
            return _within_seconds(huggingface_hub.hf_hub_url(repo, filename, revision=known), repo, filename)
    return _within_seconds(huggingface_hub.hf_hub_url(repo, filename), repo, filename)


def _within_seconds(url: str, repo: str, filename: str) -> "HfFileMetadata":
    """The hub's answer. Its own client retries for the better part of a minute when there is no network."""
    import huggingface_hub
    from huggingface_hub import errors

    answers: list[HfFileMetadata | Exception] = []

    def ask() -> None:
        try:
            answers.append(huggingface_hub.get_hf_file_metadata(url, timeout=defaults.NETWORK_TIMEOUT_S))
        except Exception as error:  # of whichever HTTP client the hub's version uses
            answers.append(error)

    # In a thread because a name look-up takes no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(defaults.NETWORK_TIMEOUT_S)
    answer = answers[0] if answers else TimeoutError()
    if isinstance(answer, errors.HfHubHTTPError):
        raise answer
    if isinstance(answer, Exception):
        raise _unavailable(repo, filename, _unreachable(url, answer)) from answer
    return answer


def _unreachable(url: str, error: Exception) -> str:
    """Why nothing answers there, for people."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    host = urlsplit(url).hostname or ""
    if "certificate" in str(error).lower():
        return f"the certificate of {host} is not trusted (behind a company's proxy, SSL_CERT_FILE can name its own)"
    proxy = urlsplit(getproxies().get(urlsplit(url).scheme, ""))
    if proxy.hostname and not proxy_bypass(host):
        return f"{host} cannot be reached by way of the proxy {proxy.hostname}:{proxy.port or ''}".rstrip(":")
    return "there is no network"


def _download_large(file: Remote, sha256: str) -> None:
    """Bring a file among the cache's blobs, whole and as the hub has it."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

    part = _part(file)
    blob = part.with_name(sha256)
    lock = cache_folder() / ".locks" / _folder(file.repo).name / f"{sha256}.lock"
    for place in (blob, lock):
        place.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(file.repo, file.filename, revision=file.commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # bytes are counted as they are
    with WeakFileLock(lock):
        for tries_left in reversed(range(_TRIES)):
            if blob.exists() and _is(blob, sha256):
                return
            with part.open("ab") as stream:
                if file.bytes is not None and stream.tell() > file.bytes:
                    stream.truncate(0)
                http_get(
                    url,
                    stream,
                    resume_size=stream.tell(),
                    headers=headers,
                    expected_size=file.bytes,
                    displayed_filename=file.filename,
                )
            if _is(part, sha256):
                os.replace(part, blob)
                return
            part.unlink()
            if tries_left:
                log.warning("%s of %s arrived damaged; fetching it again", file.filename, file.repo)
    raise ModelError(
        f"{file.filename} of {file.repo} arrived damaged twice: its SHA-256 is not the one the hub has of it",
        hint="something on the way changes it, such as a proxy; nothing of it was kept",
    )


def _is(path: Path, etag: str) -> bool:
    """Whether a file has the hash that the hub names it by; True where that is no hash. Reads all of it."""
    if _SHA256(etag):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == etag
    if _SHA1(etag):  # git's own: of a small file
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == etag
    return True


@contextmanager
def _problems(repo: str, filename: str, size: int | None = None) -> Iterator[None]:
    """Turn what goes wrong in the hub's client into a line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except ModelError:
        raise
    except errors.HFValidationError as error:
        raise _no_name(repo) from error
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repo} asks you to accept its terms first", hint=f"visit its page for {repo}, then run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"no repository {repo} (or it is private)", hint="check the name") from error
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unavailable(repo, filename, "the download failed") from error
        raise MissingFile(f"{repo} has no file {filename}", hint="is it an open_clip model?") from error
    except Exception as error:  # HTTP failures of whichever client the hub's version uses, a disk that is full
        again = "try again: a download goes on where it stopped"
        raise _unavailable(repo, filename, _failure(error, size), hint=again) from error


def _failure(error: Exception, size: int | None) -> str:
    """Why a download failed, for people."""
    number = getattr(error, "errno", None)
    if number in _FULL:
        needed = f"it has {size / 1e6:.1f} MB, " if size else ""
        return f"there is no space left for it ({needed}{free_space() / 1e6:.1f} MB are free)"
    if number is not None and isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be written: {error.strerror}"
    return f"the download failed ({' '.join(str(error).split())[:200]})"


def _no_name(repo: str) -> ModelError:
    return ModelError(f"{repo!r} is not a repository name", hint="write hf-hub:organisation/name")


def _unavailable(repo: str, filename: str, why: str, *, hint: str | None = None) -> ModelUnavailable:
    return ModelUnavailable(
        f"{repo} ({filename}) is not in {cache_folder()} on this machine, and {why}",
        why=why,
        hint=hint
        or "fetch it once with a network (`clipzs models pull NAME`), copy the hub cache here, "
        "or use the small built-in model: --model tiny",
    )

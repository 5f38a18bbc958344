"""Files of Hugging Face repositories: from the local hub cache first, from the network only when they are not there."""

import re
import threading
from contextlib import suppress
from pathlib import Path

from clipzs import defaults
from clipzs.errors import ModelError, ModelUnavailable

CONFIG = "open_clip_config.json"
SAFETENSORS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9]", re.ASCII)


class MissingFile(ModelError):
    """A repository that exists without the file that was asked for."""


def cached(repo: str, filename: str) -> Path | None:
    """The file in the local hub cache, or None. No network.

    Raises:
        ModelError: a name no repository can have.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}")
    with suppress(OSError, ValueError):  # as most often; the library itself takes longer to import than this whole run
        commit = (folder / "refs" / "main").read_text(encoding="ascii").strip()
        path = folder / "snapshots" / commit / filename
        if path.is_file():
            return path
    if not folder.is_dir() and _NAME.fullmatch(repo):
        return None
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.try_to_load_from_cache(repo, filename)
    except errors.HFValidationError as error:
        raise ModelError(f"{repo!r} is not a repository name", hint="write hf-hub:organisation/name") from error
    return Path(found) if isinstance(found, str) else None


def fetched(repo: str, filename: str) -> Path:
    """The file, downloaded unless it is cached, with a progress bar when stderr is a terminal.

    Raises:
        ModelUnavailable: no network, or the download failed.
        ModelError: the repository or the file does not exist, or is not open to you.
    """
    local = cached(repo, filename)
    if local is not None:
        return local
    import huggingface_hub
    from huggingface_hub import errors

    require_network(repo, filename)
    try:
        return Path(huggingface_hub.hf_hub_download(repo, filename))
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
    except Exception as error:  # HTTP failures of whichever client the hub's version uses, a full disk
        raise _unavailable(repo, filename, f"the download failed ({' '.join(str(error).split())[:200]})") from error


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


def weights(repo: str, filename: str | None = None, *, allow_pickle: bool = False) -> Path:
    """The weights of an open_clip repository, as safetensors unless pickles are allowed too.

    Raises:
        ModelUnavailable: no network, or the download failed.
        ModelError: no weights in a form that is allowed.
    """
    local = cached_weights(repo, filename, allow_pickle=allow_pickle)
    if local is not None:
        return local
    safe, *pickle = weights_names(filename, allow_pickle=allow_pickle)
    try:
        return fetched(repo, safe)
    except ModelUnavailable as error:
        if not allow_pickle and cached_weights(repo, filename, allow_pickle=True):
            hint = "a .bin file of it is here: --allow-pickle takes it"
            raise ModelUnavailable(str(error), why=error.why, hint=hint) from error
        raise
    except MissingFile as error:
        if pickle:
            return fetched(repo, pickle[0])
        raise ModelError(
            f"{repo} has no weights as safetensors", hint="--allow-pickle also takes .bin files (read weights-only)"
        ) from error


def require_network(repo: str, filename: str) -> None:
    """Refuse in time what cannot be fetched.

    Raises:
        ModelUnavailable: no network, or one that must not be used.
    """
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise _unavailable(repo, filename, "HF_HUB_OFFLINE is set")
    if not answers(huggingface_hub.hf_hub_url(repo, filename)):
        raise _unavailable(repo, filename, "there is no network")


def answers(url: str) -> bool:
    """Whether anything answers there within a few seconds, be it an error.

    The hub's own client retries for the better part of a minute when there is no network.
    """
    from huggingface_hub import get_session

    answered = threading.Event()

    def knock() -> None:
        try:
            get_session().head(url, timeout=defaults.NETWORK_TIMEOUT_S)
        except Exception:  # of whichever HTTP client the hub's version uses
            return
        answered.set()

    # In a thread because a name look-up takes no time limit.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(defaults.NETWORK_TIMEOUT_S)
    return answered.is_set()


def _unavailable(repo: str, filename: str, why: str) -> ModelUnavailable:
    from huggingface_hub import constants

    return ModelUnavailable(
        f"{repo} ({filename}) is not in {constants.HF_HUB_CACHE} on this machine, and {why}",
        why=why,
        hint="fetch it once with a network (`clipzs models pull NAME`), copy the hub cache here, "
        "or use the small built-in model: --model tiny",
    )

"""Files of Hugging Face repositories: from the local hub cache first, from the network only when they are not there."""

import os
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from clipzs import defaults
from clipzs.errors import ModelError, ModelUnavailable

CONFIG = "open_clip_config.json"
SAFETENSORS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"


def cached(repo: str, filename: str) -> Path | None:
    """The file in the local hub cache, or None. No network."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repo, filename)
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

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise _unavailable(repo, filename, "HF_HUB_OFFLINE is set")
    if not network_reachable(huggingface_hub.constants.ENDPOINT):
        raise _unavailable(repo, filename, "there is no network")
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
        raise ModelError(f"{repo} has no file {filename}", hint="is it an open_clip model?") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{repo!r} is not a repository name", hint="write hf-hub:organisation/name") from error
    except OSError as error:  # HTTP failures, a full disk
        raise _unavailable(repo, filename, f"the download failed ({' '.join(str(error).split())[:200]})") from error


def weights(repo: str, *, allow_pickle: bool = False) -> Path:
    """The weights of an open_clip repository, as safetensors unless pickles are allowed too.

    Raises:
        ModelUnavailable: no network, or the download failed.
        ModelError: no weights in a form that is allowed.
    """
    for filename in (SAFETENSORS, *((PICKLE,) if allow_pickle else ())):
        local = cached(repo, filename)
        if local is not None:
            return local
    try:
        return fetched(repo, SAFETENSORS)
    except ModelUnavailable:
        raise
    except ModelError as error:
        if not allow_pickle:
            raise ModelError(
                f"{repo} has no weights as safetensors", hint="--allow-pickle also takes .bin files (read weights-only)"
            ) from error
        return fetched(repo, PICKLE)


def network_reachable(url: str) -> bool:
    """Whether the host of `url` (or the proxy for it) answers within a few seconds.

    The hub's own client retries for the better part of a minute when there is no network.
    """
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
    answered = threading.Event()

    def knock() -> None:
        import socket

        try:
            socket.create_connection(address, timeout=defaults.NETWORK_TIMEOUT_S).close()
        except OSError:
            return
        answered.set()

    # In a thread because a name look-up takes no time limit.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(defaults.NETWORK_TIMEOUT_S)
    return answered.is_set()


def _unavailable(repo: str, filename: str, why: str) -> ModelUnavailable:
    home = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or "the hub cache"
    return ModelUnavailable(
        f"{repo} ({filename}) is not in {home} on this machine, and {why}",
        hint="fetch it once with a network (`clipzs models pull NAME`), copy the hub cache here, "
        "or use the small built-in model: --model tiny",
    )

"""Everything a model needs, brought to this machine and checked, so that it works without a network from then on."""

import logging
from collections.abc import Iterable
from pathlib import Path

from clipzs import hub
from clipzs.checkpoint import Checkpoint
from clipzs.chinese import VOCABULARY, ChineseClip
from clipzs.encoders import encoder_for
from clipzs.errors import ModelError, ModelUnavailable
from clipzs.modelspec import HF_HUB, ModelSpec

log = logging.getLogger("clipzs")

WEIGHTS, TOKENIZER, TEXT_CONFIG = "weights", "tokenizer", "config of the text tower"


def missing(spec: ModelSpec) -> list[str]:
    """Which parts of a model are not on this machine, for people. No network; an hf-hub: model's config is there.

    Raises:
        ModelError: its config names a repository that cannot exist.
    """
    parts = {
        WEIGHTS: spec.local_weights,
        TOKENIZER: _local_tokenizer(spec),
        TEXT_CONFIG: _local_text_config(spec),
    }
    return [part for part, here in parts.items() if not here]


def remote_files(spec: ModelSpec) -> list[hub.Remote]:
    """What is not on this machine, as the hub describes it; of what is here, nothing is asked.

    Raises:
        ModelUnavailable: something is missing, and there is no network.
        ModelError: the hub has no such file, or gives it only to some.
    """
    absent, files = missing(spec), []
    if WEIGHTS in absent:
        files.append(_remote_weights(spec))
    if TOKENIZER in absent and isinstance(spec, ChineseClip):
        files.append(hub.remote(spec.tokenizer, VOCABULARY))
    elif TOKENIZER in absent:
        files += hub.remote_tokenizer(spec.tokenizer)
    if TEXT_CONFIG in absent:
        files.append(hub.remote(_text_model(spec), hub.TEXT_CONFIG))
    return list(dict.fromkeys(files))  # a tokenizer and a text tower often share a repository, and its config


def check_space(files: Iterable[hub.Remote]) -> None:
    """See that there is room for all of some files, before the first byte of them is fetched.

    Raises:
        ModelUnavailable: there is not.
    """
    needed = sum((file.bytes or 0) - hub.begun(file) for file in set(files))
    free = hub.free_space()
    if needed > free:
        why = f"{hub.cache_folder()} has {free / 1e6:.0f} MB free"
        raise ModelUnavailable(
            f"{needed / 1e6:.0f} MB are to be downloaded, but {why}",
            why=why,
            hint="free some space, or set HF_HUB_CACHE to a folder on another disk",
        )


def bring(spec: ModelSpec, files: Iterable[hub.Remote]) -> None:
    """Fetch what is missing of a model, then see that all of it is whole; weights found damaged are fetched anew.

    Args:
        spec: the model.
        files: what `remote_files` gave for it.

    Raises:
        ModelUnavailable: a download failed, or something is damaged and there is no network.
        ModelError: weights or tokenizer cannot be read.
    """
    before = spec.local_weights
    for file in files:
        hub.download(file)  # which has checked what is large
    if spec.name.startswith(HF_HUB):
        hub.fetched(spec.repo, hub.CONFIG)  # should the hub have no longer had the version it was of
    if before is not None and spec.file is None and hub.damaged(before):
        _renew(spec, before)
    Checkpoint(spec.weights).tensors(lambda key: False)  # reads the header, which tells whether the file is complete
    encoder_for(spec, device="cpu").tokenize(["a photo"])


def _renew(spec: ModelSpec, weights: Path) -> None:
    path = weights.resolve()
    log.warning("%s is damaged: its SHA-256 is not the one the hub has of it; fetching it again", path)
    try:
        hub.download(_remote_weights(spec))
    except ModelUnavailable as error:
        raise ModelUnavailable(
            f"the weights of {spec.name} are damaged, and {error.why}",
            why=error.why,
            hint=f"pull it again with a network, or delete {path}",
        ) from error
    renewed = spec.local_weights
    if renewed is None or hub.damaged(renewed):  # the hub has other weights under that name by now
        raise ModelError(f"the weights of {spec.name} are damaged", hint=f"delete {path}, then pull it again")


def _remote_weights(spec: ModelSpec) -> hub.Remote:
    if isinstance(spec, ChineseClip):
        return hub.remote(spec.repo, str(spec.filename))
    return hub.remote_weights(spec.repo, spec.filename, allow_pickle=spec.allow_pickle)


def _local_tokenizer(spec: ModelSpec) -> bool:
    if isinstance(spec, ChineseClip):
        return spec.local_vocabulary is not None
    own = spec.config["text_cfg"].get("hf_tokenizer_name")
    return not own or hub.cached_tokenizer(spec.tokenizer) is not None


def _local_text_config(spec: ModelSpec) -> bool:
    name = _text_model(spec)
    return not name or Path(name).is_dir() or hub.cached(name, hub.TEXT_CONFIG) is not None


def _text_model(spec: ModelSpec) -> str:
    """The repository or folder of the transformers package's config of the text tower; empty if it has none."""
    return str(spec.config["text_cfg"].get("hf_model_name") or "")

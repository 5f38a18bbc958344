"""`clipzs serve`: a model that stays loaded, and answers over HTTP."""

import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipzs.cli import options as o
from clipzs.cli.groups import LabelGroup, OwnModelGroup, PromptGroup, ReadingGroup, TalkGroup, grouped, options
from clipzs.cli.narration import Progress, say, say_in_handler, set_up
from clipzs.errors import UsageProblem
from clipzs.serving.limits import Limits

if TYPE_CHECKING:
    from clipzs.options import Options
    from clipzs.serving.models import ServedModel

PORT = 8765
TOKEN = "CLIPZS_TOKEN"  # noqa: S105  (the name of the variable)
_AGAIN = "CLIPZS_STARTED_AGAIN"  # set for a process that has taken its own place
_STOPPING = "stopping: what was accepted is answered; once more ends it at once"
_SHORTEST = 16  # characters of a token
_SERVER, _LIMITS = "Server", "Limits"

Host = Annotated[
    str, o.option("--host", help="Listen at this address; any but this machine's own needs a token.", panel=_SERVER)
]
Port = Annotated[int, o.option("--port", min=0, max=65535, help="0 takes any that is free.", panel=_SERVER)]
Uds = Annotated[
    Path | None,
    o.option("--uds", metavar="PATH", help="Listen at a Unix socket in place of an address.", panel=_SERVER),
]
TokenFile = Annotated[
    Path | None,
    o.option(
        "--token-file",
        metavar="FILE",
        help="Requests have to show the token in it. Or set CLIPZS_TOKEN.",
        panel=_SERVER,
    ),
]
MaxBody = Annotated[str, o.option("--max-body", metavar="SIZE", help="Of a request that is no stream.", panel=_LIMITS)]
MaxImage = Annotated[str, o.option("--max-image", metavar="SIZE", help="Of one encoded image.", panel=_LIMITS)]
MaxImages = Annotated[
    int, o.option("--max-images", metavar="N", min=1, help="In a request that is no stream.", panel=_LIMITS)
]
MaxLabels = Annotated[int, o.option("--max-labels", metavar="N", min=1, help="In a request.", panel=_LIMITS)]
MaxPrompts = Annotated[
    int, o.option("--max-prompts", metavar="N", min=1, help="In a request: labels times templates.", panel=_LIMITS)
]
MaxSeconds = Annotated[
    float,
    o.option("--max-seconds", metavar="SECONDS", min=0.1, help="For a request that is no stream.", panel=_LIMITS),
]
MaxIdle = Annotated[
    float,
    o.option(
        "--max-idle",
        metavar="SECONDS",
        min=0.1,
        help="Of a client that should send, or read, and does not.",
        panel=_LIMITS,
    ),
]
MaxWaiting = Annotated[
    int,
    o.option(
        "--max-waiting",
        metavar="N",
        min=2,
        help="Images of all clients that have no answer yet; beyond that, 429.",
        panel=_LIMITS,
    ),
]
MaxMemory = Annotated[
    str, o.option("--max-memory", metavar="SIZE", help="Of requests, all together; beyond that, 429.", panel=_LIMITS)
]
MaxConnections = Annotated[
    int, o.option("--max-connections", metavar="N", min=1, help="Of all clients; more are closed.", panel=_LIMITS)
]
Grace = Annotated[
    int,
    o.option(
        "--grace",
        metavar="SECONDS",
        min=1,
        help="When it is stopped, for requests that were accepted.",
        panel=_LIMITS,
    ),
]


@dataclass(kw_only=True)
class ModelsGroup(OwnModelGroup):
    """What sees and reads; several models, of which each request names one."""

    model: o.Models = field()  # type: ignore[assignment]

    def settle(self, context: typer.Context) -> None:
        """Let what the command line says silence the environment."""
        self.model, config = o.as_typed(context, model=self.model, model_config=str(self.model_config or ""))
        self.model_config = Path(config) if config and not self.model else None


@dataclass(kw_only=True)
class LimitGroup:
    """What requests may ask for."""

    max_body: MaxBody = f"{Limits.body_bytes // 1_000_000}MB"
    max_image: MaxImage = f"{Limits.image_bytes // 1_000_000}MB"
    max_images: MaxImages = Limits.images
    max_labels: MaxLabels = Limits.labels
    max_prompts: MaxPrompts = Limits.prompts
    max_seconds: MaxSeconds = Limits.seconds
    max_idle: MaxIdle = Limits.idle_seconds
    max_waiting: MaxWaiting = Limits.waiting_images
    max_memory: MaxMemory = f"{Limits.waiting_bytes // 1_000_000}MB"
    max_connections: MaxConnections = Limits.connections
    grace: Grace = Limits.grace_seconds

    def limits(self) -> Limits:
        """As the service takes them."""
        from clipzs.sizes import parsed

        return Limits(
            body_bytes=parsed(self.max_body),
            image_bytes=parsed(self.max_image),
            images=self.max_images,
            labels=self.max_labels,
            prompts=self.max_prompts,
            seconds=self.max_seconds,
            idle_seconds=self.max_idle,
            waiting_images=max(self.max_waiting, self.max_images),
            waiting_bytes=max(parsed(self.max_memory), parsed(self.max_body)),
            connections=self.max_connections,
            grace_seconds=self.grace,
        )


@grouped
def serve(
    ctx: typer.Context,
    *,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    uds: Uds = None,
    token_file: TokenFile = None,
    model: ModelsGroup,
    labels: LabelGroup,
    prompts: PromptGroup,
    reading: ReadingGroup,
    limits: LimitGroup,
    talk: TalkGroup,
) -> None:
    """Keep a model loaded and answer over HTTP: a page, an API, and what Hugging Face's clients ask.

    Exit codes: 0 stopped (Ctrl-C, SIGTERM, SIGHUP) and everything accepted was answered, 1 failed, 2 wrong usage,
    130 stopped by Ctrl-C with requests cut off (143 by SIGTERM, 129 by SIGHUP).
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    logging.getLogger("clipzs").handlers = [_Lines()]
    from clipzs.serving import packages

    packages.check()
    host, port, uds = _place(ctx, host, port, uds)
    from clipzs import servernotes
    from clipzs.decoders import DECODERS
    from clipzs.labels import checked
    from clipzs.serving import serve as running
    from clipzs.serving.app import create_app
    from clipzs.serving.measures import Measures
    from clipzs.serving.models import ServedModel
    from clipzs.serving.service import Service

    local = uds is not None or running.is_local(host)
    token = _token(token_file)
    if token is None and not local:
        raise UsageProblem(
            f"--host {host}: other machines reach it, so it needs a token",
            hint="set CLIPZS_TOKEN or --token-file; without --host, only this machine reaches it",
        )
    own = labels.given()
    measures, progress = Measures(), Progress(enabled=not talk.quiet, until_first=True)
    models = [
        ServedModel(name, chosen, measures, compiling=progress.compiling)
        for name, chosen in _models(model, reading, prompts)
    ]
    service = Service(
        models,
        measures,
        labels=checked(own, least=1) if own else (),
        limits=limits.limits(),
        token=token,
        local=uds is None,
    )
    with ExitStack() as open_:
        if uds is not None:
            listener, url = open_.enter_context(running.bound_path(uds)), f"unix:{uds.absolute()}"
        else:
            listener = open_.enter_context(running.bound(host, port))
            url = running.url_of(listener, host)
        DECODERS.start()
        with progress.shown(None):
            service.start()
        heavy = _is_heavier_than_need_be(models)
        if not heavy:
            folder = models[0].embedder.cache_dir
            code = running.serve(
                create_app(service),
                service,
                listener,
                url=url,
                notes=None if folder is None else servernotes.folder(folder),
                ready=lambda: None if talk.quiet else say(f"listening at {url}"),
                stopping=lambda: None if talk.quiet else say_in_handler(_STOPPING),
            )
    if heavy:
        service.close()
        DECODERS.close()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, _AGAIN: "1"})  # noqa: S606  (the same command)
    raise typer.Exit(code)


def _is_heavier_than_need_be(models: "list[ServedModel]") -> bool:
    """Whether torch was loaded to compile the models, and nothing needs it any more."""
    compiled = all(model.embedder.encoder.engine == "openvino" for model in models)
    return compiled and "torch" in sys.modules and os.name == "posix" and _AGAIN not in os.environ


def _place(context: typer.Context, host: str, port: int, uds: Path | None) -> tuple[str, int, Path | None]:
    """Where to listen; what the command line says silences the environment."""
    typed = {name for name in ("host", "port", "uds") if o.is_typed(context, name)}
    if "uds" in typed and len(typed) > 1:
        raise UsageProblem("--uds takes the place of --host and --port", hint="leave one of them out")
    return host, port, None if typed & {"host", "port"} else uds


def _models(model: ModelsGroup, reading: ReadingGroup, prompts: PromptGroup) -> "list[tuple[str, Options]]":
    """What each model is called, and its options."""
    from clipzs.options import checked

    if len(model.model) > 1 and model.pretrained:
        raise UsageProblem("--pretrained is for one model", hint="write NAME:TAG for each --model")
    if len(set(model.model)) < len(model.model):
        raise UsageProblem("a model is named twice", hint="name each --model once")
    usual = options(replace(model, model=None), reading, prompts)  # type: ignore[arg-type]
    if not model.model:
        name = str(model.model_config.stem) if model.model_config else "default"
        return [(name, checked(usual))]
    return [(name, checked(replace(usual, model=name))) for name in model.model]


def _token(file: Path | None) -> str | None:
    """What requests have to show.

    Raises:
        UsageProblem: the file cannot be read, or what is in it is no token.
    """
    if file is None:
        token, where = os.environ.get(TOKEN), TOKEN
        if token is None:
            return None
    else:
        where = str(file)
        try:
            token = file.read_bytes()[:10_000].decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not ASCII"
            raise UsageProblem(f"--token-file {file}: {reason.lower()}", hint="one line of ASCII") from error
    if len(token) < _SHORTEST or not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageProblem(
            f"the token in {where} has to be {_SHORTEST} or more ASCII characters, without blanks",
            hint="this makes one: openssl rand -hex 16",
        )
    return token


class _Lines(logging.Handler):
    """clipzs' messages as lines on standard error. Unlike other commands, this one may run for months."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        say(record.getMessage(), kind="warning" if record.levelno >= logging.WARNING else "note")

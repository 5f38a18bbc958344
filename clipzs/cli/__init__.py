"""The `clipzs` command: options in, one call, results out, an exit code. No torch is imported here."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from clipzs import __version__
from clipzs.cli.narration import say, say_error
from clipzs.errors import FAILED, INTERRUPTED, ClipzsError

HELP = """Zero-shot image classification: name classes in words, point at images, get scores.

    clipzs classify photo.jpg --labels cat,dog

    clipzs classify photos/ --labels-file labels.yaml -o scores.jsonl

    find . -name '*.jpg' -print0 | clipzs classify -0 --labels cat,dog --json | jq .label
"""

# What the system refuses, by what Python says then: in words, and what helps.
_LIMITS = {
    "start new thread": (
        "the system lets no more threads be started",
        "raise the limit on processes (ulimit -u, or the container's) or on memory (ulimit -v)",
    ),
    "failed to map segment": ("not enough memory to load a library", "raise the limit on memory (ulimit -v)"),
}


# What each command is called in the module of its name.
_COMMANDS = {
    "classify": "classify",
    "batch": "batch",
    "caption": "caption",
    "eval": "evaluate",
    "tune": "tune",
    "fit": "fit",
    "explain": "explain",
    "report": "report",
    "sort": "sort",
    "undo": "undo",
    "filter": "filter_",
    "search": "search",
    "dupes": "dupes",
    "embed": "embed",
    "export": "export",
    "serve": "serve",
    "labels": "app",
    "prompts": "app",
    "models": "app",
    "cache": "app",
    "doctor": "doctor",
}


class _Commands(Mapping[str, Any]):
    """The commands by name, in the order of `--help`. A module is imported when its command is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        called = _COMMANDS[name]
        if name not in self._made:
            self._made[name] = _command(name, getattr(import_module(f"clipzs.cli.{name}"), called))
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in _COMMANDS

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


def _command(name: str, what: Any) -> Any:
    if isinstance(what, typer.Typer):
        command = get_group(what)
        command.name = name
        return command
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.command(name)(what)
    return get_command(alone)


class Commands(TyperGroup):
    """The one place where failures become a line on standard error and an exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit with the code the README promises."""
        code = self._code(
            args=args,
            prog_name=prog_name,
            complete_var=complete_var,
            windows_expand_args=windows_expand_args,
            **extra,
        )
        if standalone_mode:
            sys.exit(code)
        return code

    def _code(self, **arguments: Any) -> int:
        try:
            return super().main(standalone_mode=False, **arguments) or 0
        except ClipzsError as error:
            say_error(error)
            return error.exit_code
        except MemoryError:  # outside the model, where smaller batches are tried first
            say("not enough memory", kind="error")
            say("lower --batch-size, or use a smaller model", kind="hint")
            return FAILED
        except (RuntimeError, ImportError) as error:
            limit = next((limit for sign, limit in _LIMITS.items() if sign in str(error)), None)
            if limit is None:
                raise
            say(limit[0], kind="error")
            say(limit[1], kind="hint")
            return FAILED
        except typer.TyperException as error:  # usage: an unknown option, a wrong value
            message = error.format_message()
            if message:
                say(" ".join(message.split()), kind="error")
                context = getattr(error, "ctx", None)
                say(f"see `{context.command_path if context else 'clipzs'} --help`", kind="hint")
            return error.exit_code
        except typer.Abort:
            return INTERRUPTED
        except SystemExit as stop:  # what typer makes of a closed pipe: the reader has seen enough (| head)
            if not isinstance(stop.__context__, BrokenPipeError):
                raise
            _drop_stdout()
            return 0


def _drop_stdout() -> None:
    """Whatever is still buffered for the closed pipe goes nowhere, instead of failing again at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipzs {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take --version."""


def main() -> NoReturn:
    """Entry point of the command.

    Leaves without the interpreter's own shutdown: with torch loaded that takes half a second, and it
    would wait for a thread that is still opening a pipe nobody writes to.
    """
    with suppress(AttributeError):  # Windows consoles are not always UTF-8
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    code = INTERRUPTED
    try:
        app(prog_name="clipzs")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        pass
    try:
        if sys.stdout is not None:  # None when it was closed by the caller (>&-)
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    except OSError as error:
        if code != FAILED:  # which was said already; what is left in the buffer fails once more
            say(f"standard output: cannot be written: {error.strerror}", kind="error")
        code = code or FAILED
    os._exit(code)

"""`clipzs cache`: what is kept between runs, and getting rid of it."""

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.show import print_lines, print_rows

app = typer.Typer(help="What is kept between runs: info, clear.", no_args_is_help=True)


@app.command("info")
def info(cache_dir: o.CacheDir = None) -> None:
    """Where the cache is and what is in it."""
    from clipzs.cachefolder import contents

    folder = cache_dir or defaults.cache_dir()
    files = contents(folder)
    rows = [
        (
            file.kind,
            file.path.stem,
            "unreadable" if file.entries is None else str(file.entries),
            f"{file.bytes / 1e6:.1f} MB",
        )
        for file in files
    ]
    print_lines([f"{folder}: {sum(file.bytes for file in files) / 1e6:.1f} MB"])
    if rows:
        print_rows(("kind", "file", "entries", "size"), rows)


@app.command("clear")
def clear(cache_dir: o.CacheDir = None) -> None:
    """Delete all that is kept; it is made again when needed."""
    from clipzs import cachefolder
    from clipzs.errors import ClipzsError

    folder = cache_dir or defaults.cache_dir()
    try:
        freed = cachefolder.clear(folder)
    except OSError as error:
        raise ClipzsError(f"{error.filename}: cannot be deleted: {error.strerror}") from error
    print_lines([f"{folder}: {freed / 1e6:.1f} MB freed"])

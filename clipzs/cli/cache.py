"""`clipzs cache`: what is kept between runs, keeping it small, and getting rid of it."""

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.show import print_lines, print_rows

app = typer.Typer(help="What is kept between runs: info, prune, clear.", no_args_is_help=True)


@app.command("info")
def info(cache_dir: o.CacheDir = None, cache_limit: o.CacheLimit = defaults.CACHE_LIMIT) -> None:
    """Where the cache is, what is in it, and how large it may become."""
    from clipzs.cachefolder import contents
    from clipzs.sizes import in_words, parsed

    folder, limit = cache_dir or defaults.cache_dir(), parsed(cache_limit)
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
    of = f" of {in_words(limit)}" if limit else ", without limit"
    print_lines([f"{folder}: {sum(file.bytes for file in files) / 1e6:.1f} MB{of}"])
    if rows:
        print_rows(("kind", "file", "entries", "size"), rows)


@app.command("prune")
def prune(cache_dir: o.CacheDir = None, cache_limit: o.CacheLimit = defaults.CACHE_LIMIT) -> None:
    """Delete what was used least recently if the cache is over its limit, as every run does at its end."""
    from clipzs import cachefolder
    from clipzs.sizes import parsed

    folder = cache_dir or defaults.cache_dir()
    freed = cachefolder.prune(folder, parsed(cache_limit))
    print_lines([f"{folder}: {freed / 1e6:.1f} MB freed"])


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

"""`clipzs cache`: what is kept between runs, and getting rid of it."""

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.show import print_lines, print_rows

app = typer.Typer(help="The cache of label embeddings: info, clear.", no_args_is_help=True)


@app.command("info")
def info(cache_dir: o.CacheDir = None) -> None:
    """Where the cache is and what is in it."""
    from clipzs.store import contents

    folder = cache_dir or defaults.cache_dir()
    files = contents(folder)
    rows = [
        (file.path.stem, "unreadable" if file.labels is None else str(file.labels), f"{file.bytes / 1e6:.1f} MB")
        for file in files
    ]
    total = sum(file.bytes for file in files)
    print_lines([f"{folder}: {len(files)} models, {total / 1e6:.1f} MB"])
    if rows:
        print_rows(("model", "labels", "size"), rows)


@app.command("clear")
def clear(cache_dir: o.CacheDir = None) -> None:
    """Delete all cached embeddings; they are made again when needed."""
    from clipzs import store
    from clipzs.errors import ClipzsError

    folder = cache_dir or defaults.cache_dir()
    try:
        freed = store.clear(folder)
    except OSError as error:
        raise ClipzsError(f"{error.filename}: cannot be deleted: {error.strerror}") from error
    print_lines([f"{folder}: {freed / 1e6:.1f} MB freed"])

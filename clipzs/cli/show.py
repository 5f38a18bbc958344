"""Lists for people on a terminal, and the same as plain tab-separated lines in a pipe."""

import sys
from collections.abc import Iterable, Sequence


def print_lines(lines: Iterable[str]) -> None:
    """Lines on standard output; on a terminal without anything it would obey."""
    if sys.stdout.isatty():
        from clipzs.paths import printable

        lines = ("\t".join(printable(field) for field in line.split("\t")) for line in lines)
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a header on a terminal; headerless TSV in a pipe."""
    if not sys.stdout.isatty():
        print_lines("\t".join(row) for row in rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clipzs.paths import printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)

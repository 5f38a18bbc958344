"""Cells that a spreadsheet would run as a formula: told to it as text by an apostrophe, and had back without it."""

import re

# What a spreadsheet takes for the start of a formula, also behind blanks that it leaves out or in full width; and all
# that would look as if it had been protected already.
_FORMULA = re.compile(r"'*[\s\ufeff\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]")


def protected(text: str) -> str:
    """The text, behind an apostrophe if it needs one."""
    return f"'{text}" if _FORMULA.match(text) else text


def original(cell: str) -> str:
    """What `protected` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

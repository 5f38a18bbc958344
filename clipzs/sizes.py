"""Sizes in bytes, as people write and read them."""

import re

from clipzs.errors import UsageProblem

_POWERS = {"B": 0, "KB": 3, "MB": 6, "GB": 9, "TB": 12}


def parsed(size: int | str) -> int:
    """Bytes: a number of them, or a text such as "5GB", "1.5 gb" or "500M".

    Raises:
        UsageProblem: it is no size.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]?B?)\s*", str(size), re.IGNORECASE | re.ASCII)
    if not found:
        raise UsageProblem(f"{str(size)!r} is no size", hint="sizes are 5GB, 500MB or a number of bytes")
    number, unit = found.groups()
    return int(float(number) * 10 ** _POWERS[unit.upper().rstrip("B") + "B"])


def in_words(size: int) -> str:
    """In the largest unit of which there is one."""
    unit = next((unit for unit in ("GB", "MB") if size >= 10 ** _POWERS[unit]), "kB")
    return f"{size / 10 ** _POWERS[unit.upper()]:.1f} {unit}"

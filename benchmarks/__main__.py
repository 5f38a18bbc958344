"""`python -m benchmarks [CASE ...]` measures; `setup DIR` makes the other tools' environment; `report FILE` renders.

Without a CASE all are run. Each gives its raw numbers to the JSON file as it ends, so that cases can be run one by one.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, report
from benchmarks.cases import CASES
from benchmarks.workbench import Workbench, set_up

SIZES = {
    "images": (1000, "photos of case `small`"),
    "large-images": (200, "photos of case `large`"),
    "tool-images": (200, "photos of case `tools`"),
    "labels": (1000, "labels of case `text`, times 80 templates"),
    "rival-labels": (10, "the same for open_clip; scaled up"),
    "relabel-images": (100_000, "images of cases `relabel` and `growth`"),
    "relabel-labels": (1000, "labels of case `relabel`"),
    "growth-encoded": (10_000, "most images of `growth` that are encoded"),
    "limit-seconds": (8, "seconds for each matrix peak"),
}


def main() -> None:
    """Measure, set up or render, as the first argument says."""
    words = sys.argv[1:]
    if words[:1] == ["setup"]:
        set_up(Path(words[1]).absolute())
    elif words[:1] == ["report"]:
        report.main(words[1:])
    else:
        measure(words)


def measure(words: list[str]) -> None:
    """Run cases in turn; print each case's table."""
    options = parsed(words)
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    bench = Workbench(
        folder=work,
        rivals=(options.rivals or work / "rivals").absolute(),
        runs=options.runs,
        slow_runs=options.slow_runs,
        sizes={name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name in SIZES},
        given_photos=options.photos,
        given_large_photos=options.large_photos,
        extra=options.clipzs_options.split(),
    )
    result = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    facts = machine.facts(bench.rivals_python)
    if result and result["machine"] != facts:
        raise SystemExit(f"{options.json} holds figures of another machine or other versions: name a new file")
    result.setdefault("machine", facts)
    print(report.machine_line(facts), flush=True)
    for name in options.cases or CASES:
        moment, start = machine.moment(), time.perf_counter()
        photos = "given" if (options.large_photos if name == "large" else options.photos) else "made"
        case = CASES[name](bench)
        case |= moment | {"took_s": round(time.perf_counter() - start), "photos": photos}
        case |= {"clipzs_options": options.clipzs_options}
        result.setdefault("cases", {})[name] = case
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
        print("\n" + report.table(name, case, result) + "\n", flush=True)


def parsed(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all unless given")
    parser.add_argument("--runs", type=int, default=3, help="of each side (default 3)")
    parser.add_argument("--slow-runs", type=int, default=1, help="of sides that take long (default 1)")
    parser.add_argument("--photos", type=Path, help="folder of small photos, in place of made ones")
    parser.add_argument("--large-photos", type=Path, help="folder of large photos, in place of made ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="raw numbers; cases that are there stay")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "clipzs-benchmarks",
        help="folder of photos, models and caches (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--rivals", type=Path, help="the other tools' environment (default: WORK/rivals)")
    parser.add_argument("--clipzs-options", default="", help="put into each clipzs command, e.g. '--engine torch'")
    for name, (default, what) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default {default})")
    options = parser.parse_args(words)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown: {', '.join(unknown)}")
    return options


if __name__ == "__main__":
    main()

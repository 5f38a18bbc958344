"""Raw numbers → the tables and the picture of docs/performance.md, so that the two cannot drift apart."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import chart

Case = dict[str, Any]
PROMPTS = 80_000  # 1,000 labels x 80 templates


def main(words: list[str]) -> None:
    """Print all tables of a file, or put them between the marks of a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    parser.add_argument("file", type=Path, help="what --json wrote")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    parser.add_argument("--chart", type=Path, metavar="SVG", help="draw case `growth`")
    options = parser.parse_args(words)
    result = json.loads(options.file.read_text())
    parts = {name: table(name, case, result) for name, case in result["cases"].items()}
    parts = {"machine": machine_line(result["machine"]) + "\n\n" + when(result["cases"])} | parts
    if options.write:
        options.write.write_text(filled(options.write.read_text(), parts))
    else:
        print("\n\n".join(parts.values()))
    if options.chart and "growth" in result["cases"]:
        options.chart.write_text(growth_chart(result["cases"]["growth"]))


def filled(document: str, parts: dict[str, str]) -> str:
    """The document with each part between `<!-- figures: NAME -->` and `<!-- end -->`."""
    for name, part in parts.items():
        marks = re.compile(rf"(<!-- figures: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        document = marks.sub(lambda found, part=part: f"{found[1]}\n{part}\n\n{found[2]}", document)
    return document


def machine_line(facts: dict[str, Any]) -> str:
    """One sentence on the machine and one on the versions."""

    def listed(versions: dict[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in versions.items())

    return (
        f"{facts['cores']} cores of {facts['cpu']} ({facts['architecture']}; {', '.join(facts['flags'])}), "
        f"{facts['memory_gib']:g} GiB, {facts['system']}, Python {facts['python']}. "
        f"clipzs' environment: {listed(facts['clipzs_environment'])}. "
        f"The other tools': {listed(facts['rivals_environment'])}."
    )


def when(cases: dict[str, Case]) -> str:
    """Dates, busyness and the kind of photos."""
    days = sorted({case["date"][:10] for case in cases.values()})
    load = max(case["load_before"] for case in cases.values())
    photos = "made by the benchmark" if all(c["photos"] == "made" for c in cases.values()) else "from a folder"
    options = {case["clipzs_options"] for case in cases.values()} - {""}
    more = f" clipzs was run with {', '.join(options)}." if options else ""
    return f"Measured {' and '.join(days)}; load average before a case at most {load:g}; photos {photos}.{more}"


def table(name: str, case: Case, result: Case) -> str:
    """Markdown of one case."""
    special: dict[str, Callable[[Case], str]] = {
        "start": start_table,
        "text": text_table, "relabel": relabel_table, "limits": limits_table, "growth": growth_table,
    }  # fmt: skip
    return special[name](case) if name in special else sides_table(case)


def sides_table(case: Case) -> str:
    """Each side's medians, then how many times faster clipzs is than each other."""
    sides, images = case["rows"], case["images"]
    first_mb = median(sides[0]["megabytes"])
    rows = []
    for side in sides:
        seconds, megabytes = median(side["seconds"]), median(side["megabytes"])
        spread = f"{min(side['seconds']):.2f}-{max(side['seconds']):.2f}" if len(side["seconds"]) > 1 else "one run"
        row = [side["side"], f"{seconds:.2f}", spread, f"{megabytes:.0f}", f"{megabytes / first_mb:.0%}"]
        row += [f"{images / seconds:.1f}"] * (images > 1)
        rows.append([*row, f"{min(side['agreement']):.1%}"])
    speed = ["images/s"] * (images > 1)
    ours = [side for side in sides if side["ours"]]
    theirs = [side for side in sides if not side["ours"]]
    ratios = [
        [side["side"], *(f"{median(rival['seconds']) / median(side['seconds']):.1f}x" for rival in theirs)]
        for side in ours
    ]
    header = [case["title"], "seconds", "range", "peak MB", "of the first", *speed, "same answers"]
    return markdown(header, rows) + "\n\n" + markdown(["faster than", *(rival["side"] for rival in theirs)], ratios)


def start_table(case: Case) -> str:
    """Medians alone."""
    rows = [[row["side"], f"{median(row['seconds']):.3f}", f"{median(row['megabytes']):.0f}"] for row in case["rows"]]
    return markdown([case["title"], "seconds", "peak MB"], rows)


def text_table(case: Case) -> str:
    """Prompts a second, and what 1,000 labels x 80 templates take at that rate."""
    scaled = {side["side"]: median(r["seconds"] / r["prompts"] for r in side["runs"]) for side in case["sides"]}
    rival = next(iter(scaled.values()))
    rows = []
    for side in case["sides"]:
        each = scaled[side["side"]]
        megabytes = [run["megabytes"] for run in side["runs"] if "megabytes" in run]
        rows.append(
            [
                side["side"], f"{side['runs'][0]['prompts']:,}", f"{1 / each:.0f}", f"{each * PROMPTS:.0f} s",
                f"{median(megabytes):.0f}" if megabytes else "", f"{rival / each:.1f}x" if side["ours"] else "",
            ]
        )  # fmt: skip
    return markdown([case["title"], "prompts measured", "prompts/s", "80,000 prompts", "peak MB", "faster"], rows)


def relabel_table(case: Case) -> str:
    """The first pass against relabelling."""
    first, count = case["first_pass"], case["images"]
    seconds, megabytes, read = (
        median(run[key] for run in case["runs"]) for key in ("seconds", "megabytes", "read_megabytes")
    )
    rows = [
        ["first pass, two labels", f"{first['seconds']:.1f}", f"{count / first['seconds']:,.0f}",
         f"{first['megabytes']:.0f}", ""],
        ["new labels", f"{seconds:.1f}", f"{count / seconds:,.0f}", f"{megabytes:.0f}",
         f"{read:.0f} (the images are {case['image_megabytes']:.0f})"],
    ]  # fmt: skip
    return markdown([case["title"], "seconds", "images/s", "peak MB", "MB read"], rows)


def limits_table(case: Case) -> str:
    """Matrix peaks, and what share of them the image tower reaches."""
    peaks = case["peak_gflops"]
    peak = {kind: max(v for name, v in peaks.items() if name.endswith(kind)) for kind in ("fp32", "bf16")}
    products = markdown(
        ["matrix product", "GFLOP/s"],
        [[name, f"{value:.0f}"] for name, value in sorted(peaks.items(), key=lambda item: item[1])],
    )
    rows = []
    for name, speed in case["tower_images_per_s"].items():
        flops = speed * case["gflop_per_image"]
        rows.append([name, f"{speed:.1f}", f"{flops:.0f}", f"{flops / peak[name[-4:]]:.0%}"])
    return products + "\n\n" + markdown(["image tower alone", "images/s", "GFLOP/s", "of the peak"], rows)


def growth_table(case: Case) -> str:
    """Whole processes by the number of images, and by that of labels."""
    cached = {row["images"]: median(row["seconds"]) for row in case["cached"]}
    encoded = {row["images"]: median(row["seconds"]) for row in case["encoded"]}
    by_labels = {row["labels"]: median(row["seconds"]) for row in case["labels"]}
    images = [
        [f"{n:,}", f"{encoded[n]:.2f}" if n in encoded else "", f"{seconds:.2f}"] for n, seconds in cached.items()
    ]
    labels = [[f"{n:,}", f"{seconds:.2f}"] for n, seconds in by_labels.items()]
    count = case["labels"][0]["images"]
    return (
        markdown(["images", "encoded, seconds", "seen before, seconds"], images)
        + "\n\n"
        + markdown([f"labels, for {count:,} images seen before", "seconds"], labels)
    )


def growth_chart(case: Case) -> str:
    """Cost of each image beyond the start of the process."""

    def points(rows: list[Case], starts: list[float], by: str, unit: float) -> list[chart.Point]:
        found = []
        for row, start in zip(rows, starts, strict=True):
            if row["images"] > 1:
                low, mid, high = ((f(row["seconds"]) - start) / (row["images"] - 1) * unit for f in (min, median, max))
                found.append(chart.Point(row[by], mid, low, high))
        return found

    def start(rows: list[Case]) -> list[float]:
        return [median(rows[0]["seconds"])] * len(rows)

    starts = [median(row["seconds"]) for row in case["labels_start"]]
    count = case["labels"][0]["images"]
    product = [chart.Point(row["labels"], *[row["seconds"] / count * 1e6] * 3) for row in case["product"]]
    return chart.drawn(
        [
            chart.Panel(
                "By the number of images (2 labels)", "images", "ms an image",
                [
                    chart.Line("encoded", points(case["encoded"], start(case["encoded"]), "images", 1e3)),
                    chart.Line("seen before", points(case["cached"], start(case["cached"]), "images", 1e3)),
                ],
            ),
            chart.Panel(
                f"By the number of labels ({count:,} images seen before)", "labels", "µs an image",
                [
                    chart.Line("clipzs", points(case["labels"], starts, "labels", 1e6)),
                    chart.Line("the matrix product alone", product, dashed=True),
                ],
            ),
        ]
    )  # fmt: skip


def markdown(header: list[str], rows: list[list[str]], *, words: int = 1) -> str:
    """A Markdown table: columns of words first, then numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" * words + "|---:" * (len(header) - words) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])

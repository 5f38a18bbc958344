"""What all cases share: folders, photos, models, and the command line of each side."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import photos, processes

RIVALS = Path(__file__).with_name("rivals")
MODEL, LABELS, TEMPLATE = "ViT-B-32", "cat,dog", "a photo of a <>."
IMAGENET80 = ("--templates", "imagenet80")


@dataclass
class Workbench:
    """The settings of one invocation, and what is made of them when it is first needed.

    Attributes:
        folder: where photos, models and caches are kept; all but the caches serve later invocations.
        rivals: folder of the other tools' environment.
        runs: of each side.
        slow_runs: of sides that take a minute each.
        sizes: images, labels and such, by name.
        extra: options put into every clipzs command.
    """

    folder: Path
    rivals: Path
    runs: int
    slow_runs: int
    sizes: dict[str, int]
    given_photos: Path | None = None
    given_large_photos: Path | None = None
    extra: Sequence[str] = ()
    warmed: set[str] = field(default_factory=set)

    def small_photos(self, count: int) -> list[str]:
        """Photos of about 0.2 megapixels, or those the benchmark was pointed at."""
        if self.given_photos:
            return photos.given(self.given_photos, count)
        return photos.made(self.folder / "photos-small", count, photos.SMALL)

    def large_photos(self, count: int) -> list[str]:
        """Photos of 12 megapixels, or those the benchmark was pointed at."""
        if self.given_large_photos:
            return photos.given(self.given_large_photos, count)
        return photos.made(self.folder / "photos-large", count, photos.LARGE)

    @cached_property
    def rivals_python(self) -> str:
        """The interpreter of the other tools' environment, which is made if it is not there."""
        python = self.rivals / "bin" / "python"
        if not python.exists():
            set_up(self.rivals)
        return str(python)

    @cached_property
    def weights(self) -> Path:
        """The random checkpoint; its copy for transformers lies beside it."""
        path = self.folder / "models" / "open_clip.safetensors"
        done = path.with_name("complete")
        if not done.exists():
            print("making the random checkpoint ...", flush=True)
            sample = photos.made(self.folder / "photos-small", 32, photos.SMALL)
            print(self.ask_rival("make_models", path.parent, *sample).strip(), flush=True)
            done.touch()
        return path

    def fresh_cache(self, name: str) -> Path:
        """An empty cache folder for clipzs."""
        path = self.folder / "caches" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    @cached_property
    def warm_cache(self) -> Path:
        """The cache of all cases in which the model was used before; see `used_before`."""
        return self.fresh_cache("warm")

    def used_before(self, photo: str, *precisions: str, templates: Sequence[str] = ("--template", TEMPLATE)) -> None:
        """Bring clipzs' cache into the state it has after a first use of the model with the usual labels."""
        for precision in precisions:
            if (state := f"{precision} {templates}") not in self.warmed:
                for _ in range(2):
                    processes.run(self.clipzs([photo], LABELS, precision=precision, templates=templates))
                self.warmed.add(state)

    def clipzs(
        self,
        files: Sequence[str],
        labels: str,
        *more: str,
        precision: str = "fp32",
        cache: Path | None = None,
        templates: Sequence[str] = ("--template", TEMPLATE),
    ) -> list[str]:
        """`clipzs classify`: the best label of each file, images really encoded.

        Args:
            files: images, options that name images included.
            labels: comma-separated, or the name of a labels file.
            more: further options.
            precision: fp32 or bf16.
            cache: its cache folder; that of models used before unless given.
            templates: the option that names the prompts.
        """
        how = [
            "--model",
            MODEL,
            "--pretrained",
            str(self.weights),
            *templates,
            "--precision",
            precision,
            "--no-image-cache",
        ]
        return self.classify(files, labels, *how, *more, cache=cache or self.warm_cache)

    def classify(self, files: Sequence[str], labels: str, *how: str, cache: Path) -> list[str]:
        """`clipzs classify` with any model, its image cache on."""
        named = "--labels-file" if labels.endswith(".txt") else "--labels"
        command = [sys.executable, "-m", "clipzs", "classify", "--device", "cpu", "--format", "label", "--quiet"]
        return [*command, "--cache-dir", str(cache), named, labels, *how, *self.extra, *files]

    def rival(self, script: str, *arguments: Any) -> list[str]:
        """A script of benchmarks/rivals, in their environment."""
        return [self.rivals_python, str(RIVALS / f"{script}.py"), *map(str, arguments)]

    def ask_rival(self, script: str, *arguments: Any) -> str:
        """What such a script prints."""
        return processes.run(self.rival(script, *arguments)).output

    def open_clip(self, files: Sequence[str], labels: str, batch: str) -> list[str]:
        """open_clip's own way; `batch` as in its script."""
        return self.rival("open_clip_way", self.weights, labels, batch, *files)

    def transformers(self, files: Sequence[str], labels: str, batch: int) -> list[str]:
        """transformers' pipeline."""
        return self.rival("transformers_way", self.weights.with_name("transformers"), labels, batch, *files)

    def pybioclip(self, files: Sequence[str], labels: str) -> list[str]:
        """pybioclip's command line, its batch of 10 and its 80 templates."""
        program = str(Path(self.rivals_python).with_name("bioclip"))
        how = ["--cls", labels, "--model", MODEL, "--pretrained", str(self.weights), "--k", "1"]
        return [program, "predict", *how, *files]

    @cached_property
    def label_names(self) -> list[str]:
        """Ten thousand label names: those of ImageNet, then again with adjectives before them."""
        path = self.folder / "labels.txt"
        if not path.exists():
            code = "import open_clip; print('\\n'.join(dict.fromkeys(open_clip.IMAGENET_CLASSNAMES)))"
            path.write_text(processes.run([self.rivals_python, "-c", code]).output)
        names = [name for name in path.read_text().splitlines() if "," not in name]
        return more_names(names, 10_000)

    def labels_file(self, count: int, *, prefix: str = "") -> str:
        """A labels file with so many names; a prefix makes them new ones."""
        path = self.folder / f"labels-{prefix.strip() or 'plain'}-{count}.txt"
        path.write_text("".join(f"{prefix}{name}\n" for name in self.label_names[:count]))
        return str(path)


def new_labels(run: int) -> str:
    """Labels that no other run uses."""
    return f"horse {run},sheep {run}"


def more_names(names: list[str], count: int) -> list[str]:
    """Names, then the same with one adjective after the other."""
    words = ("red", "blue", "green", "small", "large", "old", "new", "wooden", "broken", "wet", "dry", "clean")
    kinds = ["", *(f"{word} " for word in words)]
    return [kind + name for kind in kinds for name in names][:count]


def set_up(folder: Path) -> None:
    """Make the other tools' environment."""
    print(f"installing the other tools in {folder} ...", flush=True)
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, "--requirement", str(RIVALS / "requirements.txt")], check=True)

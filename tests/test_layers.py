"""The direction of the imports: data flows one way, and heavy packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clipzs

PACKAGE = Path(clipzs.__file__).parent

# What each module may import of clipzs. labels + templates → prompts → embeddings; images → embeddings; → results.
MAY_IMPORT = {
    "errors": set(),
    "defaults": set(),
    "results": {"defaults"},
    "formulas": set(),
    "columns": {"errors", "paths", "results", "score"},
    "records": {"batch.done", "columns", "errors", "formulas", "results"},
    "score": set(),
    "stream": set(),
    "privatefiles": set(),
    "processors": set(),
    "sizes": {"errors"},
    "database": {"privatefiles"},
    "yamlfile": set(),
    "preprocess": set(),
    "labels": {"errors"},
    "textfiles": {"errors"},
    "labelfiles": {"errors", "labels", "records", "textfiles", "yamlfile"},
    "options": {"defaults", "errors", "names", "score", "sizes"},
    "templates": {"defaults", "errors", "textfiles", "yamlfile"},
    "prompts": {"labels", "templates"},
    "budget": {"defaults"},
    "images": {"budget", "defaults", "errors", "preprocess"},
    "messages": set(),
    "decodeworker": {"defaults", "errors", "images", "messages", "preprocess"},
    "decoders": {
        "budget", "decodeworker", "defaults", "errors", "images", "messages", "preprocess", "processors",
    },
    "paths": {"errors"},
    "truth": {"errors", "formulas", "paths", "textfiles", "yamlfile"},
    "catalogue": {"defaults"},
    "hub": {"defaults", "errors"},
    "importing": set(),
    "registry": {"errors", "importing"},
    "modelspec": {"errors", "hub", "preprocess"},
    "modelconfig": {"errors", "preprocess"},
    "families": {"modelspec"},
    "lookalike": {"checkpoint", "registry"},
    "names": {"catalogue", "chinese", "errors", "lookalike", "registry"},
    "describing": {"errors", "families", "modelconfig", "modelspec", "preprocess", "registry"},
    "resolve": {
        "catalogue", "chinese", "defaults", "describing", "errors", "families", "hub", "modelconfig", "modelspec",
        "names", "registry",
    },
    "encoder": {"score"},
    "devices": {"errors"},
    "memory": {"errors", "score"},
    "agreement": {"encoder", "errors", "score"},
    "scripts": set(),
    "labelchecks": {"families", "labels", "modelspec", "score", "scripts", "store"},
    "checkpoint": {"errors"},
    "filling": {"checkpoint"},
    "bpe": {"encoder", "errors", "registry"},
    "backend": {"bpe", "encoder", "errors"},
    "savedconfig": {"errors", "preprocess"},
    "chinese": {"errors", "hub", "modelspec", "savedconfig"},
    "bert": set(),
    "wordpiece": {"backend", "bert", "checkpoint", "chinese", "errors"},
    "encoders": {"bert", "checkpoint", "chinese", "encoder", "modelspec", "towers"},
    "tokenizers": {
        "backend", "bpe", "checkpoint", "chinese", "encoder", "errors", "hub", "modelspec", "wordpiece",
    },
    "towers": {
        "checkpoint", "devices", "encoder", "errors", "filling", "hub", "lookalike", "memory", "modelspec",
        "preprocess", "score", "tokenizers",
    },
    "compiled": {
        "checkpoint", "defaults", "encoder", "errors", "filehashes", "importing", "memory", "modelspec", "processors",
        "score", "tokenizers",
    },
    "conversion": {
        "agreement", "checkpoint", "compiled", "encoder", "encoders", "errors", "importing", "memory", "privatefiles",
        "towers",
    },
    "engine": {
        "agreement", "compiled", "conversion", "devices", "encoder", "encoders", "errors", "memory", "modelspec",
        "score",
    },
    "store": {"database", "defaults", "score"},
    "filehashes": {"database"},
    "cachefolder": {"compiled", "database", "filehashes", "store"},
    "imagecache": {"filehashes", "score", "store"},
    "pipeline": {
        "decoders", "errors", "filehashes", "imagecache", "images", "paths", "preprocess", "score", "stream",
    },
    "embed": {"defaults", "encoder", "score", "store"},
    "configuration": {"score", "store"},
    "interrupts": set(),
    "resume": {"configuration", "errors", "paths"},
    "embedder": {
        "cachefolder", "defaults", "devices", "embed", "encoder", "engine", "errors", "filehashes", "imagecache",
        "options", "pipeline", "resolve", "score", "sizes", "store",
    },
    "connection": {"errors"},
    "servernotes": {"privatefiles"},
    "served": {
        "connection", "defaults", "encoder", "errors", "modelspec", "options", "preprocess", "score", "servernotes",
        "store",
    },
    "remote": {
        "embedder", "encoder", "errors", "modelspec", "options", "resolve", "score", "served", "store",
    },
    "scorers": {"score"},
    "heads": {"score"},
    "headfile": {"checkpoint", "errors", "heads", "labels", "modelspec", "resolve", "score"},
    "fitting": {"errors", "heads", "score", "tuning"},
    "answers": {"results", "score"},
    "background": {"score"},
    "classifier": {
        "answers", "background", "configuration", "defaults", "embedder", "encoder", "errors", "headfile",
        "images", "labelchecks", "labelfiles", "labels", "modelspec", "options", "paths", "pipeline", "prompts",
        "remote", "results", "score", "scorers", "store", "templates",
    },
    "metrics": set(),
    "labelled": {"classifier", "errors", "score", "truth"},
    "evaluation": {"classifier", "defaults", "errors", "labelled", "metrics", "results", "score", "truth"},
    "fewshot": {
        "classifier", "errors", "evaluation", "fitting", "heads", "labelled", "metrics", "scorers", "truth",
    },
    "recorded": {"defaults", "errors", "evaluation", "metrics", "results", "truth"},
    "figures": {"errors", "evaluation", "fewshot", "output", "paths"},
    "tuning": {"metrics", "score"},
    "tuner": {
        "__init__", "classifier", "defaults", "labelled", "labels", "metrics", "options", "prompts", "score",
        "templates", "truth", "tuning",
    },
    "explaining": {
        "classifier", "decoders", "defaults", "errors", "images", "labels", "preprocess", "results", "score", "scorers",
        "templates",
    },
    "heatmap": {"encoder", "encoders", "errors", "modelspec", "score", "towers"},
    "overlay": {"score"},
    "pull": {"checkpoint", "chinese", "encoders", "errors", "hub", "modelspec"},
    "doctor": {
        "__init__", "cachefolder", "catalogue", "checkpoint", "compiled", "defaults", "devices", "errors", "hub",
        "processors", "pull", "resolve", "sizes", "templates",
    },
    "writers": {"defaults", "formulas", "results"},
    "table": {"labels", "paths", "results"},
    "output": {"defaults", "errors", "paths", "results", "resume", "table", "writers"},
    "preview": {"defaults", "errors", "stream", "thumbnails"},
    "thumbnails": {"decoders", "defaults", "errors", "output", "preprocess", "stream"},
    "pages": set(),
    "report": {"defaults", "output", "pages", "results", "thumbnails", "writers"},
    "run": {"classifier", "errors", "interrupts", "labels", "output", "paths", "results", "resume", "writers"},
    "embeddings": {"batch.done", "columns", "errors", "output", "resolve", "score", "writers"},
    "gathering": {"embedder", "embeddings", "interrupts", "paths", "results", "run"},
    "searching": {"defaults", "embedder", "embeddings", "errors", "results", "score", "templates"},
    "exports.common": {"defaults", "errors", "paths", "results", "writers"},
    "exports.keywords": {"exports.common", "results"},
    "exports.sidecar": {"exports.keywords"},
    "exports.parquet": {"columns", "errors", "exports.common", "output", "results"},
    "exports.hf": {"errors", "exports.common", "output", "paths", "results", "writers"},
    "exports.fiftyone": {"exports.common", "output", "paths", "results", "writers"},
    "exports.labelstudio": {"exports.common", "output", "results", "writers"},
    "exports.cvat": {
        "errors", "exports.common", "exports.labelstudio", "images", "output", "results", "writers",
    },
    "exports.xmp": {"errors", "exports.common", "exports.keywords", "exports.sidecar", "output", "results"},
    "exports.iptc": {"errors", "exports.common", "exports.keywords", "results"},
    "exports": {
        "exports.common", "exports.cvat", "exports.fiftyone", "exports.hf", "exports.iptc", "exports.labelstudio",
        "exports.parquet", "exports.xmp",
    },
    "batch.parts": {"writers"},
    "batch.fetching": {"__version__", "errors"},
    "batch.folder": {"batch.fetching", "errors", "output"},
    "batch.done": {"batch.folder", "errors"},
    "batch.tables": {"batch.fetching", "columns", "errors", "images", "paths"},
    "batch.tars": {"batch.fetching", "errors", "images", "paths"},
    "batch.lists": {"batch.fetching", "batch.tables", "errors", "formulas", "paths"},
    "batch.job": {
        "__version__", "batch.folder", "batch.parts", "classifier", "defaults", "errors", "labels", "options", "run",
        "writers",
    },
    "batch.inputs": {
        "batch.fetching", "batch.folder", "batch.job", "batch.lists", "batch.parts", "batch.tables", "batch.tars",
        "errors", "images", "paths", "stream", "writers",
    },
    "batch.planning": {"batch.folder", "batch.inputs", "batch.job", "batch.parts", "errors", "writers"},
    "batch.failures": {"batch.folder", "batch.parts", "writers"},
    "batch.worker": {
        "__version__", "batch.failures", "batch.folder", "batch.inputs", "batch.job", "batch.parts", "classifier",
        "columns", "embeddings", "encoder", "errors", "images", "paths", "pipeline", "results", "score", "writers",
    },
    "batch.local": {
        "batch.failures", "batch.folder", "batch.job", "batch.parts", "batch.worker", "errors", "interrupts",
    },
    "batch.raycluster": {"errors", "processors"},
    "batch.rayjobs": {
        "__version__", "batch.failures", "batch.fetching", "batch.folder", "batch.job", "batch.local", "batch.parts",
        "batch.raycluster", "batch.worker", "defaults", "errors", "interrupts", "output", "privatefiles", "processors",
    },
    "batch.summary": {
        "batch.folder", "batch.job", "batch.parts", "batch.worker", "columns", "errors", "writers",
    },
    "batch": set(),
    "serving.limits": set(),
    "serving.measures": set(),
    "serving.refusals": {"errors"},
    "serving.room": {"serving.limits", "serving.measures", "serving.refusals"},
    "serving.batching": {"pipeline"},
    "serving.models": {
        "classifier", "embedder", "encoder", "images", "labels", "options", "pipeline", "results", "score",
        "serving.batching", "serving.measures", "store", "stream",
    },
    "serving.bodies": {"labels", "serving.limits", "serving.models", "serving.refusals", "serving.room"},
    "serving.describing": {"serving.bodies"},
    "serving.service": {
        "errors", "labels", "options", "serving.bodies", "serving.limits", "serving.measures", "serving.models",
        "serving.refusals", "serving.room", "templates",
    },
    "serving.answering": {
        "pipeline", "serving.bodies", "serving.models", "serving.refusals", "serving.service", "writers",
    },
    "serving.guard": {"serving.refusals", "serving.service"},
    "serving.hf": {
        "labels", "serving.answering", "serving.bodies", "serving.describing", "serving.models", "serving.refusals",
        "serving.service",
    },
    "serving.page": {"defaults", "pages", "paths"},
    "serving.heat": {
        "classifier", "decoders", "errors", "explaining", "heatmap", "images", "overlay", "preprocess",
        "serving.answering", "serving.bodies", "serving.describing", "serving.models", "serving.refusals",
        "serving.service",
    },
    "serving.apidoc": set(),
    "serving.packages": {"errors"},
    "serving.app": {
        "__version__", "pipeline", "serving.answering", "serving.apidoc", "serving.bodies", "serving.describing",
        "serving.guard", "serving.heat", "serving.hf", "serving.measures", "serving.models", "serving.page",
        "serving.refusals", "serving.service",
    },
    "serving.protocol": {"serving.limits"},
    "serving.serve": {"errors", "privatefiles", "servernotes", "serving.protocol", "serving.service"},
    "serving": set(),
    "duplicates": {"defaults", "filehashes", "results", "score"},
    "foldernames": set(),
    "placing": {"output"},
    "journal": {"__version__", "errors", "output", "placing", "writers"},
    "sorting": {"errors", "foldernames", "journal", "output", "paths", "placing", "results"},
    "filtering": {"errors", "labels", "results"},
    "__init__": {"classifier", "errors", "images", "labels", "options", "results"},
    "__main__": {"cli"},
}  # fmt: skip
# The modules that run a model; everything else must do without torch.
OWNERS = {
    "bert", "checkpoint", "conversion", "devices", "encoders", "filling", "heatmap", "headfile", "tokenizers", "towers",
}  # fmt: skip
PACKAGES = {"batch", "exports", "serving"}  # folders whose modules have rows of their own; `cli` lies above all rows
PARENTS = {"clipzs", *(f"clipzs.{name}" for name in PACKAGES)}  # from which modules are imported by name
MODULES = sorted([*PACKAGE.glob("*.py"), *(path for name in PACKAGES for path in (PACKAGE / name).glob("*.py"))])
HEAVY = {"torch", "torchvision", "open_clip", "timm", "transformers", "safetensors"}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module and whether the import stands at the top of the file (outside TYPE_CHECKING)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module in PARENTS else [module]
            found += [(name, id(node) in top) for name in names]
    return found


def row(parts: list[str]) -> str:
    """The name of a module in the table, of its dotted name within the package."""
    return ".".join(parts[:2] if parts[0] in PACKAGES and parts[1:] != ["__init__"] else parts[:1])


def row_of(path: Path) -> str:
    return row([*path.relative_to(PACKAGE).with_suffix("").parts])


@pytest.mark.parametrize("path", MODULES, ids=row_of)
def test_imports_flow_one_way(path):
    parts = [name.split(".") for name, _ in imports(path)]
    own = {row(part[1:]) for part in parts if part[0] == "clipzs" and len(part) > 1}
    assert own - {"__version__"} <= MAY_IMPORT[row_of(path)]


@pytest.mark.parametrize("path", [*MODULES, *sorted((PACKAGE / "cli").glob("*.py"))], ids=lambda path: path.stem)
def test_torch_and_open_clip_are_imported_only_by_the_module_that_owns_them(path):
    heavy = [(name, top) for name, top in imports(path) if name.split(".")[0] in HEAVY]
    assert [name for name, top in heavy if top] == []
    assert path.stem in OWNERS or heavy == []


def test_ray_is_imported_only_where_a_cluster_was_asked_for():
    users = {row_of(path) for path in MODULES for name, _ in imports(path) if name.split(".")[0] == "ray"}
    assert users == {"batch.raycluster", "batch.rayjobs"}
    assert not any(name.split(".")[0] == "ray" and top for path in MODULES for name, top in imports(path))


@pytest.mark.parametrize(
    "arguments",
    ["--help", "classify --help", "prompts list", "models list", "classify x.jpg --labels a"],
)
def test_what_needs_no_model_loads_no_torch(arguments):
    code = (
        "import sys; from clipzs.cli import app\n"
        f"try: app({arguments.split()!r})\n"
        "except SystemExit: pass\n"
        "print('loaded:', sorted({'torch', 'open_clip', 'torchvision', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"

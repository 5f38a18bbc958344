"""Runs inside the environment of the real tools: loads one export with its tool and prints what that found, as JSON.

python load.py labelstudio TASKS CONFIG | fiftyone LABELS | cvat ANNOTATIONS
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import unquote


def labelstudio(tasks: str, config: str) -> dict[str, list[str]]:
    """Choices by the URL of the image, after the SDK has validated configuration, tasks and predictions."""
    from label_studio_sdk.label_interface import LabelInterface
    from label_studio_sdk.label_interface.objects import PredictionValue

    interface = LabelInterface(Path(config).read_text(encoding="utf-8"))
    interface.validate()
    found = {}
    for task in json.loads(Path(tasks).read_text(encoding="utf-8")):
        assert interface.validate_task({"data": task["data"]}), task
        predictions = task.get("predictions", [])
        for prediction in predictions:
            assert interface.validate_prediction(prediction, return_errors=True) == [], prediction
            PredictionValue(**prediction)
        url = unquote(task["data"]["image"], errors="surrogateescape")
        found[url] = predictions[-1]["result"][0]["value"]["choices"] if predictions else []
    return found


def fiftyone(labels: str) -> dict[str, list[str]]:
    """Labels by path, as FiftyOne's own importer yields them; without its database."""
    os.environ |= {"FIFTYONE_DISABLE_SERVICES": "1", "FIFTYONE_DO_NOT_TRACK": "1"}
    from fiftyone.utils.data.importers import FiftyOneImageClassificationDatasetImporter

    found = {}
    with FiftyOneImageClassificationDatasetImporter(labels_path=labels) as importer:
        for path, _, label in importer:
            several = [] if label is None else getattr(label, "classifications", [label])
            assert all(one.confidence is None or 0 <= one.confidence <= 1 for one in several)
            found[path] = [one.label for one in several]
    return found


def cvat(annotations: str) -> dict[str, list[str]]:
    """Labels by the name of the image, as datumaro reads CVAT's format; its names have no suffix."""
    from datumaro import Dataset

    dataset = Dataset.import_from(annotations, "cvat")
    names = [category.name for category in dataset.categories()[next(iter(dataset.categories()))]]
    return {item.id: [names[one.label] for one in item.annotations] for item in dataset}


if __name__ == "__main__":
    name, *files = sys.argv[1:]
    loaders = {"labelstudio": labelstudio, "fiftyone": fiftyone, "cvat": cvat}
    print("\n" + json.dumps(loaders[name](*files)))

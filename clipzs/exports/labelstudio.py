"""Tasks with predictions for Label Studio, and the labelling configuration that they need."""

from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from clipzs.exports.common import AtTheEnd, Settings, answers, named, relative, xml_text
from clipzs.output import check_writable, put_out, save
from clipzs.results import Result
from clipzs.writers import json_text

URL_PREFIX = "/data/local-files/?d="
FROM_NAME, TO_NAME = "choice", "image"


class LabelStudioExport(AtTheEnd):
    """One task an image, with a prediction for each model and configuration that made a record of it, or a correction.

    An image without an answer is a task without a prediction. Labels have their white space in single spaces, since
    XML attributes hold no other.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # Score and choices by version of the model by name of the image.
        self._tasks: dict[str, dict[str, tuple[float | None, tuple[str, ...]]]] = {}
        self._choices: set[str] = set()
        self._several = False
        for file in (settings.file, settings.label_config):
            if file is not None:
                check_writable(file)

    def take(self, result: Result) -> None:
        """Keep one prediction."""
        name = relative(result.path, self.settings.base)
        if name is None:
            self.left_out.add(result.path, f"outside {self.settings.base}")
            return
        self._several |= result.labels is not None
        self._choices |= set(map(_choice, named(result, self.settings)))
        predictions = self._tasks.setdefault(name, {})
        if not result.model:  # a correction
            predictions.clear()
        version = xml_text(f"{result.model} ({result.config})" if result.config else result.model or "clipzs")
        found = answers(result, self.settings)
        if found:
            predictions[version] = found[0][1], tuple(_choice(label) for label, _ in found)
        else:
            predictions.pop(version, None)

    def save(self) -> None:
        """Write the tasks, then the configuration."""
        if not self._tasks:
            raise self.nothing()
        lines = ",\n".join(json_text(self._task(name)) for name in self._tasks)
        save(self.settings.file, f"[\n{lines}\n]\n".encode())
        write_definition(self._configuration(), self.settings)

    def _task(self, name: str) -> dict[str, Any]:
        url = self.settings.url_prefix + quote(name.encode("utf-8", "surrogateescape"))
        predictions = [self._prediction(*one) for one in self._tasks[name].items()]
        return {"data": {self.settings.to_name: url}, **({"predictions": predictions} if predictions else {})}

    def _prediction(self, version: str, answer: tuple[float | None, tuple[str, ...]]) -> dict[str, Any]:
        score, choices = answer
        region = {
            "from_name": self.settings.from_name,
            "to_name": self.settings.to_name,
            "type": "choices",
            "value": {"choices": choices},
        }
        # A cosine may lie outside the range that Label Studio takes for a score.
        scored = {} if score is None or not 0 <= score <= 1 else {"score": score}
        return {"model_version": version, **scored, "result": [region]}

    def _configuration(self) -> str:
        to_name, from_name = quoteattr(self.settings.to_name), quoteattr(self.settings.from_name)
        number = "multiple" if self._several else "single"
        choices = "".join(f"    <Choice value={quoteattr(choice)}/>\n" for choice in sorted(self._choices))
        return (
            f"<View>\n  <Image name={to_name} value={quoteattr('$' + self.settings.to_name)}/>\n"
            f'  <Choices name={from_name} toName={to_name} choice="{number}">\n{choices}  </Choices>\n</View>\n'
        )

    def summary(self) -> str:
        """What was done, in words."""
        return f"{len(self._tasks):,} tasks in {self.settings.file}"


def write_definition(text: str, settings: Settings) -> None:
    """Put the definition of the labels, which a project needs before the answers, where it was wished.

    Raises:
        OutputError: there it cannot be written.
    """
    if settings.label_config is not None:
        save(settings.label_config, text.encode())
        return
    put_out(text)


def _choice(label: str) -> str:
    return " ".join(xml_text(label).split())

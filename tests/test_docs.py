"""The documentation says what the program does: docs/cli.md is held against the commands themselves."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from clipzs import catalogue, labelfiles, labels
from clipzs.cli import app

ROOT = Path(__file__).parent.parent
CLI_MD = ROOT / "docs" / "cli.md"
MARK = "<!-- From here on written by `pytest --update-docs` -->"


def commands() -> Iterator[tuple[str, Any]]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        for sub, subcommand in getattr(command, "commands", {"": command}).items():
            yield f"clipzs {name} {sub}".strip(), subcommand


def reference() -> str:
    """Every command with its options, as Markdown."""
    parts = [MARK]
    for name, command in commands():
        told = " ".join(command.help.split("Exit codes")[0].split())
        parts.append(f"## `{name}`\n\n{told}")
        rows = [row(parameter) for parameter in command.params]
        parts.append("\n".join(["| | | environment | default |", "|---|---|---|---|", *rows]) if rows else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def row(parameter: Any) -> str:
    text = re.sub(r"\s*\\\[env var: .*\]", "", parameter.help or "").replace("|", "\\|")
    listed = re.search(r"env var: (CLIPZS_\w+)", parameter.help or "")
    env = parameter.envvar or (listed[1] if listed else None)
    if parameter.param_type_name == "argument":
        return f"| `{parameter.metavar}` | {text} | | |".replace("NAME|FILE", "NAME\\|FILE")
    flags = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    shown = "" if default is None or callable(default) or default in ("", False) else f"`{default}`"
    return f"| {flags} | {text} | `{env}` | {shown} |"


def test_docs_cli_md_lists_every_command_and_option_as_it_is(request: pytest.FixtureRequest):
    written, _, generated = CLI_MD.read_text(encoding="utf-8").partition(MARK)
    if request.config.getoption("--update-docs"):
        CLI_MD.write_text(written + reference(), encoding="utf-8")
    else:
        assert MARK + generated == reference(), "run pytest --update-docs, then read the change"


def test_every_option_has_a_help_text_and_an_environment_variable():
    for name, command in commands():
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)
            if parameter.param_type_name == "option":
                assert parameter.envvar or "env var: CLIPZS_" in parameter.help, (name, parameter.name)


def test_readme_names_every_preset_with_its_model_licence_and_accuracy():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for preset in catalogue.PRESETS:
        line = next(line for line in readme.splitlines() if line.startswith(f"| `{preset.name}`"))
        assert preset.licence in line
        if preset.accuracy:
            assert preset.model in line
            assert f"{preset.accuracy} %" in line


def test_links_between_the_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_options_in_the_examples_of_the_documents_are_those_of_the_commands():
    known = {name.split()[1]: set[str]() for name, _ in commands()}
    for name, command in commands():
        known[name.split()[1]] |= {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    checked = 0
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        blocks = re.findall(r"```(?:sh|console|yaml)\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
        text = re.sub(r"\\\n\s*", " ", "\n".join(blocks))
        for name, words in re.findall(r"clipzs ([a-z]+)\b([^|&#;\n]*)", text):
            flags = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", words)) - {"--help", "--"}
            assert name in known, (page.name, name)
            assert flags <= known[name], (page.name, name, flags - known[name])
            checked += len(flags)
    assert checked > 100


def test_the_files_and_scripts_in_docs_scale_md_are_whole(tmp_path):
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (manifest,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    job, ray = yaml.safe_load_all(manifest)
    scripts = [job["data"]["batch.sh"], *re.findall(r"```sh\n(.*?)```", page, re.S)]
    cluster = ray["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert cluster["headGroupSpec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] == job["metadata"]["name"]
    (tmp_path / "labels.yaml").write_text(job["data"]["labels.yaml"])
    assert len(labels.checked(labelfiles.read(tmp_path / "labels.yaml"))) == 3
    for script in scripts:
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0, script


def test_the_changelog_names_every_command():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for name, _ in commands():
        first = " ".join(name.split()[:2])
        assert first in changelog


def test_the_transcript_at_the_top_of_the_readme_is_what_the_command_prints(run, monkeypatch):
    """Labels, paths and their order; the digits differ a little between machines."""
    monkeypatch.chdir(ROOT)
    block = re.search(r"```console\n\$ clipzs (.*?)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert block is not None
    printed = run(*shlex.split(block[1]), "--format", "table").stdout
    assert without_digits(printed) == without_digits(block[2])


def without_digits(table: str) -> list[list[str]]:
    """The words of each line of a table of scores."""
    digits = re.compile(r"[▏▎▍▌▋▊▉█]+ *|\d+\.\d%")
    return [digits.sub("", line).split() for line in table.splitlines()]


def test_the_files_in_docs_labels_md_are_read_and_its_transcripts_are_what_the_commands_print(
    run, monkeypatch, tmp_path
):
    page = (ROOT / "docs" / "labels.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    for photo in (ROOT / "examples").glob("*.jpg"):
        (tmp_path / photo.name).symlink_to(photo)
    for name, content in re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", page, re.S):
        Path(name).write_text(content, encoding="utf-8")
        assert len(labels.checked(labelfiles.read(Path(name)))) > 2
    assert labelfiles.read(Path("labels.yaml")) == labelfiles.read(Path("labels.json"))
    transcripts = re.findall(r"```console\n\$ clipzs (.*?)\n(.*?)```", page, re.S)
    assert len(transcripts) == page.count("```console")
    for command, printed in transcripts:
        assert without_digits(run(*shlex.split(command)).stdout) == without_digits(printed)

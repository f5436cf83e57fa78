"""The documentation is true of the code: generated parts, links, commands and exit codes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bbx import errors
from bbx.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@dataclass(frozen=True)
class Shown:
    """A command line in the documentation, and the error that is shown below it, if one is."""

    page: str
    line: str
    error: str = ""

    @property
    def refused(self) -> bool:
        """Whether the error is the parser's own, and not one of bbx's."""
        return self.error.endswith(" --help")


def blocks(text: str) -> list[str]:
    """The contents of the fenced code blocks."""
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    return re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands_of(page: Path) -> Iterator[Shown]:
    text, name = page.read_text(), name_of(page)
    for block in blocks(text):
        for part in re.split(r"^(?:\$ )?(?=bbx )", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            if not re.match(r"bbx \d", line):  # what doctor prints of bbx's version
                yield Shown(name, line, printed.strip() if printed.startswith("error:") else "")
    for line in re.findall(r"`(bbx [^`]+)`", prose(text)):
        yield Shown(name, line)


SHOWN = sorted({shown for page in PAGES for shown in commands_of(page)}, key=lambda shown: shown.line)


def parsed(line: str) -> None:
    """Have the command line's own parser take a line apart, without running anything."""
    root: Any = typer.main.get_command(app)
    words = shlex.split(line.partition("  #")[0])[1:]
    if words[0].startswith("-"):
        known = {option for parameter in root.params for option in parameter.opts} | {"--help"}
        assert set(words) <= known, f"{line}: bbx has no option {set(words) - known}"
        return
    assert words[0] in root.commands, f"{line}: bbx has no command {words[0]!r}"
    if len(words) == 1:
        return  # the command's name, in a sentence
    try:
        root.commands[words[0]].make_context(words[0], words[1:])
    except typer.Exit:
        assert "--help" in words


def test_generated_help_depends_on_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import generate

    texts = []
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        texts.append(generate.usage("export"))
    assert texts[0] == texts[1]
    assert max(map(len, texts[0].splitlines())) <= 100
    assert "\x1b" not in texts[0]


@each_page
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_commands_are_found() -> None:
    verbs = {shown.line.split()[1] for shown in SHOWN}
    assert {"models", "export", "build-trt", "bench", "doctor"} <= verbs


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.line)
def test_commands_shown_are_commands(shown: Shown) -> None:
    if shown.refused:
        with pytest.raises(typer.TyperException) as caught:
            parsed(shown.line)
        assert caught.value.format_message() in shown.error
    else:
        parsed(shown.line)


NOT_REPEATED = ("cut.onnx", "artifacts/", ".pth", "pretrained", "ort-cuda", "--opset 9")
"""Errors that need a file, a network that does not answer, or a machine without a GPU."""

REPEATED = [
    shown
    for shown in SHOWN
    if shown.error and not shown.refused and not any(part in shown.line for part in NOT_REPEATED)
]


@pytest.mark.parametrize("shown", REPEATED, ids=lambda shown: shown.line)
def test_errors_shown_are_printed(
    shown: Shown, bbx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = bbx(*shlex.split(shown.line)[1:])
    assert answer.stderr.splitlines()[-1] == shown.error
    assert answer.code in exit_codes() - {0}


def test_an_option_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(typer.TyperException, match="--targets"):
        parsed("bbx build-trt resnet18 --targets sm_86")
    with pytest.raises(AssertionError, match="no command"):
        parsed("bbx frobnicate resnet18")


MEASUREMENTS = sorted(
    f"tests.performance.{path.stem}"
    for path in (ROOT / "tests" / "performance").glob("*.py")
    if "__main__" in path.read_text()
)


def test_measurements_that_are_named_exist() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"python -m (tests\.performance\.\w+)", pages))
    assert named
    assert named <= set(MEASUREMENTS)


def test_measurements_can_be_imported_as_they_are_run() -> None:
    """From the root alone: pytest adds the folder of each test to the path, `python -m` does not."""
    run = f"import importlib\nfor name in {MEASUREMENTS}: importlib.import_module(name)"
    command = [sys.executable, "-c", run]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def exit_codes() -> set[int]:
    tree = [errors.BbxError, *vars(errors).values()]
    kinds = [kind for kind in tree if isinstance(kind, type) and issubclass(kind, errors.BbxError)]
    return {0} | {kind.exit_code for kind in kinds}


@each_page
def test_exit_codes_exist(page: Path) -> None:
    text = prose(page.read_text())
    named = re.findall(r"[Ee]xit(?:s|ed)?(?: code)? (\d+)", text)
    for table in re.findall(r"^\| code \|.*\n\|[- |]+\|\n((?:\|.*\n)+)", text, re.MULTILINE):
        named += re.findall(r"^\| (\d+) \|", table, re.MULTILINE)
    assert {int(code) for code in named} <= exit_codes()


def test_every_exit_code_is_explained() -> None:
    _, _, section = (ROOT / "README.md").read_text().partition("## Exit codes")
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert explained == exit_codes()


def test_every_error_is_explained_with_its_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    kinds = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.BbxError)
    }
    assert {name: int(code) for name, code in rows} == kinds


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"]

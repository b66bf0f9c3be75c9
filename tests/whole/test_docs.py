"""What the manual and the README say is so: the reference parts are those of the code, and the examples are run."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eyespot.vision.export import SAMPLE
from eyespot.vision.resize import Resizer
from tests.serving import EYESPOT, ROOT, Served, serve_process, shown_on_terminal

REL = 0 if Resizer else 0.01  # where cykooz.resizer has no wheel, Pillow resizes, and rounds a few values otherwise
DOCUMENTS = ["openapi.md", "README.md", "README.zh-CN.md"]
# A confidence, also before a class ("0.99:967:espresso"), or a number in a list, such as a row of a map.
FLOAT = re.compile(r'("confidence": ?|(?<=\[)|(?<=, )|(?<=")(?=[\d.]+:))(-?\d+\.\d{1,6})(?!\d)')
# What differs from run to run: other examples may have filled the cache before.
VARYING = re.compile(r'("request_id": ?)"[\w.-]+"|("(?:stand_in|cached)": ?)(?:true|false)|\d+ answers, \S+ of')


def examples() -> Iterator[tuple[str, list[str], str]]:
    """(document, commands, reply) of every console block with a curl line or a command of ours.

    `test_switch` runs the one that needs an admin.
    """
    for name in DOCUMENTS[:2]:  # the blocks of the third are those of the second: see below
        for block in re.findall(r"```console\n(.*?)```", (ROOT / name).read_text(), re.DOTALL):
            lines = block.splitlines()
            commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            reply = "\n".join(line for line in lines if not line.startswith("$ "))
            if "/admin/" not in block and any(
                "localhost:8000" in command or ".venv/bin/eyespot" in command for command in commands
            ):
                yield name, commands, reply


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def documented(packaged: dict[str, str]) -> Iterator[Served]:
    """The server that the examples were run against: the packaged network, in the folder of the checkout."""
    with serve_process(**packaged, EYESPOT_WORKERS="2") as served, served.client() as client:
        client.post("/predict", content=SAMPLE.read_bytes())  # an example may ask for it by its sha256 alone
        yield served


def same(said: str, is_: str) -> None:
    """Equal to the last blank, but for what varies, the last digits of such numbers, and lines for which … stands."""
    before, left_out, after = said.partition("  …\n")
    if left_out:
        lines = is_.splitlines(keepends=True)
        is_ = "".join([*lines[: before.count("\n")], left_out, *lines[len(lines) - after.count("\n") :]])
    texts = [VARYING.sub(r"\1\2*", FLOAT.sub(r"\1*", text)) for text in (said, is_)]
    assert texts[0] == texts[1]
    numbers = [[float(number) for _, number in FLOAT.findall(text)] for text in (said, is_)]
    assert numbers[0] == pytest.approx(numbers[1], rel=REL, abs=0.01)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example[0]}: {example[1][-1][:50]}")
def test_examples_are_true(
    documented: Served, packaged: dict[str, str], tmp_path: Path, example: tuple[str, list[str], str]
) -> None:
    _, commands, reply = example
    script = " && ".join(commands).replace("localhost:8000", documented.url.removeprefix("http://"))
    script = script.replace("curl ", "curl --silent ").replace("/tmp/", f"{tmp_path}/")
    if ".venv/bin/eyespot" in script:
        code, shown = terminal("-c", script.replace(".venv/bin/eyespot", str(EYESPOT)), cwd=ROOT, **packaged)
        assert code == 0, shown
        assert told(shown) == told(reply.replace("localhost:8000", documented.url.removeprefix("http://")))
        return
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if reply.startswith("#"):  # metrics: the lines that are shown are among those that there are
        assert set(reply.splitlines()) <= set(done.stdout.splitlines())
    else:
        same(f"{reply}\n", done.stdout)


def terminal(*words: str, cwd: Path, **settings: str) -> tuple[int, str]:
    """Exit code of a shell, and what a terminal of 100 columns shows at its end."""
    code, shown = shown_on_terminal("sh", *words, cwd=cwd, **settings)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r\n", "\n")
    lines = [line.rsplit("\r")[-1] for line in plain.splitlines()]
    return code, "\n".join(line for line in lines if line and "━" not in line and "loading the model" not in line)


def told(shown: str) -> list[str]:
    """Lines, without what differs from machine to machine: how long it took, the last digits of confidences."""
    return [re.sub(r"\d+\.\d%|in \d+\.\d s, \d+ images/s", "", line).rstrip() for line in shown.splitlines()]


PROGRAMS = [
    (name, program, output)
    for name in DOCUMENTS[:2]
    for program, output in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[0])
def test_programs_print_what_they_are_said_to(documented: Served, program: tuple[str, str, str]) -> None:
    _, code, output = program
    code = code.replace("localhost:8000", documented.url.removeprefix("http://"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    seen = told if REL else str
    assert (seen(done.stdout), done.stderr) == (seen(output), "")


def test_every_document_has_a_program() -> None:
    assert {name for name, _, _ in PROGRAMS} == set(DOCUMENTS[:2])


def test_every_document_has_examples() -> None:
    for name in DOCUMENTS[:2]:
        assert sum(example[0] == name for example in EXAMPLES) >= 3, name


@pytest.mark.parametrize(
    ("said", "is_"),
    [
        ('{"a": 1}\n', '{"a": 2}\n'),
        ('{"a": 1}\n', '{"a": 1}'),
        ('{"a": 1}\n', '{"a":1}\n'),
        ('{"confidence": 0.5}\n', '{"confidence": 0.6}\n'),
        ("[0.5, -3.25]\n", "[0.5, -3.3]\n"),
        ('["0.5:7:cup"]\n', '["0.6:7:cup"]\n'),
        ('{"confidence": 0.5}\n', '{"confidence": 0.50000004}\n'),
        ('{"cached": true}\n', '{"cached": null}\n'),
        ("[\n  1,\n  …\n]\n", "[\n  2,\n  3\n]\n"),
        ("[\n  1,\n  …\n]\n", "[\n  1,\n  3\n]"),
    ],
)
def test_a_wrong_example_would_be_found(said: str, is_: str) -> None:
    with pytest.raises(AssertionError):
        same(said, is_)


def test_what_varies_may_differ() -> None:
    same(
        '[\n  {"confidence": 0.5, "cached": true, "request_id": "abc"},\n  …\n]\n',
        '[\n  {"confidence": 0.501, "cached": false, "request_id": "d-e"},\n  1,\n  2\n]\n',
    )


def test_the_reference_parts_are_those_of_the_code() -> None:
    subprocess.run([sys.executable, "tools/manual.py", "--check"], cwd=ROOT, check=True)


def test_a_stale_manual_would_be_found() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import manual
    finally:
        sys.path.remove(str(ROOT / "tools"))
    text = (ROOT / "openapi.md").read_text()
    assert manual.written(text) == text
    stale = text.replace("default `8000`", "default `80`")
    assert stale != text
    assert manual.written(stale) == text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (ROOT / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_two_commands_are_in_the_readme(name: str) -> None:
    text = (ROOT / name).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("serve", "test"):
        assert f"make {target}" in text
        assert f"\n{target}:" in makefile


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 700


def test_the_readmes_say_the_same() -> None:
    """The same commands, replies and figures, in the same order."""
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    blocks = re.compile(r"```.*?```", re.DOTALL)
    assert blocks.findall(english) == blocks.findall(chinese)
    figures = re.compile(r"\d+(?:[.,]\d+)*")
    prose = [
        blocks.sub("", text).replace("README.zh-CN.md", "").replace("README.md", "") for text in (english, chinese)
    ]
    assert sorted(figures.findall(prose[0])) == sorted(figures.findall(prose[1]))

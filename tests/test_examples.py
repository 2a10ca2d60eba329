"""What we show runs: the examples, the reader of docs/extend.md, the commands and settings on our pages."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import tiny_models
from fieldstone.settings import Settings

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(ROOT.glob("examples/[0-9]*.py"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
FAKE = {
    "FIELDSTONE_MODELS__ENCODER": "fake:words",
    "FIELDSTONE_MODELS__GENERATOR": "fake:words",
    "FIELDSTONE_ANSWER__ABSTAIN_BELOW": "0",
    "FIELDSTONE_SYNTHESIZE__WAY": "simrag",  # in another way the fake one asks nothing that is kept
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPECTED = {
    "01_read.py": ["54 documents", "cargo/dangerous-goods.pdf in", "page 1"],
    "02_search.py": ["lexical, rerank: none", "fused, rerank: likelihood", "in tariffs/ alone"],
    "03_answer.py": ["At what swell height", "What does a haircut cost", "confidence"],
    "04_evaluate.py": ["recall@10", "citation-accuracy", "report.html"],
    "05_synthesize.py": ["questions written about 20 passages", "kept with an answer", "\nrejected: "],
    "06_tune_retriever.py": ["questions learnt", "after  MRR@10", "the map was tried in the place of"],
    "07_tune_generator.py": ["questions learnt", "nats a token: ", "F1: ", " is right; "],
    "08_serve.py": ["/api/ask: ", "/v1/chat/completions: ", " [1] "],
    "09_federate.py": ["site-3: ", "round 3: ", " bytes to 3 sites", "was tried in the place of"],
}


def fences(page, language):
    return [code for name, code in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def shown_commands():
    """(page, command line) of every `$ fieldstone …` in a console fence, continued lines joined."""
    for page in PAGES:
        for fence in fences(page, "console"):
            for line in fence.replace("\\\n", " ").splitlines():
                if line.startswith("$ fieldstone "):
                    yield pytest.param(line[2:], id=f"{page.name}: {line[2:60]}")


def run_example(path, folder, environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FIELDSTONE_")}
    kept = {name: os.environ[name] for name in ("FIELDSTONE_CACHE",) if name in os.environ}
    return subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        env=clean | kept | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def check_examples(folder, environment, **others):
    """Run them all in one folder; what each printed, by name. `others`: what some have beside it."""
    printed = {}
    for path in EXAMPLES:
        ran = run_example(path, folder, environment | others.get(path.stem[3:], {}))
        assert ran.returncode == 0, f"{path.name}: {ran.stderr}"
        for words in EXPECTED[path.name]:
            assert words in ran.stdout, f"{path.name} does not print {words!r}: {ran.stdout}"
        printed[path.name] = ran.stdout
    return printed


def test_examples_run_with_fake_models(tmp_path):
    llama = tiny_models.llama(tmp_path / "llama", max_position_embeddings=4096)  # a fake one cannot be tuned
    tiny = {"FIELDSTONE_MODELS__GENERATOR": str(llama), "FIELDSTONE_ANSWER__MAX_TOKENS": "2"}
    printed = check_examples(tmp_path, FAKE, tune_generator=tiny)
    assert re.search(r"\S+, characters \d+ to \d+: \'", printed["03_answer.py"])


@pytest.mark.slow
def test_examples_run_with_the_embedded_models(tmp_path):
    printed = check_examples(tmp_path, {})
    assert re.search(r"nats a token: .*, \+\d\.\d+ \(\+", printed["07_tune_generator.py"])


def test_every_example_is_expected_to_print_something():
    assert {path.name for path in EXAMPLES} == EXPECTED.keys()


@pytest.mark.parametrize("line", list(shown_commands()))
def test_shown_commands_exist_with_their_options(line):
    from fieldstone.cli.app import app

    commands = typer.main.get_command(app).commands
    _, *words = shlex.split(line, comments=True)
    name = next(word for word in words if not word.startswith("-"))
    assert name in commands
    command = commands[name]
    if inner := getattr(command, "commands", None):
        command = inner[words[words.index(name) + 1]]
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"-h", "--help", "--version", "-q", "--quiet"}
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_fences_compile(page):
    for code in fences(page, "python"):
        compile(code, str(page), "exec")


def test_python_fences_of_the_readme_run(tmp_path):
    """One after the other, as a reader would type them, where `examples/harbour` is."""
    codes = fences(ROOT / "README.md", "python")
    if not codes:
        pytest.skip("the README shows no Python")
    script = tmp_path / "readme.py"
    script.write_text("\n".join(codes), encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ran = run_example(script, tmp_path, FAKE)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_every_setting_is_documented_with_its_default():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", page, re.MULTILINE))
    tree = Settings().model_dump(mode="json")
    sections = {name for name, value in tree.items() if isinstance(value, dict)}
    flat = {name: value for name, value in tree.items() if name not in sections}
    flat |= {f"{section}.{name}": value for section in sections for name, value in tree[section].items()}
    assert shown.keys() == flat.keys()
    for name, value in flat.items():
        said = '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)
        assert shown[name] == said, name


def test_the_reader_of_the_guide_is_found_by_its_entry_point(tmp_path):
    guide = ROOT / "docs" / "extend.md"
    code = next(code for code in fences(guide, "python") if "def read_srt" in code)
    points = next(code for code in fences(guide, "toml") if "fieldstone.readers" in code)
    name, target = re.search(r'^(\w+) = "(subtitles:\w+)"$', points, re.MULTILINE).groups()
    (tmp_path / "subtitles.py").write_text(code, encoding="utf-8")
    info = tmp_path / "fieldstone_subtitles-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fieldstone-subtitles\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fieldstone.readers]\n{name} = {target}\n")
    films = tmp_path / "films"
    films.mkdir()
    (films / "harbour.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,500\nThe tide\nturns.\n\n2\n00:00:03,000 --> 00:00:04,000\nWe leave.\n"
    )
    (films / "silent.srt").write_text("\n")
    script = tmp_path / "script.py"
    script.write_text(
        "from fieldstone import find_files, read_files\n"
        "for result in read_files(find_files('films')):\n"
        "    print(result.source, [d.text for d in result.documents], result.reason)\n"
    )
    ran = run_example(script, tmp_path, {"PYTHONPATH": str(tmp_path)})
    assert ran.stdout.splitlines() == [
        "harbour.srt ['The tide turns.\\nWe leave.'] None",
        "silent.srt [] no subtitles in it",
    ], ran.stderr

"""What an import costs, and what may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fieldstone

SOURCE = Path(fieldstone.__file__).parent

FOUNDATION = {
    "atomic",
    "languages",
    "records",
    "errors",
    "schema",
    "settings",
    "progress",
    "quotes",
    "spread",
}
GROUND = FOUNDATION | {
    "models",
    "library",
    "search",
    "workspace",
    "prompts",
    "examples",
    "in_use",
    "feedback",
}
STEPS = {"read", "split", "synthesize", "tune", "evaluate", "gate", "answer"}
ABOVE = {"recipes", "serve", "federate", "doctor", "over_ray"}
STEPS_OF_STEPS = {("evaluate", "answer"), ("gate", "evaluate"), ("tune", "search")}


def fresh(code: str) -> str:
    """What the code prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def takes_less_than(seconds: float, code: str) -> bool:
    """Of the processor, in one of five runs: the machine may be busy with something else."""
    timed = f"import time; began = time.process_time()\n{code}\nprint(time.process_time() - began)"
    return any(float(fresh(timed).splitlines()[-1]) < seconds for _ in range(5))


def test_the_import_is_quick() -> None:
    assert takes_less_than(0.3, "import fieldstone")


def test_the_help_is_quick() -> None:
    code = "import sys; sys.argv = ['fieldstone', '--help']\nfrom fieldstone.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass"
    assert takes_less_than(0.3, code)


@pytest.mark.parametrize(
    "module",
    [
        "fieldstone",
        "fieldstone.cli.app",
        "fieldstone.recipes",
        "fieldstone.recipes.tuning",
        "fieldstone.answer",
        "fieldstone.read",
        "fieldstone.synthesize",
    ],
)
def test_no_heavy_module_is_loaded(module: str) -> None:
    heavy = {"torch", "transformers", "peft", "datasets", "sklearn", "pandas", "faiss", "pptx", "docx"}
    heavy |= {"fastapi", "uvicorn"}
    assert fresh(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_every_public_name_is_there() -> None:
    names = fresh("import fieldstone\nfor name in fieldstone.__all__: print(name, getattr(fieldstone, name))")
    assert len(names.splitlines()) >= len(fieldstone.__all__)
    assert set(fieldstone.__all__) <= set(dir(fieldstone))
    with pytest.raises(AttributeError, match="nosuch"):
        _ = fieldstone.nosuch


def test_the_type_checker_sees_the_same_names() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: str(node.module).removeprefix("fieldstone.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == fieldstone._HOME


def test_no_public_name_hides_a_module() -> None:
    modules = {path.stem for path in SOURCE.iterdir()}
    assert not modules & set(fieldstone.__all__)


def imports() -> Iterator[tuple[str, str, str]]:
    """(file, its part of the package, a part that it imports) for every import inside the package."""
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        part = relative.parts[0].removesuffix(".py")
        if part == "__init__":
            continue  # the list of public names
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{relative}: a relative import"
                names = [str(node.module)]
                if node.module == "fieldstone":
                    names = [f"fieldstone.{alias.name}" for alias in node.names]
            for name in names:
                package, _, rest = name.partition(".")
                if package == "fieldstone" and rest:
                    yield str(relative), part, rest.partition(".")[0]


def allowed(part: str, imported: str) -> bool:
    """What DESIGN.md says under "What may import what"."""
    if part == imported or part == "cli":
        return True
    if part in FOUNDATION:
        return imported in FOUNDATION
    if part in GROUND:
        return imported in GROUND
    if part in STEPS:
        return imported in GROUND or (part, imported) in STEPS_OF_STEPS
    if part in ("serve", "federate") and imported == "recipes":
        return True
    return part in ABOVE and imported in GROUND | STEPS


def test_layers() -> None:
    found = list(imports())
    assert len(found) > 50
    known = GROUND | STEPS | ABOVE | {"cli"}
    assert {part for _, part, _ in found} <= known, "a new module: say in this test where it belongs"
    assert [f"{file} imports {other}" for file, part, other in found if not allowed(part, other)] == []


def test_the_layers_are_those_of_the_design() -> None:
    assert allowed("evaluate", "answer")
    assert allowed("tune", "search")
    assert allowed("recipes", "read")
    assert not allowed("answer", "evaluate")
    assert not allowed("models", "read")
    assert not allowed("records", "library")
    assert not allowed("split", "read")
    assert allowed("serve", "recipes")
    assert not allowed("recipes", "serve")
    assert not allowed("serve", "cli")
    assert not allowed("search", "recipes")

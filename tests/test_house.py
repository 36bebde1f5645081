"""The house's own rules: who imports whom, what an import brings along, what the wheel holds."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlx_speech  # isort: skip  (first: it loads the BLAS)

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, CONVERTERS = ROOT / "mlx_speech", ROOT / "converters"
TOP = "__init__"

# A room may import those before it, and itself. Beside the line of DESIGN.md stand the rooms it leaves open.
ORDER = [
    {"types", "errors", "interrupt"},
    {"memory", "atomic"},
    {"runtime", "registry", "weights", "writers", "readers", "voices", "spool"},
    {"audio", "features", "hub", "quantization"},
    {"layers"},
    {"models"},
    {"stages"},
    {"loading"},
    {"pipeline"},
    {TOP},
    {"cli"},
]
RANK = {room: n for n, rooms in enumerate(ORDER) for room in rooms}
# no model behind these, whatever their place in the line
PLAIN = {"registry": {"errors"}, "weights": {"errors"}, "hub": {"errors", "registry"}}
NEVER = {"torch", "transformers", "whisper", "tests", "parity", "examples"}


@dataclass(frozen=True)
class Import:
    """One import: who, what, and whether it is carried out when the module is."""

    file: Path
    line: int
    room: str
    target: str
    eager: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"

    @property
    def target_room(self) -> str | None:
        """The room of ours that is imported, or None."""
        parts = self.target.split(".")
        if parts[0] != "mlx_speech":
            return None
        return parts[1] if len(parts) > 1 else TOP


def modules() -> Iterator[tuple[Path, str]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file, file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for file in sorted(CONVERTERS.rglob("*.py")):
        yield file, "converters"


def imports_of(file: Path, room: str) -> Iterator[Import]:
    def visit(node: ast.AST, eager: bool) -> Iterator[Import]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            eager = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            eager = False
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, room, a.name, eager) for a in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            for alias in node.names:
                yield Import(file, node.lineno, room, _target(node.module or "", alias.name), eager)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, eager)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), True)


def _target(module: str, name: str) -> str:
    """``from mlx_speech import hub`` is a module, ``from mlx_speech import load`` what the package offers."""
    if module == "mlx_speech" and not ((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()):
        return module
    return f"{module}.{name}"


IMPORTS = [found for file, room in modules() for found in imports_of(file, room)]
OURS = [i for i in IMPORTS if i.target_room is not None]


def listed(wrong: list[Import]) -> str:
    return "\n".join(map(str, wrong))


# --- who imports whom -------------------------------------------------------------------------------------


def test_every_room_has_its_place():
    rooms = {room for _, room in modules()} - {"converters"}
    assert rooms <= set(RANK), "a new room: give it its place in ORDER"
    assert len(OURS) > 100, "the imports are no longer found"


def test_no_room_imports_a_later_one():
    wrong = [
        i
        for i in OURS
        if i.room != "converters" and i.target_room != "converters" and RANK[i.room] < RANK[i.target_room]
    ]
    assert not wrong, listed(wrong)


def test_rooms_of_one_rank_do_not_import_each_other():
    wrong = [
        i
        for i in OURS
        if i.room != i.target_room
        and i.room in RANK
        and i.target_room in RANK
        and RANK[i.room] == RANK[i.target_room]
    ]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize("room", PLAIN)
def test_plain_rooms_know_no_model(room):
    wrong = [i for i in OURS if i.room == room and i.target_room not in PLAIN[room] | {room}]
    assert not wrong, listed(wrong)


def test_only_loading_imports_converters_and_only_in_functions():
    found = [i for i in OURS if i.target_room == "converters" and i.room != "converters"]
    assert {i.room for i in found} == {"loading"}, listed(found)
    assert not [i for i in found if i.eager], listed(found)


def test_converters_import_no_stage_and_no_pipeline():
    """Their command may share the other command's looks."""
    allowed = {
        "converters",
        "errors",
        "weights",
        "models",
        "layers",
        "loading",
        "hub",
        "quantization",
        "registry",
        "runtime",
        TOP,
    }
    wrong = [
        i
        for i in OURS
        if i.room == "converters"
        and i.target_room not in allowed | ({"cli"} if i.file == CONVERTERS / "cli.py" else set())
    ]
    assert not wrong, listed(wrong)


def test_nothing_imports_torch_tests_or_parity():
    """But for the originals that a certificate runs, in functions that only ``--certify`` calls."""
    wrong = [
        i
        for i in IMPORTS
        if i.target.split(".")[0] in NEVER and (i.eager or i.file != CONVERTERS / "_originals.py")
    ]
    assert not wrong, listed(wrong)


def test_models_take_numbers_from_nowhere():
    """Architecture only: no file, no network, no checkpoint in models and layers."""
    io = {
        "pathlib",
        "os",
        "io",
        "json",
        "huggingface_hub",
        "safetensors",
        "zipfile",
        "pickle",
        "urllib",
        "requests",
    }
    wrong = [i for i in IMPORTS if i.room in ("models", "layers") and i.target.split(".")[0] in io]
    assert not wrong, listed(wrong)


def _requirements() -> tuple[set[str], set[str]]:
    """Import names of the declared dependencies, and of the optional ones."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(lines: list[str]) -> set[str]:
        found = {re.match(r"[\w.-]+", line)[0].lower().replace("-", "_") for line in lines}
        return {{"faiss_cpu": "faiss"}.get(n, n) for n in found}

    return names(project["dependencies"]), names(
        [x for lines in project["optional-dependencies"].values() for x in lines]
    )


def test_what_is_imported_is_declared():
    base, optional = _requirements()
    foreign = [
        i for i in IMPORTS if i.target_room is None and i.target.split(".")[0] not in sys.stdlib_module_names
    ]
    # the originals are the user's to install: --certify names the one it lacks
    foreign = [i for i in foreign if i.eager or i.file != CONVERTERS / "_originals.py"]
    lazy = {
        PACKAGE / "layers" / n for n in ("_loops.py", "_decoding.py")
    }  # themselves imported lazily, where their extra is installed
    wrong = [
        i
        for i in foreign
        if i.target.split(".")[0] not in (base if i.eager and i.file not in lazy else base | optional)
    ]
    assert not wrong, listed(wrong)


# --- what an import brings along --------------------------------------------------------------------------

WATCH = """if True:
    import sys
    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {"torch", "transformers", "tests", "parity"}:
                raise SystemExit(f"{name} was asked for")
    sys.meta_path.insert(0, Watch())
    %s
"""


def run(code: str, cwd: Path, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", WATCH % code],
        cwd=cwd,
        env=os.environ | {"MLX_SPEECH_BLAS": "none", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_the_watch_works(tmp_path):
    with pytest.raises(AssertionError, match="torch was asked for"):
        run("import torch", tmp_path)


def test_importing_brings_no_torch_and_no_converter(tmp_path):
    found = run("import mlx_speech; print(*sorted(sys.modules))", tmp_path).split()
    assert "mlx_speech.loading" in found
    assert not [m for m in found if m.startswith("mlx_speech.converters")]


@pytest.mark.parametrize(("before", "after"), [("", "0"), ("1", "1")])
def test_importing_keeps_mlx_from_ending_long_lives_unless_told_to(tmp_path, before, after):
    name = "MLX_ENABLE_CACHE_THRASHING_CHECK"
    given = f"os.environ[{name!r}] = {before!r}" if before else f"os.environ.pop({name!r}, None)"
    assert run(f"import os; {given}; import mlx_speech; print(os.environ[{name!r}])", tmp_path) == after


def test_every_module_can_be_imported_and_none_wants_torch(tmp_path):
    names = []
    for file, room in modules():
        base, prefix = (
            (CONVERTERS, "mlx_speech.converters") if room == "converters" else (PACKAGE, "mlx_speech")
        )
        parts = file.relative_to(base).with_suffix("").parts
        names.append(".".join([prefix, *(p for p in parts if p != TOP)]))
    code = f"import importlib; [importlib.import_module(n) for n in {names!r}]; print(len({names!r}))"
    assert int(run(code, tmp_path)) == len(names) > 30


# --- the wheel --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.Path:
    """Built from a copy of the sources, with the tools that are here."""
    if not importlib.util.find_spec("build"):
        pytest.skip("needs the test extra's build")
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs the test extra's setuptools>=77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "mlx_speech", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONVERTERS, source / "converters", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY_LICENSES.md"):
        shutil.copyfile(ROOT / name, source / name)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(folder / "dist"),
            str(source),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_one_package_and_where_its_commands_begin(wheel):
    found = sorted(p.name for p in wheel.iterdir())
    assert found == [
        "mlx_speech",
        f"mlx_speech_pipeline-{mlx_speech.__version__}.dist-info",
    ]


def test_the_wheel_holds_every_file(wheel):
    sources = {
        *(p.relative_to(ROOT) for p in PACKAGE.rglob("*")),
        *("mlx_speech" / p.relative_to(ROOT) for p in CONVERTERS.rglob("*")),
    }
    packed = {p.relative_to(wheel) for p in (wheel / "mlx_speech").rglob("*")}

    def files(paths: set[Path], root: Path) -> set[str]:
        kept = {p for p in paths if "__pycache__" not in p.parts and p.suffix}
        return {str(p) for p in kept}

    assert files(packed, wheel) == files(sources, ROOT)
    assert (wheel / "mlx_speech" / "py.typed").is_file()
    assert (wheel / "mlx_speech" / "assets" / "silero-vad" / "LICENSE").is_file()


def test_the_wheel_carries_its_licences(wheel):
    (info,) = wheel.glob("*.dist-info")
    licences = {str(p.relative_to(info / "licenses")) for p in (info / "licenses").rglob("*") if p.is_file()}
    assert {"LICENSE", "THIRD_PARTY_LICENSES.md", "mlx_speech/assets/silero-vad/LICENSE"} <= licences
    assert "License-Expression: MIT" in (info / "METADATA").read_text(encoding="utf-8")
    assert "mlx_speech.cli:main" in (info / "entry_points.txt").read_text()


def test_the_wheel_works_by_itself(wheel, tmp_path):
    """Isolated, without the checkout: the bundled model loads through the shipped converters."""
    code = (
        f"sys.path.insert(0, {str(wheel)!r}); "
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; "
        "import mlx_speech; model = mlx_speech.load('silero-vad'); "
        "import mlx_speech.converters.cli as c; print(mlx_speech.__file__, c.__file__, model.origin.layout)"
    )
    package, command, layout = run(code, tmp_path, "-I").split()
    assert Path(package).is_relative_to(wheel)
    assert Path(command).is_relative_to(wheel)
    assert layout == "silero-jit"

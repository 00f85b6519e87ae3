"""Conventions that a syntax tree can tell: no module state, one clock, one reader of the environment, files of a readable length."""

import ast

import pytest

from tests.house.sources import PACKAGE, ROOT, dotted, module_name, place, python_files, tree

LONGEST = 500
MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_CALLS = {"list", "dict", "set", "defaultdict", "deque", "OrderedDict", "Counter", "ContextVar", "local", "threading.local"}
NOW = {
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.date.today",
}
# Migrations name their revision in module variables because Alembic reads them there.
ALEMBIC = {"revision", "down_revision", "branch_labels", "depends_on"}
# What the operating system holds once a process cannot be passed down: each module here says why.
ONCE_A_PROCESS = {"tidemill.store.online_lmdb"}  # LMDB breaks when one process opens the same file twice


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    folders = [ROOT / name for name in ("src", "tests", "benchmarks", "scripts")]
    lengths = {path: len(path.read_text("utf-8").splitlines()) for folder in folders for path in python_files(folder)}
    assert not [f"{place(path)} has {length} lines; split it by noun" for path, length in lengths.items() if length > LONGEST]


def test_modules_hold_no_mutable_state() -> None:
    faults = [
        f"{place(path, node)}: global {', '.join(node.names)}"
        for path in python_files(PACKAGE)
        if module_name(path) not in ONCE_A_PROCESS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Global)
    ]
    for path in python_files(PACKAGE):
        for node in tree(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            value = getattr(node, "value", None)
            mutable = isinstance(value, MUTABLE) or (isinstance(value, ast.Call) and dotted(value.func) in MUTABLE_CALLS)
            if mutable and not all(name.isupper() or name == "__all__" or name in ALEMBIC for name in names):
                faults.append(f"{place(path, node)}: {', '.join(names)} could change; write a CONSTANT, or pass it in")
    assert not faults


def test_tables_named_as_constants_are_never_changed() -> None:
    faults = []
    for path in (path for path in python_files(PACKAGE) if module_name(path) not in ONCE_A_PROCESS):
        constants = {
            target.id
            for node in tree(path).body
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else [])
            if isinstance(target, ast.Name) and target.id.isupper()
        }
        faults += [
            f"{place(path, node)}: {dotted(node.value)}[...] is written to"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del) and dotted(node.value) in constants
        ]
    assert not faults


@pytest.mark.parametrize(
    ("names", "owner", "instead"),
    [
        (NOW, "tidemill.core.clock", "ask a Clock"),
        ({"time.time", "time.time_ns"}, "tidemill.core.clock", "ask a Clock, or core.clock.wall"),
        ({"os.environ", "os.getenv", "os.putenv"}, "tidemill.core.settings", "ask Settings"),
    ],
    ids=["now", "wall", "environment"],
)
def test_one_module_owns(names: set[str], owner: str, instead: str) -> None:
    owners = {owner, "tidemill.core.ids"} if "time.time_ns" in names else {owner}
    faults = [
        f"{place(path, node)}: {dotted(node)}; {instead}"
        for path in python_files(PACKAGE)
        if module_name(path) not in owners
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and dotted(node) in names
    ]
    assert not faults


def test_only_values_and_codec_name_msgspec() -> None:
    owners = {"tidemill.core.values", "tidemill.core.codec"}
    faults = [
        place(path, node)
        for path in python_files(PACKAGE)
        if module_name(path) not in owners
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "msgspec" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "msgspec")
    ]
    assert not faults


def test_modules_have_no_catch_all_names() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "base", "manager", "legacy", "misc"}
    assert not [place(path) for path in PACKAGE.rglob("*") if path.suffix in {"", ".py"} and path.stem in banned]


def test_every_module_says_what_it_owns() -> None:
    assert not [place(path) for path in python_files(PACKAGE) if not ast.get_docstring(tree(path)) and "migrations" not in path.parts]

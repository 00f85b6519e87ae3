"""Imports only go down, in no circle, and never inside a function. The floors themselves are checked by `lint-imports` too."""

import ast
from graphlib import CycleError, TopologicalSorter

from tests.house.sources import PACKAGE, functions, module_name, own_imports, place, python_files, tree

FLOORS = (
    {"core"},
    {"store", "catalog", "compute", "stats", "client"},
    {"govern"},
    {"checks"},
    {"datasets", "tracking", "registry"},
    {"pipelines", "features", "training", "trust"},
    {"serving"},
    {"deploy", "monitor"},
    {"automate", "deliver"},
    {"server", "simulate"},
    {"cli"},
)
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}


def test_every_package_stands_on_a_floor() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages <= set(FLOOR_OF)


def test_imports_only_go_down() -> None:
    faults = []
    # The root's own files see the door; projects are copied for users, who see the root.
    for path in (path for path in python_files(PACKAGE) if path.parent != PACKAGE and "projects" not in path.parts):
        package = path.relative_to(PACKAGE).parts[0]
        for node, name in own_imports(tree(path)):
            parts = name.split(".")
            if name == "tidemill.__version__":  # the one thing that the root owns
                continue
            if len(parts) == 1 or parts[1] not in FLOOR_OF or package not in FLOOR_OF:
                faults.append(f"{place(path, node)}: import {name}: a module inside never imports the root")
            elif parts[1] != package and FLOOR_OF[parts[1]] >= FLOOR_OF[package]:
                faults.append(f"{place(path, node)}: {package} (floor {FLOOR_OF[package]}) imports {name} (floor {FLOOR_OF[parts[1]]})")
    assert not faults


def test_no_module_of_ours_is_imported_inside_a_function() -> None:
    faults = [
        f"{place(path, node)}: import {name}"
        for path in python_files(PACKAGE)
        for function in functions(tree(path))
        for node, name in own_imports(function)
    ]
    assert not faults


def test_modules_import_each_other_in_no_circle() -> None:
    modules = {module_name(path): path for path in python_files(PACKAGE)}
    graph = {
        module: {known for _, name in own_imports(tree(path)) if (known := _module_of(name, modules)) and known != module}
        for module, path in modules.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        raise AssertionError(f"modules import each other in a circle: {' <- '.join(circle.args[1])}") from None


def test_package_init_files_hold_a_docstring_and_nothing_else() -> None:
    faults = []
    for path in python_files(PACKAGE):
        if path.name == "__init__.py" and path.parent != PACKAGE:
            body = tree(path).body
            if len(body) != 1 or not (isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)):
                faults.append(place(path))
    assert not faults


def test_every_folder_of_the_package_with_python_in_it_is_a_package() -> None:
    folders = {path.parent for path in python_files(PACKAGE)}
    # Alembic runs its files by their path; projects are copied for users. Nobody imports either.
    apart = {"alembic", "migrations", "projects"}
    assert not [place(folder) for folder in folders if not apart & set(folder.parts) and not (folder / "__init__.py").exists()]


def _module_of(name: str, modules: dict[str, object]) -> str | None:
    """Return the module that an imported name comes from: the name itself when it is a module, else its parent."""
    head = name.rpartition(".")[0]
    return name if name in modules else head if head in modules else None

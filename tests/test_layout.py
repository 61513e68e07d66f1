"""The order of the folders: imports run one way, and nobody reads another module's privates."""

import ast
from pathlib import Path

import sklearn_soapbpnn

ROOT = Path(sklearn_soapbpnn.__file__).parent
# each may import what stands before it
ORDER = (
    *("_version", "data", "_estimators", "datasets", "descriptors", "potentials", "nn"),
    *("preprocessing", "model", "metrics", "doctor", "training", "selection", "interfaces"),
    *("_conversions", "_regressor", "_doctor", "__init__"),
)
ESTIMATORS = {"model", "estimator", "regressor"}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
FILES = [path for path in FILES if "scripts" not in path.parts]


def parse(path):
    return ast.parse((ROOT / path).read_text())


def name_of(path):
    parts = path.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def find_module(parts):
    """Return the module that a dotted name within the package stands for."""
    for end in range(len(parts), 0, -1):
        target = ROOT.joinpath(*parts[:end])
        if target.is_dir() or target.with_suffix(".py").exists():
            return tuple(parts[:end])
    return ("__init__",)


def imports_of(path):
    """Yield the modules of the package that a module imports, anywhere but for annotations."""
    folder, tree = path.parent.parts, parse(path)
    typing = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in set(ast.walk(tree)) - typing:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = folder[: len(folder) - node.level + 1]
        base += tuple(node.module.split(".")) if node.module else ()
        for alias in node.names:
            yield find_module((*base, alias.name))


def test_imports_run_one_way():
    for path in FILES:
        own = name_of(path)[0]
        for module in imports_of(path):
            if module[0] != own:
                assert ORDER.index(module[0]) < ORDER.index(own), (
                    f"{path} imports {'.'.join(module)}"
                )


def test_no_circles():
    """Not even of imports within functions; a folder's index stands for all that it re-exports."""
    graph = {}
    for path in FILES:
        own = name_of(path)
        found = {module for module in imports_of(path) if module != own}
        # a module that imports from its own folder's index would close a circle
        graph.setdefault(own, set()).update(found)
    state = {}

    def visit(module, trail):
        if state.get(module) == "done":
            return
        assert state.get(module) != "open", " -> ".join(".".join(m) for m in (*trail, module))
        state[module] = "open"
        for other in graph.get(module, ()):
            visit(other, (*trail, module))
        state[module] = "done"

    for module in graph:
        visit(module, ())


def defined_in(tree):
    """Return the private names that a module gives to its functions, classes and objects."""
    names = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_no_module_reads_privates_of_another():
    for path in FILES:
        tree = parse(path)
        own = defined_in(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                taken = [alias.name for alias in node.names if is_private(alias.name)]
                assert not taken, f"{path}:{node.lineno} imports {taken}"
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                base = node.value
                is_own = isinstance(base, ast.Name) and base.id in ("self", "cls")
                is_super = isinstance(base, ast.Call) and getattr(base.func, "id", "") == "super"
                # scikit-learn's name for the constraints of an estimator's parameters
                assert is_own or is_super or node.attr == "_parameter_constraints", (
                    f"{path}:{node.lineno} reads {ast.unparse(node)}"
                )


def test_no_function_sets_attributes_of_an_estimator():
    for path in FILES:
        tree = parse(path)
        methods = {
            method
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for method in node.body
            if isinstance(method, ast.FunctionDef)
        }
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or function in methods:
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    base = node.value
                    assert not (isinstance(base, ast.Name) and base.id in ESTIMATORS), (
                        f"{path}:{node.lineno} sets {ast.unparse(node)}"
                    )

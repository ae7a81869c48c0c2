"""Do imports point one way? Commands -> training -> evaluation, serving -> modeling -> data."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parent.parent / "tce_tf"
COMMON = {"compat", "errors", "config"}
# A command by its name (DESIGN 5's are the files at the top), thin as the others are.
COMMANDS = {PACKAGE / "serving" / "client.py"}
MAY_IMPORT = {
    "data": {"data"},
    "modeling": {"modeling", "data"},
    "serving": {"serving", "modeling", "data"},
    "evaluation": {"evaluation", "serving", "modeling", "data"},
    # optimizers and schedules are what the golden tests of modeling use, not modeling itself.
    "visualization": {"visualization", "evaluation", "serving", "modeling", "data"},
    "training": {"training", "evaluation", "serving", "modeling", "data"},
}


def imported(path):
    """Parts of tce_tf that a file imports, at any depth of nesting."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tce_tf"):
            parts = node.module.split(".")
            if len(parts) > 1:
                yield parts[1]
            else:
                yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("tce_tf."):
                    yield alias.name.split(".")[1]


def test_imports_point_one_way():
    checked = 0
    for folder, allowed in MAY_IMPORT.items():
        for path in (PACKAGE / folder).glob("*.py"):
            wrong = set(imported(path)) - allowed - COMMON
            wrong -= {"command"} if path in COMMANDS else set()
            assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"
            checked += 1
    assert checked > 25


def test_no_flags_in_libraries_and_none_defined_at_import():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        text = path.read_text()
        assert "FLAGS" not in text or path.name == "command.py", path
        if path.parent != PACKAGE and path not in COMMANDS:
            assert "absl import flags" not in text, path
        for node in tree.body:
            calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
            if isinstance(node, ast.Expr | ast.Assign):
                assert not any("DEFINE" in ast.dump(call.func) for call in calls), path


def test_every_module_says_what_it_answers():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_tests_share_one_mirrored_strategy():
    """A second one over the same CPU devices makes collectives of later tests abort."""
    for path in pathlib.Path(__file__).parent.rglob("*.py"):
        made = "MirroredStrategy" + "("
        assert made not in path.read_text(), f"{path}: use strategies.make_strategy('mirrored')"

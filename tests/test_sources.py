"""Can a file from anywhere be run by reading it? No pickle, no eval, no shell in any source."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "tce_tf").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
RUNNING = {"eval", "exec", "compile", "__import__", "system", "popen"}
# Names a class of pickle's errors, which torch.load raises; nothing is unpickled.
NAMES_AN_ERROR = ROOT / "tce_tf" / "modeling" / "torch_file.py"
# The only files that speak to a network by themselves: the client, and its stand-in for a proxy.
SPEAK = {ROOT / "tce_tf" / "serving" / "remote_model.py"}


def calls(tree):
    """(what is called, as it is written; its keywords) of each call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {k.arg: k.value for k in node.keywords}
            yield ast.unparse(node.func), keywords


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def test_nothing_is_unpickled_or_run():
    loads = 0
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        found = {name.partition(".")[0] for name in imports(tree)} & PICKLING
        if path == NAMES_AN_ERROR:
            used = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            assert {u for u in used if u.startswith("pickle.")} == {"pickle.UnpicklingError"}
        else:
            assert not found, f"{path} imports {found}"
        for called, keywords in calls(tree):
            last = called.rpartition(".")[2]
            if last in RUNNING:
                assert called in ("re.compile", "model.compile", "lowered.compile"), (path, called)
            if called in ("np.load", "numpy.load"):
                assert is_constant(keywords.get("allow_pickle"), False), path
                loads += 1
            elif called == "torch.load":
                assert is_constant(keywords.get("weights_only"), True), path
                loads += 1
            assert not is_constant(keywords.get("allow_pickle"), True), path
            assert not is_constant(keywords.get("shell"), True), path
            assert last not in ("load_model", "unsafe_load", "mktemp"), (path, called)
    assert loads >= 3


def test_only_the_client_speaks_to_a_network():
    for path in SOURCES:
        network = {"urllib.request", "http.client", "socket", "requests", "grpc", "ftplib", "ssl"}
        found = set(imports(ast.parse(path.read_text()))) & network
        if path in SPEAK:
            assert found == {"urllib.request", "http.client", "grpc"}
        else:
            assert not found or "benchmarks" in path.parts, (path, found)

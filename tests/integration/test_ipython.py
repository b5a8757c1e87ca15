"""The magics of IPython."""

from __future__ import annotations

import asyncio

import pytest
import rprof

interactiveshell = pytest.importorskip(
    "IPython.core.interactiveshell", reason="IPython is not installed"
)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = interactiveshell.InteractiveShell()
    shell.run_line_magic("load_ext", "rprof")
    shell.run_cell("from burning import burn_one, burn_two")
    return shell


def names(profile):
    return {row.name for row in profile.top(100, "cpu")}


def told(profile):
    """What says why something was not seen."""
    return profile.totals, profile.comments, rprof.status(), rprof._loading.native().counters()


def test_a_statement(shell):
    profile = shell.run_line_magic("rprof", "burn_one(0.1)")
    assert isinstance(profile, rprof.Profile)
    assert "burning.burn_one" in names(profile), told(profile)
    assert shell.user_ns["_rprof"] is profile


def test_a_cell_keeps_its_variables_and_its_errors(shell, capsys, tmp_path):
    path = tmp_path / "cell.pb.gz"
    cell = "found = burn_two(0.1)\nburn_one(0.2)\n1 / 0\n"
    profile = shell.run_cell_magic("rprof", f"-r 500 -a -o {path}", cell)
    assert "found" in shell.user_ns
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert {"burning.burn_one", "burning.burn_two"} <= names(profile), told(profile)
    assert profile.period_ns == 2_000_000
    assert rprof.load(path).totals == profile.totals


def test_the_tree_as_text(shell, capsys):
    assert shell.run_line_magic("rprof", "-t burn_one(0.1)") is None
    assert "burning.burn_one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [("", "nothing to profile"), ("-x f()", "-x is no option"), ("-r fast f()", "no number of Hz")],
)
def test_slips_are_explained(shell, capsys, line, said):
    assert shell.run_line_magic("rprof", line) is None
    assert said in capsys.readouterr().out


AWAITING = {
    "a cell": "%%rprof -r 500\nimport asyncio\nfound = burn_two(0.05)\nawait asyncio.sleep(0.05)\n",
    "a loop": "%%rprof\nasync for _ in steps():\n    found = burn_two(0.05)\n",
    "a statement": "größe = %rprof -r 500 found = await later(burn_two, 0.05)\n",
    "a name without %": "rprof found = await later(burn_two, 0.05)\n",
}
LATER = """
import asyncio
async def later(function, *words):
    await asyncio.sleep(0.05)
    return function(*words)
async def steps():
    for _ in range(2):
        await asyncio.sleep(0.01)
        yield
"""


def run_as_jupyter_does(shell, code):
    """Run a cell on an event loop that runs already, as the kernel does; return its result."""

    async def run():
        cell = shell.transform_cell(code)
        if not shell.should_run_async(code, transformed_cell=cell):
            return shell.run_cell(code)
        return await shell.run_cell_async(code, transformed_cell=cell)

    return asyncio.run(run())


@pytest.mark.parametrize("runs", ["in a terminal", "in Jupyter"])
@pytest.mark.parametrize("kind", AWAITING)
def test_what_is_awaited_is_profiled(shell, kind, runs):
    shell.run_cell(LATER)
    if runs == "in Jupyter":
        result = run_as_jupyter_does(shell, AWAITING[kind])
    else:
        result = shell.run_cell(AWAITING[kind])
    result.raise_error()
    assert "found" in shell.user_ns
    profile = shell.user_ns["_rprof"]
    assert "burning.burn_two" in names(profile), told(profile)
    assert shell.user_ns.get("größe", profile) is profile


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("%%rprof -x\nawait later(print, 1)", "-x is no option"),
        ("%rprof await later(print, 1) +", "SyntaxError"),
        ("%%rprof\nawait later(print, 'one')\n1 / 0", "ZeroDivisionError"),
        ("%%rprof -t\nawait later(burn_one, 0.1)", "burning.burn_one"),
        ("%%rprof\nimport asyncio\nprint('a plain cell')", "a plain cell"),
    ],
)
def test_slips_are_explained_where_a_loop_runs(shell, capsys, code, said):
    shell.run_cell(LATER)
    run_as_jupyter_does(shell, code)
    assert said in capsys.readouterr().out


def test_the_shell_tells_of_each_cell_once(shell):
    begun, ended = [], []
    shell.run_cell(LATER)
    shell.events.register("pre_run_cell", lambda info: begun.append(info.raw_cell))
    shell.events.register("post_run_cell", lambda result: ended.append(result.info.raw_cell))
    run_as_jupyter_does(shell, "%%rprof\nawait later(burn_one, 0.01)\n")
    assert begun[-1] == ended[0] == "await later(burn_one, 0.01)\n"
    assert len(ended) == 1


def test_loading_it_again_changes_nothing(shell):
    shell.run_cell(LATER)
    rprof.load_ipython_extension(shell)
    run_as_jupyter_does(shell, "%rprof await later(burn_one, 0.05)").raise_error()
    assert "burning.burn_one" in names(shell.user_ns["_rprof"])


def test_a_kernel_of_jupyter(tmp_path, monkeypatch):
    manager = pytest.importorskip("jupyter_client.manager", reason="it is not installed")
    pytest.importorskip("ipykernel", reason="it is not installed")
    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    kernel, client = manager.start_new_kernel(kernel_name="python3")
    try:
        told = []

        def run(code):
            told.clear()
            client.execute_interactive(code, timeout=60, output_hook=tell)

        def tell(message):
            content = message["content"]
            told.append(str(content.get("text") or content.get("evalue") or content.get("data")))

        run(f"%load_ext rprof\n{LATER}")
        run("%%rprof\nfound = await later(sum, [1, 2])")
        assert any("<rprof.Profile of" in text for text in told), told
        run("found + 40")
        assert "{'text/plain': '43'}" in told, told
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)

"""Where programs run: deleted directories, odd names, streams, containers, directories shared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import rprof


def rprof_command(directory, *words, before=(), **more):
    """Run the command; what it does to stdin and so on is in `before`, and before that."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RPROF_")}
    return subprocess.run(
        [*before, sys.executable, "-m", "rprof", *map(os.fspath, words)],
        cwd=directory,
        env=environment | more.pop("variables", {}),
        capture_output=True,
        timeout=120,
        check=False,
        **more,
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A profile with a name that no 8-bit encoding has."""
    directory = tmp_path_factory.mktemp("recorded")
    script = directory / "app.py"
    script.write_text(
        "import time\n"
        "def straße_日本():\n"
        "    end = time.time() + 0.2\n"
        "    while time.time() < end: sum(range(999))\n"
        "def plain(): straße_日本()\n"
        "plain()\n",
        encoding="utf-8",
    )
    done = rprof_command(directory, "run", "-q", "-o", "app.pb.gz", script)
    assert done.returncode == 0, done.stderr
    return directory / "app.pb.gz"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "euc-jp", "utf-8"])
@pytest.mark.parametrize("verb", ["top", "tree", "diff"])
def test_output_has_what_the_encoding_has_and_escapes_for_the_rest(recorded, verb, encoding):
    files = [recorded, recorded] if verb == "diff" else [recorded]
    done = rprof_command(
        recorded.parent, verb, *files, variables={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    if verb != "diff":
        assert "plain" in text
        name = "straße_日本".encode(encoding, "backslashreplace").decode(encoding)
        assert name in text
    if verb == "tree":
        assert ("└" in text) is (encoding in ("utf-8", "euc-jp")) is ("`- " not in text)


@pytest.mark.parametrize("verb", ["top", "tree", "--version", "export", "run"])
def test_a_full_device_is_told_in_a_sentence(recorded, verb):
    words = {
        "export": ["export", recorded, "-o", recorded.with_name("x.md")],
        "run": ["run", "-q", "-c", "pass"],
    }.get(verb, [verb, recorded] if not verb.startswith("-") else [verb])
    with open("/dev/full", "wb") as full:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RPROF_")}
        command = [sys.executable, "-m", "rprof", *map(os.fspath, words)]
        for streams in (
            {"stdout": full, "stderr": subprocess.PIPE},
            {"stdout": subprocess.PIPE, "stderr": full},
        ):
            done = subprocess.run(
                command, cwd=recorded.parent, env=environment, timeout=60, check=False, **streams
            )
            says = verb in ("top", "tree", "--version")
            if done.stderr is None:
                assert done.returncode == 0
            else:
                said = b"rprof: cannot write the output: No space left on device\n"
                assert (done.returncode, done.stderr.startswith(said) if says else True) == (
                    2 if says else 0,
                    True,
                )
                assert b"Traceback" not in done.stderr
                assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("entry", ["", "lib", "/nowhere"])
def test_a_directory_that_was_deleted(programs, tmp_path, entry):
    """A relative entry of the path means nothing then."""
    gone = tmp_path / "gone"
    gone.mkdir()
    out = programs.check(
        f"""
        import os, sys
        os.chdir({str(gone)!r})
        os.rmdir({str(gone)!r})
        sys.path.insert(0, {entry!r})
        import rprof
        from burning import burn_one
        with rprof.profile(rate=500) as block: burn_one(0.1)
        print("burning.burn_one" in str(block.profile.top()))
        rprof.start(None, rate=500); burn_one(0.1)
        print("burning.burn_one" in str(rprof.stop().top()))
        for output in ("out/", "out.pb.gz"):
            try: rprof.start(output)
            except rprof.RprofOSError as error: print("No such file" in str(error))
        rprof.start({str(tmp_path / "out")!r}); rprof.stop()
        print(len(os.listdir({str(tmp_path / "out")!r})), "MainThread" in rprof.dump())
        with rprof.request("slow", slow_after=60.0): pass
        """
    )
    assert out.split() == ["True", "True", "True", "True", "1", "True"]


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="-m puts the directory on the path: nothing is imported there",
)
def test_the_command_in_a_directory_that_was_deleted(tmp_path, recorded):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = tmp_path / "app.py"
    script.write_text("print('done')\n")
    shell = ("sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh")
    out = tmp_path / "x.pb.gz"
    safe = {"PYTHONSAFEPATH": "1"}
    done = rprof_command(gone, "top", recorded, before=shell, variables=safe)
    assert (done.returncode, done.stderr) == (0, b"")
    gone.mkdir()
    done = rprof_command(gone, "run", "-q", "-o", out, script, before=shell, variables=safe)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")
    rprof.load(out)


NOT_UTF_8 = os.fsdecode(b"pr\xfcf ung")


def test_names_that_are_not_utf_8(programs):
    """Of a program, the directory that it is in, and outputs."""
    directory = programs.directory / NOT_UTF_8
    directory.mkdir()
    script = directory / (NOT_UTF_8 + ".py")
    script.write_text(
        "import os, rprof, sys\n"
        "from burning import burn_one\n"
        "rprof.start(None, rate=500); burn_one(0.1)\n"
        "profile = rprof.stop()\n"
        "print(ascii(profile.program), 'burning.burn_one' in str(profile.top()))\n"
        "rprof.start(sys.argv[1]); burn_one(0.02)\n"
        "print(rprof.flush().exists()); rprof.stop()\n"
        "print(ascii(rprof.dump()).count('burning') >= 0)\n"
        "with rprof.profile(sys.argv[1] + '/{seq}-block.pb.gz'): burn_one(0.02)\n"
        "with rprof.profile(sys.argv[1] + '/block.pb.gz') as block: burn_one(0.02)\n"
        "print(rprof.load(sys.argv[1] + '/block.pb.gz').totals == block.profile.totals)\n"
    )
    output = programs.directory / (NOT_UTF_8 + "-out")
    done = subprocess.run(
        [sys.executable, script, output],
        cwd=directory,
        env=programs.environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split(b"\n") == [b"'pr\\ufffdf ung' True", b"True", b"True", b"True", b""]
    left = sorted(path.name for path in output.iterdir())
    assert left[:2] == ["000001-block.pb.gz", "block.pb.gz"]
    assert [name[:9] for name in left[2:]] == ["pr_f_ung-"] * 2


def test_the_command_with_names_that_are_not_utf_8(programs):
    directory = programs.directory / NOT_UTF_8
    directory.mkdir()
    script = directory / (NOT_UTF_8 + ".py")
    script.write_text("from burning import burn_one\nburn_one(0.1)\n")
    variables = {"PYTHONPATH": programs.environment()["PYTHONPATH"]}
    done = rprof_command(directory, "run", script, variables=variables)
    assert done.returncode == 0, done.stderr
    (found,) = directory.glob("*.pb.gz")
    assert found.name.startswith("pr_f_ung-")
    assert f"profile in {found.name}".encode() in done.stderr
    for verb in (["top"], ["tree"], ["export", "-o", directory / "x.md"]):
        done = rprof_command(directory, verb[0], found, *verb[1:])
        assert done.returncode == 0, done.stderr
    done = rprof_command(directory, "run", "-o", "x.html", script, variables=variables)
    assert (done.returncode, (directory / "x.html").exists()) == (0, True), done.stderr


def test_a_name_with_a_leading_dash_is_not_made_an_option(programs):
    (programs.directory / "-dash.py").write_text("print('done')\n")
    done = rprof_command(programs.directory, "run", "./-dash.py")
    assert (done.returncode, done.stdout) == (0, b"done\n")
    (found,) = programs.directory.glob("*.pb.gz")
    assert found.name.startswith("dash-")
    done = rprof_command(programs.directory, "run", "-o", "./-x.pb.gz", "./-dash.py")
    assert b"profile in ./-x.pb.gz\n" in done.stderr


def test_outputs_stay_where_they_were_when_it_began(programs):
    """What a program writes does not follow it to another directory, nor do its children."""
    programs.check(
        """
        import logging, os, rprof
        from burning import burn_one
        os.mkdir("elsewhere")
        rprof.start("profiles/", rate=200)
        os.chdir("elsewhere")
        with rprof.request("slow", slow_after=0.05): burn_one(0.3)
        child = os.fork()
        if child == 0:
            rprof.status(); os._exit(0)
        os.waitpid(child, 0)
        rprof.stop()
        """
    )
    assert not os.listdir(programs.directory / "elsewhere")
    left = os.listdir(programs.directory / "profiles")
    assert len(left) == 3
    assert any(name.startswith("slow-slow-") for name in left)


def test_slow_requests_of_a_program_that_only_watches_stay_where_that_began(programs):
    programs.check(
        """
        import os, rprof
        from burning import burn_one
        with rprof.request("quick", slow_after=60.0): pass
        os.mkdir("elsewhere"); os.chdir("elsewhere")
        with rprof.request("slow", slow_after=0.05): burn_one(0.3)
        """
    )
    assert not os.listdir(programs.directory / "elsewhere")
    assert len(os.listdir(programs.directory / "rprof")) == 1


def test_files_of_earlier_runs_with_the_same_process_id_stay(programs):
    """Where an image is started again and again, the program's process id is the same each time."""
    code = """
        import rprof
        from burning import burn_one
        with rprof.profile("one-{pid}.pb.gz"): burn_one(0.01)
        """
    program = programs.command(code)
    # Process ids of a namespace begin anew; without the right to make one, names are taken here.
    for taken in ("one-{pid}.pb.gz", "one-{pid}-2.pb.gz"):
        script = f"import os, sys; open('{taken}'.format(pid=os.getpid()), 'w').write('precious')"
        done = subprocess.run(
            [sys.executable, "-c", f"{script}; os.execv(sys.argv[1], sys.argv[1:])", *program],
            cwd=programs.directory,
            env=programs.environment(),
            timeout=60,
            check=True,
        )
        assert done.returncode == 0
    precious = [p for p in programs.directory.glob("one-*") if p.read_bytes() == b"precious"]
    assert len(precious) == 2
    assert len(list(programs.directory.glob("one-*"))) == 4


def test_the_default_file_of_a_run_takes_the_place_of_none(programs):
    script = programs.command("print('done')\n")[-1]
    write = (
        "import os, sys\n"
        "open(f'program-{os.getpid()}.pb.gz', 'w').write('precious')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'rprof', 'run', *sys.argv[1:]])\n"
    )
    for words in ([], ["--follow-children"]):
        done = subprocess.run(
            [sys.executable, "-c", write, *words, script],
            cwd=programs.directory,
            env=programs.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        name = done.stderr.split("profile in ")[1].strip()
        assert name.endswith("-2.pb.gz")
        rprof.load(programs.directory / name)
        taken = programs.directory / (name.removesuffix("-2.pb.gz") + ".pb.gz")
        assert taken.read_bytes() == b"precious"


@pytest.mark.parametrize("field", ["{seq}", "{program}-{seq}"])
def test_numbers_of_workers_do_not_meet(programs, field):
    """Each forked worker counts its calls by itself, and each run begins anew."""
    code = f"""
        import os, rprof
        from burning import burn_one
        @rprof.profile("out/{field}.pb.gz")
        def work(): burn_one(0.01)
        os.makedirs("out", exist_ok=True)
        work()
        for _ in range(3):
            if os.fork() == 0:
                work(); work()
                os._exit(0)
        for _ in range(3):
            assert os.wait()[1] == 0
        work()
        """
    for run in (1, 2):
        programs.check(code)
        files = sorted((programs.directory / "out").iterdir())
        assert len(files) == run * 8
    numbers = [int(path.name.removesuffix(".pb.gz").rpartition("-")[2]) for path in files]
    assert numbers == list(range(1, 17))


REPLICA = """
import os, sys, time
import rprof
from burning import burn
out, name, ticks = sys.argv[1], sys.argv[2], int(sys.argv[3])
def work(): burn(0.02)
exec(f"def work_of_{name}(): work()")
rprof.start(out, rate=200, window=0.1, keep_files=4)
open(f"{out}/ready-{name}", "w").close()
while len([entry for entry in os.listdir(out) if entry.startswith("ready-")]) < 3: time.sleep(0.01)
while rprof.status().windows < ticks: globals()[f"work_of_{name}"]()
rprof.stop()
print(os.getpid())
"""


def needs(*unshare: str) -> None:
    """Skip where no namespaces can be had, as in a chroot."""
    done = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"namespaces of one's own cannot be had here: {done.stderr.strip()}")


OWN_IDS = ("unshare", "--pid", "--fork", "--mount-proc")
OWN_MOUNTS = ("unshare", "--mount")


def test_replicas_with_one_process_id_keep_their_own_files(programs):
    """Three, as a deployment has; each may have the same id, and each keeps four files."""
    needs(*OWN_IDS)
    out = programs.directory / "out"
    out.mkdir()
    command = programs.command(REPLICA)
    replicas = [
        subprocess.Popen(
            [*OWN_IDS, *command, out, name, "8"],
            env=programs.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    said = []
    for replica in replicas:
        try:
            said.append(replica.communicate(timeout=60)[0])
        finally:
            if replica.poll() is None:
                replica.send_signal(signal.SIGKILL)
    assert said == ["1\n"] * 3
    found = dict.fromkeys("abc", 0)
    for path in out.glob("*.pb.gz"):
        text = str(rprof.load(path).top(100))
        for name in found:
            found[name] += f"work_of_{name}" in text
    assert min(found.values()) >= 3, found
    assert sum(found.values()) <= 3 * 5


OPTIONS_FILES = {
    "not UTF-8": ("[project]\nname = 'prüfung'\n".encode("latin-1"), None),
    "a byte order mark": (b"\xef\xbb\xbf[tool.rprof]\nrate = 50\n", 20_000_000),
    "lines of Windows": (b"[tool.rprof]\r\nrate = 50\r\n", 20_000_000),
    "only a comment": (b"# [tool.rprof]\n", None),
    "a directory": (None, None),
}


@pytest.mark.parametrize("kind", OPTIONS_FILES)
def test_a_project_file_above_stops_no_run(tmp_path, kind):
    if kind in ("a byte order mark", "lines of Windows") and sys.version_info < (3, 11):
        pytest.importorskip("tomli", reason="CPython 3.10 cannot read TOML by itself")
    text, period_ns = OPTIONS_FILES[kind]
    file = tmp_path / "pyproject.toml"
    if text is None:
        file.mkdir()
    else:
        file.write_bytes(text)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    done = rprof_command(below, "run", "-q", "-o", "x.pb.gz", "-c", "print('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")
    assert rprof.load(below / "x.pb.gz").period_ns == (period_ns or 1_000_000)


@pytest.mark.parametrize("options", [(), ("-o", "out.md"), ("--follow-children",), ("-o", "out/")])
def test_a_read_only_directory_is_found_out_before_the_program_begins(tmp_path, options):
    needs(*OWN_MOUNTS)
    shell = 'mount -t tmpfs none . && cd "$PWD" && mount -o remount,ro . && exec "$@"'
    before = (*OWN_MOUNTS, "sh", "-c", shell, "sh")
    refuge = tmp_path / "refuge"
    place = tmp_path / "place"
    refuge.mkdir()
    place.mkdir()
    program = "import os, sys; os.write(2, b'the program\\n'); sys.exit(7)"
    done = rprof_command(
        place, "run", *options, "-c", program, before=before, variables={"TMPDIR": str(refuge)}
    )
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 7, lines
    assert "Read-only file system" in lines[0]
    assert lines[1] == "the program"
    left = [path.name for path in refuge.rglob("*.*")]
    assert len(left) == (options != ("-o", "out/")), left

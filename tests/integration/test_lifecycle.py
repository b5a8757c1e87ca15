"""Starting, stopping, ending: in any order, any number of times, by any route."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import sys

import pytest
import rprof
from support import ENGINE, LONG

SPIN = """
import threading
def spin():
    while True:
        sum(range(100))
for _ in range(4):
    threading.Thread(target=spin, daemon=True).start()
"""


def test_a_thousand_starts_leave_nothing_behind(programs):
    cycles = 1000 if LONG else 300
    found = json.loads(
        programs.check(
            f"""
            import json, os, rprof
            def resources():
                with open("/proc/self/statm") as file:
                    pages = int(file.read().split()[1])
                return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), pages
            def cycle():
                rprof.start("out/", rate=1000, keep_files=2)
                sum(range(2000))
                rprof.stop()
            for _ in range(100): cycle()
            # What threads that met by chance have touched stays mapped for the next ones; a leak
            # grows in every round.
            for _ in range(3):
                before = resources()
                for _ in range({cycles}): cycle()
                # Freed memory goes back to the system in its own time; a leak would never.
                after = resources()
                for _ in range(50):
                    cycle()
                    after = min(after, resources(), key=lambda found: found[2])
                if after[2] - before[2] <= 256:
                    break
            print(json.dumps([before, after, len(os.listdir("out"))]))
            """,
            # glibc gives threads one of several arenas, whose slack comes and goes by a megabyte.
            MALLOC_ARENA_MAX="1",
        )
    )
    (threads, descriptors, pages), after, files = found
    assert after[:2] == [threads, descriptors]
    assert (after[2] - pages) * os.sysconf("SC_PAGESIZE") <= 1 << 20
    assert files == 2


def test_exits_among_spinning_threads_are_clean(programs):
    times = 1000 if LONG else 128
    # CPython 3.10 frees what its daemon threads wait by (`take_gil`, `Python/ceval_gil.h`): of
    # these programs it crashes one in some 100 without rprof too. Nothing is lost by then.
    crashes = times // 16 if sys.version_info < (3, 11) else 0
    programs.check_often(
        f"""
        import os, rprof
        class Slow:
            def __del__(self):
                sum(range(20_000))
        rprof.start("out/", rate=[1000, 5000][os.getpid() % 2], max_overhead=1.0)
        keep = [Slow() for _ in range(20)]
        exec({SPIN!r})
        sum(range(200_000))
        """,
        times,
        crashes=crashes,
    )
    assert len(list(programs.directory.glob("run-*/out/*.pb.gz"))) == times


EXITS = {
    "normal": ("", 0, True),
    "sys.exit": ("sys.exit(3)", 3, True),
    "exception": ("raise ValueError('mine')", 1, True),
    "sigint": ("os.kill(os.getpid(), signal.SIGINT); signal.pause()", None, True),
    "handled sigterm": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5));"
        "os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        5,
        True,
    ),
    "sigterm": (
        "os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        -15,
        None if ENGINE == "gil" else True,
    ),
    "os._exit": ("os._exit(4)", 4, True),
    "execv": ("os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(6)'])", 6, False),
    "abort": ("os.abort()", -6, False),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", -9, False),
}


@pytest.mark.parametrize("route", EXITS)
def test_every_exit_ends_as_it_would_without(programs, route):
    ending, returncode, is_written = EXITS[route]
    code = """
        import atexit, os, signal, sys
        atexit.register(lambda: print("before"))
        if {profiled}:
            import rprof
            rprof.start("out/", rate=1000)
        atexit.register(lambda: print("after"))
        from burning import burn
        burn(0.05)
        {ending}
        """
    plain = programs.run(code.format(profiled=False, ending=ending), PYTHONFAULTHANDLER="")
    profiled = programs.run(code.format(profiled=True, ending=ending), PYTHONFAULTHANDLER="")
    assert profiled == plain
    if returncode is not None:
        assert profiled.returncode == returncode
    files = programs.profiles("out")
    # The sampler of the gil engine may be waiting for the GIL, which the thread at its end has.
    assert is_written is None or len(files) == is_written
    if files:
        assert rprof.load(files[0]).totals["cpu"] > 30e6


def test_work_after_the_main_thread_is_recorded(programs):
    programs.check(
        """
        import threading, rprof
        from burning import burn
        rprof.start("out/")
        threading.Thread(target=burn, args=(0.3,), name="last").start()
        """
    )
    (file,) = programs.profiles("out")
    threads = {t.name: t.totals for t in rprof.load(file).threads}
    assert threads["last"]["cpu"] > 200e6


def test_start_and_stop_out_of_turn(programs):
    out = programs.check(
        """
        import io, logging, rprof
        log = io.StringIO()
        logging.getLogger("rprof").addHandler(logging.StreamHandler(log))
        for call in (rprof.stop, rprof.flush):
            try: call()
            except rprof.RprofStateError as error: print(error)
        rprof.start(None, rate=50)
        rprof.start(None, rate=50)
        print(log.getvalue().strip())
        try: rprof.start(None, rate=60)
        except rprof.RprofStateError as error: print(error)
        print(rprof.is_running(), rprof.flush())
        profile = rprof.stop()
        print(rprof.is_running(), profile.sample_types[0].type)
        """
    )
    assert out.count("profiling is not on; call rprof.start() first") == 2
    assert "on already with this configuration" in out
    assert "rate=50.0" in out
    assert "rate=60.0" in out
    assert "True None" in out
    assert "False samples" in out


def test_status_tells_how_it_goes(programs):
    status = json.loads(
        programs.check(
            """
            import json, rprof
            from burning import burn
            rprof.start("out/", rate=100)
            burn(0.3)
            path = rprof.flush()
            status = rprof.status()
            assert str(path) == status.files[0], (path, status.files)
            print(json.dumps(status._asdict()))
            """
        )
    )
    assert status["running"]
    assert status["engine"] == ENGINE
    assert status["rate"] == 100
    assert 10 < status["achieved_rate"] <= 130
    assert status["windows"] == 1
    assert status["last_error"] is None
    assert 0 < status["own_cpu_seconds"] < 0.3
    assert status["own_bytes"] > 0


def test_import_starts_nothing_and_auto_starts_from_the_environment(programs):
    programs.check(
        """
        import os, sys, threading
        import rprof
        assert "rprof._native" not in sys.modules
        assert len(os.listdir("/proc/self/task")) == 1
        """
    )
    out = programs.check(
        """
        import rprof.auto
        print(rprof.is_running(), rprof.status().rate)
        """,
        RPROF_OUTPUT="elsewhere/{program}-{seq}.pb.gz",
        RPROF_RATE="37",
        RPROF_RTE="1",
    )
    assert out == "True 37.0\n"
    assert [path.name for path in programs.profiles("elsewhere")] == ["program-000001.pb.gz"]


BEGINNINGS = {
    "start": "import rprof; rprof.start('out/', rate=1000, max_overhead=1.0)\n",
    "auto": "import rprof.auto\n",
}

# Says which of our threads import something. The hook is there before rprof is.
AUDIT = """
import sys, threading
def hook(event, arguments):
    if event == "import":
        with open(f"/proc/self/task/{threading.get_native_id()}/comm") as file:
            name = file.read().strip()
        if name.startswith("rprof"):
            sys.stderr.write(f"{name} imports {arguments[0]}\\n")
sys.addaudithook(hook)
"""

# What holds the lock of a module until others had the time to want it, and have it.
SLOW_IMPORTS = """
import importlib, os, sys, threading
for number in range(5):
    with open(f"slow_{number}.py", "w") as file:
        file.write("import threading\\nsum(range(200_000))\\nx = 1\\n")
sys.path.insert(0, os.getcwd())
def import_all():
    for number in range(5):
        assert importlib.import_module(f"slow_{number}").x == 1
importers = [threading.Thread(target=import_all) for _ in range(2)]
for importer in importers: importer.start()
"""


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("way", ["sitecustomize", "pth", "circular", "beside"])
def test_starting_in_the_middle_of_an_import(programs, way, beginning):
    begin = BEGINNINGS[beginning]
    modules = programs.directory / "modules"
    modules.mkdir()
    code = AUDIT + "import rprof, json; assert rprof.is_running(); sum(range(300_000))\n"
    if way == "circular":
        modules.joinpath("one.py").write_text(f"import two\n{begin}import two\nx = 1\n")
        modules.joinpath("two.py").write_text(f"import one\n{begin * (beginning == 'auto')}y = 1\n")
        code = AUDIT + "import one; assert one.x == 1 and one.two.y == 1\n" + code
    elif way == "beside":
        code = AUDIT + SLOW_IMPORTS + begin + "for importer in importers: importer.join()\n" + code
    elif way == "pth":
        modules.joinpath("sitecustomize.py").write_text(
            f"{AUDIT}import site; site.addsitedir({str(modules / 'pths')!r})\n"
        )
        modules.joinpath("pths").mkdir()
        modules.joinpath("pths/rprof.pth").write_text(begin)
    else:
        modules.joinpath("sitecustomize.py").write_text(AUDIT + begin)
    times = 25 if LONG else 5
    programs.check_often(
        code,
        times,
        PYTHONPATH=str(modules),
        RPROF_RATE="1000",
        RPROF_MAX_OVERHEAD="1.0",
        RPROF_OUTPUT="out/",
    )
    assert len(list(programs.directory.glob("run-*/out/*.pb.gz"))) == times


def test_our_threads_import_nothing(programs):
    programs.check(
        """
        import sys, threading, rprof
        seen = []
        sys.addaudithook(lambda event, args: seen.append((event, threading.get_native_id())))
        from burning import burn
        rprof.start("out/", rate=2000, window=0.02, max_overhead=1.0)
        burn(0.3)
        rprof.stop()
        assert {thread for _, thread in seen} == {threading.get_native_id()}, seen[-5:]
        """
    )


def test_reloading_is_harmless(programs):
    programs.check(
        """
        import importlib, rprof
        rprof.start(None)
        importlib.reload(rprof)
        assert rprof.is_running()
        rprof.stop()
        """
    )


@pytest.mark.skipif(sys.platform != "linux", reason="signal masks of threads are read from /proc")
def test_our_threads_take_no_signals(programs):
    programs.check(
        """
        import os, signal, rprof
        rprof.start("out/")
        rprof.flush()  # Both threads have answered, so both have their names.
        masks = {}
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/status") as file:
                fields = dict(line.split(":", 1) for line in file)
            masks[fields["Name"].strip()] = int(fields["SigBlk"], 16)
        ours = {name: mask for name, mask in masks.items() if name.startswith("rprof")}
        assert len(ours) == 2, masks
        for mask in ours.values():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGXFSZ):
                assert mask & 1 << (number - 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.SIGUSR1 in signal.sigpending()
        """
    )


def test_sigint_reaches_the_application(programs):
    process = programs.start(
        """
        import sys, rprof
        rprof.start("out/", rate=1000)
        try:
            print("ready", flush=True)
            sys.stdin.readline()
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")
    assert len(programs.profiles("out")) == 1


def has_turns():
    """Whether the kernel lets threads choose the length of their turns: Linux 6.12 and later."""
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    return sys.platform == "linux" and release and tuple(map(int, release.groups())) >= (6, 12)


@pytest.mark.skipif(
    not has_turns() or platform.machine() not in {"x86_64", "aarch64"},
    reason="turns cannot be chosen before Linux 6.12; the calls have these numbers on two machines",
)
def test_only_a_slow_sampler_asks_for_short_turns(programs):
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]
    out = programs.check(
        f"""
        import ctypes, os, rprof
        libc = ctypes.CDLL(None)
        def turn(thread_id):
            "The length of a thread's turns in ns: sched_runtime of sched_getattr(2)."
            attributes = ctypes.create_string_buffer(56)
            assert libc.syscall({number}, thread_id, attributes, 56, 0) == 0
            return int.from_bytes(attributes.raw[24:32], "little")
        def sampler():
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{{thread}}/comm") as file:
                    if "sampler" in file.read():
                        return turn(int(thread))
        with rprof.profile(rate=1000, max_overhead=1.0):
            print(sampler())
            with rprof.profile(rate=4000, max_overhead=1.0):
                print(sampler() == turn(0))
            print(sampler())
        """
    )
    assert out.split() == ["100000", "True", "100000"]

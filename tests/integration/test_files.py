"""Files: complete or absent, private, bounded; trouble with the disk is survived and told."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess

import pytest
import rprof
from support import LONG

is_root = os.geteuid() == 0


def test_files_are_private_whatever_the_umask(programs):
    programs.check(
        """
        import os, rprof
        os.umask(0)
        rprof.start("a/b/", rate=100); rprof.stop()
        with rprof.profile("x.pb.gz"): pass
        """
    )
    assert (programs.directory / "a/b").stat().st_mode & 0o777 == 0o700
    for path in [*programs.profiles("a/b"), programs.directory / "x.pb.gz"]:
        assert path.stat().st_mode & 0o777 == 0o600


def test_windows_rotate_and_the_oldest_go(programs):
    out = programs.check(
        """
        import json, rprof
        from burning import burn
        rprof.start("out/", rate=500, window=0.03, keep_files=4, max_overhead=1.0)
        while rprof.status().windows < 8: burn(0.01)
        rprof.stop()
        print(json.dumps(rprof.status()._asdict()))
        """
    )
    status = json.loads(out)
    assert status["windows"] > 6
    files = [os.path.basename(path) for path in status["files"]]
    assert files == [path.name for path in programs.profiles("out")]
    assert len(files) == 4
    numbers = [int(name.rpartition("-")[2].partition(".")[0]) for name in files]
    assert numbers == list(range(numbers[0], numbers[0] + 4))


def test_bytes_are_bounded(programs):
    programs.check(
        """
        import rprof
        from burning import burn
        rprof.start("out/{seq}.pb.gz", rate=500, window=0.03, keep_bytes=1500, max_overhead=1.0)
        burn(0.5)
        rprof.stop()
        """
    )
    sizes = [path.stat().st_size for path in programs.profiles("out")]
    assert sizes
    assert len(sizes) == 1 or sum(sizes) <= 1500


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("a_file/below", "a_file"),
        ("/proc/nowhere/out/", "/proc/nowhere"),
        ("{host}.pb.gz", "{host}"),
        ("{pid.pb.gz", "{pid.pb.gz"),
    ],
)
def test_an_impossible_output_is_refused_at_once(programs, output, words):
    (programs.directory / "a_file").write_text("")
    out = programs.check(
        f"""
        import rprof
        try: rprof.start({output!r})
        except rprof.RprofError as error: print(error)
        assert not rprof.is_running()
        rprof.start(None); rprof.stop()
        """
    )
    assert words in out


@pytest.mark.skipif(not is_root, reason="only root can become another user")
def test_a_directory_of_somebody_else_is_refused(programs):
    programs.directory.chmod(0o777)
    (programs.directory / "theirs").mkdir(mode=0o777)
    shutil.chown(programs.directory / "theirs", 12345)
    (programs.directory / "readonly").mkdir(mode=0o755)
    out = programs.check(
        """
        import os, rprof
        rprof.start(None); rprof.stop()  # loads what it needs while that can be read
        os.setuid(54321)
        for output in ("theirs/", "readonly/"):
            try: rprof.start(output)
            except rprof.RprofOSError as error: print(error)
        """
    )
    assert "belongs to user 12345" in out
    assert "readonly" in out
    assert "ermission denied" in out


def test_a_deleted_directory_comes_back(programs):
    programs.check(
        """
        import shutil, rprof
        rprof.start("out/", rate=500)
        first = rprof.flush()
        shutil.rmtree("out")
        second = rprof.flush()
        assert second.exists() and not first.exists()
        assert rprof.status().last_error is None
        """
    )


TROUBLE = """
    import io, logging, rprof
    from burning import burn_one, burn_two
    log = io.StringIO()
    logging.getLogger("rprof").addHandler(logging.StreamHandler(log))
    {before}
    rprof.start("{output}", rate=500, max_overhead=1.0)
    good = rprof.flush()
    content = good.read_bytes()
    {trouble}
    burn_one(0.1)
    for _ in range(3):
        assert rprof.flush() is None
        burn_one(0.02)
    status = rprof.status()
    assert status.last_error, status
    assert status.merged_windows >= 3, status
    assert log.getvalue().count("cannot") == 1, log.getvalue()
    assert good.read_bytes() == content
    {relief}
    burn_two(0.05)
    path = rprof.flush()
    names = " ".join(row.name for row in rprof.load(path).top(100, by="cpu"))
    assert "burn_one" in names and "burn_two" in names, names
    assert rprof.load(path).totals["cpu"] > 0.2e9
    rprof.stop()
    print("recovered")
    """


def test_a_directory_that_becomes_read_only(programs):
    programs.directory.chmod(0o777)
    out = programs.check(
        TROUBLE.format(
            # Root may write everywhere; whoever is root no longer may not find rprof again.
            before="import os, pathlib; rprof.start(None); rprof.stop(); "
            "os.geteuid() or os.setuid(54321)",
            output="out/",
            trouble="os.chmod('out', 0o500)",
            relief="os.chmod('out', 0o700)",
        )
    )
    assert out == "recovered\n"


def test_a_limit_on_file_sizes_kills_nobody(programs):
    out = programs.check(
        TROUBLE.format(
            before="import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)",
            output="out/",
            trouble="resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))",
            relief="resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, resource.RLIM_INFINITY))",
        )
    )
    assert out == "recovered\n"
    assert not list((programs.directory / "out").glob(".rprof-*"))


def test_no_descriptor_left(programs):
    out = programs.check(
        TROUBLE.format(
            before="import resource; limit = resource.getrlimit(resource.RLIMIT_NOFILE)",
            output="out/",
            trouble="resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))",
            relief="resource.setrlimit(resource.RLIMIT_NOFILE, limit)",
        ).replace("assert good.read_bytes() == content", "")
    )
    assert out == "recovered\n"


def test_a_full_disk(programs, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        out = programs.check(
            TROUBLE.format(
                before="import os",
                output="disk/",
                trouble="""
    with open("disk/filler", "wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096): pass
        except OSError: pass
    """,
                relief='os.remove("disk/filler")',
            )
        )
        assert out == "recovered\n"
        for path in programs.profiles("disk"):
            gzip.decompress(path.read_bytes())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_kill_while_writing_leaves_only_whole_files(programs):
    chance = random.Random(7)
    code = """
        import sys, rprof
        from burning import burn
        rprof.start("out/", rate=1000, window=0.005, max_overhead=1.0, keep_files=50)
        print("ready", flush=True)
        while True: burn(0.01)
        """
    for _ in range(500 if LONG else 25):
        process = programs.start(code)
        assert process.stdout.readline() == "ready\n"
        # Any moment is as good as any other: that is what is tested.
        try:
            process.wait(timeout=chance.uniform(0.02, 0.15))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    for path in programs.profiles("out"):
        rprof.load(path)
    (programs.directory / "out/.rprof-1-1-1.tmp").write_bytes(b"half")
    programs.check("import rprof; rprof.start('out/'); rprof.stop()")
    assert not list((programs.directory / "out").glob(".*"))


def test_a_planted_link_is_not_followed(programs):
    precious = programs.directory / "precious"
    precious.write_text("precious")
    (programs.directory / "x.pb.gz").symlink_to(precious)
    programs.check("import rprof\nwith rprof.profile('x.pb.gz'): pass")
    assert precious.read_text() == "precious"
    assert not (programs.directory / "x.pb.gz").is_symlink()


def test_nothing_private_is_in_a_file(programs):
    canary = "canary-7f3a"
    programs.check(
        f"""
        import rprof
        from burning import burn
        def work(secret):
            local = secret
            burn(0.1)
        rprof.start("out/", rate=500)
        work("{canary}")
        """,
        SECRET=canary,
    )
    (path,) = programs.profiles("out")
    assert canary.encode() not in gzip.decompress(path.read_bytes())

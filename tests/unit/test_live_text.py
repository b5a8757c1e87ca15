"""The tasks view of `rprof live`, from what an endpoint would answer."""

from __future__ import annotations

from types import SimpleNamespace

from rprof.cli._live_tasks import Tasks, describe_tasks
from rprof.cli.live import describe


def frame(function, line, file="/srv/app/app.py"):
    return {"function": function, "file": file, "line": line}


SLEEP = frame("asyncio.tasks.sleep", 665, "/usr/lib/python3.13/asyncio/tasks.py")
WORKER = [SLEEP, frame("app.fetch", 31), frame("app.worker", 12)]


def task(frames, *, name=None, state="waiting", kind="task", awaited_by=(), lock=None):
    return {
        "kind": kind,
        "name": name,
        "state": state,
        "awaited_by": list(awaited_by),
        "lock": lock,
        "request": 0,
        "frames": frames,
    }


def lock(name, holder=None, index=None):
    return {"name": name, "holder": holder, "holder_index": index}


def described(tasks, n=20, omitted=0, circles=(), rows=10_000):
    seen = Tasks("http://127.0.0.1:6060", 0.0, tasks, omitted, circles)
    head, text = describe_tasks(seen, n, lambda lines: len(lines) <= rows).split("\n", 1)
    assert head.startswith("http://127.0.0.1:6060 at ")
    return head.split(": ", 1)[1], text


def test_those_that_wait_at_the_same_place_are_one_group_with_what_they_await():
    main = task([frame("app.main", 50)], name="main")
    head, text = described(
        [main, *(task(WORKER, awaited_by=[0]) for _ in range(3)), task([], state="running")]
    )
    assert head == "5 tasks"
    assert (
        text
        == """\
4 waiting, 1 running

      3  waiting    app.worker > app.fetch > asyncio.tasks.sleep
                    at app/app.py:31, in asyncio.tasks.sleep (asyncio/tasks.py:665)
                    awaited by app.main
      1  waiting    app.main
                    at app/app.py:50
                    named "main"
      1  running    its thread's stack shows where"""
    )


def test_who_waits_for_which_lock_stands_first():
    held = lock("asyncio.Lock Pool._lock", "filler", 0)
    tasks = [task([SLEEP, frame("app.fill", 9)], name="filler")]
    tasks += [task([frame("app.use", 4)], lock=held) for _ in range(12)]
    tasks.append(task([frame("app.bare", 5)], lock=lock("asyncio.Lock bare", "<unknown holder>")))
    tasks.append(task([frame("app.get", 6)], lock=lock("asyncio.Queue Pool.jobs")))
    _, text = described(tasks)
    assert text.splitlines()[2:5] == [
        "12 tasks wait for asyncio.Lock Pool._lock, "
        'held by task "filler" in app.fill (app/app.py:9)',
        "1 task waits for asyncio.Lock bare, held by <unknown holder>",
        "1 task waits for asyncio.Queue Pool.jobs",
    ]


def test_a_circle_is_named():
    tasks = [
        task([frame("app.a", 1)], name="a", lock=lock("asyncio.Lock two", "b", 1)),
        task([frame("app.b", 2)], name="b", lock=lock("asyncio.Lock one", "a", 0)),
    ]
    _, text = described(tasks, circles=[[0, 1]])
    assert (
        'deadlock: task "a" in app.a (app/app.py:1) waits for asyncio.Lock two, held by task "b"'
        in text
    )


def test_greenlets_are_called_so():
    head, text = described([task([frame("app.pump", 3)], name="pump", kind="greenlet")])
    assert head == "1 greenlet"
    assert "1  greenlet, waiting  app.pump\n" in text


def test_what_there_is_no_room_for_is_counted():
    tasks = [task([frame("app.many", number % 40)]) for number in range(1_000)]
    head, text = described(tasks, omitted=9_001)
    assert head == "1,000 tasks looked at, and 9,001 more listed"
    assert text.endswith("\nand 20 more groups of 500 tasks")
    _, text = described(tasks, rows=10)
    assert text.count("\n") < 10
    assert text.endswith("\nand 37 more groups of 925 tasks")
    # One is shown in any room.
    _, text = described(tasks, rows=0)
    assert text.endswith("\nand 39 more groups of 975 tasks")
    names = [task([frame("app.f", 1)], name=f"n{number}") for number in range(10)]
    _, text = described(names)
    assert text.endswith('named "n0", "n1", "n2" and 7 more')
    locks = [task([frame("app.f", 1)], lock=lock(f"asyncio.Lock l{at}")) for at in range(10)]
    _, text = described(locks)
    assert "\nand 2 more locks\n" in text
    deep = [frame(f"app.f{number}", number) for number in range(100)]
    _, text = described([task(deep)])
    assert "app.f99 > app.f98 > <94 frames omitted> > app.f3 > app.f2 > app.f1 > app.f0\n" in text


def test_without_tasks_it_says_so():
    assert described([]) == ("no tasks", "")


def test_a_name_moves_no_cursor():
    _, text = described([task([frame("app.\x1b[2Jf", 1, "/a/\x07.py")], name="\x1b]0;title\n")])
    assert text.isprintable() or set(text) - set(filter(str.isprintable, text)) == {"\n"}
    assert r'named "\x1b]0;title\n"' in text


def test_the_name_of_a_thread_moves_no_cursor():
    thread = SimpleNamespace(name="\x1b[2J\nnew", id=7, totals={"cpu": 10})
    profile = SimpleNamespace(
        program="\x1b[31mapp",
        threads=[thread],
        totals={},
        duration_ns=100,
        time_ns=0,
        top=lambda n, by: "",
    )
    told = describe(profile, "cpu", 3)
    assert "\x1b" not in told
    assert "\\x1b[31mapp:" in told
    assert "10.0% cpu  \\x1b[2J\\nnew" in told

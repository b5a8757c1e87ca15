"""The report page, opened in a browser."""

from __future__ import annotations

import asyncio
import collections
import gzip
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rprof
from browsers import MISSING, Tab
from pprof_files import Call, Row, encode
from rprof import viewer
from rprof._loading import native

_native = native()

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)}, to open the page in, not installed"
)
GO = shutil.which("go")
needs_go = pytest.mark.skipif(
    GO is None, reason="go, whose pprof reads the files, is not installed"
)
MODULES = Path(viewer.__file__).parent
EVENTS = Path(__file__).parent.parent / "fixtures/events.pb.gz"

PROGRAM = """
import json, sys, threading
import rprof
from burning import burn

def fetch(lock):
    with lock:
        pass

def compute(seconds):
    burn(seconds)
    json.dumps(list(range(50_000)))

def recurse(depth):
    if depth:
        return recurse(depth - 1)
    return compute(0.05)

lock = threading.Lock()
lock.acquire()
with rprof.profile(sys.argv[1] if len(sys.argv) > 1 else "p.pb.gz", rate=500, max_overhead=0.5):
    waiting = threading.Thread(target=fetch, args=(lock,), name="waiter")
    worker = threading.Thread(target=compute, args=(0.3,), name="worker")
    waiting.start(); worker.start()
    recurse(20)
    worker.join()
    lock.release()
    waiting.join()
"""


@pytest.fixture
def recorded(programs):
    programs.check(PROGRAM)
    return programs.directory / "p.pb.gz"


def simple(name="a.pb.gz", **options):
    """A page of a small made-up profile."""
    main, work, wait = (
        Call("app.main", "app.py", 3),
        Call("app.work", "app.py", 9),
        Call("app.wait"),
    )
    rows = [
        Row([work, main], [3, 300], {"thread name": "MainThread", "thread id": 1, "route": "/a"}),
        Row([wait, main], [1, 100], {"thread name": "MainThread", "thread id": 1, "route": "/b"}),
        Row([work], [2, 60], {"thread name": "worker", "thread id": 2}),
        Row([Call("<gc>")], [1, 40], {"thread name": "worker", "thread id": 2}),
    ]
    return viewer.page([(name, encode(rows, default="wall"))], title=name, **options)


def pprof_top(file, sample_type):
    """Self and total by name, as `go tool pprof -top` says."""
    done = subprocess.run(
        [
            *(GO, "tool", "pprof", "-top", "-nodefraction=0", "-edgefraction=0"),
            *("-nodecount=100000", "-unit=ns", f"-sample_index={sample_type}", str(file)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^ *(-?\d+)(?:ns)? +\S+ +\S+ +(-?\d+)(?:ns)? +\S+ +(.+)$", done.stdout, re.MULTILINE
    )
    assert rows, done.stdout
    return {name.removesuffix(" (inline)"): (int(own), int(all_)) for own, all_, name in rows}


# -------------------------------------------------------------------------------------------------
# Figures
# -------------------------------------------------------------------------------------------------


def test_a_recording_is_drawn_searched_zoomed_and_filtered(tab, recorded):
    profile = rprof.load(recorded)
    page = tab.open(profile.to_html(title="a real program")).page
    assert page.title() == "a real program"
    assert int(page.get_attribute("#flame canvas", "data-frames")) > 10
    # Search.
    page.keyboard.press("/")
    page.keyboard.type("COMPUTE$|nothing such")
    tab.wait_until("document.getElementById('matches').textContent.includes('function')")
    with_compute = sum(
        value
        for frames, value in profile.stacks()
        if any(frame.name.endswith("compute") for frame in frames)
    )
    assert int(page.get_attribute("#matches", "data-exact")) == with_compute
    page.keyboard.press("Escape")
    # Zoom: down to the heaviest of the heaviest.
    page.focus("#flame canvas")
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "zoom=" in tab.fragment()
    assert page.locator("#crumbs li").count() >= 3
    # The cpu time of one thread.
    page.click("#types button[data-value=cpu]")
    worker = next(thread for thread in profile.threads if thread.name == "worker")
    page.select_option("#thread", f"worker#{worker.id}")
    assert sum(own for own, _ in tab.table().values()) == worker.totals["cpu"]


def test_the_table_is_that_of_rprof(tab, recorded):
    profile = rprof.load(recorded)
    tab.open(profile.to_html())
    for kind, _ in profile.sample_types:
        tab.page.click(f"#types button[data-value={kind}]")
        expected = collections.Counter(
            (row.name, row.self_value, row.total_value)
            for row in profile.top(100_000, by=kind)
            if row.total_value
        )
        assert collections.Counter(tab.rows()) == expected, kind
        shown = tab.page.get_attribute(
            f"#types button[data-value={kind}] [data-exact]", "data-exact"
        )
        assert int(shown) == profile.totals[kind]


@needs_go
def test_the_table_is_that_of_go_tool_pprof(tab, recorded):
    profile = rprof.load(recorded)
    tab.open(profile.to_html())
    for kind, _ in profile.sample_types:
        tab.page.click(f"#types button[data-value={kind}]")
        theirs = pprof_top(recorded, kind)
        ours = tab.rows()
        # It knows functions by name alone; those of one name are added up for their own time.
        own = collections.Counter()
        for name, self_value, _ in ours:
            own[name] += self_value
        assert own == {name: own_ for name, (own_, total) in theirs.items() if total}, kind
        names = collections.Counter(name for name, *_ in ours)
        for name, _, total in ours:
            if names[name] == 1:
                assert theirs[name][1] == total, (kind, name)


def test_sums_are_exact_beyond_53_bits(tab):
    big = 2**53
    rows = [Row([Call("f", "f.py"), Call("g", "f.py")], [1, big + n]) for n in range(3)]
    rows.append(Row([Call("g", "f.py")], [1, -5]))
    tab.open(viewer.page([("big", encode(rows))], title="big"))
    assert tab.rows() == [("f", 3 * big + 3, 3 * big + 3), ("g", -5, 3 * big - 2)]


def test_events_are_measured_beside_time(tab):
    """The file is what `src/session/sampler/source_tests.rs` makes of the events of a source."""
    profile = rprof.load(EVENTS)
    tab.open(profile.to_html())
    page = tab.page
    for kind, leaf, count, shown in [
        ("exceptions", "parse", 3, "3"),
        ("alloc_objects", "load", 16, "16"),
        ("alloc_space", "load", 8 << 20, "8\u202fMiB"),
        ("inuse_space", "load", 3 << 20, "3\u202fMiB"),
    ]:
        page.click(f"#types button[data-value={kind}]")
        above = [("main", 0, count), ("serve", 0, count)]
        assert sorted(tab.rows()) == sorted([(leaf, count, count), *above]), kind
        assert shown in page.text_content(f"#types button[data-value={kind}]")
    # An event has the labels of its moment, a tick those of its own.
    page.click("#types button[data-value=exceptions]")
    page.select_option("#label", label="route = /x")
    assert ("parse", 3, 3) in tab.rows()


def test_a_recursive_function_counts_once(tab):
    rows = [Row([Call("f"), Call("g"), Call("f"), Call("f")], [1, 10])]
    tab.open(viewer.page([("r", encode(rows))], title="r"))
    assert sorted(tab.rows()) == [("f", 10, 10), ("g", 0, 10)]
    tab.visit("#view=sandwich&function=0")
    assert tab.page.text_content("#sandwich-head dd[data-exact]").startswith("10")


def test_labels_and_threads_select(tab):
    tab.open(simple())
    page = tab.page
    page.select_option("#label", label="route = /b")
    assert sorted(tab.rows()) == [("app.main", 0, 100), ("app.wait", 100, 100)]
    page.go_back()
    page.go_back()
    page.keyboard.press("5")
    page.click("#threads button:has-text('worker')")
    assert sorted(tab.rows()) == [("<gc>", 40, 40), ("app.work", 60, 60)]


def test_the_table_sorts(tab):
    tab.open(simple())
    assert [name for name, *_ in tab.rows()] == ["app.work", "app.wait", "<gc>", "app.main"]
    tab.page.click("#table [data-sort=total]")
    assert tab.rows()[0][0] == "app.main"
    assert tab.page.get_attribute("#table th:has([data-sort=total])", "aria-sort") == "descending"
    tab.page.click("#table [data-sort=name]")
    assert [name for name, *_ in tab.rows()] == ["<gc>", "app.main", "app.wait", "app.work"]


def test_several_profiles_in_one_page(tab):
    one = encode([Row([Call("one")], [1, 1])])
    two = encode([Row([Call("two")], [1, 2])], compress=False)
    tab.open(viewer.page([("first", one), ("second", two)], title="both"))
    assert tab.rows() == [("one", 1, 1)]
    tab.page.select_option("#profile", "1")
    tab.page.wait_for_selector("#table .name:text-is('two')")
    assert tab.rows() == [("two", 2, 2)]


def test_the_page_of_a_program_that_the_command_ran(tab, programs):
    page = programs.directory / "p.html"
    words = "run -q -o p.html -m compileall -q -f"
    # Enough to last a while: where others want the CPUs too, the profiler may have to wait for one.
    for copy in "1234":
        shutil.copytree(Path(asyncio.__file__).parent, programs.directory / "source" / copy)
    subprocess.run(
        [sys.executable, "-m", "rprof", *words.split(), "source"],
        cwd=programs.directory,
        env=programs.environment(),
        timeout=120,
        check=True,
    )
    tab.address = page.as_uri()
    shown = tab.visit().page
    assert shown.title() == "compileall"
    shown.fill("#search", "compile")
    tab.wait_until("document.getElementById('matches').textContent.includes('function')")
    shown.click("#types button[data-value=cpu]")
    assert "type=cpu" in tab.fragment()
    assert int(shown.get_attribute("#flame canvas", "data-frames")) > 3


# -------------------------------------------------------------------------------------------------
# Moving about
# -------------------------------------------------------------------------------------------------


def frames_drawn(page):
    # A picture is drawn with the next animation frame.
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return int(page.get_attribute("#flame canvas", "data-frames"))


def test_zoom_has_a_history_and_an_address(tab):
    tab.open(simple())
    page = tab.page
    box = page.locator("#flame canvas").bounding_box()
    zoomed = "document.querySelector('#flame canvas').dataset.zoomed"

    def wait_for_zoom(node):
        tab.wait_until(f"{zoomed} === '{node}'")

    # The second row's heaviest is app.main.
    page.mouse.click(box["x"] + 20, box["y"] + 30)
    tab.wait_until(f"{zoomed} !== '0'")
    first = page.evaluate(zoomed)
    assert page.text_content("#detail .detail-name") == "app.main"
    page.mouse.click(box["x"] + 20, box["y"] + 50)
    tab.wait_until(f"{zoomed} !== '{first}'")
    second = page.evaluate(zoomed)
    address = tab.fragment()
    page.go_back()
    wait_for_zoom(first)
    page.go_forward()
    wait_for_zoom(second)
    page.keyboard.press("0")
    wait_for_zoom(0)
    tab.visit(address)
    wait_for_zoom(second)
    assert page.text_content("#detail .detail-name") == "app.work"
    page.keyboard.press("Backspace")
    wait_for_zoom(first)


def test_the_address_restores_everything(tab):
    tab.open(simple())
    page = tab.page
    page.click("#types button[data-value=samples]")
    page.select_option("#thread", "MainThread#1")
    page.fill("#search", "work")
    page.locator("#search").blur()
    page.keyboard.press("i")
    page.keyboard.press("t")
    page.keyboard.press("t")
    address = tab.fragment()
    tab.visit(address)
    assert page.get_attribute("#types [aria-checked=true]", "data-value") == "samples"
    assert page.input_value("#thread") == "MainThread#1"
    assert page.input_value("#search") == "work"
    assert page.get_attribute("#direction [aria-checked=true]", "data-value") == "inverted"
    assert page.get_attribute("html", "data-theme") == "dark"
    assert "1 function, in 3 " in page.text_content("#matches")


def test_an_address_of_another_page_does_no_harm(tab):
    tab.open(simple(), "#view=nowhere&zoom=99999&function=-3&type=gpu&profile=7&thread=x%00&sort=q")
    assert tab.page.is_visible("#view-flame")
    assert "No wall in this selection" in tab.page.text_content("#legend")
    tab.visit("#view=sandwich&function=12345678901234567890")
    assert tab.page.text_content("#sandwich-head h2") == "app.work"


def test_a_search_that_is_no_expression_is_said(tab):
    tab.open(simple())
    tab.page.fill("#search", "app.(")
    assert tab.page.get_attribute("#search", "aria-invalid") == "true"
    assert "not a regular expression" in tab.page.text_content("#matches")
    assert len(tab.rows()) == 4


def test_the_keyboard_reaches_the_callers(tab):
    tab.open(simple())
    page = tab.page
    page.focus("#flame canvas")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.text_content("#detail .detail-name") == "app.work"
    page.keyboard.press("ArrowRight")
    assert page.text_content("#detail .detail-name") == "app.wait"
    page.keyboard.press("Shift+Enter")
    assert page.text_content("#sandwich-head h2") == "app.wait"
    assert page.is_visible("#callers canvas")


def test_the_theme_follows_the_system(browser, tmp_path):
    tab = Tab(browser, tmp_path, color_scheme="dark", viewport={"width": 420, "height": 800})
    tab.open(simple())
    assert tab.page.get_attribute("html", "data-theme") == "dark"
    tab.page.emulate_media(color_scheme="light")
    tab.page.wait_for_selector("html[data-theme=light]", state="attached")
    # Nothing sticks out on a narrow screen.
    for view in "123456":
        tab.page.keyboard.press(view)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 420
    tab.context.close()
    assert tab.complaints == []


WAITING_TYPES = tuple(
    (name, "nanoseconds") for name in ("wall", "gil_wait", "gil_blame", "lock_wait", "lock_blame")
)


def waiting() -> bytes:
    """A profile in which some wait for the GIL, for a lock and for the network."""

    def stack(*names: str) -> list[Call]:
        return [Call(name, "/srv/app.py", 7) for name in names]

    pool = {"lock": "Lock <b>Pool</b>._lock"}
    return encode(
        [
            Row(stack("sort", "main"), [50, 0, 30, 0, 0]),
            Row(stack("io", "main"), [30, 30, 0, 0, 0], {"off": "gil"}),
            Row(stack("use", "main"), [60, 0, 0, 60, 0], {**pool, "off": "lock"}),
            Row(stack("hold", "main"), [0, 0, 0, 0, 60], pool),
            Row(stack("read", "main"), [200, 0, 0, 0, 0], {"off": "network"}),
        ],
        WAITING_TYPES,
        default="wall",
    )


def test_waits_show_the_culprit_first(tab):
    tab.open(viewer.page([("p", waiting())], title="waits"), "#view=waits")
    page = tab.page
    heads = page.eval_on_selector_all("#waits .wait h2", "all => all.map(e => e.textContent)")
    assert heads == ["Lock <b>Pool</b>._lock", "The GIL", "The network"]
    exact = page.eval_on_selector_all(
        "#waits .waited", "all => all.map(e => Number(e.dataset.exact))"
    )
    assert exact == [60, 30, 200]
    captions = page.eval_on_selector_all("#waits caption", "all => all.map(e => e.textContent)")
    assert captions == ["Caused by", "Waited in", "Caused by", "Waited in", "Waited in"]
    names = page.eval_on_selector_all("#waits .name", "all => all.map(e => e.textContent)")
    assert names == ["hold", "use", "sort", "io", "read"]
    page.click("#waits .wait:first-child header button")
    assert page.is_visible("#view-flame")
    assert page.get_attribute("#types [aria-checked=true]", "data-value") == "lock_blame"
    # Only this lock is left.
    page.keyboard.press("6")
    heads = page.eval_on_selector_all("#waits .wait h2", "all => all.map(e => e.textContent)")
    assert heads == ["Lock <b>Pool</b>._lock"]


def test_waits_that_nobody_tells_of(tab):
    tab.open(simple(), "#view=waits")
    assert "does not tell why threads wait" in tab.page.text_content("#waits")


# -------------------------------------------------------------------------------------------------
# Difference, source, notebook
# -------------------------------------------------------------------------------------------------


def test_the_difference(tab):
    def of(**values):
        rows = [
            Row([Call(f"app.{n}", "/x/app.py"), Call("app.main")], [1, v])
            for n, v in values.items()
        ]
        return encode(rows)

    document = viewer.page(
        [("new", of(same=100, grown=90, new=30))],
        baseline=("old", of(same=100, grown=40, gone=70)),
        title="change",
    )
    tab.open(document)
    page = tab.page
    assert "compared with old" in page.text_content("#facts")
    # main and the four below it, though one of them is gone.
    assert frames_drawn(page) == 6
    page.click("#width-mode [data-value=after]")
    assert frames_drawn(page) == 5
    page.keyboard.press("3")
    changes = page.eval_on_selector_all(
        "#table tbody tr",
        """rows => rows.map(row => [row.querySelector(".name").textContent,
            ...[...row.querySelectorAll("[data-exact]")].map(cell => +cell.dataset.exact)])""",
    )
    # Self before, after, change; total before, after, change; the largest change first.
    assert changes == [
        ["app.gone", 70, 0, -70, 70, 0, -70],
        ["app.grown", 40, 90, 50, 40, 90, 50],
        ["app.new", 0, 30, 30, 0, 30, 30],
        ["app.same", 100, 100, 0, 100, 100, 0],
        ["app.main", 0, 0, 0, 210, 220, 10],
    ]
    shrunk = page.locator("#table tr", has_text="app.gone").locator("td.less").first
    grown = page.locator("#table tr", has_text="app.grown").locator("td.more").first
    assert shrunk.text_content() == "\N{MINUS SIGN}70\u202fns"
    assert grown.text_content() == "+50\u202fns"


def test_equal_profiles_have_the_colour_of_no_change(tab, recorded):
    profile = rprof.load(recorded)
    tab.open(profile.to_html(baseline=profile))
    changes = tab.page
    changes.keyboard.press("3")
    assert changes.locator("#table td.more, #table td.less").count() == 0


def test_sources_are_shown_only_when_asked_for(tab, tmp_path):
    source = tmp_path / "shop.py"
    source.write_text("# secret </script>\ndef price():\n\treturn 1  # \u202e\n", encoding="utf-8")
    os.utime(source, (1, 1))
    other = tmp_path / "key.pem"
    other.write_text("private")
    calls = [
        Call("shop.price", str(source), 3, 2),
        Call("x", str(other), 1),
        Call("y", "/no/z.py", 4),
    ]
    file = tmp_path / "s.pb.gz"
    file.write_bytes(encode([Row(calls, [1, 70])], time_ns=10**18))
    profile = rprof.load(file)
    assert "secret" not in html.unescape(profile.to_html())
    tab.open(profile.to_html(), "#view=source")
    assert "Sources are left out" in tab.page.text_content("#source")
    assert (
        json.loads(re.search(r'"page-data">(.*?)</script>', profile.to_html())[1])["sources"]
        is None
    )

    tab.open(profile.to_html(source=True), "#view=source")
    line = tab.page.locator("#source tr[data-line='3']")
    assert line.locator("code").text_content() == "    return 1  # ⟨U+202E⟩"
    assert line.locator("[data-exact]").first.get_attribute("data-exact") == "70"
    assert tab.page.locator("#source tr").count() == 1 + 4
    assert tab.page.text_content("#source tr[data-line='1'] code") == "# secret </script>"
    # What is no Python source stays out, though a profile names it.
    assert list(viewer.sources.read([str(source), str(other), "/no/z.py"])) == [str(source)]
    # So does what was changed after it was measured.
    assert viewer.sources.read([str(source)], 10**8) == {}


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(tab, recorded):
    profile = rprof.load(recorded)
    tab.open(f"<!doctype html><title>notebook</title><html data-ready>{profile._repr_html_()}")
    frame = tab.page.frames[1]
    frame.wait_for_selector("html[data-ready=yes]", state="attached")
    frame.click("#tab-table")
    assert frame.locator("#table tbody tr").count() > 3
    frame.click("#tab-flame")
    assert frame.is_visible("#flame canvas")
    frame.evaluate("history.back()")
    frame.wait_for_selector("#table")
    # It reaches nothing of the notebook.
    assert (
        frame.evaluate("() => { try { return parent.document.title } catch { return null } }")
        is None
    )


def test_the_profile_can_be_saved(tab, recorded):
    profile = rprof.load(recorded)
    tab.open(profile.to_html())
    with tab.page.expect_download() as download:
        tab.page.click("#download")
    assert download.value.suggested_filename.endswith(".pb.gz")
    assert Path(download.value.path()).read_bytes() == profile.to_bytes()


def test_it_prints_in_light_colours(tab):
    tab.open(simple(), "#theme=dark")
    assert tab.page.pdf().startswith(b"%PDF")
    themes = tab.page.evaluate(
        """() => {
            const seen = [];
            for (const event of ["beforeprint", "afterprint"]) {
                window.dispatchEvent(new Event(event));
                seen.push(document.documentElement.dataset.theme);
            }
            return seen;
        }"""
    )
    assert themes == ["light", "dark"]


# -------------------------------------------------------------------------------------------------
# Hostile input
# -------------------------------------------------------------------------------------------------

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<svg onload=alert(2)>",
    "javascript:alert(3)",
    "a\u202eb\u2066c",
    "nul\0 bell\a",
    b"half \xed\xa0\x80 of a pair",
    "<!--<script>alert(4)",
    "${alert(5)}{{7*7}}",
    "@script@ @data@",
    "\u2028line\u2029",
]


def test_hostile_names_are_inert(tab):
    rows = [
        Row(
            [Call(name, name, 1)],
            [1, 1000 - index],
            {"thread name": name, "key" if index % 2 else "</option><b>": name},
        )
        for index, name in enumerate(HOSTILE)
    ]
    file = encode(rows, program=HOSTILE[0], comments=[str(HOSTILE[0]), f"engine: {HOSTILE[1]}"])
    title = f"{HOSTILE[0]}\u202e\0\ud800"
    tab.open(viewer.page([(HOSTILE[2], file)], title=title, baseline=(HOSTILE[0], file)))
    tab.open(viewer.page([(HOSTILE[2], file)], title=title, sources={str(HOSTILE[0]): HOSTILE[6]}))
    page = tab.page
    shown = [name for name, *_ in tab.rows()]
    assert shown == [
        "</script><img src=x onerror=alert(1)>",
        "<svg onload=alert(2)>",
        "javascript:alert(3)",
        "a⟨U+202E⟩b⟨U+2066⟩c",
        "nul⟨U+0000⟩ bell⟨U+0007⟩",
        "half \ufffd\ufffd\ufffd of a pair",
        "<!--<script>alert(4)",
        "${alert(5)}{{7*7}}",
        "@script@ @data@",
        "⟨U+2028⟩line⟨U+2029⟩",
    ]
    assert page.text_content("#title") == f"{HOSTILE[0]}⟨U+202E⟩⟨U+0000⟩⟨U+D800⟩"
    for view in "123456":
        page.keyboard.press(view)
        assert page.locator("img, svg:not(.mark), b, script:not([type])").count() == 0
        text = page.evaluate("document.body.innerText")
        assert not re.search("[\0\a\u202e\u2066\u2028\u2029]", text)
    assert page.locator("script").count() == 2


def test_the_policy_stops_what_is_put_in_by_force(browser, tmp_path):
    tab = Tab(browser, tmp_path)
    tab.open(simple())
    caught = tab.page.evaluate(
        """async () => {
            const caught = [];
            const attempt = async (name, act) => {
                try { await act(); } catch { caught.push(name); }
            };
            document.addEventListener("securitypolicyviolation",
                event => caught.push(event.effectiveDirective));
            await attempt("text", () => {
                const script = document.createElement("script");
                script.textContent = "window.broken = 1";
                document.body.append(script);
            });
            await attempt("html", () => {
                document.body.innerHTML = "<img src=x onerror='window.broken = 2'>";
            });
            await attempt("fetch", () => fetch("https://example.invalid/"));
            const image = document.createElement("img");
            image.src = "https://example.invalid/x.png";
            document.body.append(image);
            await new Promise(done => { image.onerror = done; });
            return [window.broken ?? null, ...caught];
        }"""
    )
    assert caught[0] is None
    assert {"text", "html", "fetch", "connect-src", "img-src"} <= set(caught)
    tab.context.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing of the kind", "cannot be read"),
        (gzip.compress(b""), "no sample types"),
        (encode([Row([Call("f")], [1, 2])], compress=False)[:-40], "cannot be read"),
        (gzip.compress(bytes(40 << 20)), "more than a profile does"),
        (encode([Row([Call("f")], [1, 2])])[:-30], "cannot be read"),
        (encode([Row([Call("f")], [1])]), "1 values where there are 2"),
    ],
    ids=["text", "empty", "cut", "bomb", "cut gzip", "values"],
)
def test_what_is_no_profile_is_said(browser, tmp_path, content, message):
    tab = Tab(browser, tmp_path)
    tab.open(viewer.page([("bad", content)], title="bad"))
    assert message in tab.page.text_content("#notice")
    tab.context.close()


def test_a_profile_without_samples_says_so(tab):
    tab.open(viewer.page([("none", encode([]))], title="none"))
    page = tab.page
    assert "This profile has no wall" in page.text_content("#legend")
    for view in "2345":
        page.keyboard.press(view)
        assert page.is_visible(f"#main section:nth-of-type({view})")


# -------------------------------------------------------------------------------------------------
# What was not measured, differences, who a thread is
# -------------------------------------------------------------------------------------------------

WITH_GIL = (("samples", "count"), ("wall", "nanoseconds"), ("gil", "nanoseconds"))


def page_of(*files, **options):
    """A page of files that are merged."""
    read = [rprof.Profile(_native.Profile.decode(file, "x")) for file in files]
    return rprof.merge(read).to_html(**options)


def told(page):
    """The list of how the profile was recorded; of comments the last."""
    values = page.locator("#recording-facts dd").all_text_contents()
    names = page.locator("#recording-facts dt").all_text_contents()
    return {name: value.replace("\u202f", " ") for name, value in zip(names, values, strict=True)}


def fact_spans(page, kind):
    texts = page.locator(f"#facts .{kind}").all_text_contents()
    return [text.replace("\u202f", " ") for text in texts]


FACTS = (
    "rprof 0",
    "engine: direct",
    "rate: asked 100.0 Hz, achieved 99.5 Hz",
    "late ticks: 1234",
    "incomplete stacks: 0",
    "jit: on; lines may be wrong",
    "process stood still: 1.250 s, credited to no stack",
    "no gil_wait: it is hidden",
    "out of memory: 0.125 s not recorded, credited to no stack",
    "lost events: 9, for which there was no room",
    "overflow: 8 stacks beyond max_nodes = 20000 folded into <overflow>",
    "container throttled: 0.500 s of 60.0 s",
    "cpu pressure of the container: 30.000 s of 60.0 s",
    "io pressure of the container: 0.031 s of 60.0 s",
)


def test_how_it_was_recorded_comes_as_facts(tab):
    file = encode([Row([Call("f")], [1, 100])], comments=(*FACTS, "words of <somebody> else"))
    profile = rprof.Profile(_native.Profile.decode(file, "x"))
    page = tab.open(profile.to_html()).page
    assert fact_spans(page, "rate") == ["99.5 of 100 Hz"]
    assert fact_spans(page, "counter") == ["no gil_wait", "1,234 late ticks"]
    assert fact_spans(page, "warning") == [
        "process stood still: 1.25 s",
        "out of memory: 125 ms",
        "lost events: 9",
        "stacks folded into <overflow>: 8",
        "container throttled: 500 ms of 60 s",
        "container cpu pressure: 30 s of 60 s",
    ]
    facts = told(page)
    assert facts["comment"] == "words of <somebody> else"
    assert facts["no gil_wait"] == "it is hidden"
    assert facts["incomplete stacks"] == "0"
    assert facts["achieved"] == "99.5 Hz"
    assert facts["most nodes"] == "20,000"
    assert facts["container io pressure"] == "31 ms of 60 s"


def test_without_facts_the_comments_are_told_as_they_are(tab):
    file = encode([Row([Call("f")], [1, 100])], comments=("made by another", "late ticks: 7"))
    page = tab.open(viewer.page([("foreign", file)], title="foreign")).page
    assert fact_spans(page, "counter") == fact_spans(page, "warning") == []
    assert told(page)["comment"] == "late ticks: 7"
    foreign = encode([Row([Call("f")], [1, 100])])
    page = tab.open(rprof.Profile(_native.Profile.decode(foreign, "x")).to_html()).page
    assert "comment" not in told(page)


def test_what_was_not_measured_is_told_where_it_is_shown(tab):
    main = Call("app.main", "app.py", 3)
    direct = encode(
        [Row([main], [1, 100, 40], {"thread name": "Thread-2", "thread id": 12})],
        WITH_GIL,
        comments=("rprof 0", "engine: direct", "jit: on; lines may be wrong", "main thread: 12"),
        duration_ns=2 * 10**9,
    )
    gil = encode(
        [Row([main], [1, 50], {"thread id": 13})],
        comments=("rprof 0", "engine: gil"),
        duration_ns=3 * 10**9,
    )
    page = tab.open(page_of(direct, gil)).page
    assert told(page)["gil not measured"] == "1 of 2 profiles, 3 s of 5 s"
    facts = page.text_content("#facts")
    assert "direct and gil engines" in facts
    assert "JIT on" in facts
    page.click("#types [data-value=wall]")
    assert page.is_hidden("#doubts")
    page.click("#types [data-value=gil]")
    assert "gil was not measured in 1 of 2 merged profiles, 3 s of 5 s" in page.text_content(
        "#doubts"
    )
    assert "JIT" not in page.text_content("#doubts")
    page.keyboard.press("4")
    assert "The interpreter's JIT was on" in page.text_content("#doubts")
    page.keyboard.press("5")
    names = page.locator("#threads tbody .name").all_text_contents()
    assert names == ["Thread-2 (the main thread)", "thread 13"]


def test_only_what_both_measured_is_compared(tab):
    main = Call("app.main", "app.py", 3)
    after = rprof.Profile(
        _native.Profile.decode(encode([Row([main], [1, 100, 40])], WITH_GIL), "after")
    )
    before = rprof.Profile(_native.Profile.decode(encode([Row([main], [1, 50])]), "before"))
    page = tab.open(after.to_html(baseline=before)).page
    assert page.locator("#types .type-name").all_text_contents() == ["samples", "wall"]
    assert "nothing to compare: gil" in page.text_content("#doubts")
    other_way = tab.open(before.to_html(baseline=after)).page
    assert "nothing to compare: gil" in other_way.text_content("#doubts")


@pytest.mark.parametrize("scale", [1, 2**55])
def test_what_became_less_is_drawn_as_wide_as_what_became_more(tab, scale):
    """With values that a number of JavaScript holds exactly, and with others."""
    main, less, more = (Call(f"app.{name}", "app.py", 3) for name in ("main", "less", "more"))
    rows = [Row([less, main], [-1, -60 * scale]), Row([more, main], [1, 20 * scale])]
    page = tab.open(page_of(encode(rows, default="wall"))).page
    assert "A difference of two profiles" in page.text_content("#doubts")
    assert "more than before" in page.text_content("#legend")
    # all, main, less, more: what became less has its place.
    assert page.get_attribute("#flame canvas", "data-frames") == "4"
    page.keyboard.press("3")
    names = page.locator("#table tbody th button").all_text_contents()
    assert [name.removeprefix("app.") for name in names] == ["less", "more", "main"]
    shares = page.locator("#table tbody tr:first-child .share").all_text_contents()
    assert shares == ["\N{MINUS SIGN}75.0%"] * 2

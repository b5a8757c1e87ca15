"""How long the report page takes, in headless Chromium: to load, to zoom, to switch, to search.

Run:  python benches/viewer.py [FILE] [--runs N] [--libraries]

Needs Chromium and the extra `browser`. Without FILE a profile of 170,000 call tree nodes is made
up. Times are medians, of what a user waits: from the navigation to the picture, and from the input
to the next frame that is drawn. The CPU time of the page's main thread stands beside them: it is
what counts on a machine that is busy with other work.

`--libraries` shows in the same browser what the libraries take that could do this: pprof-format to
decode, d3-flame-graph to draw, with frames below half a pixel left out. npm fetches them into a
temporary directory. README.md beside the page says what was made of the figures.
"""

from __future__ import annotations

import argparse
import base64
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rprof import viewer

TESTS = Path(__file__).parent.parent / "tests"
sys.path += [str(TESTS / "workloads"), str(TESTS / "integration")]

from browsers import MISSING, Tab, chromium  # noqa: E402
from pprof_files import Call, Row, encode  # noqa: E402

TYPES = (("samples", "count"), ("wall", "nanoseconds"), ("cpu", "nanoseconds"))
NODES = 170_000

# Waits for the frame in which a change is drawn; the task after it runs when that has happened.
TIMED = """async (act) => {
    const began = performance.now();
    act();
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - began;
}"""


# A changed address is heard of in a task of its own; the event makes it heard at once.
ACTS = {
    "zoom in": "location.hash = '#zoom=2'; dispatchEvent(new Event('popstate'))",
    "zoom further": "location.hash = '#zoom=40'; dispatchEvent(new Event('popstate'))",
    "zoom out": "location.hash = '#'; dispatchEvent(new Event('popstate'))",
    "another sample type": "document.querySelector('#types [data-value=cpu]').click()",
    "one thread": """const thread = document.getElementById("thread");
        thread.selectedIndex = 2; thread.dispatchEvent(new Event("change"))""",
    "search": """const search = document.getElementById("search");
        search.value = "function_1"; search.dispatchEvent(new Event("input"))""",
    "inverted, for the first time": (
        "document.querySelector('#direction [data-value=inverted]').click()"
    ),
    "table": "document.getElementById('tab-table').click()",
}

Figures = dict[str, list[float]]


def made_up(nodes: int = NODES) -> bytes:
    """Return a profile whose stacks share their roots, as those of a program do."""
    rng = random.Random(1)
    calls = [
        Call(
            f"package{n % 40}.module{n % 7}.function_{n}",
            f"/srv/app/package{n % 40}/module{n % 7}.py",
            n % 300 + 4,
            n % 300 + 1,
        )
        for n in range(4_000)
    ]
    stacks: list[tuple[int, ...]] = [()]
    seen = set()
    rows = []
    while len(seen) < nodes:
        base = rng.choice(stacks[-2_000:]) if rng.random() < 0.7 else ()
        stack = base[: rng.randrange(len(base) + 1)]
        for _ in range(rng.randrange(2, 18)):
            stack = (*stack, int(rng.paretovariate(0.6)) % len(calls))
            seen.add(stack)
        stacks.append(stack)
        wall = int(rng.paretovariate(1.1) * 1e6)
        worker = len(stack) % 8
        rows.append(
            Row(
                [calls[index] for index in reversed(stack)],
                [1, wall, int(wall * rng.random())],
                {"thread name": f"worker-{worker}", "thread id": 100 + worker},
            )
        )
    return encode(rows, TYPES, default="wall", duration_ns=10**10)


def measure_page(browser, directory: Path, profile: bytes, runs: int) -> tuple[Figures, Figures]:
    figures: Figures = {}
    cpu: Figures = {}
    document = viewer.page([("benchmark", profile)], title="benchmark")
    for _ in range(runs):
        tab = Tab(browser, directory, viewport={"width": 1400, "height": 900})
        for name, waited, used in visit(tab, document):
            figures.setdefault(name, []).append(waited)
            cpu.setdefault(name, []).append(used)
        tab.context.close()
        if tab.complaints:
            raise SystemExit(f"the page complained: {tab.complaints}")
    return figures, cpu


def visit(tab: Tab, document: str) -> Iterator[tuple[str, float, float]]:
    """Open the page and use it; yields what was done, milliseconds waited, and those of CPU."""
    session = tab.context.new_cdp_session(tab.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page = tab.open(document).page

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1e3 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    # The page says that it is ready once its first picture has been asked for.
    waited = page.evaluate(
        """() => new Promise(done =>
            requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"""
    )
    yield "load, to the first picture", waited, spent()
    page.emulate_media(reduced_motion="reduce")
    for name, act in ACTS.items():
        before = spent()
        waited = page.evaluate(f"() => ({TIMED})(() => {{ {act} }})")
        yield name, waited, spent() - before


LIBRARIES = ("d3@7", "d3-flame-graph@5", "pprof-format@2")
LIBRARY_PAGE = """<!doctype html><meta charset="utf-8"><div id="chart"></div>
<script src="/d3/dist/d3.min.js"></script>
<script src="/d3-flame-graph/dist/d3-flamegraph.umd.min.js"></script>
<script type="module">
import { Profile } from "/pprof-format/dist/esm/index.js";
const times = {};
const timed = async (name, act) => {
  const began = performance.now();
  const made = await act();
  times[name] = performance.now() - began;
  return made;
};
const painted = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
const packed = Uint8Array.from(atob("@data@"), letter => letter.charCodeAt(0));
const plain = await timed("gunzip", async () => new Uint8Array(await new Response(
  new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer()));
const profile = await timed("pprof-format decodes", () => Profile.decode(plain));
const root = await timed("tree of objects", () => {
  const functions = new Map(profile.function.map(made => [made.id, made]));
  const located = new Map(profile.location.map(
    location => [location.id, functions.get(location.line[0].functionId)]));
  const root = { name: "all", value: 0, children: [], found: new Map() };
  for (const sample of profile.sample) {
    let node = root;
    const value = Number(sample.value[1]);
    node.value += value;
    for (let at = sample.locationId.length - 1; at >= 0; at--) {
      const made = located.get(sample.locationId[at]);
      let child = node.found.get(made);
      if (!child) {
        const name = profile.stringTable.strings[made.name];
        child = { name, value: 0, children: [], found: new Map() };
        node.found.set(made, child);
        node.children.push(child);
      }
      child.value += value;
      node = child;
    }
  }
  return root;
});
const chart = flamegraph.default().width(1400).transitionDuration(0).minFrameSize(0.5)
  .inverted(true).tooltip(false);
await timed("d3-flame-graph draws", async () => {
  d3.select("#chart").datum(root).call(chart);
  await painted();
});
const frames = [...document.querySelectorAll("g.frame")];
const click = async frame => {
  frame.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  await painted();
};
await timed("d3-flame-graph zooms in", () => click(frames[1]));
await timed("d3-flame-graph zooms out", () => click(frames[0]));
await timed("d3-flame-graph searches", () => { chart.search("function_1"); return painted(); });
window.times = times;
</script>"""


def measure_libraries(browser, profile: bytes, runs: int) -> Figures:
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            ["npm", "install", "--ignore-scripts", "--silent", "--prefix", directory, *LIBRARIES],
            check=True,
        )
        modules = Path(directory, "node_modules")
        document = LIBRARY_PAGE.replace("@data@", base64.b64encode(profile).decode("ascii"))

        def answer(route) -> None:
            path = route.request.url.removeprefix("http://libraries.invalid/")
            if not path:
                route.fulfill(body=document, content_type="text/html")
            elif (modules / path).is_file():
                route.fulfill(path=modules / path, content_type="text/javascript")
            else:
                route.abort()

        for _ in range(runs):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.route("**/*", answer)
            page.goto("http://libraries.invalid/")
            page.wait_for_function("window.times", timeout=60_000)
            for name, value in page.evaluate("window.times").items():
                figures.setdefault(name, []).append(value)
            page.close()
    return figures


def show(title: str, figures: Figures, cpu: Figures) -> None:
    print(f"\n{title}\n{'median':>9} {'fastest':>9} {'CPU':>9}")
    for name, values in figures.items():
        used = f"{statistics.median(cpu[name]):6.0f} ms" if name in cpu else ""
        print(f"{statistics.median(values):6.0f} ms {min(values):6.0f} ms {used:>9}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="a gzip pprof file; made up without")
    parser.add_argument("--runs", type=int, default=5, help="pages loaded (5)")
    parser.add_argument("--libraries", action="store_true", help="the libraries too; needs npm")
    options = parser.parse_args()
    if MISSING:
        raise SystemExit(f"needs {' and '.join(MISSING)}")
    profile = options.file.read_bytes() if options.file else made_up()
    with tempfile.TemporaryDirectory() as directory, chromium() as browser:
        size = len(viewer.page([("benchmark", profile)], title="benchmark"))
        print(
            f"Chromium {browser.version}; profile {len(profile) >> 10} KiB, page {size >> 10} KiB"
        )
        show("the report page", *measure_page(browser, Path(directory), profile, options.runs))
        if options.libraries:
            show("the libraries", measure_libraries(browser, profile, options.runs), {})


if __name__ == "__main__":
    main()

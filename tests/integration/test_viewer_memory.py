"""The report page of heaps, opened in a browser."""

from __future__ import annotations

import pytest
import rprof
from browsers import MISSING
from pprof_files import Call, Row, encode
from rprof import viewer

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)}, to open the page in, not installed"
)

TYPES = (
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
)


def heap(scale: int) -> bytes:
    """A heap of which one line has grown with `scale`, and one has not."""

    def stack(*calls: tuple[str, int]) -> list[Call]:
        return [Call(f"shop.{name}", "/srv/shop.py", line) for name, line in calls]

    library = Call("json.dumps", "/usr/lib/python3.13/json/__init__.py", 9)
    cart, search = {"route": "/cart"}, {"route": "/<b>search"}
    return encode(
        [
            Row(stack(("keep", 4), ("main", 1)), [8, 8_000, 2 * scale, 2_000 * scale], cart),
            Row(stack(("keep", 5), ("main", 1)), [5, 500, 1, 100], search),
            Row([library, *stack(("show", 7), ("main", 1))], [90, 90_000, 0, 0], search),
            Row(stack(("main", 2)), [1, 700, 1, 700]),
        ],
        TYPES,
        default="inuse_space",
    )


def texts(page, selector):
    return page.eval_on_selector_all(selector, "all => all.map(e => e.textContent)")


def exact(page, selector):
    return page.eval_on_selector_all(selector, "all => all.map(e => Number(e.dataset.exact))")


LINES = "#memory > .table-scroll tbody tr"
GROUPS = "#memory section tbody tr"


def test_a_heap_opens_on_its_lines_and_labels(tab):
    tab.open(viewer.page([("p", heap(3))], title="heap"))
    page = tab.page
    assert page.is_visible("#view-memory")
    assert exact(page, "#memory dd") == [6_800, 99_200]
    # What a library has allocated is of the line that has called it.
    assert texts(page, f"{LINES} .name") == [
        "shop.keep",
        "shop.main",
        "shop.keep",
        "shop.show",
    ]
    assert exact(page, f"{LINES} td.bytes") == [
        *(6_000, 8_000),
        *(700, 700),
        *(100, 500),
        *(0, 90_000),
    ]
    assert texts(page, f"{GROUPS} th") == ["/cart", "without", "/<b>search"]
    # By what is chosen above.
    page.click("#types [data-value=alloc_space]")
    assert texts(page, f"{GROUPS} th") == ["/<b>search", "/cart", "without"]
    page.click(f"{GROUPS}:nth-child(2) button")
    assert texts(page, f"{LINES} .name") == ["shop.keep"]
    page.click(f"{LINES} button")
    assert page.is_visible("#view-sandwich")
    page.keyboard.press("7")
    assert page.is_visible("#view-memory")
    # The flame graph of a heap has an address of its own.
    page.click("#tab-flame")
    assert "view=flame" in page.url
    assert not page.is_visible("#tab-waits")


def test_two_heaps_show_what_has_grown(tab):
    old, new = heap(3), heap(10)
    tab.open(viewer.page([("p", new)], title="growth", baseline=("old", old)))
    page = tab.page
    assert exact(page, "#memory .memory-sums .growth") == [14_000, 0]
    assert texts(page, f"{LINES} .name")[0] == "shop.keep"
    assert exact(page, f"{LINES} td.growth")[:2] == [14_000, 0]
    assert exact(page, f"{LINES} td.weight")[:2] == [20_000, 8_000]
    assert texts(page, f"{GROUPS} th")[0] == "/cart"
    page.set_viewport_size({"width": 500, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 500


def test_other_profiles_have_no_such_view(tab):
    plain = encode([Row([Call("f", "/srv/a.py", 1)], [1, 10])])
    tab.open(viewer.page([("p", plain)], title="time"), "#view=memory")
    assert "does not tell of memory" in tab.page.text_content("#memory")
    tab.page.click("#tab-flame")
    assert not tab.page.is_visible("#tab-memory")


def test_a_heap_of_a_program(tab, programs):
    programs.check("""
import rprof
kept = []
def keep():
    for _ in range(500):
        kept.append(bytearray(5_000))
with rprof.profile("p.pb.gz", memory=4_096):
    with rprof.labels(route="/a"):
        keep()
""")
    profile = rprof.load(programs.directory / "p.heap.pb.gz")
    tab.open(profile.to_html())
    assert tab.page.is_visible("#view-memory")
    assert texts(tab.page, f"{LINES} .name")[0].endswith(".keep")
    assert "/a" in texts(tab.page, f"{GROUPS} th")
    assert "every 4" in tab.page.text_content("#facts")

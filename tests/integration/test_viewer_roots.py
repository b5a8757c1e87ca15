"""What stacks begin with on the report page: threads, tasks, or another label."""

from __future__ import annotations

import collections

import pytest
import rprof
from browsers import MISSING, Tab
from pprof_files import Call, Row, encode
from rprof import viewer

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)}, to open the page in, not installed"
)

VIEWPORT = {"width": 500, "height": 800}
"""Of the fixture `tab`."""

MAIN = Call("app.main", "app.py", 3)
WORK = Call("app.work", "app.py", 9)
WAIT = Call("app.wait", "app.py", 20)
ROWS = [
    Row([WORK, MAIN], [3, 300], {"thread name": "MainThread", "thread id": 1, "task": "crawl"}),
    Row([WAIT, MAIN], [1, 100], {"thread name": "MainThread", "thread id": 1, "task": "<ship>"}),
    # A task that is called like a function is not that function.
    Row([WORK], [1, 7], {"thread name": "MainThread", "thread id": 1, "task": "app.work"}),
    Row([WORK], [2, 60], {"thread name": "pool", "thread id": 2, "route": "/a"}),
    Row([WORK], [2, 30], {"thread name": "pool", "thread id": 3, "number": 42}),
    Row([], [1, 5], {"thread id": 4}),
]


def made_page(rows=ROWS, **options):
    return viewer.page([("a", encode(rows, default="wall"))], title="a", **options)


def choices(page):
    return page.eval_on_selector_all(
        "#root option", "found => found.map(option => [option.value, option.textContent])"
    )


def test_what_there_is_to_choose(tab):
    page = tab.open(made_page()).page
    assert choices(page) == [
        ["", "None"],
        ["thread name", "Threads"],
        ["task", "Tasks"],
        ["number", "number"],
        ["route", "route"],
    ]
    assert page.eval_on_selector("#root optgroup", "group => group.label") == "Labels"
    # One thread and no label: there is nothing to choose.
    tab.open(made_page([Row([WORK], [1, 1], {"thread name": "MainThread", "thread id": 1})]))
    assert not page.is_visible("#root-field")
    tab.open(made_page([Row([WORK], [1, 1])]))
    assert not page.is_visible("#root-field")


def test_very_many_labels_are_counted(tab):
    labels = {f"label {number:03}": str(number) for number in range(120)}
    page = tab.open(made_page([Row([WORK], [1, 10], labels)])).page
    assert choices(page)[-1] == ["and 70 more", "and 70 more"]
    assert len(choices(page)) == 52
    page.select_option("#root", "label 007")
    assert sorted(tab.rows()) == [("7", 0, 10), ("app.work", 10, 10)]


@pytest.mark.parametrize("label", ["thread name", "task", "route", "number"])
def test_the_rooted_table_is_that_of_the_command(tab, tmp_path, label):
    file = tmp_path / "a.pb.gz"
    file.write_bytes(encode(ROWS, default="wall"))
    page = tab.open(made_page()).page
    page.select_option("#root", label)
    expected = collections.Counter(
        (row.name, row.self_value, row.total_value)
        for row in rprof.load(file).rooted(label).top(1_000, by="wall")
        if row.total_value
    )
    assert collections.Counter(tab.rows()) == expected


def test_roots_stand_at_the_head_of_the_flame_graph(tab):
    page = tab.open(made_page(), "#root=task").page
    page.focus("#flame canvas")
    page.keyboard.press("ArrowDown")
    assert page.text_content("#detail .detail-name") == "crawl"
    page.keyboard.press("Enter")
    assert page.text_content("#crumbs li:last-child") == "crawl"
    page.keyboard.press("ArrowDown")
    assert page.text_content("#detail .detail-name") == "app.main"
    assert "roots" in page.text_content("#legend")
    # With other roots it is another tree.
    page.select_option("#root", "route")
    assert "zoom" not in tab.fragment()
    page.go_back()
    assert page.input_value("#root") == "task"
    assert "zoom" in tab.fragment()


def test_the_key_goes_through_the_roots(tab):
    page = tab.open(made_page()).page
    seen = []
    for _ in range(5):
        page.keyboard.press("r")
        seen.append(page.input_value("#root"))
    assert seen == ["thread name", "task", "number", "route", ""]
    assert tab.fragment() in ("", "#")
    # What is typed is no key.
    page.keyboard.press("/")
    page.keyboard.type("r")
    assert page.input_value("#root") == ""


def test_the_table_tells_roots_from_functions_and_finds_them(tab):
    page = tab.open(made_page(), "#root=task&view=table").page
    assert page.text_content("#table caption").startswith("3 roots, 3 functions, by wall")
    row = page.locator("#table tr:has(.name:text-is('crawl'))")
    assert row.locator(".place").text_content() == "task"
    page.fill("#search", "crawl|ship")
    tab.wait_until("document.getElementById('matches').textContent.includes('root')")
    assert page.text_content("#matches").startswith("2 roots, 0 functions, in ")
    assert page.get_attribute("#matches", "data-exact") == "400"
    assert page.text_content("#table caption").startswith("2 roots, 0 functions that match")


def test_callers_end_in_roots_and_a_root_has_callees(tab):
    page = tab.open(made_page(), "#root=thread+name&view=table").page
    page.click("#table .name:text-is('MainThread')")
    assert page.text_content("#sandwich-head h2") == "MainThread"
    assert page.get_attribute("#callees canvas", "data-frames") == "5"
    assert page.get_attribute("#callers canvas", "data-frames") == "1"
    # Roots have no number of their own that would outlast the choice.
    page.keyboard.press("r")
    assert "function" not in tab.fragment()
    tab.visit("#view=table")
    page.click("#table tbody tr:first-child .link")
    frames = page.get_attribute("#callers canvas", "data-frames")
    page.select_option("#root", "task")
    assert int(page.get_attribute("#callers canvas", "data-frames")) == int(frames) + 2
    assert page.text_content("#sandwich-head h2") == "app.work"


def test_filters_and_differences_have_roots_too(tab):
    page = tab.open(made_page(), "#root=task").page
    page.select_option("#thread", "pool#2")
    assert tab.rows() == [("app.work", 60, 60)]
    before = [ROWS[0]._replace(values=[1, 100]), ROWS[1]]
    page = tab.open(made_page(baseline=("b", encode(before, default="wall"))), "#root=task").page
    page.click("#tab-table")
    row = page.locator("#table tr:has(.name:text-is('crawl')) [data-exact]")
    exact = [cell.get_attribute("data-exact") for cell in row.all()]
    assert exact == ["0", "0", "0", "100", "300", "200"]


def test_the_choices_stay_in_a_row_beside_many_sample_types(browser, tmp_path):
    types = [(f"measure_{number}", "nanoseconds") for number in range(9)]
    rows = [row._replace(values=[3_660_000_000] * 9) for row in ROWS]
    tab = Tab(browser, tmp_path, viewport={"width": 1100, "height": 700})
    page = tab.open(viewer.page([("a", encode(rows, sample_types=types))], title="a")).page
    tops = {page.locator(f"#{name}").bounding_box()["y"] for name in ("thread", "root", "search")}
    assert len(tops) == 1
    tab.context.close()
    assert tab.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_with_roots(browser, tmp_path, scheme):
    tab = Tab(browser, tmp_path, color_scheme=scheme, viewport={"width": 500, "height": 800})
    tab.open(made_page(), "#root=task")
    for view in "123456":
        tab.page.keyboard.press(view)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 500
    tab.context.close()
    assert tab.complaints == []

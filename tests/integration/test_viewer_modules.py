"""The modules of the report page, each imported by a browser, against figures made elsewhere."""

from __future__ import annotations

import base64
import collections
import csv
from pathlib import Path

import pytest
import rprof
from browsers import MISSING, chromium
from pprof_files import Call, Row, block, encode, number, varint
from rprof import viewer

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)}, to run the modules in, not installed"
)
CASES = Path(__file__).resolve().parents[1] / "fixtures" / "values.tsv"
ORIGIN = "http://viewer.invalid/"


@pytest.fixture(scope="module")
def run():
    """Run a function that gets the modules by name, and the given value."""

    def answer(route):
        name = route.request.url.removeprefix(ORIGIN)
        if not name:
            route.fulfill(body="<!doctype html><meta charset=utf-8>", content_type="text/html")
        else:
            route.fulfill(body=viewer.asset(name), content_type="text/javascript")

    with chromium() as browser:
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto(ORIGIN)

        def evaluate(code, value=None):
            return page.evaluate(
                """async ([code, value]) => {
                    const modules = {};
                    for (const name of ["exact", "format", "names", "profile", "tree", "wire"]) {
                        modules[name] = await import(`/${name}.js`);
                    }
                    const { decode, unpack } = modules.profile;
                    modules.read = async text => decode(await unpack(
                        Uint8Array.from(atob(text), letter => letter.charCodeAt(0))));
                    return await (0, eval)(code)(modules, value);
                }""",
                [code, value],
            )

        yield evaluate


def text(content):
    return base64.b64encode(content).decode("ascii")


def test_the_numbers_of_the_format(run):
    values = [0, 1, 127, 128, 16383, 16384, 2**31, 2**32 - 1, 2**32, 2**35 + 7, 2**53, 2**62 + 3]
    values += [2**63 - 1, -1, -2, -(2**31), -(2**53) - 1, -(2**63)]
    read = run(
        """({ wire }, text) => {
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            const message = new wire.Message(bytes);
            const found = [];
            while (message.at < message.end) found.push(String(message.signed()));
            return found;
        }""",
        text(b"".join(map(varint, values))),
    )
    assert list(map(int, read)) == values


@pytest.mark.parametrize(
    "content",
    [
        b"\x80",
        b"\xff" * 10,
        b"\xff" * 11,
        b"\x0a\x05ab",
        b"\x09abc",
        b"\x0f",
        b"\x0b",
        b"\x12\xff\xff\x7f",
    ],
    ids=["cut", "no end", "overlong", "short block", "short fixed", "no type", "group", "far"],
)
def test_what_is_damaged_is_refused(run, content):
    name = run(
        """({ profile, wire }, text) => {
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            try {
                profile.decode(bytes);
            } catch (error) {
                return error instanceof wire.FormatError;
            }
            return "read";
        }""",
        text(content),
    )
    assert name is True


def test_the_other_ways_to_write_a_profile(run):
    """Numbers one by one, inlined calls, addresses without names, fields of a later version."""
    strings = ["", "wall", "nanoseconds", "inner", "outer", "f.py", "system name"]
    message = block(1, number(1, 1) + number(2, 2))
    message += block(5, number(1, 7) + number(2, 3) + number(4, 5))
    message += block(5, number(1, 9) + number(3, 4) + number(4, 5))
    lines = block(4, number(1, 7) + number(2, 3)) + block(4, number(1, 9) + number(2, 4))
    message += block(4, number(1, 2**40) + lines) + block(4, number(1, 3) + number(3, 2**63 + 255))
    message += block(2, number(1, 2**40) + number(1, 3) + number(2, 5) + block(77, b"later"))
    message += b"".join(block(6, string.encode()) for string in strings) + block(99, b"later")
    read = run(
        """async ({ read }, text) => {
            const profile = await read(text);
            return [...profile.stacks].map(frame =>
                [profile.functions[profile.frameFunction[frame]].name, profile.frameLine[frame]]);
        }""",
        text(message),
    )
    assert read == [["inner", 3], ["outer", 4], ["0x80000000000000ff", 0]]


def test_the_call_tree_is_that_of_rprof(run, tmp_path):
    a, b, c = (Call(name, "m.py", line, 1) for line, name in enumerate("abc", start=3))
    rows = [
        Row([c, b, a], [1, 10]),
        Row([b, a], [2, 20]),
        Row([a, b, a], [3, 30], {"thread name": "w"}),
        Row([a._replace(line=99)], [4, 40]),
        Row([], [1, 5]),
    ]
    file = tmp_path / "p.pb.gz"
    file.write_bytes(encode(rows))
    profile = rprof.load(file)
    expected = collections.Counter()
    for frames, value in profile.stacks("wall"):
        path = tuple(frame.name for frame in frames)
        for depth in range(len(path) + 1):
            expected[path[:depth]] += value
    ours = run(
        """async ({ read, tree }, text) => {
            const dataset = new tree.Dataset(await read(text));
            const selection = new tree.Selection(dataset, "wall", () => true);
            const calls = dataset.tree(false);
            const [{ total }] = calls.weigh(selection);
            const name = node => dataset.functions[calls.function[node]].name;
            return [...total].map((value, node) => [calls.path(node).slice(1).map(name), value]);
        }""",
        text(profile.to_bytes()),
    )
    assert {tuple(path): value for path, value in ours} == dict(expected)


def test_callers_and_callees_hold_all_of_a_functions_time(run):
    a, b, c = (Call(name) for name in "abc")
    rows = [Row([c, b, a], [1, 10]), Row([b, c, b], [1, 20]), Row([a], [1, 40]), Row([b], [1, 3])]
    callers, callees = run(
        """async ({ read, tree }, text) => {
            const dataset = new tree.Dataset(await read(text));
            const selection = new tree.Selection(dataset, "wall", () => true);
            const b = dataset.functions.findIndex(({ name }) => name === "b");
            return [true, false].map(outwards => {
                const calls = dataset.around(b, outwards);
                const [{ total }] = calls.weigh(selection);
                const name = node => dataset.functions[calls.function[node]].name;
                return [...total].map((value, node) =>
                    [calls.path(node).map(name).join(""), value]);
            });
        }""",
        text(encode(rows)),
    )
    # By the outermost call of b, whose whole time this is.
    assert dict(callers) == {"b": 33, "ba": 10}
    assert dict(callees) == {"b": 33, "bc": 30, "bcb": 20}


def test_sums_wrap_as_int64_does(run):
    sums = run(
        """({ exact }) => [[5, 0, 7, 0], [0xffffffff, 0x7fffffff, 1, 0], [0, 0x200000, 1, 0]]
            .map(halves => String(exact.sum(exact.columnOf(Uint32Array.from(halves)))))"""
    )
    assert list(map(int, sums)) == [12, -(2**63), 2**53 + 1]


def test_an_address_without_a_function_has_a_name(run):
    """The same as the reader in Rust gives it."""
    mapping = number(1, 3) + number(2, 0xFFFF_FFFF_8000_0000) + number(3, 0xFFFF_FFFF_A000_0000)
    mapping += number(4, 0x2000) + number(5, 3)
    message = block(1, number(1, 1) + number(2, 2)) + block(3, mapping)
    for place, (where, address) in enumerate([(3, 0x234), (3, 0x2000_0000), (0, 0x234)], 1):
        fields = number(1, place) + number(2, where) + number(3, 0xFFFF_FFFF_8000_0000 + address)
        message += block(4, fields)
        message += block(2, block(1, varint(place)) + block(2, varint(1)))
    for string in ("", "wall", "nanoseconds", "/lib/[kernel]"):
        message += block(6, string.encode())
    names = ["[kernel]+0x2234", "0xffffffffa0000000", "0xffffffff80000234"]
    read = run(
        "async ({ read }, text) => (await read(text)).functions.map(({ name }) => name)",
        text(message),
    )
    assert read == names
    profile = rprof.Profile(rprof._native.Profile.decode(message, "x"))
    assert sorted(row.name for row in profile.top()) == sorted(names)


def test_values_as_people_read_them(run):
    with CASES.open(encoding="utf-8", newline="") as file:
        cases = list(csv.reader(file, delimiter="\t"))[1:]
    shown = run(
        """({ format }, cases) => cases.map(([value, unit]) =>
            format.human(BigInt(value), unit).replaceAll("\\u202f", " "))""",
        cases,
    )
    assert shown == [text for _, _, _, text in cases]


def test_numbers_as_people_read_them(run):
    shown = run(
        """({ format }) => [
            format.signed(-5, "count"), format.signed(5, "count"),
            format.percent(0.1234), format.percent(1), format.percent(0.00001), format.percent(0),
            format.exact(9007199254740993n), format.moment(1700000000000000000n), format.moment(0n),
        ].map(text => text.replaceAll("\\u202f", " "))"""
    )
    assert shown == [
        "\N{MINUS SIGN}5", "+5",
        "12.3%", "100%", "<0.01%", "0%",
        "9,007,199,254,740,993", "2023-11-14 22:13:20 UTC", "",
    ]  # fmt: skip


def test_whose_code_it_is(run):
    functions = [
        ("shop.cart.Cart.total", "/srv/shop/cart.py"),
        ("cart.total", "/srv/cart.py"),
        (
            "jinja2.environment.Template.render",
            "/v/lib/python3.12/site-packages/jinja2/environment.py",
        ),
        ("json.dumps", "/usr/lib/python3.12/json/__init__.py"),
        ("codecs.decode", "<frozen codecs>"),
        ("<gc>", ""),
        ("root", "<template>"),
        ("total", "C:\\shop\\Lib\\cart.py"),
    ]
    described = run(
        """({ names }, made) => made.map(([name, file]) => {
            const { kind, prefix, short } = names.describe({ name, file, line: 1 });
            return [kind, prefix, short];
        })""",
        functions,
    )
    assert described == [
        ["own", "shop.cart.", "Cart.total"],
        ["own", "cart.", "total"],
        ["library", "jinja2.environment.", "Template.render"],
        ["stdlib", "json.", "dumps"],
        ["stdlib", "codecs.", "decode"],
        ["pseudo", "", "<gc>"],
        ["stdlib", "", "root"],
        ["stdlib", "", "total"],
    ]


def test_what_hides_is_written_out(run):
    hidden = "".join(
        map(chr, [0, 9, 0x1B, 0x7F, 0x85, 0xAD, 0x200B, 0x200F, 0x202A, 0x2069, 0xFEFF])
    )
    shown = run("({ names }, text) => names.visible(text)", f"a{hidden}\U000e0041é漢😀\ufffdz")
    points = [*map(ord, hidden), 0xE0041]
    assert shown == "a" + "".join(f"⟨U+{point:04X}⟩" for point in points) + "é漢😀\ufffdz"

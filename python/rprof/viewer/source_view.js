// Lines with what they cost: over their source where the page has it, alone where it has not.

import { make } from "./dom.js";
import { compare, ratio, size } from "./exact.js";
import { exact, human, percent } from "./format.js";
import { shortPath, visible } from "./names.js";

const MAX_FILES = 300;

/** Lines as a table: those that cost something, or `all` of the `text` they are in. */
export function lineTable(context, lines, { text, all = false, caption = "" } = {}) {
  const { unit } = context;
  const whole = context.whole[0];
  const by = new Map(lines.map((line) => [line.line, line]));
  const most = lines.reduce((top, line) => Math.max(top, Math.abs(ratio(line.total, whole))), 0) || 1;
  const numbers = all
    ? text.map((_, index) => index + 1)
    : [...by.keys()].sort((left, right) => left - right);
  const rows = numbers.map((number) => {
    const line = by.get(number);
    const share = line ? Math.abs(ratio(line.total, whole)) : 0;
    const row = make(
      "tr",
      { class: line ? "hot" : "cold", "data-line": String(number) },
      costCell(line?.self, whole, unit),
      costCell(line?.total, whole, unit),
      make("th", { scope: "row", class: "line-number" }, number ? String(number) : "–"),
      make("td", { class: "code" }, text?.[number - 1] ? make("code", { dir: "ltr" }, visibleCode(text[number - 1])) : ""),
    );
    // The root: small costs are still seen beside one that is everything.
    if (line) row.style.setProperty("--heat", String(Math.sqrt(share / most)));
    return row;
  });
  return make(
    "table",
    { class: all ? "lines whole" : "lines" },
    caption ? make("caption", {}, caption) : "",
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        make("th", { scope: "col", class: "number" }, "Self"),
        make("th", { scope: "col", class: "number" }, "Total"),
        make("th", { scope: "col", class: "line-number" }, "Line"),
        make("th", { scope: "col", class: "code" }, text ? "Source" : ""),
      ),
    ),
    make("tbody", {}, ...rows),
  );
}

function costCell(value, whole, unit) {
  // Absent, 0 and 0n are all nothing.
  if (!value) return make("td", { class: "number" });
  return make(
    "td",
    { class: "number", "data-exact": String(value), title: `${exact(value)} ${unit}, ${percent(ratio(value, whole))}` },
    human(value, unit),
  );
}

/** Source as it stands, but for characters that hide; tabs are no such. */
const visibleCode = (line) => line.split("\t").map(visible).join("    ");

export class SourceView {
  constructor(list, root, sources) {
    this.list = list;
    this.root = root;
    this.sources = sources;
  }

  render(context) {
    const files = this.files(context);
    const wanted = context.state.file;
    const chosen = files.find(({ file }) => file === wanted) ?? this.best(files);
    this.list.replaceChildren(
      ...files.slice(0, MAX_FILES).map((entry) => this.entry(context, entry, entry === chosen)),
    );
    if (!chosen) {
      this.root.replaceChildren(make("p", { class: "empty" }, context.emptyText()));
      return;
    }
    const lines = context.dataset.lineTotals(context.selection, (made) => made.file === chosen.file);
    const text = this.sources.get(chosen.file);
    const split = text?.split(/\r\n|\n|\r/);
    const note =
      split === undefined
        ? make(
            "p",
            { class: "note" },
            this.sources.size
              ? "This file's source is not in the page: it was not found, or is no Python source."
              : "Sources are left out unless they are asked for. To see them here, write the page with to_html(source=True).",
          )
        : "";
    this.root.replaceChildren(
      make("h2", { class: "source-title" }, make("bdi", { dir: "ltr" }, visible(chosen.file))),
      note,
      make("div", { class: "table-scroll" }, lineTable(context, lines, {
          text: split,
          all: split !== undefined,
          caption: `Lines of ${visible(shortPath(chosen.file))}, by ${context.type}`,
        })),
    );
    const line = context.state.line;
    const target = line && this.root.querySelector(`[data-line="${Number(line)}"]`);
    const seen = target || this.hottest(lines);
    if (!seen) return;
    // Scrolls the lines and not the page, whose controls are to stay in view.
    const box = this.root.querySelector(".table-scroll");
    box.scrollTop = seen.offsetTop - box.clientHeight / 2;
  }

  hottest(lines) {
    if (!lines.length) return null;
    const top = lines.reduce((best, line) => (size(line.self) > size(best.self) ? line : best));
    return this.root.querySelector(`[data-line="${top.line}"]`);
  }

  /** Files by what was spent in their own lines. */
  files(context) {
    const self = new Map();
    context.dataset.functions.forEach((made, index) => {
      if (!made.file || !context.totals[0].total[index]) return;
      const value = context.totals[0].self[index];
      self.set(made.file, self.has(made.file) ? self.get(made.file) + value : value);
    });
    return [...self]
      .map(([file, value]) => ({ file, value }))
      .sort((left, right) => compare(size(right.value), size(left.value)) || compare(left.file, right.file));
  }

  best(files) {
    return files.find(({ file }) => this.sources.has(file)) ?? files[0];
  }

  entry(context, { file, value }, current) {
    return make(
      "button",
      {
        type: "button",
        class: "picker-entry",
        "aria-current": current ? "true" : undefined,
        title: visible(file),
        click: () => context.set({ file, line: "" }),
      },
      make("bdi", { class: "name", dir: "ltr" }, visible(shortPath(file))),
      this.sources.has(file) ? make("span", { class: "badge", title: "Its source is in this page" }, "source") : "",
      make("span", { class: "share" }, percent(ratio(value, context.whole[0]))),
    );
  }
}

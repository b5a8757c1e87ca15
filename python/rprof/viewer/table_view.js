// The table of functions: every figure of the page, sortable, and readable without a picture.

import { swatch, weightCell } from "./cells.js";
import { make, nameOf } from "./dom.js";
import { compare, size } from "./exact.js";
import { exact, points, signed } from "./format.js";
import { countFunctions, place } from "./names.js";

const PAGE = 200;

/** Which columns there are; `value` gives what is sorted by, `cell` what is shown. */
function columnsOf(context) {
  const { totals, whole, unit, described, compareShares } = context;
  const weight = (name, title, side, field) => ({
    name,
    title,
    numeric: true,
    value: (index) => size(totals[side][field][index]),
    cell: (index) => weightCell(totals[side][field][index], whole[side], unit),
  });
  const change = (name, title, field) => ({
    name,
    title,
    numeric: true,
    value: (index) => context.change(totals[0][field][index], totals[1][field][index]),
    cell: (index) => {
      const value = context.change(totals[0][field][index], totals[1][field][index]);
      const text = compareShares ? points(value) : signed(value, unit);
      const sign = Number(value) > 0 ? "more" : Number(value) < 0 ? "less" : "same";
      return make("td", { class: `number ${sign}`, "data-exact": String(value) }, text);
    },
  });
  const name = {
    name: "name",
    title: "Function",
    numeric: false,
    value: (index) => described[index].name,
    cell: (index) => functionCell(context, index),
  };
  if (totals.length === 1) {
    return [weight("self", "Self", 0, "self"), weight("total", "Total", 0, "total"), name];
  }
  return [
    weight("self-before", "Self before", 1, "self"),
    weight("self", "Self after", 0, "self"),
    change("self-change", "Self change", "self"),
    weight("total-before", "Total before", 1, "total"),
    weight("total", "Total after", 0, "total"),
    change("total-change", "Total change", "total"),
    name,
  ];
}

function functionCell(context, index) {
  const described = context.described[index];
  const open = () => context.open(index);
  return make(
    "th",
    { scope: "row", class: "function" },
    make(
      "div",
      { class: "function-cell" },
      swatch(context, index),
      make(
        "div",
        {},
        make("button", { type: "button", class: "link", click: open, title: described.name }, nameOf(described)),
        make("span", { class: "place", title: described.shownFile }, place(described)),
      ),
    ),
  );
}

export class TableView {
  constructor(root) {
    this.root = root;
    this.shown = PAGE;
  }

  render(context) {
    const columns = columnsOf(context);
    const [sortName, direction] = sortOf(context);
    const sorted = columns.find((column) => column.name === sortName) ?? columns[0];
    const sign = direction === "up" ? 1 : -1;
    const rows = context.rows();
    // A change is sorted by its size: what shrank matters as much as what grew.
    const key = sorted.name.endsWith("-change")
      ? (index) => size(sorted.value(index))
      : sorted.value;
    const self = context.totals[0].self;
    rows.sort(
      (left, right) =>
        sign * compare(key(left), key(right)) || compare(size(self[right]), size(self[left])) || left - right,
    );
    const head = make(
      "tr",
      {},
      ...columns.map((column) => {
        const active = column === sorted;
        const next = active && direction === "down" ? "up" : active || column.numeric ? "down" : "up";
        return make(
          "th",
          {
            scope: "col",
            class: column.numeric ? "number" : "function",
            "aria-sort": active ? (direction === "up" ? "ascending" : "descending") : "none",
          },
          make(
            "button",
            { type: "button", "data-sort": column.name, click: () => context.set({ sort: `${column.name}.${next}` }) },
            column.title,
            make("span", { class: "arrow", "aria-hidden": "true" }, active ? (direction === "up" ? "↑" : "↓") : ""),
          ),
        );
      }),
    );
    const body = make("tbody");
    const addRows = (from, to) => {
      for (const index of rows.slice(from, to)) {
        body.append(
          make("tr", { "data-function": String(index) }, ...columns.map((column) => column.cell(index))),
        );
      }
    };
    this.shown = PAGE;
    addRows(0, this.shown);
    const table = make(
      "table",
      { class: context.totals.length > 1 ? "functions wide" : "functions" },
      make("caption", {}, caption(context, rows)),
      make("thead", {}, head),
      body,
    );
    const more = make("button", { type: "button", class: "more" });
    const label = () => {
      more.hidden = this.shown >= rows.length;
      more.textContent = `Show the other ${exact(rows.length - this.shown)}`;
    };
    more.addEventListener("click", () => {
      addRows(this.shown, rows.length);
      this.shown = rows.length;
      label();
    });
    label();
    const empty = rows.length ? "" : make("p", { class: "empty" }, context.emptyText());
    this.root.replaceChildren(make("div", { class: "table-scroll" }, table), empty, more);
  }
}

function sortOf(context) {
  const wanted = context.state.sort || (context.totals.length > 1 ? "self-change.down" : "self.down");
  const at = wanted.lastIndexOf(".");
  return [wanted.slice(0, at), wanted.slice(at + 1)];
}

function caption(context, rows) {
  const count = countFunctions(rows.map((index) => context.described[index]));
  const searched = context.matches ? " that match" : "";
  return `${count}${searched}, by ${context.type}. Self is the function's own, total includes what it called.`;
}

// One function: who called it, what it called, which of its lines cost.

import { swatch } from "./cells.js";
import { make, nameOf } from "./dom.js";
import { compare, ratio, size } from "./exact.js";
import { FlameGraph } from "./flame.js";
import { changeText, modelOf } from "./flame_view.js";
import { exact, human, percent } from "./format.js";
import { place } from "./names.js";
import { lineTable } from "./source_view.js";

const MAX_ENTRIES = 300;

export class SandwichView {
  constructor(elements, tooltip, actions) {
    this.elements = elements;
    const graph = (scroller, name, options) =>
      new FlameGraph(
        scroller,
        {
          choose: (node) => this.graphs[name].zoom(node),
          open: (node) => actions.open(this.models[name].tree.function[node]),
          hover: (node, event) => tooltip.show(this.context, this.models[name], node, event),
          focus: () => {},
        },
        options,
      );
    this.models = {};
    this.graphs = {
      callers: graph(elements.callers, "callers", { up: true, most: 260 }),
      callees: graph(elements.callees, "callees", { most: 260 }),
    };
  }

  render(context) {
    this.context = context;
    const total = context.totals[0].total;
    const rows = context.rows();
    rows.sort((left, right) => compare(size(total[right]), size(total[left])) || left - right);
    const chosen = this.chosen(context, rows);
    this.elements.picker.replaceChildren(
      ...rows.slice(0, MAX_ENTRIES).map((index) => this.entry(context, index, index === chosen)),
      rows.length > MAX_ENTRIES
        ? make("p", { class: "note" }, `${exact(rows.length - MAX_ENTRIES)} more: search for them.`)
        : "",
    );
    const none = chosen < 0;
    for (const element of Object.values(this.elements)) {
      if (element !== this.elements.picker && element !== this.elements.head) element.hidden = none;
    }
    if (none) {
      this.elements.head.replaceChildren(make("p", { class: "empty" }, context.emptyText()));
      return;
    }
    this.head(context, chosen);
    const key = `${context.modelKey("around")}|${chosen}`;
    for (const name of ["callers", "callees"]) {
      if (key !== this.key) {
        const tree = context.dataset.around(chosen, name === "callers");
        this.models[name] = modelOf(context, tree, tree.weigh(context.selection));
      } else {
        this.models[name] = modelOf(context, this.models[name].tree, this.models[name].weights);
      }
      const kept = key === this.key ? this.graphs[name].zoomed : 0;
      this.graphs[name].show(this.models[name], kept);
    }
    if (key !== this.key) this.lines(context, chosen);
    this.key = key;
  }

  chosen(context, rows) {
    const wanted = context.state.function === "" ? -1 : Number(context.state.function);
    if (Number.isInteger(wanted) && wanted >= 0 && wanted < context.described.length) return wanted;
    const self = context.totals[0].self;
    return rows.reduce((best, index) => (best < 0 || size(self[index]) > size(self[best]) ? index : best), -1);
  }

  entry(context, index, current) {
    const described = context.described[index];
    return make(
      "button",
      {
        type: "button",
        class: "picker-entry",
        "aria-current": current ? "true" : undefined,
        title: described.name,
        click: () => context.open(index),
      },
      swatch(context, index),
      nameOf(described),
      make("span", { class: "share" }, percent(ratio(context.totals[0].total[index], context.whole[0]))),
    );
  }

  head(context, index) {
    const described = context.described[index];
    const { totals, whole, unit } = context;
    const figure = (label, field) => {
      const value = totals[0][field][index];
      return make(
        "div",
        { class: "figure", title: `${exact(value)} ${unit}` },
        make("dt", {}, label),
        make("dd", { "data-exact": String(value) }, human(value, unit), make("span", { class: "share" }, ` ${percent(ratio(value, whole[0]))}`)),
        totals.length > 1 ? make("dd", { class: "change" }, changeText(context, value, totals[1][field][index])) : "",
      );
    };
    this.elements.head.replaceChildren(
      make("h2", {}, swatch(context, index), nameOf(described)),
      described.file ? make("p", { class: "place" }, make("bdi", { dir: "ltr" }, place(described))) : "",
      make("dl", { class: "figures" }, figure("Self", "self"), figure("Total", "total")),
    );
  }

  lines(context, index) {
    const made = context.dataset.functions[index];
    const merged = context.dataset.functionOf[0];
    const side = context.dataset.sides[0];
    // A profile's own functions that became this one.
    const own = new Set();
    side.frameFunction.forEach((from, frame) => {
      if (merged[frame] === index) own.add(side.functions[from]);
    });
    const lines = context.dataset.lineTotals(context.selection, (other) => own.has(other));
    const text = context.sources.get(made.file)?.split(/\r\n|\n|\r/);
    this.elements.lines.replaceChildren(
      lines.length
        ? make("div", { class: "table-scroll" }, lineTable(context, lines, { text }))
        : make("p", { class: "empty" }, "No samples in its lines."),
    );
  }
}

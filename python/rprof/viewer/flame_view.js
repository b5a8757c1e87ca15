// The flame graph with its zoom, its details and its legend.

import { segments } from "./cells.js";
import { INK } from "./colors.js";
import { make, nameOf } from "./dom.js";
import { FlameGraph } from "./flame.js";
import { exact, human, percent, points, signed } from "./format.js";
import { place } from "./names.js";
import { ratio } from "./exact.js";

/** What a flame graph needs to draw a tree of this context. */
export function modelOf(context, tree, weights) {
  const width = widths(context, weights);
  const start = tree.place(width);
  return { tree, weights, width, start, ...looks(context, tree, weights) };
}

const ROOT = { prefix: "", short: "all", kind: "root" };

/** Colours and texts of a tree's nodes. */
function looks(context, tree, weights) {
  return {
    matches: context.matches,
    theme: context.theme,
    fill: (node) =>
      tree.function[node] < 0
        ? INK[context.theme].root
        : weights.length > 1
          ? context.changeColor(weights[0].total[node], weights[1].total[node])
          : context.isDifference
            ? differenceColor(context, weights[0], node)
            : context.color(tree.function[node]),
    text: (node) => {
      const { prefix, short, kind } = context.described[tree.function[node]] ?? ROOT;
      const total = weights[0].total[node];
      const weight =
        weights.length > 1
          ? changeText(context, total, weights[1].total[node])
          : percent(ratio(total, context.whole[0]));
      return { prefix, short, kind, weight };
    },
  };
}

export function changeText(context, after, before) {
  const value = context.change(after, before);
  return context.compareShares ? points(value) : signed(value, context.unit);
}

/** What became more below a node of a difference against what became less. */
function differenceColor(context, { total, size }, node) {
  const [sum, all] = [Number(total[node]), Number(size[node])];
  return context.changeColor((all + sum) / 2, (all - sum) / 2);
}

/**
 * How wide each node is drawn; a picture does with plain numbers. What became less is as wide as
 * what became more.
 */
function widths(context, weights) {
  const plain = weights.map(({ size }) => Float64Array.from(size, Number));
  if (weights.length === 1) return plain[0];
  const scale = context.whole.map((whole) => (context.compareShares && Number(whole)) || 1);
  const [after, before] = plain.map((column, side) => column.map((value) => value / scale[side]));
  if (context.state.width === "after") return after;
  if (context.state.width === "before") return before;
  // Sums add up over children, so that what is gone has its place beside what is new.
  return after.map((value, node) => value + before[node]);
}

/** The figures of one frame, as lines of [label, value]. */
export function figures(context, weights, node) {
  const { unit, whole } = context;
  if (weights.length === 1) {
    const { self, total } = weights[0];
    const line = (label, value) => [
      label,
      human(value, unit),
      percent(ratio(value, whole[0])),
      `${exact(value)} ${unit}`,
    ];
    // What ends in an inverted tree is the outermost call: there is no self to speak of.
    return context.inverted ? [line("total", total[node])] : [line("total", total[node]), line("self", self[node])];
  }
  const [after, before] = weights;
  return [
    ["before", human(before.total[node], unit), percent(ratio(before.total[node], whole[1])), exact(before.total[node])],
    ["after", human(after.total[node], unit), percent(ratio(after.total[node], whole[0])), exact(after.total[node])],
    ["change", changeText(context, after.total[node], before.total[node]), "", ""],
  ];
}

/** The small window beside the pointer. */
export class Tooltip {
  constructor(element) {
    this.element = element;
  }

  show(context, model, node, event) {
    if (node < 0 || !event) {
      this.element.hidden = true;
      return;
    }
    const described = context.described[model.tree.function[node]];
    this.element.replaceChildren(
      make("div", { class: "tooltip-name" }, described ? nameOf(described) : "all"),
      described?.file ? make("div", { class: "place" }, place(described)) : "",
      make(
        "dl",
        {},
        ...figures(context, model.weights, node).flatMap(([label, value, share]) => [
          make("dt", {}, label),
          make("dd", {}, value, share ? make("span", { class: "share" }, share) : ""),
        ]),
      ),
    );
    this.element.hidden = false;
    const { width, height } = this.element.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, window.innerWidth - width - 8);
    const below = event.clientY + 18;
    const top = below + height > window.innerHeight - 8 ? event.clientY - height - 12 : below;
    this.element.style.left = `${Math.max(8, left)}px`;
    this.element.style.top = `${Math.max(8, top)}px`;
  }
}

export class FlameView {
  constructor(elements, tooltip, actions) {
    this.elements = elements;
    this.tooltip = tooltip;
    this.actions = actions;
    this.model = null;
    this.graph = new FlameGraph(elements.flame, {
      choose: (node) => actions.zoom(node),
      open: (node) => actions.open(this.model.tree.function[node]),
      hover: (node, event) => this.hover(node, event),
      focus: (node) => this.detail(node),
    });
  }

  render(context) {
    const { state } = context;
    this.context = context;
    const inverted = state.direction === "inverted";
    segments(
      this.elements.direction,
      [
        ["", "Top down", "From the outermost call inwards: where time goes"],
        ["inverted", "Inverted", "From the innermost call outwards: which functions burn, and who called them"],
      ],
      state.direction,
      (direction) => context.set({ direction, zoom: "" }),
    );
    const comparing = context.dataset.sides.length > 1;
    for (const element of [this.elements.widthMode, this.elements.compareMode]) element.hidden = !comparing;
    if (comparing) {
      segments(
        this.elements.widthMode,
        [
          ["", "Both", "Frames are as wide as before and after together: what is gone is still there"],
          ["before", "Before", "Frames are as wide as they were before"],
          ["after", "After", "Frames are as wide as they are now"],
        ],
        state.width,
        (width) => context.set({ width }),
      );
      segments(
        this.elements.compareMode,
        [
          ["", "Values", "Compare what was measured"],
          ["shares", "Shares", "Compare shares of the whole: for recordings of different length"],
        ],
        state.compare,
        (compare) => context.set({ compare }),
      );
    }
    const key = context.modelKey(inverted);
    const tree = context.dataset.tree(inverted);
    if (key !== this.key) {
      const weights = tree.weigh(context.selection);
      this.model = modelOf(context, tree, weights);
      this.key = key;
    } else {
      // The same tree and weights: only colours may differ.
      this.model = { ...this.model, ...looks(context, tree, this.model.weights) };
    }
    const wanted = Number(state.zoom);
    const zoomed =
      Number.isInteger(wanted) && wanted > 0 && wanted < tree.count && this.model.width[wanted] > 0 ? wanted : 0;
    const smooth = this.graph.model?.width === this.model.width;
    if (smooth) {
      this.graph.model = this.model;
      this.graph.zoom(zoomed, this.graph.zoomed !== zoomed);
    } else this.graph.show(this.model, zoomed);
    this.crumbs(zoomed);
    this.detail(zoomed);
    this.legend();
  }

  hover(node, event) {
    this.tooltip.show(this.context, this.model, node, event);
  }

  crumbs(zoomed) {
    const { tree } = this.model;
    const path = zoomed ? tree.path(zoomed) : [];
    const items = path.map((node, index) => {
      const text = (this.context.described[tree.function[node]] ?? ROOT).short;
      const last = index === path.length - 1;
      return make(
        "li",
        {},
        make(
          "button",
          { type: "button", class: "link", "aria-current": last ? "true" : undefined, click: () => this.actions.zoom(node) },
          text,
        ),
      );
    });
    // The first and the last few say where one is.
    if (items.length > 6) items.splice(2, items.length - 5, make("li", { class: "gap" }, "…"));
    this.elements.crumbs.replaceChildren(...items);
  }

  detail(node) {
    const { context, model } = this;
    const described = context.described[model.tree.function[node]];
    const parts = figures(context, model.weights, node).map(([label, value, share, title]) =>
      make(
        "span",
        { class: "figure", title },
        make("span", { class: "figure-label" }, label),
        ` ${value}`,
        share ? make("span", { class: "share" }, ` ${share}`) : "",
      ),
    );
    const buttons = described
      ? [
          make("button", { type: "button", class: "small", click: () => this.actions.open(model.tree.function[node]) }, "Callers and callees"),
          described.file
            ? make("button", { type: "button", class: "small", click: () => this.actions.source(model.tree.function[node]) }, "Lines")
            : "",
        ]
      : [];
    this.elements.detail.replaceChildren(
      make("span", { class: "detail-name" }, described ? nameOf(described) : "all"),
      described?.file ? make("span", { class: "place", title: described.shownFile }, place(described)) : "",
      ...parts,
      make("span", { class: "detail-actions" }, ...buttons),
    );
  }

  legend() {
    const { context } = this;
    if (context.whole.every((value) => !value)) {
      this.elements.legend.textContent = context.emptyText();
      return;
    }
    const key = (kind, text) => make("span", { class: `key ${kind}` }, text);
    this.elements.legend.replaceChildren(
      ...(context.dataset.sides.length > 1 || context.isDifference
        ? [key("less", "less than before"), key("same", "the same"), key("more", "more than before")]
        : [...(context.root ? [key("root", "roots")] : []), key("own", "own code, a hue for each module"), key("library", "libraries"), key("stdlib", "standard library"), key("pseudo", "not Python code")]),
    );
  }
}

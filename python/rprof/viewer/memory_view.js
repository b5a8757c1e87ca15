// Memory: what is in use and what was allocated, by line of the user's own code and by label; of two
// heaps, what has grown.

import { swatch, weightCell } from "./cells.js";
import { make, nameOf } from "./dom.js";
import { alike, compare, size, zeros } from "./exact.js";
import { exact, human, signed } from "./format.js";
import { place, visible } from "./names.js";
import { labelOf } from "./threads_view.js";
import { placesOf } from "./waits_view.js";

const MAX_PLACES = 100;
// What is told, most wanted first: the sample type, its heading, that of what it counts beside it.
const SPACES = [
  ["inuse_space", "In use", "inuse_objects"],
  ["alloc_space", "Allocated", "alloc_objects"],
];
const NO_LABEL = "";

const isSpace = (name) => SPACES.some(([space]) => space === name);

/** Whether a profile tells of memory. */
export const tellsOfMemory = (side) => side.sampleTypes.some(({ name }) => isSpace(name));

/** Whether that is what it is for. */
export const isHeap = (side) => isSpace(side.defaultType);

/** The column of a sample type of every side, of one kind; null where the first has none. */
function sidesOf(dataset, type) {
  const found = dataset.sides.map((side) => {
    const index = side.sampleTypes.findIndex(({ name }) => name === type);
    return index < 0 ? null : side.columns[index];
  });
  if (!found[0]) return null;
  return alike(found.map((column, number) => column ?? new Float64Array(dataset.sides[number].stackEnds.length)));
}

/** What there is to tell of this profile: name, heading, columns by side. */
function measuresOf(dataset) {
  return SPACES.flatMap(([space, title, objects]) => [
    { name: space, title, unit: "bytes", columns: sidesOf(dataset, space) },
    { name: objects, title: `${title}, blocks`, unit: "count", columns: sidesOf(dataset, objects) },
  ]).filter(({ columns }) => columns);
}

/** Sums of every measure by group and side; `groupOf(number, sample)` is what a sample belongs to. */
function sumsOf(context, measures, groupOf) {
  const groups = new Map();
  const sides = context.dataset.sides;
  sides.forEach((side, number) => {
    const wanted = side.labelSets.map(context.accepts);
    side.sampleLabels.forEach((set, sample) => {
      if (!wanted[set]) return;
      const found = groupOf(number, sample);
      if (!found) return;
      let group = groups.get(found.key);
      if (!group) {
        group = { ...found, values: measures.map(({ columns }) => zeros(columns[0], sides.length)) };
        groups.set(found.key, group);
      }
      measures.forEach(({ columns }, at) => {
        group.values[at][number] += columns[number][sample];
      });
    });
  });
  return [...groups.values()].filter(({ values }) => values.some((sides) => sides.some(Boolean)));
}

const growthOf = (values) => (values.length > 1 ? values[0] - values[1] : values[0]);

export class MemoryView {
  constructor(root) {
    this.root = root;
  }

  render(context) {
    const { dataset } = context;
    const measures = measuresOf(dataset);
    if (!measures.length) {
      this.root.replaceChildren(make("p", { class: "note" }, "This profile does not tell of memory."));
      return;
    }
    const comparing = dataset.sides.length > 1;
    const whole = sumsOf(context, measures, () => ({ key: "" }))[0];
    if (!whole) {
      this.root.replaceChildren(make("p", { class: "empty" }, context.emptyText()));
      return;
    }
    // By what is looked at above, if it is one of these; else by what is in use.
    const by = Math.max(0, measures.findIndex(({ name }) => name === context.type));
    const order = (left, right) =>
      compare(growthOf(right.values[by]), growthOf(left.values[by])) || compare(left.key, right.key);
    const shown = { measures, whole, comparing, by };
    this.root.replaceChildren(
      this.summary(context, shown),
      this.lines(context, shown, order),
      this.labels(context, shown, order),
    );
  }

  /** The sums of the selection, with the error of what was sampled. */
  summary(context, { measures, whole, comparing }) {
    const period = Number(context.dataset.sides[0].period);
    return make(
      "dl",
      { class: "memory-sums" },
      ...measures.filter(({ unit }) => unit === "bytes").map(({ name, title }) => {
        const at = measures.findIndex((measure) => measure.name === name);
        const [now, before] = whole.values[at];
        // How far a sum of samples may be off: each sample stands for about this many bytes.
        const error = Math.sqrt(Number(size(now)) * period);
        const blocks = whole.values[at + 1]?.[0];
        return make(
          "div",
          {},
          make("dt", {}, title),
          make(
            "dd",
            { "data-exact": String(now) },
            make("strong", {}, human(now, "bytes")),
            make("span", { class: "note" }, ` ± ${human(Math.round(error), "bytes")}`),
            blocks === undefined ? "" : ` in ${exact(blocks)} blocks`,
            comparing ? make("span", { class: "growth", "data-exact": String(now - before) }, `, ${signed(now - before, "bytes")}`) : "",
          ),
        );
      }),
    );
  }

  lines(context, shown, order) {
    const { dataset, described, matches } = context;
    const places = dataset.sides.map((_, number) => placesOf(dataset, described, number));
    const groups = sumsOf(context, shown.measures, (number, sample) => {
      const frame = places[number][sample];
      if (frame < 0) return null;
      const index = dataset.functionOf[number][frame];
      if (matches && !matches[index]) return null;
      const line = dataset.sides[number].frameLine[frame];
      return { key: `${index}:${line}`, index, line };
    }).sort(order);
    const rows = groups.slice(0, MAX_PLACES).map((group) => {
      const made = described[group.index];
      return this.row(
        shown,
        group,
        make(
          "div",
          { class: "function-cell" },
          swatch(context, group.index),
          make(
            "div",
            {},
            make(
              "button",
              { type: "button", class: "link", click: () => context.open(group.index), title: made.name },
              nameOf(made),
            ),
            make("span", { class: "place", title: made.shownFile }, place(made, group.line)),
          ),
        ),
      );
    });
    const what = "innermost lines of your own code, libraries included in what they allocate";
    const caption = groups.length > rows.length ? `The first ${rows.length} of ${exact(groups.length)} ${what}` : `By line: ${what}`;
    return this.table(shown, "Line", caption, rows, context.emptyText());
  }

  labels(context, shown, order) {
    const sides = context.dataset.sides;
    const keys = new Set(sides.flatMap((side) => side.labelSets.flat()).map(({ key }) => key));
    keys.delete("thread id");
    keys.delete("age");
    const offered = [...keys].sort();
    const key = offered.includes(context.state.group) ? context.state.group : offered.find((one) => one === "route") ?? "thread name";
    const groups = sumsOf(context, shown.measures, (number, sample) => {
      const side = sides[number];
      const value = labelOf(side.labelSets[side.sampleLabels[sample]], key);
      return { key: value };
    }).sort(order);
    const rows = groups.slice(0, MAX_PLACES).map((group) =>
      this.row(shown, group, this.labelCell(context, key, group.key)),
    );
    const choice = make(
      "select",
      { "aria-label": "Group by", change: (event) => context.set({ group: event.target.value }) },
      ...offered.map((one) => make("option", { value: one, selected: one === key }, visible(one))),
    );
    const title = make("label", { class: "field" }, make("span", {}, "Group by"), choice);
    const caption = groups.length > rows.length ? `The first ${rows.length} of ${exact(groups.length)}` : "By label";
    return make("section", { class: "wait" }, title, this.table(shown, visible(key), caption, rows, context.emptyText()));
  }

  labelCell(context, key, value) {
    if (value === NO_LABEL) return make("span", { class: "note" }, "without");
    const isThread = key === "thread name";
    return make(
      "button",
      {
        type: "button",
        class: "link",
        title: `Only these: ${visible(value)}`,
        click: () => context.set({ label: `${key}\u0000${value}`, thread: isThread ? "" : context.state.thread, zoom: "" }),
      },
      make("bdi", { class: "name" }, visible(value)),
    );
  }

  row({ measures, whole, comparing }, group, head) {
    return make(
      "tr",
      {},
      make("th", { scope: "row", class: "function" }, head),
      ...measures.flatMap(({ unit }, at) => {
        // Of two heaps bytes alone: each has two columns.
        if (comparing && unit !== "bytes") return [];
        const [now, before] = group.values[at];
        const cell = weightCell(now, whole.values[at][0], unit);
        cell.classList.add(unit);
        if (!comparing) return [cell];
        const change = now - before;
        const growth = make(
          "td",
          { class: `number growth ${unit} ${change > 0 ? "more" : change < 0 ? "less" : ""}`, "data-exact": String(change) },
          signed(change, unit),
        );
        return [growth, cell];
      }),
    );
  }

  table({ measures, comparing }, title, caption, rows, empty) {
    if (!rows.length) return make("p", { class: "empty" }, empty);
    const heads = measures.flatMap(({ title: name, unit }) => {
      const head = (text) => make("th", { scope: "col", class: `number ${unit}` }, text);
      if (!comparing) return [head(name)];
      return unit === "bytes" ? [head(`${name}: change`), head(name)] : [];
    });
    return make(
      "div",
      { class: "table-scroll" },
      make(
        "table",
        { class: "functions memory" },
        make("caption", {}, caption),
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            make("th", { scope: "col", class: "function" }, title),
            ...heads,
          ),
        ),
        make("tbody", {}, ...rows),
      ),
    );
  }
}

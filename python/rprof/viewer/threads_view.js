// Each thread with every sample type.

import { weightCell } from "./cells.js";
import { make } from "./dom.js";
import { size, zeros } from "./exact.js";
import { exact } from "./format.js";
import { visible } from "./names.js";
import { mainThreads } from "./recording.js";

/** The value of a label of a set; the thread's id is a number under a key of its own. */
export const labelOf = (set, key) => set.find((label) => label.key === key)?.value ?? "";

/** What tells a thread from the others: name and id, or across two profiles the name alone. */
export function threadKey(set, comparing) {
  const name = labelOf(set, "thread name");
  return comparing ? name : `${name}#${labelOf(set, "thread id")}`;
}

/** All threads with their sums by sample type, as columns of the profile. */
export function threadsOf(dataset) {
  const comparing = dataset.sides.length > 1;
  const found = new Map();
  for (const side of dataset.sides) {
    const main = mainThreads(side);
    const sums = side.columns.map((column) => zeros(column, side.labelSets.length));
    side.sampleLabels.forEach((set, sample) => {
      side.columns.forEach((column, type) => {
        sums[type][set] += column[sample];
      });
    });
    side.labelSets.forEach((set, number) => {
      const key = threadKey(set, comparing);
      let thread = found.get(key);
      if (!thread) {
        thread = { key, name: labelOf(set, "thread name"), id: labelOf(set, "thread id"), main: false, totals: [] };
        found.set(key, thread);
      }
      thread.main ||= main.has(labelOf(set, "thread id"));
      if (side === dataset.sides[0]) {
        sums.forEach((column, type) => {
          const before = thread.totals[type];
          thread.totals[type] = before === undefined ? column[number] : before + column[number];
        });
      }
    });
  }
  return [...found.values()];
}

export function threadName(thread) {
  const name = visible(thread.name) || (thread.id ? `thread ${thread.id}` : "no name");
  return thread.main && name !== "MainThread" ? `${name} (the main thread)` : name;
}

/** Which of two threads has more of a sample type, whatever its sign. */
export const bySize = (left, right, type) =>
  Number(size(right.totals[type] ?? 0)) - Number(size(left.totals[type] ?? 0));

export class ThreadsView {
  constructor(root) {
    this.root = root;
  }

  render(context) {
    const side = context.dataset.sides[0];
    const types = side.sampleTypes;
    const current = types.findIndex((type) => type.name === context.type);
    const threads = context.threads.filter((thread) => thread.totals.length);
    threads.sort((left, right) => bySize(left, right, current));
    const whole = context.typeWholes;
    const head = make(
      "tr",
      {},
      make("th", { scope: "col", class: "function" }, "Thread"),
      make("th", { scope: "col", class: "number" }, "Id"),
      ...types.map((type) => make("th", { scope: "col", class: "number" }, type.name)),
    );
    const rows = threads.map((thread) =>
      make(
        "tr",
        { "aria-current": thread.key === context.state.thread ? "true" : undefined },
        make(
          "th",
          { scope: "row", class: "function" },
          make(
            "button",
            { type: "button", class: "link", title: "Only this thread", click: () => context.set({ thread: thread.key, zoom: "" }) },
            make("bdi", { class: "name" }, threadName(thread)),
          ),
        ),
        make("td", { class: "number" }, visible(thread.id)),
        ...types.map((type, index) => weightCell(thread.totals[index], whole[index], type.unit)),
      ),
    );
    this.root.replaceChildren(
      make(
        "div",
        { class: "table-scroll" },
        make(
          "table",
          { class: "functions threads" },
          make("caption", {}, `${exact(threads.length)} threads. Choose one to see only its samples.`),
          make("thead", {}, head),
          make("tbody", {}, ...rows),
        ),
      ),
    );
  }
}

// What was waited for, who made others wait, and who waited: as `rprof tree --waits` tells it.

import { swatch, weightCell } from "./cells.js";
import { make, nameOf } from "./dom.js";
import { compare, zeros } from "./exact.js";
import { human } from "./format.js";
import { place, visible } from "./names.js";
import { labelOf } from "./threads_view.js";

const MAX_PARTIES = 10;
// By the value of the label `off`: what it is called, what measures it, and what blames for it.
const REASONS = [
  ["lock", "A lock", "lock_wait", "lock_blame"],
  ["gil", "The GIL", "gil_wait", "gil_blame"],
  ["cpu-queue", "A CPU", "cpu_wait", null],
  ["network", "The network", null, null],
  ["disk", "A disk", null, null],
  ["sleep", "A time", null, null],
  ["child", "A child process", null, null],
  ["page-fault", "Memory", null, null],
  ["other", "Something else", null, null],
];
const TASKS = ["task", "Tasks that wait", "task_wall", null];

/** By sample: the innermost frame of the user's own code, or the innermost of all; -1 without any. */
export function placesOf(dataset, described, number = 0) {
  const side = dataset.sides[number];
  const functionOf = dataset.functionOf[number];
  const places = new Int32Array(side.stackEnds.length).fill(-1);
  let start = 0;
  side.stackEnds.forEach((end, sample) => {
    for (let at = start; at < end && places[sample] < 0; at++) {
      const { kind } = described[functionOf[side.stacks[at]]];
      if (kind === "own" || kind === "pseudo") places[sample] = side.stacks[at];
    }
    if (places[sample] < 0 && end > start) places[sample] = side.stacks[start];
    start = end;
  });
  return places;
}

/** The functions that have values of a column under label sets that are wanted, heaviest first. */
function partiesOf(dataset, places, values, wanted) {
  const side = dataset.sides[0];
  const functionOf = dataset.functionOf[0];
  const byFrame = zeros(values, side.frameFunction.length);
  for (let sample = 0; sample < values.length; sample++) {
    if (values[sample] && wanted[side.sampleLabels[sample]] && places[sample] >= 0) {
      byFrame[places[sample]] += values[sample];
    }
  }
  const found = new Map();
  byFrame.forEach((value, frame) => {
    if (!value) return;
    const index = functionOf[frame];
    const known = found.get(index) ?? { index, line: 0, most: zeros(values, 1)[0], value: zeros(values, 1)[0] };
    known.value += value;
    if (value > known.most) [known.most, known.line] = [value, side.frameLine[frame]];
    found.set(index, known);
  });
  return [...found.values()].sort((left, right) => compare(right.value, left.value) || left.index - right.index);
}

/** All waits: first those with culprits, then the others, longest first. */
function waitsOf(context) {
  const { dataset, described } = context;
  const side = dataset.sides[0];
  const places = placesOf(dataset, described);
  const columnOf = (name) => side.columns[side.sampleTypes.findIndex((type) => type.name === name)];
  const wall = columnOf("wall");
  const chosen = side.labelSets.map(context.accepts);
  const found = [];
  const add = (reason, type, values, blame, label, accepts) => {
    if (!values) return;
    const wanted = side.labelSets.map((set, number) => chosen[number] && accepts(set));
    const waiters = partiesOf(dataset, places, values, wanted);
    const culprits = blame ? partiesOf(dataset, places, blame.values, wanted) : [];
    const waited = waiters.reduce((sum, { value }) => sum + value, zeros(values, 1)[0]);
    if (waited > 0) found.push({ reason, type, blame: blame?.type, label, waiters, culprits, waited });
  };
  for (const reason of [...REASONS, TASKS]) {
    const [off, , waitType, blameType] = reason;
    const values = waitType && columnOf(waitType);
    const blame = blameType && columnOf(blameType) ? { type: blameType, values: columnOf(blameType) } : null;
    if (off === "task") {
      add(reason, waitType, values, null, null, () => true);
    } else if (!values) {
      add(reason, "wall", wall, null, ["off", off], (set) => labelOf(set, "off") === off);
    } else if (off === "lock") {
      for (const lock of new Set(side.labelSets.map((set) => labelOf(set, "lock")))) {
        const label = lock ? ["lock", lock] : null;
        add(reason, waitType, values, blame, label, (set) => labelOf(set, "lock") === lock);
      }
    } else {
      add(reason, waitType, values, blame, null, () => true);
    }
  }
  return found.sort(
    (left, right) => (left.culprits.length === 0) - (right.culprits.length === 0) || compare(right.waited, left.waited),
  );
}

export class WaitsView {
  constructor(root) {
    this.root = root;
  }

  render(context) {
    const waits = waitsOf(context);
    const side = context.dataset.sides[0];
    const isTold = side.sampleTypes.some(({ name }) => name === "gil_wait") ||
      side.labelSets.some((set) => labelOf(set, "off") !== "");
    const notes = [];
    if (context.dataset.sides.length > 1) notes.push("Only the profile itself, not what it is compared with.");
    if (context.isDifference) notes.push("This profile is a difference: it has no waits of its own.");
    else if (!isTold) notes.push("This profile does not tell why threads wait.");
    else if (waits.length === 0) notes.push("Nothing waited in this selection.");
    this.root.replaceChildren(
      ...notes.map((note) => make("p", { class: "note" }, note)),
      ...(context.isDifference ? [] : waits.map((wait) => this.section(context, wait))),
    );
  }

  section(context, wait) {
    const [, title] = wait.reason;
    const show = (type) => context.set({
      view: "flame",
      type,
      zoom: "",
      ...(wait.label ? { label: wait.label.join("\u0000") } : {}),
    });
    const lock = wait.label?.[0] === "lock" ? wait.label[1] : "";
    const head = make(
      "header",
      {},
      make("h2", {}, lock ? make("bdi", {}, visible(lock)) : title),
      make("span", { class: "waited", "data-exact": String(wait.waited) }, `${human(wait.waited, "nanoseconds")} waited`),
      ...[wait.blame, wait.type].filter(Boolean).map((type) =>
        make("button", { type: "button", class: "link", click: () => show(type) }, `flame graph of ${type}`),
      ),
    );
    return make(
      "section",
      { class: "wait" },
      head,
      make(
        "div",
        { class: "wait-parties" },
        ...[["Caused by", wait.culprits], ["Waited in", wait.waiters]]
          .filter(([, parties]) => parties.length)
          .map(([name, parties]) => this.parties(context, name, parties, wait)),
      ),
    );
  }

  parties(context, name, parties, wait) {
    const rows = parties.slice(0, MAX_PARTIES).map(({ index, line, value }) => {
      const described = context.described[index];
      return make(
        "tr",
        {},
        make(
          "th",
          { scope: "row", class: "function" },
          make(
            "div",
            { class: "function-cell" },
            swatch(context, index),
            make(
              "div",
              {},
              make(
                "button",
                { type: "button", class: "link", click: () => context.open(index), title: described.name },
                nameOf(described),
              ),
              make("span", { class: "place", title: described.shownFile }, place(described, line)),
            ),
          ),
        ),
        weightCell(value, wait.waited, "nanoseconds"),
      );
    });
    const others = parties.length - rows.length;
    return make(
      "table",
      { class: "functions" },
      make("caption", {}, others > 0 ? `${name} (and ${others} other functions)` : name),
      make("tbody", {}, ...rows),
    );
  }
}

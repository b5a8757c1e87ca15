// What stacks can begin with: the thread, the task, or another label of a sample.

import { make } from "./dom.js";
import { exact } from "./format.js";
import { visible } from "./names.js";
import { labelOf } from "./threads_view.js";

const THREAD = "thread name";
const THREAD_ID = "thread id";
const TASK = "task";
const MAX_LABELS = 50;

/** What can be chosen, [label, what it is called], in order, and how many labels are left out. */
export function rootChoices(dataset) {
  const keys = new Set(dataset.sides.flatMap(({ labelSets }) => labelSets.flat().map(({ key }) => key)));
  const threads = dataset.sides.map(({ labelSets }) => new Set(labelSets.map(threadOf)));
  const choices = threads.some((found) => found.size > 1) ? [[THREAD, "Threads"]] : [];
  if (keys.has(TASK)) choices.push([TASK, "Tasks"]);
  for (const key of ["", THREAD, THREAD_ID, TASK]) keys.delete(key);
  const labels = [...keys].sort();
  for (const key of labels.slice(0, MAX_LABELS)) choices.push([key, visible(key)]);
  return { choices, omitted: Math.max(0, labels.length - MAX_LABELS) };
}

/** Says what stands above the stack of a label set; null if it does not have the label. */
export const rootBy = (key) =>
  key === THREAD ? threadOf : (set) => set.find((label) => label.key === key)?.value ?? null;

/** What the table says beside the name of a root. */
export const rootLabel = (key) => (key === THREAD ? "thread" : key);

/** As the command's --root: threads of one name are one, and those without have a number. */
function threadOf(set) {
  const id = labelOf(set, THREAD_ID);
  return labelOf(set, THREAD) || (id ? `thread ${id}` : null);
}

/** Fills the choice of roots. */
export function showRoots(select, { choices, omitted }, current) {
  const option = ([key, text]) => make("option", { value: key }, text);
  const own = choices.filter(([key]) => key === THREAD || key === TASK);
  const labels = choices.slice(own.length);
  const more = omitted ? make("option", { disabled: true }, `and ${exact(omitted)} more`) : "";
  select.replaceChildren(
    make("option", { value: "" }, "None"),
    ...own.map(option),
    labels.length ? make("optgroup", { label: "Labels" }, ...labels.map(option), more) : "",
  );
  select.value = current;
}

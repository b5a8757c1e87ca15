// What the profile says of its own making: when, how long, how often, by which engine, what went wrong.

import { make } from "./dom.js";
import { exact, human, moment } from "./format.js";
import { visible } from "./names.js";

// Numbers that are nothing to speak of while they are 0, and those that take something from the figures.
const COUNTERS = ["late_ticks", "incomplete_stacks", "skipped_ticks"];
const LOSSES = [
  "stood_still_seconds",
  "out_of_memory_seconds",
  "unattended_seconds",
  "lost_events",
  "overflow_stacks",
];
// From which part of the whole on they are worth a place below the title.
const STRAINS = new Map([
  ["throttled_seconds", 0],
  ["container_cpu_pressure_seconds", 0.1],
  ["container_io_pressure_seconds", 0.1],
  ["machine_cpu_pressure_seconds", 0.1],
  ["machine_io_pressure_seconds", 0.1],
]);
// Names that need more words.
const TITLES = {
  main_thread: "id of the main thread",
  max_nodes: "most nodes",
  no_gil_wait: "no gil_wait",
  overflow_stacks: "stacks folded into <overflow>",
  stood_still_seconds: "process stood still",
  throttled_seconds: "container throttled",
  unattended_seconds: "no thread to record",
};

/** What a fact is called; its unit is told with its value. */
function titleOf({ name, unit }) {
  if (Object.hasOwn(TITLES, name)) return TITLES[name];
  const words = name.split("_");
  if (unit === "seconds" || unit === "Hz") words.pop();
  return words.join(" ");
}

const textsOf = (profile, wanted) =>
  profile.told.texts.flatMap(({ name, value }) => (name === wanted ? [visible(value)] : []));

const numberOf = (profile, wanted) => profile.told.numbers.find(({ name }) => name === wanted)?.value ?? 0;

/** A number with its unit, and the whole of which it is a part. */
const amount = ({ value, unit, of }) => (of ? `${human(value, unit)} of ${human(of, unit)}` : human(value, unit));

/** The ids of the main threads, one of each process. */
export const mainThreads = (profile) => new Set(textsOf(profile, "main_thread"));

/** What one should know of the figures of a sample type, and of its lines: a sentence each. */
export function doubts(sides, type, withLines) {
  const found = [];
  const names = sides.map((side) => side.sampleTypes.map(({ name }) => name));
  const lone = [...new Set(names.flat())].filter((name) => !names.every((known) => known.includes(name)));
  if (lone.length) {
    found.push(`Measured in one of the two only, so that there is nothing to compare: ${lone.map(visible).join(", ")}.`);
  }
  sides.forEach((profile, number) => {
    const before = number ? " before" : "";
    // What was not measured has the value 0 in the format, which has no other.
    for (const gap of profile.told.unmeasured.filter(({ name }) => name === type)) {
      found.push(
        `${visible(type)} was not measured in ${gap.profiles} of ${gap.of_profiles} merged profiles${before}, ${gap.ns / 1e9} s of ${gap.of_ns / 1e9} s: its values are those of the others.`,
      );
    }
    if (withLines && textsOf(profile, "jit").length) {
      found.push(`The interpreter's JIT was on${before}: lines of hot loops may be wrong, functions are right.`);
    }
  });
  return found;
}

/** The line below the title. */
export function facts(profile, threadCount) {
  const found = [];
  const when = moment(profile.timeNanos);
  if (when) found.push(["when", when]);
  if (profile.durationNanos > 0n) found.push(["duration", human(profile.durationNanos, "nanoseconds")]);
  if (threadCount) found.push(["threads", `${exact(threadCount)} ${threadCount === 1 ? "thread" : "threads"}`]);
  const rate = rateText(profile);
  if (rate) found.push(["rate", rate]);
  const engines = new Set(textsOf(profile, "engine"));
  if (engines.size) found.push(["engine", `${[...engines].join(" and ")} engine${engines.size > 1 ? "s" : ""}`]);
  if (textsOf(profile, "jit").length) found.push(["jit", "JIT on"]);
  if (textsOf(profile, "no_gil_wait").length) found.push(["counter", "no gil_wait"]);
  for (const fact of profile.told.numbers) {
    const { name, value, of } = fact;
    if (value > 0 && COUNTERS.includes(name)) found.push(["counter", `${exact(value)} ${titleOf(fact)}`]);
    const isMuch = STRAINS.has(name) && value > STRAINS.get(name) * of;
    if (isMuch || (value > 0 && LOSSES.includes(name))) {
      found.push(["warning", `${titleOf(fact)}: ${amount(fact)}`]);
    }
  }
  return found;
}

function rateText(profile) {
  const asked = numberOf(profile, "asked_hz");
  if (asked) return `${numberOf(profile, "achieved_hz")} of ${asked} Hz`;
  return profile.period > 0n ? `every ${human(profile.period, profile.periodUnit)}` : "";
}

/** Everything, for the dialog. */
export function recordingList(profile, title) {
  const rows = [["profile", visible(title)]];
  if (profile.program) rows.push(["program", visible(profile.program)]);
  const when = moment(profile.timeNanos);
  if (when) rows.push(["started", when]);
  rows.push(["duration", human(profile.durationNanos, "nanoseconds")]);
  if (profile.period > 0n) rows.push(["period", human(profile.period, profile.periodUnit)]);
  rows.push(["samples in the file", exact(profile.stackEnds.length)]);
  rows.push(["functions", exact(profile.functions.length)]);
  const { numbers, texts, unmeasured, others } = profile.told;
  for (const fact of texts) rows.push([titleOf(fact), visible(fact.value)]);
  for (const fact of numbers) rows.push([titleOf(fact), amount(fact)]);
  for (const gap of unmeasured) {
    const time = amount({ value: gap.ns, unit: "nanoseconds", of: gap.of_ns });
    rows.push([`${visible(gap.name)} not measured`, `${gap.profiles} of ${gap.of_profiles} profiles, ${time}`]);
  }
  for (const comment of others) rows.push(["comment", visible(comment)]);
  return rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, make("bdi", {}, value))]);
}

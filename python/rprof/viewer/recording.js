// What the file says of its own making: when, how long, how often, by which engine, what went wrong.

import { make } from "./dom.js";
import { exact, human, moment } from "./format.js";
import { visible } from "./names.js";

// "key: value", as rprof writes its comments.
const PAIR = /^([a-z][\w -]*): (.*)$/s;
// Counters that are nothing to speak of while they are 0.
const COUNTERS = new Set(["late ticks", "incomplete stacks", "skipped ticks"]);

/** The comments as [name, value]; a line of another form has no name. */
export function commentPairs(profile) {
  return profile.comments.map((comment) => {
    const pair = PAIR.exec(comment);
    return pair ? [visible(pair[1]), visible(pair[2])] : ["", visible(comment)];
  });
}

/** The ids of the main threads, one of each process. */
export const mainThreads = (profile) =>
  new Set(commentPairs(profile).flatMap(([name, value]) => (name === "main thread" ? [value] : [])));

// What was not measured has the value 0 in the format, which has no other.
const NOT_MEASURED = /^not measured in (\d+) of (\d+) profiles, ([\d.]+) s of ([\d.]+) s$/;

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
    for (const [name, value] of commentPairs(profile)) {
      const parts = NOT_MEASURED.exec(value);
      if (parts && name === visible(type)) {
        found.push(
          `${name} was not measured in ${parts[1]} of ${parts[2]} merged profiles${before}, ${Number(parts[3])} s of ${Number(parts[4])} s: its values are those of the others.`,
        );
      }
      if (withLines && name === "jit" && value.startsWith("on")) {
        found.push(`The interpreter's JIT was on${before}: lines of hot loops may be wrong, functions are right.`);
      }
    }
  });
  return found;
}

/** The line below the title. */
export function facts(profile, threadCount) {
  const pairs = new Map(commentPairs(profile));
  const found = [];
  const when = moment(profile.timeNanos);
  if (when) found.push(["when", when]);
  if (profile.durationNanos > 0n) found.push(["duration", human(profile.durationNanos, "nanoseconds")]);
  if (threadCount) found.push(["threads", `${exact(threadCount)} ${threadCount === 1 ? "thread" : "threads"}`]);
  const rate = rateText(profile, pairs);
  if (rate) found.push(["rate", rate]);
  const engines = new Set(
    commentPairs(profile).flatMap(([name, value]) => (name === "engine" ? [value.split(/[ ,;(:]/)[0]] : [])),
  );
  if (engines.size) found.push(["engine", `${[...engines].join(" and ")} engine${engines.size > 1 ? "s" : ""}`]);
  if (pairs.get("jit")?.startsWith("on")) found.push(["jit", "JIT on"]);
  const lost = [...pairs].filter(([name, value]) => COUNTERS.has(name) && Number(value) > 0);
  for (const [name, value] of lost) found.push(["counter", `${exact(Number(value))} ${name}`]);
  for (const name of ["overflow", "process stood still"]) {
    if (pairs.has(name)) found.push(["warning", `${name}: ${pairs.get(name)}`]);
  }
  return found;
}

function rateText(profile, pairs) {
  const asked = /asked ([\d.]+) Hz, achieved ([\d.]+) Hz/.exec(pairs.get("rate") ?? "");
  if (asked) return `${Number(asked[2])} of ${Number(asked[1])} Hz`;
  return profile.period > 0n ? `every ${human(profile.period, "nanoseconds")}` : "";
}

/** Everything, for the dialog. */
export function recordingList(profile, title) {
  const rows = [["profile", visible(title)]];
  if (profile.program) rows.push(["program", visible(profile.program)]);
  const when = moment(profile.timeNanos);
  if (when) rows.push(["started", when]);
  rows.push(["duration", human(profile.durationNanos, "nanoseconds")]);
  if (profile.period > 0n) rows.push(["period", human(profile.period, "nanoseconds")]);
  rows.push(["samples in the file", exact(profile.stackEnds.length)]);
  rows.push(["functions", exact(profile.functions.length)]);
  return [...rows, ...commentPairs(profile)].flatMap(([name, value]) => [
    make("dt", {}, name || "comment"),
    make("dd", {}, make("bdi", {}, value)),
  ]);
}

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
  const engine = pairs.get("engine");
  if (engine) found.push(["engine", `${engine.split(/[ ,;(:]/)[0]} engine`]);
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

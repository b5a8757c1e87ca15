// From the bytes of a pprof file to columns. The limits are those of rprof's own reader.

import { BYTES, FormatError, int64, Message, VARINT } from "./wire.js";
import { columnOf } from "./exact.js";

const MAX_BYTES = 256 * 2 ** 20;
const MAX_RATIO = 1000;
const MAX_FRAMES_PER_BYTE = 16;
const NEAR_IDS = 1 << 20;

/** Unpacks gzip, with an end to what may come out of it. */
export async function unpack(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const limit = Math.min(MAX_BYTES, 2 ** 20 + bytes.length * MAX_RATIO);
  const reader = new Blob([bytes])
    .stream()
    .pipeThrough(new DecompressionStream("gzip"))
    .getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > limit) {
      await reader.cancel();
      throw new FormatError("it unpacks to more than a profile does");
    }
    parts.push(value);
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Grows as numbers are added. */
class Numbers {
  constructor(Type) {
    this.items = new Type(1024);
    this.length = 0;
  }

  push(number) {
    if (this.length === this.items.length) {
      const larger = new this.items.constructor(this.length * 2);
      larger.set(this.items);
      this.items = larger;
    }
    this.items[this.length++] = number;
  }

  done() {
    return this.items.slice(0, this.length);
  }
}

/**
 * Decodes an unpacked message into
 *   sampleTypes [{name, unit}], defaultType, functions [{name, file, line}],
 *   frameFunction, frameLine: a frame is a function and a line,
 *   stacks, stackEnds: frames of all samples, innermost first, one after the other,
 *   columns: the values, one exact column for each sample type,
 *   labelSets [[{key, value}]], sampleLabels: the label set of each sample,
 *   program, comments, timeNanos, durationNanos, period, periodUnit.
 */
export function decode(bytes) {
  const samples = [];
  const locations = [];
  const functions = [];
  const mappings = [];
  const types = [];
  const texts = [];
  const comments = [];
  let timeNanos = 0n;
  let durationNanos = 0n;
  let period = 0n;
  let periodUnit = "nanoseconds";
  let periodType = null;
  let defaultText = 0;
  const message = new Message(bytes);
  const tables = { 1: types, 2: samples, 3: mappings, 4: locations, 5: functions, 6: texts };
  while (message.next()) {
    const table = tables[message.field];
    if (table) table.push(message.inner());
    else if (message.field === 9) timeNanos = message.signed();
    else if (message.field === 10) durationNanos = message.signed();
    else if (message.field === 11) periodType = message.inner();
    else if (message.field === 12) period = message.signed();
    else if (message.field === 13) {
      message.eachVarint((low, high) => comments.push(high ? Number.NaN : low));
    } else if (message.field === 14) defaultText = message.number();
    else message.skip();
  }

  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const read = new Map();
  const text = (index) => {
    let found = read.get(index);
    if (found === undefined) {
      const place = texts[index];
      if (!place) throw new FormatError(`it refers to text ${index}, which it does not have`);
      found = decoder.decode(bytes.subarray(place.at, place.end));
      read.set(index, found);
    }
    return found;
  };

  const sampleTypes = types.map((type) => {
    const fields = readFields(type);
    return { name: text(fields[1] ?? 0), unit: text(fields[2] ?? 0) };
  });
  if (sampleTypes.length === 0) throw new FormatError("it has no sample types");

  if (periodType) periodUnit = text(readFields(periodType)[2] ?? 0);
  const table = readFunctions(functions, text);
  const frames = readLocations(locations, table, readMappings(mappings, text));
  const decoded = readSamples(samples, sampleTypes.length, frames, text, bytes.length);
  const named = defaultText ? text(defaultText) : "";
  return {
    sampleTypes,
    defaultType: sampleTypes.some((type) => type.name === named)
      ? named
      : sampleTypes[sampleTypes.length - 1].name,
    functions: table.functions,
    frameFunction: Int32Array.from(frames.functions),
    frameLine: Float64Array.from(frames.lines),
    ...decoded,
    program: frames.program,
    comments: comments.map(text),
    timeNanos,
    durationNanos,
    period,
    periodUnit,
  };
}

/** The numbers of a small message, by field; the last one counts. */
function readFields(message) {
  const fields = [];
  while (message.next()) {
    if (message.kind === VARINT) {
      message.readVarint();
      if (message.field < 16) {
        fields[message.field] = message.high > 0x1fffff ? Number.NaN : message.high * 2 ** 32 + message.low;
      }
    } else message.skip();
  }
  return fields;
}

function readFunctions(messages, text) {
  const functions = [];
  const byId = new Map();
  const byKey = new Map();
  // Profiles that were merged may name one function twice.
  const add = (name, file, line) => {
    const key = `${name}\0${file}\0${line}`;
    let index = byKey.get(key);
    if (index === undefined) {
      index = functions.length;
      functions.push({ name, file, line });
      byKey.set(key, index);
    }
    return index;
  };
  for (const message of messages) {
    const fields = readFields(message);
    const id = fields[1] ?? 0;
    if (byId.has(id)) throw new FormatError(`it has two of function ${id}`);
    const name = text(fields[2] ?? 0) || text(fields[3] ?? 0);
    const file = text(fields[4] ?? 0);
    const line = fields[5] <= 0xffffffff ? fields[5] : 0;
    byId.set(id, add(name, file, line));
  }
  return { functions, byId, add };
}

/** Where in memory which part of which file is, by id; addresses use all 64 bits. */
function readMappings(messages, text) {
  const byId = new Map();
  let program = "";
  for (const message of messages) {
    const found = { id: 0, start: 0n, limit: 0n, offset: 0n, file: "" };
    const addresses = { 2: "start", 3: "limit", 4: "offset" };
    while (message.next()) {
      if (message.field === 1) found.id = message.number();
      else if (addresses[message.field]) found[addresses[message.field]] = BigInt.asUintN(64, message.signed());
      else if (message.field === 5) found.file = text(message.number());
      else message.skip();
    }
    if (byId.size === 0) program = found.file;
    byId.set(found.id, found);
  }
  return { byId, program };
}

/** A name for an address of which no function is known, as "libfoo.so+0x1234". */
function addressName(mapping, address) {
  if (!mapping?.file || address < mapping.start || address >= mapping.limit) return `0x${address.toString(16)}`;
  const offset = BigInt.asUintN(64, address - mapping.start + mapping.offset);
  return `${mapping.file.split(/[/\\]/).pop()}+0x${offset.toString(16)}`;
}

function readLocations(messages, table, mappings) {
  const byId = new Map();
  const functions = [];
  const lines = [];
  const known = new Map();
  const frame = (index, line) => {
    const key = `${index}:${line}`;
    let found = known.get(key);
    if (found === undefined) {
      found = functions.length;
      functions.push(index);
      lines.push(line);
      known.set(key, found);
    }
    return found;
  };
  for (const message of messages) {
    let id = 0;
    let mapping = 0;
    let address = 0n;
    const here = [];
    while (message.next()) {
      if (message.field === 1) id = message.number();
      else if (message.field === 2) mapping = message.number();
      else if (message.field === 3) address = BigInt.asUintN(64, message.signed());
      else if (message.field === 4) {
        const line = message.inner();
        let functionId = 0;
        let number = 0;
        while (line.next()) {
          if (line.field === 1) functionId = line.number();
          else if (line.field === 2) number = line.line();
          else line.skip();
        }
        const index = table.byId.get(functionId);
        if (index === undefined) {
          throw new FormatError(`it refers to function ${functionId}, which it does not have`);
        }
        here.push(frame(index, number));
      } else message.skip();
    }
    if (byId.has(id)) throw new FormatError(`it has two of location ${id}`);
    if (here.length === 0) {
      // Not symbolised: the address is all the name there is.
      here.push(frame(table.add(addressName(mappings.byId.get(mapping), address), "", 0), 0));
    }
    byId.set(id, here);
  }
  return { byId, functions, lines, program: mappings.program };
}

function readSamples(messages, typeCount, frames, text, size) {
  const stacks = new Numbers(Int32Array);
  const stackEnds = new Int32Array(messages.length);
  const sampleLabels = new Int32Array(messages.length);
  const halves = Array.from({ length: typeCount }, () => new Uint32Array(2 * messages.length));
  const labelSets = [];
  const knownSets = new Map();
  // Writers count locations from 1: nearly all are found in an array.
  const near = [];
  for (const [id, here] of frames.byId) if (id < NEAR_IDS) near[id] = here;
  const addLocation = (low, high) => {
    const id = high * 2 ** 32 + low;
    const here = id < NEAR_IDS ? near[id] : frames.byId.get(id);
    if (here === undefined) {
      throw new FormatError(`it refers to location ${id}, which it does not have`);
    }
    for (let index = 0; index < here.length; index++) stacks.push(here[index]);
    if (stacks.length > size * MAX_FRAMES_PER_BYTE) {
      throw new FormatError("it has more inlined frames than a profile of its size can need");
    }
  };
  let sample = 0;
  let type = 0;
  const addValue = (low, high) => {
    if (type < typeCount) {
      halves[type][2 * sample] = low;
      halves[type][2 * sample + 1] = high;
    }
    type++;
  };
  for (; sample < messages.length; sample++) {
    const message = messages[sample];
    const labels = [];
    let key = "";
    type = 0;
    while (message.next()) {
      if (message.field === 1) message.eachVarint(addLocation);
      else if (message.field === 2) message.eachVarint(addValue);
      else if (message.field === 3 && message.kind === BYTES) {
        const label = readLabel(message.inner());
        labels.push(label);
        key += `${label.key},${label.text},${label.low},${label.high},${label.unit};`;
      } else message.skip();
    }
    if (type !== typeCount) {
      throw new FormatError(`a sample has ${type} values where there are ${typeCount} sample types`);
    }
    stackEnds[sample] = stacks.length;
    let set = knownSets.get(key);
    if (set === undefined) {
      set = labelSets.length;
      knownSets.set(key, set);
      labelSets.push(
        labels.map(({ key: name, text: index, low, high }) => ({
          key: text(name),
          value: index ? text(index) : String(int64(low, high)),
        })),
      );
    }
    sampleLabels[sample] = set;
  }
  return {
    stacks: stacks.done(),
    stackEnds,
    columns: halves.map(columnOf),
    labelSets,
    sampleLabels,
  };
}

function readLabel(message) {
  const label = { key: 0, text: 0, low: 0, high: 0, unit: 0 };
  while (message.next()) {
    if (message.field === 1) label.key = message.number();
    else if (message.field === 2) label.text = message.number();
    else if (message.field === 3) {
      message.readVarint();
      label.low = message.low;
      label.high = message.high;
    }
    else if (message.field === 4) label.unit = message.number();
    else message.skip();
  }
  return label;
}

// Numbers as people read them. Exact values come in as number or BigInt.

const grouped = new Intl.NumberFormat("en-US");
const NARROW_SPACE = "\u202f";

/** 1234567 as "1,234,567", exactly. */
export const exact = (value) => grouped.format(value);

const STEPS = {
  nanoseconds: [
    [1e9, "s"],
    [1e6, "ms"],
    [1e3, "µs"],
    [1, "ns"],
  ],
  bytes: [
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
    [1, "B"],
  ],
};
const TO_NANOSECONDS = { seconds: 1e9, milliseconds: 1e6, microseconds: 1e3 };

function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2);
}

/** A value with its unit: "1.25 s", "312", "4.0 MiB". */
export function human(value, unit) {
  let number = Number(value);
  let steps = STEPS[unit];
  if (TO_NANOSECONDS[unit]) {
    number *= TO_NANOSECONDS[unit];
    steps = STEPS.nanoseconds;
  }
  if (!steps) return exact(value) + (unit && unit !== "count" ? `${NARROW_SPACE}${unit}` : "");
  if (steps === STEPS.nanoseconds && Math.abs(number) >= 120e9) return clock(number);
  if (number === 0) return `0${NARROW_SPACE}${steps === STEPS.bytes ? "B" : "s"}`;
  const [size, name] = steps.find(([step]) => Math.abs(number) >= step) ?? steps.at(-1);
  return `${digits(number / size)}${NARROW_SPACE}${name}`;
}

/** Two minutes and more: "2 min 05 s", "3 h 20 min". */
function clock(nanoseconds) {
  const sign = nanoseconds < 0 ? "−" : "";
  const seconds = Math.round(Math.abs(nanoseconds) / 1e9);
  const minutes = Math.floor(seconds / 60);
  const two = (number) => String(number).padStart(2, "0");
  if (minutes < 60) return `${sign}${minutes}${NARROW_SPACE}min ${two(seconds % 60)}${NARROW_SPACE}s`;
  return `${sign}${grouped.format(Math.floor(minutes / 60))}${NARROW_SPACE}h ${two(minutes % 60)}${NARROW_SPACE}min`;
}

/** The same with a sign, for differences. */
export function signed(value, unit) {
  const shown = human(value < 0 ? -value : value, unit);
  return value < 0 ? `−${shown}` : value > 0 ? `+${shown}` : shown;
}

/** A fraction as a percentage. */
export function percent(fraction) {
  const value = 100 * fraction;
  const size = Math.abs(value);
  if (size === 0) return "0%";
  if (size < 0.01) return value < 0 ? ">−0.01%" : "<0.01%";
  return `${value.toFixed(size < 1 ? 2 : size >= 99.95 ? 0 : 1)}%`.replace("-", "−");
}

/** A difference of two shares, in percentage points. */
export function points(fraction) {
  const value = 100 * fraction;
  const text = Math.abs(value).toFixed(Math.abs(value) < 1 ? 2 : 1);
  return `${value < 0 ? "−" : value > 0 ? "+" : ""}${text}${NARROW_SPACE}pp`;
}

/** The time of day, UTC, of nanoseconds since 1970. */
export function moment(nanoseconds) {
  const date = new Date(Number(nanoseconds / 1000000n));
  if (nanoseconds <= 0n || Number.isNaN(date.getTime())) return "";
  return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

// Sums of int64 that are exact. A column is a Float64Array while every sum over it stays within the
// 53 bits of a JavaScript number (104 days of nanoseconds), and a BigInt64Array beyond. Both take
// the same operators as long as they do not meet in one expression; the latter wraps as int64 does
// in other readers of the format.

// A little less than 2^53: the sum that is held against it is itself rounded.
const SAFE_SUM = 2 ** 53 * 0.999;

/** Makes a column of numbers given as pairs of 32-bit halves, low first. */
export function columnOf(halves) {
  const count = halves.length / 2;
  const numbers = new Float64Array(count);
  let sum = 0;
  for (let index = 0; index < count; index++) {
    const value = (halves[2 * index + 1] | 0) * 2 ** 32 + halves[2 * index];
    numbers[index] = value;
    sum += Math.abs(value);
  }
  if (sum < SAFE_SUM) return numbers;
  const wide = new BigInt64Array(count);
  for (let index = 0; index < count; index++) {
    wide[index] = (BigInt(halves[2 * index + 1]) << 32n) | BigInt(halves[2 * index]);
  }
  return wide;
}

const isWide = (column) => column instanceof BigInt64Array;
const widen = (column) => (isWide(column) ? column : BigInt64Array.from(column, BigInt));

/** Columns that will meet in one expression, made of one kind. */
export function alike(columns) {
  return columns.some(isWide) ? columns.map(widen) : columns;
}

/** A column of zeros of the same kind. */
export function zeros(column, count) {
  return isWide(column) ? new BigInt64Array(count) : new Float64Array(count);
}

/** The sum of a column. */
export function sum(column) {
  // A column of one, so that a wide sum wraps as the others do.
  const total = zeros(column, 1);
  for (let index = 0; index < column.length; index++) total[0] += column[index];
  return total[0];
}

/** A number without its sign. */
export const size = (value) => (value < 0 ? -value : value);

/** A column without signs. */
export const sizes = (column) => column.map(size);

/** Compares two exact numbers, for sorting. */
export const compare = (left, right) => (left < right ? -1 : left > right ? 1 : 0);

/** `part / whole` as a plain number; 0 of nothing is 0. */
export function ratio(part, whole) {
  const divisor = Number(whole);
  return divisor === 0 ? 0 : Number(part) / divisor;
}

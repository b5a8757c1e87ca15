// Call trees as columns, parents before children; what is selected is weighed into them.

import { alike, compare, size, sizes, zeros } from "./exact.js";

/** Which samples count: a sample type, and the label sets that are wanted, for each side. */
export class Selection {
  constructor(dataset, type, accepts) {
    this.type = type;
    this.values = alike(
      dataset.sides.map((side) => {
        const index = side.sampleTypes.findIndex((kind) => kind.name === type);
        const column = index < 0 ? new Float64Array(side.stackEnds.length) : side.columns[index];
        const wanted = side.labelSets.map(accepts);
        if (wanted.every(Boolean)) return column;
        const kept = zeros(column, column.length);
        for (let sample = 0; sample < column.length; sample++) {
          if (wanted[side.sampleLabels[sample]]) kept[sample] = column[sample];
        }
        return kept;
      }),
    );
    /** By side, what shares are shares of. */
    this.wholes = this.values.map((values, number) => magnitude(dataset.sides[number], values));
    /** Whether values below 0 are in it: what one profile has less than another. */
    this.isDifference = this.values.some((values) => values.some((value) => value < 0));
  }
}

/**
 * The sum of a column of a profile without regard to signs, as `go tool pprof` has it: of a
 * difference all that changed or, where the file has the samples of what came before, those.
 */
export function magnitude(side, values) {
  const isBase = side.labelSets.map((set) => set.some(({ key, value }) => key === "pprof::base" && value === "true"));
  const [all, base] = [zeros(values, 1), zeros(values, 1)];
  for (let sample = 0; sample < values.length; sample++) {
    all[0] += size(values[sample]);
    if (isBase[side.sampleLabels[sample]]) base[0] += size(values[sample]);
  }
  return base[0] || all[0];
}

/** One profile, or two that are compared: side 0 is the profile, side 1 what came before. */
export class Dataset {
  constructor(profile, baseline = null) {
    this.sides = baseline ? [profile, baseline] : [profile];
    this.functions = [];
    this.trees = new Map();
    // By side and label set: what stands above the outermost call, -1 for nothing.
    this.roots = this.sides.map(({ labelSets }) => new Int32Array(labelSets.length).fill(-1));
    const known = new Map();
    // By side: the function of every frame.
    this.functionOf = this.sides.map((side) => {
      const merged = side.functions.map((made) => {
        // Lines and directories move between two versions of a program; names stay.
        const file = baseline ? made.file.split(/[/\\]/).pop() : made.file;
        const key = `${made.name}\0${file}\0${baseline ? "" : made.line}`;
        let index = known.get(key);
        if (index === undefined) {
          index = this.functions.length;
          this.functions.push(made);
          known.set(key, index);
        }
        return index;
      });
      return side.frameFunction.map((made) => merged[made]);
    });
  }

  /**
   * The same samples with a root above the outermost call of each whose label set `rootOf` gives a
   * name to. Roots are functions of their own, after all others, and know the label they are of.
   */
  rooted(rootOf, label) {
    const functions = [...this.functions];
    const known = new Map();
    const roots = this.sides.map(({ labelSets }) =>
      Int32Array.from(labelSets, (set) => {
        const name = rootOf(set);
        if (name === null) return -1;
        if (!known.has(name)) known.set(name, functions.push({ name, file: "", line: 0, label }) - 1);
        return known.get(name);
      }),
    );
    return Object.assign(Object.create(Dataset.prototype), this, { functions, roots, trees: new Map() });
  }

  rootOf(side, sample) {
    return this.roots[side][this.sides[side].sampleLabels[sample]];
  }

  /** The tree from the outermost call inwards, or, inverted, from the innermost outwards. */
  tree(inverted) {
    if (!this.trees.has(inverted)) {
      this.trees.set(
        inverted,
        build(this, (side, start, end, root, visit) => {
          const stacks = this.sides[side].stacks;
          const functionOf = this.functionOf[side];
          if (inverted) for (let at = start; at < end; at++) visit(functionOf[stacks[at]]);
          if (root >= 0) visit(root);
          if (!inverted) for (let at = end - 1; at >= start; at--) visit(functionOf[stacks[at]]);
        }),
      );
    }
    return this.trees.get(inverted);
  }

  /** The callers of a function's outermost call, outwards, or what that calls, inwards. */
  around(wanted, callers) {
    const tree = build(this, (side, start, end, root, visit) => {
      const stacks = this.sides[side].stacks;
      const functionOf = this.functionOf[side];
      let at = end - 1;
      if (root === wanted) at = end;
      else while (at >= start && functionOf[stacks[at]] !== wanted) at--;
      if (at < start) return false;
      // The tree's root is the function itself.
      if (callers) {
        for (at++; at < end; at++) visit(functionOf[stacks[at]]);
        if (root >= 0 && root !== wanted) visit(root);
      } else for (at--; at >= start; at--) visit(functionOf[stacks[at]]);
      return true;
    });
    tree.function[0] = wanted;
    return tree;
  }

  /** Self and total of every function, by side; a recursive function counts once in a sample. */
  functionTotals(selection) {
    const like = selection.values[0];
    const count = this.functions.length;
    return this.sides.map((side, number) => {
      const totals = { self: zeros(like, count), total: zeros(like, count) };
      const seen = new Int32Array(count).fill(-1);
      const functionOf = this.functionOf[number];
      eachSample(side, selection.values[number], (sample, value, start, end) => {
        for (let at = start; at < end; at++) {
          const made = functionOf[side.stacks[at]];
          if (at === start) totals.self[made] += value;
          if (seen[made] !== sample) {
            seen[made] = sample;
            totals.total[made] += value;
          }
        }
        const root = this.rootOf(number, sample);
        if (root < 0) return;
        if (start === end) totals.self[root] += value;
        totals.total[root] += value;
      });
      return totals;
    });
  }

  /** Self and total of every line of the functions that `wants` accepts: file -> line -> totals. */
  lineTotals(selection, wants, number = 0) {
    const side = this.sides[number];
    const like = selection.values[number];
    const count = side.frameFunction.length;
    const self = zeros(like, count);
    const total = zeros(like, count);
    const wanted = side.functions.map(wants);
    const seen = new Map();
    const lineOf = new Int32Array(count).fill(-1);
    const lines = [];
    for (let frame = 0; frame < count; frame++) {
      const made = side.functions[side.frameFunction[frame]];
      if (!wanted[side.frameFunction[frame]]) continue;
      const key = `${made.file}\0${side.frameLine[frame]}`;
      if (!seen.has(key)) {
        seen.set(key, lines.length);
        lines.push({ file: made.file, line: side.frameLine[frame] });
      }
      lineOf[frame] = seen.get(key);
    }
    const last = new Int32Array(lines.length).fill(-1);
    eachSample(side, like, (sample, value, start, end) => {
      for (let at = start; at < end; at++) {
        const line = lineOf[side.stacks[at]];
        if (line < 0) continue;
        if (at === start) self[line] += value;
        if (last[line] !== sample) {
          last[line] = sample;
          total[line] += value;
        }
      }
    });
    return lines.map((line, index) => ({ ...line, self: self[index], total: total[index] }));
  }

  /** What was spent, by side, in samples that have one of these functions in their stack. */
  matchTotals(selection, matches) {
    return this.sides.map((side, number) => {
      const found = zeros(selection.values[number], 1);
      const functionOf = this.functionOf[number];
      eachSample(side, selection.values[number], (sample, value, start, end) => {
        const root = this.rootOf(number, sample);
        let at = start;
        while (at < end && !matches[functionOf[side.stacks[at]]]) at++;
        if (at < end || (root >= 0 && matches[root])) found[0] += value;
      });
      return found[0];
    });
  }
}

/** Calls `visit` for each sample that weighs something. */
function eachSample(side, values, visit) {
  let start = 0;
  for (let sample = 0; sample < values.length; sample++) {
    const end = side.stackEnds[sample];
    // Falsy as 0 and as 0n.
    if (values[sample]) visit(sample, values[sample], start, end);
    start = end;
  }
}

/** A tree whose nodes are found by parent and function, in a table of open addresses. */
class Builder {
  constructor() {
    this.parent = new Int32Array(4096);
    this.function = new Int32Array(4096);
    this.count = 1;
    this.parent[0] = -1;
    this.function[0] = -1;
    this.slots = new Int32Array(16384);
  }

  child(parent, made) {
    let mask = this.slots.length - 1;
    let slot = this.hash(parent, made) & mask;
    for (;;) {
      const node = this.slots[slot];
      if (node === 0) break;
      if (this.parent[node] === parent && this.function[node] === made) return node;
      slot = (slot + 1) & mask;
    }
    if (this.count * 2 > this.slots.length) {
      this.grow();
      mask = this.slots.length - 1;
      slot = this.hash(parent, made) & mask;
      while (this.slots[slot] !== 0) slot = (slot + 1) & mask;
    }
    if (this.count === this.parent.length) {
      this.parent = enlarge(this.parent);
      this.function = enlarge(this.function);
    }
    const node = this.count++;
    this.parent[node] = parent;
    this.function[node] = made;
    this.slots[slot] = node;
    return node;
  }

  hash(parent, made) {
    let mixed = Math.imul(parent, 0x9e3779b1) ^ Math.imul(made + 1, 0x85ebca6b);
    mixed ^= mixed >>> 15;
    mixed = Math.imul(mixed, 0x2c1b3c6d);
    return mixed ^ (mixed >>> 13);
  }

  grow() {
    const slots = new Int32Array(this.slots.length * 2);
    const mask = slots.length - 1;
    for (let node = 1; node < this.count; node++) {
      let slot = this.hash(this.parent[node], this.function[node]) & mask;
      while (slots[slot] !== 0) slot = (slot + 1) & mask;
      slots[slot] = node;
    }
    this.slots = slots;
  }
}

function enlarge(column) {
  const larger = new Int32Array(column.length * 2);
  larger.set(column);
  return larger;
}

/** Builds a tree of the paths that `walk` visits for each sample; false leaves the sample out. */
function build(dataset, walk) {
  const builder = new Builder();
  const ends = dataset.sides.map((side, number) => {
    const end = new Int32Array(side.stackEnds.length).fill(-1);
    let node = 0;
    const visit = (made) => {
      node = builder.child(node, made);
    };
    let start = 0;
    for (let sample = 0; sample < end.length; sample++) {
      node = 0;
      const root = dataset.rootOf(number, sample);
      if (walk(number, start, side.stackEnds[sample], root, visit) !== false) end[sample] = node;
      start = side.stackEnds[sample];
    }
    return end;
  });
  return new Tree(
    builder.parent.slice(0, builder.count),
    builder.function.slice(0, builder.count),
    ends,
  );
}

export class Tree {
  constructor(parent, made, ends) {
    this.parent = parent;
    this.function = made;
    /** By side: the node at which each sample ends, -1 if it is not in the tree. */
    this.ends = ends;
    this.count = parent.length;
    this.childStart = new Int32Array(this.count + 1);
    this.children = new Int32Array(this.count - 1);
    for (let node = 1; node < this.count; node++) this.childStart[parent[node] + 1]++;
    for (let node = 0; node < this.count; node++) this.childStart[node + 1] += this.childStart[node];
    const next = this.childStart.slice();
    for (let node = 1; node < this.count; node++) this.children[next[parent[node]]++] = node;
  }

  /** The exact self, total, and total without regard to signs of every node, by side. */
  weigh(selection) {
    return this.ends.map((ends, number) => {
      const values = selection.values[number];
      const self = this.atEnds(ends, values);
      const total = this.withCallees(self);
      return {
        self,
        total,
        size: selection.isDifference ? this.withCallees(this.atEnds(ends, sizes(values))) : total,
      };
    });
  }

  atEnds(ends, values) {
    const self = zeros(values, this.count);
    for (let sample = 0; sample < ends.length; sample++) {
      if (ends[sample] >= 0) self[ends[sample]] += values[sample];
    }
    return self;
  }

  withCallees(self) {
    const total = self.slice();
    for (let node = this.count - 1; node > 0; node--) total[this.parent[node]] += total[node];
    return total;
  }

  /** Puts the heaviest child first and gives every node its place: where it starts, how wide. */
  place(width) {
    const start = new Float64Array(this.count);
    for (let node = 0; node < this.count; node++) {
      const from = this.childStart[node];
      const to = this.childStart[node + 1];
      if (to - from > 1) {
        // Equal ones keep their order, so that a picture does not depend on the one before.
        this.children
          .subarray(from, to)
          .sort((left, right) => compare(width[right], width[left]) || left - right);
      }
      let at = start[node];
      for (let index = from; index < to; index++) {
        start[this.children[index]] = at;
        at += width[this.children[index]];
      }
    }
    return start;
  }

  /** The nodes from the root to this one. */
  path(node) {
    const path = [];
    for (let at = node; at >= 0; at = this.parent[at]) path.push(at);
    return path.reverse();
  }
}

// A flame graph on a canvas. Only what is at least half a pixel wide and in view is visited, so that
// a tree of any size draws in the time its picture takes.

import { INK } from "./colors.js";

const MIN_PIXELS = 0.5;
const ZOOM_MS = 180;
const FONT = "ui-monospace, 'SF Mono', 'Cascadia Mono', 'JetBrains Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";

export class FlameGraph {
  /**
   * `scroller` holds a spacer as tall as the graph with a canvas that stays in view. `actions` has
   * choose(node), hover(node, event) and open(node); `up` puts the root at the bottom, and with `most`
   * the scroller is as high as the graph, up to so many pixels.
   */
  constructor(scroller, actions, { up = false, most = 0, rowHeight = 21 } = {}) {
    this.scroller = scroller;
    this.actions = actions;
    this.up = up;
    this.most = most;
    this.rowHeight = rowHeight;
    this.spacer = scroller.querySelector(".flame-spacer");
    this.canvas = scroller.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.model = null;
    this.low = 0;
    this.high = 1;
    this.zoomed = 0;
    this.hovered = -1;
    this.cursor = -1;
    this.rows = [];
    this.depth = 0;
    this.frame = 0;
    this.listen();
  }

  /**
   * model: tree, width and start by node; fill(node), text(node) {prefix, short, kind},
   * matches (by function) or null, theme.
   */
  show(model, zoomed) {
    const other = this.model?.tree !== model.tree;
    this.model = model;
    if (other) {
      this.hovered = -1;
      this.cursor = -1;
    }
    this.zoom(zoomed, false);
  }

  zoom(node, smooth = true) {
    const { start, width } = this.model;
    this.zoomed = node;
    const low = start[node];
    const high = low + (width[node] || 1);
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (!smooth || still) {
      this.low = low;
      this.high = high;
      this.target = null;
      this.paint();
      return;
    }
    this.target = { low, high, from: [this.low, this.high], began: performance.now() };
    this.paint();
  }

  /** Asks for a picture with the next frame. */
  paint() {
    if (this.frame) return;
    this.frame = requestAnimationFrame((now) => {
      this.frame = 0;
      this.step(now);
      this.draw();
    });
  }

  step(now) {
    const target = this.target;
    if (!target) return;
    const part = Math.min(1, Math.max(0, (now - target.began) / ZOOM_MS));
    const eased = 1 - (1 - part) ** 3;
    this.low = target.from[0] + (target.low - target.from[0]) * eased;
    this.high = target.from[1] + (target.high - target.from[1]) * eased;
    if (part < 1) this.paint();
    else {
      this.target = null;
      this.low = target.low;
      this.high = target.high;
    }
  }

  /** Finds what is in view: for each row its nodes, from left to right. */
  layout(pixels) {
    const { tree, start, width } = this.model;
    const scale = pixels / (this.high - this.low);
    const rows = [];
    let level = [0];
    while (level.length) {
      rows.push(level);
      const next = [];
      for (const node of level) {
        const end = tree.childStart[node + 1];
        for (let index = tree.childStart[node]; index < end; index++) {
          const child = tree.children[index];
          // The heaviest comes first: the rest is narrower still.
          if (width[child] * scale < MIN_PIXELS) break;
          if (start[child] >= this.high) break;
          if (start[child] + width[child] > this.low) next.push(child);
        }
      }
      level = next;
    }
    this.rows = rows;
    this.scale = scale;
  }

  draw() {
    if (!this.model || !this.scroller.clientWidth) return;
    const ratio = window.devicePixelRatio || 1;
    const pixels = this.scroller.clientWidth;
    this.layout(pixels);
    const depth = this.rows.length;
    if (depth !== this.depth) {
      this.depth = depth;
      this.spacer.style.height = `${depth * this.rowHeight}px`;
      if (this.most) this.scroller.style.height = `${Math.min(this.most, depth * this.rowHeight + 4)}px`;
      // The root, at the bottom, is what one looks at first.
      if (this.up) this.scroller.scrollTop = depth * this.rowHeight;
    }
    const room = this.scroller.clientHeight;
    const height = Math.max(1, Math.min(room, Math.max(depth * this.rowHeight, room)));
    const [wide, high] = [Math.round(pixels * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
      this.canvas.style.width = `${pixels}px`;
      this.canvas.style.height = `${height}px`;
    }
    const { context } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, pixels, height);
    context.font = `12px ${FONT}`;
    context.textBaseline = "middle";
    this.letter = context.measureText("m").width;
    const top = this.scroller.scrollTop;
    for (let row = 0; row < depth; row++) {
      const y = this.rowTop(row) - top;
      if (y + this.rowHeight < 0 || y > height) continue;
      for (const node of this.rows[row]) this.drawFrame(node, y, pixels);
    }
    this.canvas.dataset.frames = String(this.rows.reduce((sum, row) => sum + row.length, 0));
    this.canvas.dataset.zoomed = String(this.zoomed);
  }

  rowTop(row) {
    return (this.up ? this.depth - 1 - row : row) * this.rowHeight;
  }

  drawFrame(node, y, pixels) {
    const { context } = this;
    const { tree, start, width, matches, theme } = this.model;
    const ink = INK[theme];
    const left = Math.max(0, (start[node] - this.low) * this.scale);
    const right = Math.min(pixels, (start[node] + width[node] - this.low) * this.scale);
    const wide = right - left;
    const gap = wide > 3 ? 1 : 0;
    const high = this.rowHeight - 1;
    const faded = matches !== null && !matches[tree.function[node]];
    const text = this.model.text(node);
    // Callers of what is zoomed stay as a way back.
    const outside = width[node] > (this.high - this.low) * 1.000001;
    context.globalAlpha = faded ? 0.22 : outside ? 0.55 : 1;
    context.fillStyle = this.model.fill(node);
    context.fillRect(left, y, Math.max(wide - gap, 0.5), high);
    if (text.kind === "pseudo" && wide > 4) this.hatch(left, y, wide - gap, high, ink);
    context.globalAlpha = faded ? 0.45 : 1;
    if (wide > 3 * this.letter) this.drawText(text, left, y, wide - gap, ink);
    context.globalAlpha = 1;
    if (node === this.cursor || node === this.hovered) {
      context.strokeStyle = ink.ring;
      context.lineWidth = node === this.cursor ? 2 : 1;
      context.strokeRect(left + 1, y + 1, Math.max(wide - gap - 2, 1), high - 2);
    }
  }

  hatch(left, y, wide, high, ink) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(left, y, wide, high);
    context.clip();
    context.strokeStyle = ink.hatch;
    context.lineWidth = 2;
    context.beginPath();
    for (let x = left - high; x < left + wide; x += 7) {
      context.moveTo(x, y + high);
      context.lineTo(x + high, y);
    }
    context.stroke();
    context.restore();
  }

  drawText({ prefix, short, weight }, left, y, wide, ink) {
    const { context } = this;
    const padding = 5;
    const room = Math.floor((wide - 2 * padding) / this.letter);
    if (room < 2) return;
    let dim = prefix;
    let name = short;
    if (dim.length + name.length > room) dim = "";
    if (name.length > room) name = `${name.slice(0, Math.max(1, room - 1))}…`;
    const middle = y + this.rowHeight / 2;
    context.save();
    context.beginPath();
    // Letters of other scripts may be wider than an m.
    context.rect(left, y, wide - 2, this.rowHeight);
    context.clip();
    let x = left + padding;
    if (dim) {
      context.fillStyle = ink.soft;
      context.fillText(dim, x, middle);
      x += dim.length * this.letter;
    }
    context.fillStyle = ink.strong;
    context.fillText(name, x, middle);
    x += (name.length + 2) * this.letter;
    if (weight && (dim || !prefix) && left + wide - padding - x > weight.length * this.letter) {
      context.fillStyle = ink.soft;
      context.fillText(weight, left + wide - padding - weight.length * this.letter, middle);
    }
    context.restore();
  }

  /** The node under a point of the canvas, -1 if there is none. */
  at(x, y) {
    if (!this.model) return -1;
    const above = Math.floor((y + this.scroller.scrollTop) / this.rowHeight);
    const row = this.up ? this.depth - 1 - above : above;
    const value = this.low + x / this.scale;
    const { start, width } = this.model;
    // Thin frames are hard to hit: the nearest within a pixel counts.
    const slack = 1 / this.scale;
    let best = -1;
    for (const node of this.rows[row] ?? []) {
      if (value >= start[node] && value < start[node] + width[node]) return node;
      if (value >= start[node] - slack && value < start[node] + width[node] + slack) best = node;
    }
    return best;
  }

  listen() {
    const point = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return this.at(event.clientX - box.left, event.clientY - box.top);
    };
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      this.hover(point(event), event);
    });
    this.canvas.addEventListener("pointerleave", () => this.hover(-1, null));
    this.canvas.addEventListener("click", (event) => {
      const node = point(event);
      if (node >= 0) {
        this.cursor = node;
        this.actions.choose(node);
      }
    });
    this.canvas.addEventListener("dblclick", (event) => {
      const node = point(event);
      if (node > 0) this.actions.open(node);
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => {
      if (this.cursor < 0) this.moveTo(this.zoomed);
    });
    this.scroller.addEventListener("scroll", () => {
      this.hover(-1, null);
      this.paint();
    });
    new ResizeObserver(() => this.paint()).observe(this.scroller);
  }

  hover(node, event) {
    if (node !== this.hovered) {
      this.hovered = node;
      this.canvas.style.cursor = node >= 0 ? "pointer" : "default";
      this.paint();
    }
    this.actions.hover(node, event);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.model) return;
    const { tree, start, width } = this.model;
    const node = this.cursor < 0 ? this.zoomed : this.cursor;
    const [inwards, outwards] = this.up ? ["ArrowUp", "ArrowDown"] : ["ArrowDown", "ArrowUp"];
    let to = -1;
    if (event.key === inwards) {
      const child = tree.children[tree.childStart[node]];
      if (tree.childStart[node] < tree.childStart[node + 1] && width[child] > 0) to = child;
    } else if (event.key === outwards) to = tree.parent[node];
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const row = this.rows.find((nodes) => nodes.includes(node)) ?? [];
      const sorted = row.slice().sort((left, right) => start[left] - start[right]);
      to = sorted[sorted.indexOf(node) + (event.key === "ArrowLeft" ? -1 : 1)] ?? -1;
    } else if (event.key === "Home") to = 0;
    else if (event.key === "Enter") {
      if (event.shiftKey && node > 0) this.actions.open(node);
      else this.actions.choose(node);
    } else return;
    event.preventDefault();
    if (to >= 0) this.moveTo(to);
  }

  /** Puts the keyboard's frame on a node and brings it into view. */
  moveTo(node) {
    this.cursor = node;
    const row = this.model.tree.path(node).length - 1;
    const top = this.rowTop(row);
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.rowHeight > scrollTop + clientHeight) {
      this.scroller.scrollTop = top + this.rowHeight - clientHeight;
    }
    this.paint();
    this.actions.focus(node);
  }
}

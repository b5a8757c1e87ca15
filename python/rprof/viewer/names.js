// What a function is called on the page, and whose it is.

import { exact } from "./format.js";

// Characters that draw nothing, or turn the text around them: controls, bidi marks, joiners,
// separators, halves of surrogate pairs. Left alone they could make one name look like another.
const INVISIBLE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]|\u{e0000}|[\u{e0001}-\u{e0fff}]/gu;

/** The text with every invisible character written out, as in "a⟨U+202E⟩b". */
export function visible(text) {
  return text.replace(INVISIBLE, (character) =>
    character === "\ufffd"
      ? character
      : `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
  );
}

const STDLIB = /[/\\]lib(?:64)?[/\\]python\d+(?:\.\d+)?t?[/\\]|[/\\]Lib[/\\](?!site-packages)/;
const THIRD_PARTY = /[/\\](?:site|dist)-packages[/\\]/;

/** own, library, stdlib, or pseudo: what rprof writes in angle brackets, which no file has. */
function kindOf(name, file) {
  if (file === "") return /^<.*>$/s.test(name) ? "pseudo" : "stdlib";
  if (THIRD_PARTY.test(file)) return "library";
  if (STDLIB.test(file) || file.startsWith("<")) return "stdlib";
  return "own";
}

/** The module part of `module.qualname`, which the file's name tells from the rest. */
function moduleOf(name, file) {
  if (file.startsWith("<frozen ") && name.startsWith(`${file.slice(8, -1)}.`)) {
    return file.slice(8, -1);
  }
  const parts = file.split(/[/\\]/);
  let stem = (parts.pop() ?? "").replace(/\.pyc?$/, "");
  if (stem === "__init__" && parts.length) stem = parts.pop();
  if (!stem) return "";
  if (name.startsWith(`${stem}.`)) return stem;
  const at = name.indexOf(`.${stem}.`);
  return at < 0 ? "" : name.slice(0, at + stem.length + 1);
}

/** The last `count` parts of a path. */
export function shortPath(file, count = 2) {
  const parts = file.split(/[/\\]/);
  return parts.length > count ? `…/${parts.slice(-count).join("/")}` : file;
}

/** Everything the page says about a function; all text is fit to be shown. */
export function describe({ name, file, line, label }) {
  const kind = label ? "root" : kindOf(name, file);
  const module = moduleOf(name, file);
  const shown = visible(name) || "⟨no name⟩";
  const prefix = module ? visible(`${module}.`) : "";
  const group = kind === "own" ? module || file : kind === "pseudo" ? name : module.split(".")[0] || file;
  return {
    name: shown,
    prefix,
    short: shown.slice(prefix.length) || shown,
    file,
    shownFile: visible(file),
    line,
    kind,
    label: label && visible(label),
    group,
  };
}

/** How many functions these are, and how many roots of stacks. */
export function countFunctions(all) {
  const roots = all.filter(({ kind }) => kind === "root").length;
  const counted = (count, word) => `${exact(count)} ${word}${count === 1 ? "" : "s"}`;
  const functions = counted(all.length - roots, "function");
  return roots ? `${counted(roots, "root")}, ${functions}` : functions;
}

/** The place of a function, short; of a root, which label it is of. */
export function place(described, line = described.line) {
  if (!described.file) return described.label ?? "";
  return line ? `${shortPath(described.shownFile)}:${line}` : shortPath(described.shownFile);
}

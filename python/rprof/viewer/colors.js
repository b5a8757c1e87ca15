// Colours by whose code it is: own modules in clear hues, libraries pale, the standard library
// nearly grey. A module has the same hue in every profile.

const HUES = 24;

function hueOf(text) {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  hash ^= hash >>> 15;
  return ((hash >>> 0) % HUES) * (360 / HUES);
}

// Lightness and chroma, by theme and kind.
const TONES = {
  light: { own: [0.83, 0.105], library: [0.895, 0.05], stdlib: [0.915, 0.014], pseudo: [0.78, 0.0], root: [0.84, 0.0] },
  dark: { own: [0.5, 0.095], library: [0.395, 0.05], stdlib: [0.345, 0.014], pseudo: [0.45, 0.0], root: [0.4, 0.0] },
};

export const INK = {
  light: {
    strong: "#14181d",
    soft: "rgba(20, 24, 29, 0.62)",
    root: "#e4e6ea",
    ring: "#14181d",
    hatch: "rgba(20, 24, 29, 0.16)",
  },
  dark: {
    strong: "#f4f6f8",
    soft: "rgba(244, 246, 248, 0.66)",
    root: "#2b3038",
    ring: "#ffffff",
    hatch: "rgba(255, 255, 255, 0.14)",
  },
};

/** The colour of a function. */
export function colorOf(described, theme) {
  const [lightness, chroma] = TONES[theme][described.kind];
  return `oklch(${lightness} ${chroma} ${hueOf(described.group)})`;
}

/** The colour of a change, -1 (gone) to 1 (new): blue for less, orange for more. */
export function changeColor(change, theme) {
  const strength = Math.min(1, Math.abs(change)) ** 0.7;
  const [hue, most] = change < 0 ? [250, 0.14] : [55, 0.15];
  const [from, to] = theme === "light" ? [0.93, change < 0 ? 0.7 : 0.76] : [0.34, 0.56];
  const lightness = from + (to - from) * strength;
  return `oklch(${lightness.toFixed(3)} ${(most * strength).toFixed(3)} ${hue})`;
}

"use strict";
// What the pages with scans to scroll share; a page's own script follows.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const make = (name, attributes, text = "") => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
};
const clamp = (index, count) => Math.max(0, Math.min(count - 1, index));

// ---- A scan: one picture at a time, outlines drawn over it.

// Shows a slice in the stack of a name; `classes` says how the outline of a nodule looks. The answer is what is drawn
// over the picture, and the size of a nodule's number there.
function showSlice(name, slice, { width, height }, classes) {
  const overlay = find(`#${name}-overlay`);
  find(`#${name}-image`).src = slice.image;
  find(`#${name}`).style.setProperty("--aspect", width / height);
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  overlay.replaceChildren(
    ...slice.lungs.map((path) => make("path", { class: "lungline", d: path })),
    ...slice.nodules.map(([id, path]) => make("path", { class: `outline ${classes(id)}`.trim(), d: path })),
  );
  const ids = slice.nodules.map(([id]) => id);
  find(`#${name}-cuts`).textContent = ids.length ? `Nodule${ids.length > 1 ? "s" : ""} ${ids.join(", ")}` : "";
  return { overlay, tag: (12 * width) / (overlay.clientWidth || 500) };
}

const KEYS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -1e9, End: 1e9 };

// The slider over the slices of a scan, with the keys of a viewer; it holds the slice that is shown.
function slide(slider, slices, moveTo) {
  slider.max = slices - 1;
  slider.addEventListener("input", () => moveTo(Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    moveTo(Number(slider.value) + KEYS[event.key]);
  });
}

// A wheel over a stack moves by slices, a double click zooms, and after a click the keys are the slider's.
function turn(stack, slider, moveBy) {
  let turned = 0;
  stack.addEventListener("wheel", (event) => {
    if (event.ctrlKey) return;
    event.preventDefault();
    // A notch of a wheel is one slice; a trackpad's small steps add up.
    turned += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
    const steps = Math.trunc(turned);
    turned -= steps;
    if (steps) moveBy(-Math.sign(steps) * Math.min(3, Math.abs(steps)));
  }, { passive: false });
  stack.addEventListener("dblclick", (event) => {
    const scene = find(".scene", stack);
    const frame = stack.getBoundingClientRect();
    const [x, y] = [(event.clientX - frame.x) / frame.width, (event.clientY - frame.y) / frame.height];
    scene.style.transformOrigin = `${100 * x}% ${100 * y}%`;
    scene.classList.toggle("zoomed");
  });
  stack.addEventListener("click", () => slider.focus({ preventScroll: true }));
}

find("#show-outlines").addEventListener("change", (event) => {
  document.body.classList.toggle("no-outlines", !event.target.checked);
});
find("#window").addEventListener("change", (event) => {
  // Grey runs over data.grey_hu; brightness then contrast stretch [low, high] to black and white.
  const [low, high] = event.target.value.split(" ").map(Number);
  const [black, white] = data.grey_hu;
  const slope = (white - black) / (high - low);
  const contrast = 1 + (2 * slope * (low - black)) / (white - black);
  document.body.style.setProperty("--window", `brightness(${slope / contrast}) contrast(${contrast})`);
});

// ---- Nodules: table, cards and scan follow one another.

// Marks the row and the card of a nodule as those of the one that is shown.
function markShown(id) {
  for (const node of all("[data-id]")) {
    if (Number(node.dataset.id) === id) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  }
}

// Rows, numbers and buttons of a nodule select it; numbers lead to its card, buttons to the scan.
function follow(slider, select) {
  for (const link of all("[data-goto]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      select(Number(link.dataset.goto));
      const card = find(`#nodule-${link.dataset.goto}`);
      card.scrollIntoView();
      card.focus({ preventScroll: true });
    });
  }
  for (const row of all("#table tbody tr")) {
    row.addEventListener("click", (event) => {
      if (!event.target.closest("a")) select(Number(row.dataset.id));
    });
  }
  for (const button of all("[data-show]")) {
    button.addEventListener("click", () => {
      select(Number(button.dataset.show));
      find(".viewer").scrollIntoView({ block: "nearest" });
      slider.focus({ preventScroll: true });
    });
  }
}

addEventListener("beforeprint", () => { for (const details of all("details")) details.open = true; });

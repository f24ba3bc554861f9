"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
  const now = data.last;
  const slider = find("#slice");
  let earlier = Number(find("#earlier").value);
  let position = 0;
  let before = 0;
  let current = null;
  // By how many slices the earlier scan is moved against the slice that shows most of the same lung: a nodule that is
  // chosen lies in both pictures.
  let offset = 0;

  function show(side, exam, z) {
    const scan = data.exams[exam];
    const slice = scan.stack[z];
    const overlay = find(`#${side}-overlay`);
    const frame = data.frames[exam];
    find(`#${side}-image`).src = slice.image;
    find(`#${side}-stack`).style.setProperty("--aspect", frame.width / frame.height);
    overlay.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    const drawn = new Set(slice.nodules.map(([id]) => id));
    const tag = (12 * frame.width) / (overlay.clientWidth || 500);
    overlay.replaceChildren(
      ...slice.lungs.map((path) => make("path", { class: "lungline", d: path })),
      ...slice.nodules.map(([id, path]) => make("path", { class: id === current ? "outline current" : "outline", d: path })),
    );
    for (const track of data.tracks) {
      const place = track.places[exam];
      if (!place) continue;
      const [at, x, y] = place;
      const near = drawn.has(track.id);
      if (!near && Math.abs(at - z) > 1) continue;
      if (!near) overlay.append(make("circle", { class: track.id === current ? "place current" : "place", cx: x, cy: y, r: 36 }));
      const text = make("text", { class: "tag", x: x + 40, y: y - 30, "font-size": tag });
      text.textContent = track.id;
      overlay.append(text);
    }
    find(`#${side}-label`).textContent = `Slice ${z + 1} of ${scan.stack.length}\nz ${scan.z[z]} mm`;
  }

  function draw() {
    if (find("#linked").checked) {
      before = clamp(data.exams[earlier].link[position] + offset, data.exams[earlier].stack.length);
    }
    show("current", now, position);
    show("prior", earlier, before);
    slider.value = position;
    slider.setAttribute("aria-valuetext", find("#current-label").textContent.replaceAll("\n", ", "));
  }

  function moveTo(target) {
    position = clamp(target, data.exams[now].stack.length);
    draw();
  }

  function moveBefore(target) {
    before = clamp(target, data.exams[earlier].stack.length);
    draw();
  }

  const keys = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -1e9, End: 1e9 };
  slider.max = data.exams[now].stack.length - 1;
  slider.addEventListener("input", () => moveTo(Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    moveTo(position + keys[event.key]);
  });
  for (const side of ["prior", "current"]) {
    let turned = 0;
    find(`#${side}-stack`).addEventListener("wheel", (event) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      turned += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
      const steps = Math.trunc(turned);
      turned -= steps;
      if (!steps) return;
      const by = -Math.sign(steps) * Math.min(3, Math.abs(steps));
      if (side === "prior" && !find("#linked").checked) moveBefore(before + by);
      else moveTo(position + by);
    }, { passive: false });
    find(`#${side}-stack`).addEventListener("click", () => slider.focus({ preventScroll: true }));
  }

  function follow() {
    const track = data.tracks.find((one) => one.id === current);
    const [there, here] = [track?.places[earlier], track?.places[now]];
    offset = there && here ? there[0] - data.exams[earlier].link[here[0]] : 0;
    return { there, here };
  }

  function select(id) {
    current = id;
    for (const node of all("[data-id]")) {
      if (Number(node.dataset.id) === id) node.setAttribute("aria-current", "true");
      else node.removeAttribute("aria-current");
    }
    const { there, here } = follow();
    if (there && !find("#linked").checked) before = there[0];
    if (here) moveTo(here[0]);
    else if (there) {
      // Only the earlier scan shows it: the current one is moved to where the link leads there.
      const link = data.exams[earlier].link;
      const nearest = link.reduce((best, z, i) => (Math.abs(z - there[0]) < Math.abs(link[best] - there[0]) ? i : best), 0);
      offset = there[0] - link[nearest];
      moveTo(nearest);
    } else draw();
  }

  find("#earlier").addEventListener("change", (event) => {
    earlier = Number(event.target.value);
    follow();
    draw();
  });
  find("#linked").addEventListener("change", () => draw());
  find("#show-outlines").addEventListener("change", (event) => {
    document.body.classList.toggle("no-outlines", !event.target.checked);
  });
  find("#window").addEventListener("change", (event) => {
    const [low, high] = event.target.value.split(" ").map(Number);
    const [black, white] = data.grey_hu;
    const slope = (white - black) / (high - low);
    const contrast = 1 + (2 * slope * (low - black)) / (white - black);
    document.body.style.setProperty("--window", `brightness(${slope / contrast}) contrast(${contrast})`);
  });
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
  addEventListener("beforeprint", () => { for (const details of all("details")) details.open = true; });
  addEventListener("resize", draw);
  if (data.tracks.length) select(data.tracks[0].id);
  else moveTo(Math.floor(data.exams[now].stack.length / 2));
})();

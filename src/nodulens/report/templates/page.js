"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (name, attributes, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  };
  const store = `nodulens-review/${data.report_sha256}`;
  const undecided = () => ({ decision: null, note: "" });
  const ids = data.nodules.map((nodule) => nodule.id);
  const review = { reader: "", remark: "", decisions: new Map(ids.map((id) => [id, undecided()])) };
  let position = 0;
  let current = null;

  // ---- The scan: one picture at a time, outlines drawn over it.
  const slices = data.stack;
  const slider = find("#slice");
  const picture = find("#stack-image");
  const overlay = find("#stack-overlay");

  function draw() {
    const slice = slices[position];
    picture.src = slice.image;
    const tag = (12 * overlay.viewBox.baseVal.width) / (overlay.clientWidth || 500);
    overlay.replaceChildren(
      ...slice.lungs.map((path) => make("path", { class: "lungline", d: path })),
      ...slice.nodules.map(([id, path]) => {
        const decision = review.decisions.get(id).decision;
        const classes = ["outline", id === current ? "current" : "", decision === "rejected" ? "rejected" : ""];
        return make("path", { class: classes.join(" ").trim(), d: path });
      }),
    );
    const tags = [];
    for (const [i, [id]] of slice.nodules.entries()) {
      const box = overlay.children[slice.lungs.length + i].getBBox();
      const [x, wide] = [box.x + box.width + tag / 3, 0.75 * tag * String(id).length];
      let y = box.y;
      // Outlines may lie close together; their numbers must not cover one another.
      while (tags.some((other) => Math.abs(other.y - y) < tag && other.x < x + wide && x < other.x + other.wide)) y += tag;
      tags.push({ x, y, wide });
      overlay.append(make("text", { class: "tag", x, y, "font-size": tag }, id));
    }
    find("#stack-label").textContent = slice.label;
    const cut = slice.nodules.map(([id]) => id);
    find("#stack-cuts").textContent = cut.length ? `Nodule${cut.length > 1 ? "s" : ""} ${cut.join(", ")}` : "";
    slider.value = position;
    slider.setAttribute("aria-valuetext", slice.label.replaceAll("\n", ", "));
    find("#rail .here").setAttribute("x", (1000 * position) / slices.length);
  }

  function moveTo(target) {
    position = Math.max(0, Math.min(slices.length - 1, target));
    draw();
  }

  function drawRail() {
    const share = 1000 / slices.length;
    const rail = find("#rail");
    rail.append(make("rect", { class: "line", y: 4, width: 1000, height: 1.5 }));
    for (const id of ids) {
      const cut = slices.flatMap((slice, i) => (slice.nodules.some(([n]) => n === id) ? [i] : []));
      if (!cut.length) continue;
      const width = Math.max(6, (cut.at(-1) - cut[0] + 1) * share);
      const mark = make("rect", { x: cut[0] * share, y: 1, width, height: 7, rx: 1 });
      mark.append(make("title", {}, `Nodule ${id}`));
      mark.addEventListener("click", () => select(id));
      rail.append(mark);
    }
    rail.append(make("rect", { class: "here", y: -1, width: Math.max(3, share), height: 12 }));
  }

  const keys = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -1e9, End: 1e9 };
  slider.max = slices.length - 1;
  slider.addEventListener("input", () => moveTo(Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    moveTo(position + keys[event.key]);
  });
  let turned = 0;
  find("#stack").addEventListener("wheel", (event) => {
    if (event.ctrlKey) return;
    event.preventDefault();
    // A notch of a wheel is one slice; a trackpad's small steps add up.
    turned += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
    const steps = Math.trunc(turned);
    turned -= steps;
    if (steps) moveTo(position - Math.sign(steps) * Math.min(3, Math.abs(steps)));
  }, { passive: false });
  find("#stack").addEventListener("dblclick", (event) => {
    const scene = find("#scene");
    const frame = find("#stack").getBoundingClientRect();
    const [x, y] = [(event.clientX - frame.x) / frame.width, (event.clientY - frame.y) / frame.height];
    scene.style.transformOrigin = `${100 * x}% ${100 * y}%`;
    scene.classList.toggle("zoomed");
  });
  find("#stack").addEventListener("click", () => slider.focus({ preventScroll: true }));

  find("#show-outlines").addEventListener("change", (event) => {
    document.body.classList.toggle("no-outlines", !event.target.checked);
  });
  find("#heat")?.addEventListener("input", (event) => {
    document.body.style.setProperty("--heat", event.target.value / 100);
  });
  find("#window").addEventListener("change", (event) => {
    // Grey runs over data.grey_hu; brightness then contrast stretch [low, high] to black and white.
    const [low, high] = event.target.value.split(" ").map(Number);
    const [black, white] = data.grey_hu;
    const slope = (white - black) / (high - low);
    const contrast = 1 + (2 * slope * (low - black)) / (white - black);
    document.body.style.setProperty("--window", `brightness(${slope / contrast}) contrast(${contrast})`);
  });

  // ---- Findings: table, cards and scan follow one another.
  function select(id) {
    current = id;
    for (const node of all("[data-id]")) {
      node.toggleAttribute("aria-current", Number(node.dataset.id) === id);
      if (node.hasAttribute("aria-current")) node.setAttribute("aria-current", "true");
    }
    moveTo(data.nodules.find((nodule) => nodule.id === id).slice);
  }

  function openCard(id) {
    select(id);
    const card = find(`#nodule-${id}`);
    card.scrollIntoView();
    card.focus({ preventScroll: true });
  }

  for (const link of all("[data-goto]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      openCard(Number(link.dataset.goto));
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
  for (const button of all("#table thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const column = head.cellIndex;
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of all("#table thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = find("#table tbody");
      const key = (row) => row.cells[column].dataset.sort;
      const compare = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      const number = (text) => text !== "" && !Number.isNaN(Number(text));
      const order = (a, b) => (number(key(a)) && number(key(b)) ? key(a) - key(b) : compare(a, b));
      body.append(...[...body.rows].sort((a, b) => (down ? order(b, a) : order(a, b))));
    });
  }
  for (const button of all("[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        // Without leave to write the clipboard the text is selected, ready for the keyboard.
        getSelection().selectAllChildren(source);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // ---- The review: a value that is shown, kept in this browser, saved and loaded.
  function say(text, problem = false) {
    const status = find("#status");
    status.textContent = text;
    status.classList.toggle("problem", problem);
  }

  function toDocument() {
    return {
      schema: "nodulens-review/1",
      series_uid: data.series_uid,
      input_sha256: data.input_sha256,
      report_sha256: data.report_sha256,
      case: data.case,
      saved: new Date().toISOString(),
      reader: review.reader,
      remark: review.remark,
      decisions: ids.map((id) => ({ id, ...review.decisions.get(id) })),
    };
  }

  function fromDocument(document) {
    if (document?.schema !== "nodulens-review/1") throw new Error("This file is not a saved review.");
    if (document.report_sha256 !== data.report_sha256) throw new Error("This review belongs to another report.");
    const fits = (entry) => ids.includes(entry?.id) && [null, "accepted", "rejected"].includes(entry.decision);
    if (!Array.isArray(document.decisions) || !document.decisions.every(fits)) {
      throw new Error("This review names findings or decisions that the report does not have.");
    }
    review.reader = String(document.reader ?? "");
    review.remark = String(document.remark ?? "");
    for (const id of ids) review.decisions.set(id, undecided());
    for (const { id, decision, note } of document.decisions) review.decisions.set(id, { decision, note: String(note ?? "") });
  }

  function keep() {
    try {
      localStorage.setItem(store, JSON.stringify(toDocument()));
    } catch {
      say("This browser keeps nothing for this page: save the review before you leave it.");
    }
  }

  function showReview() {
    for (const [id, { decision, note }] of review.decisions) {
      const card = find(`#nodule-${id}`);
      for (const button of all("[data-decision]", card)) {
        button.setAttribute("aria-pressed", String(button.dataset.decision === decision));
      }
      find("textarea", card).value = note;
      const mark = find(`#table tr[data-id="${id}"] .mark`);
      mark.textContent = { accepted: "✓ accepted", rejected: "✕ rejected" }[decision] ?? "–";
      mark.className = `mark ${decision ?? ""}`.trim();
      mark.dataset.sort = decision ?? "";
    }
    find("#reader").value = review.reader;
    find("#remark").value = review.remark;
    const done = [...review.decisions.values()].filter(({ decision }) => decision).length;
    if (ids.length) find("#review-count").textContent = `${done} of ${ids.length} findings reviewed.`;
    draw();
  }

  for (const card of all(".card")) {
    const entry = () => review.decisions.get(Number(card.dataset.id));
    for (const button of all("[data-decision]", card)) {
      button.addEventListener("click", () => {
        entry().decision = entry().decision === button.dataset.decision ? null : button.dataset.decision;
        keep();
        showReview();
      });
    }
    find("textarea", card).addEventListener("input", (event) => { entry().note = event.target.value; keep(); });
  }
  find("#reader").addEventListener("input", (event) => { review.reader = event.target.value; keep(); });
  find("#remark").addEventListener("input", (event) => { review.remark = event.target.value; keep(); });

  find("#save").addEventListener("click", () => {
    const text = `${JSON.stringify(toDocument(), null, 2)}\n`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "review.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say("Review saved as review.json.");
  });
  find("#load").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      fromDocument(JSON.parse(await file.text()));
      keep();
      showReview();
      say(`Review loaded from ${file.name}.`);
    } catch (error) {
      say(error instanceof SyntaxError ? "This file is not a saved review." : error.message, true);
    }
    event.target.value = "";
  });

  try {
    const kept = localStorage.getItem(store);
    if (kept) fromDocument(JSON.parse(kept));
  } catch {
    say("What this browser kept of an earlier review could not be read.", true);
  }
  if (matchMedia("(max-width: 640px)").matches) for (const details of all(".card details")) details.open = false;
  addEventListener("beforeprint", () => { for (const details of all("details")) details.open = true; });
  addEventListener("resize", draw);
  drawRail();
  showReview();
  if (ids.length) select(data.start);
  else moveTo(Math.floor(slices.length / 2));
})();

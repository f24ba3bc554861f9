(() => {
  const store = `nodulens-review/${data.report_sha256}`;
  const undecided = () => ({ decision: null, note: "" });
  const ids = data.nodules.map((nodule) => nodule.id);
  const review = { reader: "", remark: "", decisions: new Map(ids.map((id) => [id, undecided()])) };
  let position = 0;
  let current = null;

  // ---- The scan
  const slices = data.stack;
  const slider = find("#slice");

  function draw() {
    const slice = slices[position];
    const { overlay, tag } = showSlice("stack", slice, data.frame, (id) => {
      const { decision } = review.decisions.get(id);
      return `${id === current ? "current" : ""} ${decision === "rejected" ? "rejected" : ""}`;
    });
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
    slider.value = position;
    slider.setAttribute("aria-valuetext", slice.label.replaceAll("\n", ", "));
    find("#rail .here").setAttribute("x", (1000 * position) / slices.length);
  }

  function moveTo(target) {
    position = clamp(target, slices.length);
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

  slide(slider, slices.length, moveTo);
  turn(find("#stack"), slider, (steps) => moveTo(position + steps));
  find("#heat")?.addEventListener("input", (event) => {
    document.body.style.setProperty("--heat", event.target.value / 100);
  });

  // ---- Findings
  function select(id) {
    current = id;
    markShown(id);
    moveTo(data.nodules.find((nodule) => nodule.id === id).slice);
  }

  follow(slider, select);
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
  addEventListener("resize", draw);
  drawRail();
  showReview();
  if (ids.length) select(data.start);
  else moveTo(Math.floor(slices.length / 2));
})();

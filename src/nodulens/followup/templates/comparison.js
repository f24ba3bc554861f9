(() => {
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
    const drawn = new Set(slice.nodules.map(([id]) => id));
    const { overlay, tag } = showSlice(side, slice, data.frames[exam], (id) => (id === current ? "current" : ""));
    for (const track of data.tracks) {
      const place = track.places[exam];
      if (!place) continue;
      const [at, x, y] = place;
      const near = drawn.has(track.id);
      if (!near && Math.abs(at - z) > 1) continue;
      if (!near) overlay.append(make("circle", { class: track.id === current ? "place current" : "place", cx: x, cy: y, r: 36 }));
      overlay.append(make("text", { class: "tag", x: x + 40, y: y - 30, "font-size": tag }, track.id));
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

  slide(slider, data.exams[now].stack.length, moveTo);
  turn(find("#current"), slider, (steps) => moveTo(position + steps));
  turn(find("#prior"), slider, (steps) => (find("#linked").checked ? moveTo(position + steps) : moveBefore(before + steps)));

  function align() {
    const track = data.tracks.find((one) => one.id === current);
    const [there, here] = [track?.places[earlier], track?.places[now]];
    offset = there && here ? there[0] - data.exams[earlier].link[here[0]] : 0;
    return { there, here };
  }

  function select(id) {
    current = id;
    markShown(id);
    const { there, here } = align();
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
    align();
    draw();
  });
  find("#linked").addEventListener("change", () => draw());
  follow(slider, select);
  addEventListener("resize", draw);
  if (data.tracks.length) select(data.tracks[0].id);
  else moveTo(Math.floor(data.exams[now].stack.length / 2));
})();

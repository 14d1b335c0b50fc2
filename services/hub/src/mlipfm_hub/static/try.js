"use strict";
// The turning picture, files that are dropped, and a button that says it works. The page does without.
const form = document.getElementById("trial");
if (form) {
  const text = form.elements.text;
  form.addEventListener("submit", () => {
    const go = document.getElementById("go");
    go.disabled = true;
    go.textContent = "Computing…";
    document.getElementById("result").innerHTML = "<p class='soft'>Computing: up to 30 seconds.</p>";
  });
  text.addEventListener("dragover", (event) => event.preventDefault());
  text.addEventListener("drop", async (event) => {
    const file = event.dataTransfer.files[0];
    if (!file) return;
    event.preventDefault();
    if (file.size > 1e6) { text.value = ""; text.placeholder = "This file is larger than 1 MB."; return; }
    text.value = await file.text();
    const ending = file.name.split(".").pop().toLowerCase();
    form.elements.format.value = ending === "cif" ? "cif" : "extxyz";
  });
}
const place = document.getElementById("view");
if (place && window.$3Dmol) {
  const scene = JSON.parse(place.dataset.scene);
  const xyz = scene.frames.map((frame) =>
    [scene.symbols.length, "", ...scene.symbols.map((s, k) => [s, ...frame[k]].join(" "))].join("\n")).join("\n");
  const viewer = $3Dmol.createViewer(place, { backgroundColor: "white" });
  viewer.addModelsAsFrames(xyz, "xyz");
  viewer.setStyle({}, { stick: { radius: 0.12 }, sphere: { scale: 0.27 } });
  viewer.zoomTo();
  viewer.render();
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!still) viewer.spin("y", 0.5);
  else { viewer.setFrame(scene.frames.length - 1); viewer.render(); }
  if (scene.frames.length > 1) {
    const play = document.getElementById("play"), toggle = document.getElementById("toggle"), label = document.getElementById("frame");
    let k = 0, going = !still;
    play.hidden = false;
    toggle.textContent = going ? "Stop" : "Play";
    toggle.addEventListener("click", () => { going = !going; toggle.textContent = going ? "Stop" : "Play"; viewer.spin(going ? "y" : false, 0.5); });
    setInterval(() => {
      if (!going) return;
      k = (k + 1) % scene.frames.length;
      viewer.setFrame(k);
      viewer.render();
      label.textContent = `frame ${k + 1} of ${scene.frames.length}, ${scene.energies[k].toFixed(4)} eV`;
    }, 120);
  }
}


"use strict";
// Collapses the evidence into the table, filters, and copies commands. The state is in the URL, so that a view can be shared.
const filters = document.getElementById("filters");
const rows = [...document.querySelectorAll("#matrix > tbody > tr.image")];
const repositories = [...document.querySelectorAll("#matrix > tbody")];
const boxes = [...filters.querySelectorAll("input[name=verdict]")];
let opened = null;

for (const link of document.querySelectorAll("a.cell")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = link.className;
  button.dataset.verdict = link.dataset.verdict;
  button.dataset.evidence = link.getAttribute("href").slice(1);
  button.setAttribute("aria-expanded", "false");
  button.append(...link.childNodes);
  button.addEventListener("click", () => { toggle(button); remember(); });
  link.replaceWith(button);
}

for (const code of document.querySelectorAll(".command > code")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy the command ${code.textContent}`);
  button.addEventListener("click", () => {
    // Also where the page was opened from a file, and a browser may not let scripts use navigator.clipboard.
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
    document.getElementById("status").textContent = button.textContent;
  });
  code.after(button);
}

const shelf = document.getElementById("evidence");
shelf.hidden = true;

function close() {
  if (!opened) return;
  shelf.append(opened.section);
  opened.line.remove();
  opened.button.setAttribute("aria-expanded", "false");
  opened.button.removeAttribute("aria-controls");
  opened = null;
}

function toggle(button) {
  const was = opened && opened.button;
  close();
  if (was === button) return;
  const section = document.getElementById(button.dataset.evidence);
  const row = button.closest("tr");
  const line = document.createElement("tr");
  const cell = document.createElement("td");
  line.className = "opened";
  cell.colSpan = row.cells.length;
  cell.append(section);
  line.append(cell);
  row.after(line);
  button.setAttribute("aria-expanded", "true");
  button.setAttribute("aria-controls", section.id);
  opened = { button, section, line };
}

function apply() {
  const verdicts = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  const words = filters.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const platform = filters.platform.value;
  let shown = 0;
  for (const row of rows) {
    const named = words.every((word) => row.dataset.name.toLowerCase().includes(word));
    let left = 0;
    for (const cell of row.querySelectorAll(":scope > td[data-platform]")) {
      cell.hidden = platform !== "" && cell.dataset.platform !== platform;
      for (const button of cell.querySelectorAll("button.cell")) {
        button.hidden = !verdicts.has(button.dataset.verdict);
        if (!button.hidden && !cell.hidden && named) left += 1;
      }
    }
    row.hidden = !named || (left === 0 && !row.querySelector(":scope > .unread"));
    shown += left;
  }
  for (const repository of repositories) repository.hidden = !repository.querySelector(":scope > tr.image:not([hidden])");
  for (const heading of document.querySelectorAll("#matrix > thead th[data-platform]"))
    heading.hidden = platform !== "" && heading.dataset.platform !== platform;
  if (opened && (opened.button.hidden || opened.button.closest("td").hidden || opened.button.closest("tr").hidden)) close();
  const all = document.querySelectorAll("#matrix button.cell").length;
  document.getElementById("status").textContent = `${shown} of ${all} images shown`;
  document.getElementById("nothing").hidden = rows.some((row) => !row.hidden);
}

function remember() {
  const state = new URLSearchParams();
  if (boxes.some((box) => !box.checked)) state.set("verdict", boxes.filter((box) => box.checked).map((box) => box.value).join(","));
  if (filters.q.value) state.set("q", filters.q.value);
  if (filters.platform.value) state.set("platform", filters.platform.value);
  if (opened) state.set("open", opened.section.id);
  history.replaceState(null, "", "#" + state.toString().replaceAll("%2F", "/").replaceAll("%2C", ","));
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  const verdicts = state.get("verdict");
  for (const box of boxes) box.checked = verdicts === null || verdicts.split(",").includes(box.value);
  filters.q.value = state.get("q") || "";
  filters.platform.value = state.get("platform") || "";
  close();
  apply();
  const button = [...document.querySelectorAll("button.cell")].find((button) => button.dataset.evidence === state.get("open"));
  if (button && !button.hidden) toggle(button);
}

filters.addEventListener("input", () => { apply(); remember(); });
filters.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !opened) return;
  const button = opened.button;
  close();
  button.focus();
  remember();
});
window.addEventListener("hashchange", recall);
recall();

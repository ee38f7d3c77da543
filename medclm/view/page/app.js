"use strict";

const FILTERS = ["split", "stage", "kind", "label", "organ", "verdict"];
const TITLES = { label: "lesion" };
const COLOURS = [[95, 180, 232], [232, 180, 95], [180, 138, 224], [111, 207, 151], [224, 127, 143], [159, 176, 192]];
const $ = (id) => document.getElementById(id);
const filter = (name) => $(`filter-${name}`);

let row = null;
let at = 0;
let asked = 0; // the latest request: an answer to an older one is dropped

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function get(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(typeof said.detail === "string" ? said.detail : `${path}: ${response.status}`);
  }
  return response.json();
}

function chosen() {
  const found = {};
  for (const name of FILTERS) if (filter(name).value) found[name] = filter(name).value;
  return found;
}

function showCounts(verdicts) {
  $("counts").textContent =
    `${verdicts.accept} accepted, ${verdicts.reject} rejected, ${verdicts.unreviewed} unreviewed`;
}

async function start() {
  const set = await get("/api/set");
  document.title = `${set.name} · medclm`;
  $("name").textContent = set.name;
  const address = new URLSearchParams(location.hash.slice(1));
  for (const name of FILTERS) {
    const select = element("select");
    select.id = `filter-${name}`;
    select.setAttribute("aria-label", TITLES[name] || name);
    select.append(new Option(`any ${TITLES[name] || name}`, ""));
    for (const [value, count] of Object.entries(set.values[name])) {
      select.append(new Option(name === "verdict" ? value : `${value} (${count})`, value));
    }
    select.value = address.get(name) || "";
    if (select.selectedIndex < 0) select.value = "";
    select.addEventListener("change", () => { select.blur(); go("here"); });
    $("filters").append(select);
  }
  showCounts(set.values.verdict);
  at = Number(address.get("row")) || 0;
  await go("here");
}

async function go(step) {
  const mine = ++asked;
  const filters = chosen();
  for (const name of FILTERS) filter(name).classList.toggle("set", name in filters);
  const found = await get("/api/find?" + new URLSearchParams({ ...filters, at, step }));
  if (mine !== asked) return;
  $("empty").hidden = found.total > 0;
  document.querySelector("main").hidden = found.total === 0;
  if (found.total === 0) { row = null; $("position").textContent = "0 of 0"; showVerdict(null); return; }
  if (found.number === null) return; // past the first or the last
  const next = await get(`/api/rows/${found.number}`);
  if (mine !== asked) return;
  row = next;
  at = found.number;
  $("position").textContent = `${found.position + 1} of ${found.total}`;
  history.replaceState(null, "", "#" + new URLSearchParams({ ...filters, row: at }));
  show();
}

function show() {
  document.body.dataset.row = row.id;
  $("image").src = `/api/rows/${row.number}/image`;
  $("image").alt = `${row.modality}, ${row.labels.join(", ") || "no lesion"}`;
  $("question").textContent = row.question;
  $("answer").textContent = row.answer;
  withBoxes($("cot"), row.cot || "None in this stage: the answer alone is learned.");
  $("tags").replaceChildren(...[row.stage, row.kind.replace("_", " "), row.modality, row.split].map((t) => element("span", t)));
  $("size").textContent = `${row.width} × ${row.height}` +
    (row.width === row.orig_width && row.height === row.orig_height ? "" : ` of ${row.orig_width} × ${row.orig_height}`);
  $("findings").replaceChildren(...row.labels.map((label, i) => {
    const item = element("li");
    item.append(element("span", label), element("span", `${row.organs[i]}, ${row.host_rule} ${row.organ_score[i].toFixed(2)}`));
    hovers(item, i);
    return item;
  }));
  $("findings").parentElement.hidden = row.labels.length === 0;
  const details = {
    seed: row.seed_text, "answer type": row.answer_type.toLowerCase(), reasoning: row.cot_source || "none",
    "left and right": row.laterality_verified ? "verified" : "not verified", source: row.source, licence: row.licence, id: row.id,
  };
  $("details").replaceChildren(...Object.entries(details).flatMap(([k, v]) => [element("dt", k), element("dd", v)]));
  showVerdict(row.verdict);
  drawBoxes();
  drawOrgans();
  document.querySelector("article").scrollTop = 0;
}

function showVerdict(verdict) {
  $("verdict").textContent = verdict ? `${verdict}ed` : "";
  $("verdict").className = verdict || "";
}

// "<box:0>" in a reasoning is the first of the boxes.
function withBoxes(target, text) {
  target.replaceChildren(...text.split(/(<box:\d+>)/).map((part) => {
    const found = /^<box:(\d+)>$/.exec(part);
    if (!found || !row.boxes[found[1]]) return document.createTextNode(part);
    const chip = element("span", `[${row.boxes[found[1]].map((v) => Math.round(v)).join(", ")}]`, "box");
    hovers(chip, Number(found[1]));
    return chip;
  }));
}

function hovers(target, index) {
  const light = (on) => $("boxes").children[index]?.classList.toggle("on", on);
  target.addEventListener("mouseenter", () => light(true));
  target.addEventListener("mouseleave", () => light(false));
}

function drawBoxes() {
  const svg = $("boxes");
  svg.setAttribute("viewBox", `0 0 ${row.width} ${row.height}`);
  svg.replaceChildren(...row.boxes.map(([x1, y1, x2, y2], i) => {
    const rect = document.createElementNS(svg.namespaceURI, "rect");
    for (const [k, v] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) rect.setAttribute(k, v);
    const title = document.createElementNS(svg.namespaceURI, "title");
    title.textContent = row.labels[i];
    rect.append(title);
    return rect;
  }));
  svg.style.visibility = $("show-boxes").checked ? "visible" : "hidden";
}

// Runs of unset and set pixels in turn, row by row: tint the organ, draw its edge.
function drawOrgans() {
  const canvas = $("organs");
  const { width, height } = row;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const drawing = context.createImageData(width, height);
  const names = [];
  row.organs.forEach((name, i) => {
    if (!row.organ_regions[i] || names.includes(name)) return;
    const colour = COLOURS[names.length % COLOURS.length];
    names.push(name);
    const mask = new Uint8Array(width * height);
    let position = 0;
    row.organ_regions[i].split(" ").slice(2).forEach((run, k) => {
      if (k % 2) mask.fill(1, position, position + Number(run));
      position += Number(run);
    });
    for (let p = 0; p < mask.length; p++) {
      if (!mask[p]) continue;
      const x = p % width;
      const edge = x === 0 || x === width - 1 || !mask[p - 1] || !mask[p + 1] || !mask[p - width] || !mask[p + width];
      drawing.data.set([...colour, edge ? 235 : 26], 4 * p);
    }
  });
  context.putImageData(drawing, 0, 0);
  canvas.style.visibility = $("show-organs").checked ? "visible" : "hidden";
  $("legend").replaceChildren(...names.map((name, i) => element("span", name, `c${i % COLOURS.length}`)));
}

async function judge(verdict) {
  if (!row) return;
  const counts = await get(`/api/rows/${row.number}/verdict`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ verdict }),
  });
  showCounts(counts);
  row.verdict = verdict;
  showVerdict(verdict);
  await go("next");
}

function toggle(id) {
  $(id).checked = !$(id).checked;
  row && (drawBoxes(), drawOrgans());
}

const KEYS = {
  a: () => judge("accept"), r: () => judge("reject"), b: () => toggle("show-boxes"), o: () => toggle("show-organs"),
  j: () => go("next"), k: () => go("previous"), ArrowRight: () => go("next"), ArrowLeft: () => go("previous"),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  if (KEYS[event.key]) { event.preventDefault(); run(KEYS[event.key]); }
});
$("previous").addEventListener("click", () => run(() => go("previous")));
$("next").addEventListener("click", () => run(() => go("next")));
$("accept").addEventListener("click", () => run(() => judge("accept")));
$("reject").addEventListener("click", () => run(() => judge("reject")));
for (const id of ["show-boxes", "show-organs"]) $(id).addEventListener("change", () => row && (drawBoxes(), drawOrgans()));

// What failed is said, never swallowed: a verdict that was not stored must not look stored.
function run(action) {
  Promise.resolve(action()).catch((error) => { $("counts").textContent = `failed: ${error.message}`; });
}
run(start);

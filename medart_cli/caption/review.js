/* The review page: a decision for each image, kept in this browser, saved as JSON Lines. */
"use strict";

/* What an image shows and which decision there is of it:
   {accept: true}, {edit: "another text"} or {reject: true}; none for undecided. */
const cards = [...document.querySelectorAll("article")].map((element) => {
  const row = JSON.parse(element.dataset.row);
  return { element, row, key: keyOf(row) };
});
const page = document.querySelector("#review");
const storageKey = "medart review " + page.dataset.manifest;
const decisions = readDecisions();
let current = 0;
let saved = true;
let stored = true;

/* A decision belongs to one text of one image, and not to what is written there later. */
function keyOf(row) {
  return row.file_name + "\n" + row.written;
}

/* Read what was decided before, without what the manifest has taken or written anew since. */
function readDecisions() {
  const found = new Map();
  let outdated = 0;
  let entries = [];
  try {
    entries = JSON.parse(localStorage.getItem(storageKey) || "[]");
  } catch {
    say("#memory", "This browser keeps nothing between visits: save before you close the page.");
  }
  for (const entry of entries) {
    const here = cards.filter((card) => card.row.file_name === entry.row.file_name);
    const same = here.find((card) => card.key === keyOf(entry.row));
    const taken = entry.decision.accept
      ? same && ["accepted", "edited"].includes(same.row.status)
      : here.some((card) => card.row.text === entry.decision.edit);
    if (same ? !taken : here.length === 0) {
      found.set(keyOf(entry.row), entry);
    } else if (!taken) {
      outdated += 1;
    }
  }
  if (outdated > 0) {
    say("#memory", `${outdated} decisions were of texts that the manifest has no longer.`);
  }
  return found;
}

function storeDecisions() {
  try {
    localStorage.setItem(storageKey, JSON.stringify([...decisions.values()]));
    stored = true;
  } catch {
    stored = false;
    say("#memory", "This browser keeps nothing between visits: save before you close the page.");
  }
}

function say(place, text) {
  document.querySelector(place).textContent = text;
}

function decide(card, decision) {
  if (decision === null) {
    decisions.delete(card.key);
  } else {
    decisions.set(card.key, { row: card.row, decision });
  }
  saved = false;
  storeDecisions();
  show(card);
  showCounts();
}

/* Press again to take a decision back. */
function toggle(card, name) {
  const entry = decisions.get(card.key);
  if (card.row.text === "") {
    return;
  }
  decide(card, entry && entry.decision[name] ? null : { [name]: true });
}

function openEditor(card) {
  const editor = card.element.querySelector("textarea");
  const entry = decisions.get(card.key);
  editor.value = (entry && entry.decision.edit) || card.row.text;
  editor.hidden = false;
  editor.focus();
}

/* Take what stands in the editor: the text as it was is no decision, and none a rejection. */
function closeEditor(card, keep) {
  const editor = card.element.querySelector("textarea");
  const text = editor.value.split(/\s+/).filter(Boolean).join(" ");
  if (editor.hidden) {
    return;
  }
  editor.hidden = true;
  if (keep && text === "" && card.row.text !== "") {
    decide(card, { reject: true });
  } else if (keep && text !== card.row.text) {
    decide(card, { edit: text });
  } else if (keep) {
    const entry = decisions.get(card.key);
    decide(card, entry && entry.decision.accept ? entry.decision : null);
  }
}

function nameOf(card) {
  const entry = decisions.get(card.key);
  return entry ? Object.keys(entry.decision)[0] : "undecided";
}

function show(card) {
  const name = nameOf(card);
  const entry = decisions.get(card.key);
  const text = name === "edit" ? entry.decision.edit : card.row.text;
  card.element.dataset.decision = name;
  card.element.querySelector(".text").textContent = text || "(no text)";
  for (const button of card.element.querySelectorAll("button[data-name]")) {
    button.setAttribute("aria-pressed", String(button.dataset.name === name));
    button.disabled = card.row.text === "" && button.dataset.name !== "edit";
  }
}

function showCounts() {
  const counts = { accept: 0, edit: 0, reject: 0 };
  for (const entry of decisions.values()) {
    counts[Object.keys(entry.decision)[0]] += 1;
  }
  const elsewhere = decisions.size - cards.filter((card) => decisions.has(card.key)).length;
  say("#counts", `${decisions.size - elsewhere} of ${cards.length} decided`
    + (elsewhere ? ` and ${elsewhere} that are not on this page` : "")
    + `: ${counts.accept} accepted, ${counts.edit} edited, ${counts.reject} rejected`);
  document.querySelector("#save").disabled = decisions.size === 0;
  document.querySelector("#forget").disabled = decisions.size === 0;
}

function isWanted(card) {
  const [kind, value] = document.querySelector("#filter").value.split(":");
  const words = document.querySelector("#search").value.toLowerCase();
  const fits = {
    all: () => true,
    undecided: () => !decisions.has(card.key),
    decided: () => decisions.has(card.key),
    flagged: () => card.row.flags !== "",
    status: () => card.row.status === value,
  }[kind]();
  const said = [...card.element.querySelectorAll("figcaption, p")].map((it) => it.textContent).join(" ");
  return fits && said.toLowerCase().includes(words);
}

function filter() {
  let left = 0;
  for (const card of cards) {
    card.element.hidden = !isWanted(card);
    left += card.element.hidden ? 0 : 1;
  }
  say("#shown", `${left} shown`);
}

function moveTo(index) {
  if (index < 0) {
    return;
  }
  current = index;
  cards[index].element.focus({ preventScroll: true });
  cards[index].element.scrollIntoView({ block: "nearest" });
}

function step(direction) {
  let index = current + direction;
  while (index >= 0 && index < cards.length && cards[index].element.hidden) {
    index += direction;
  }
  moveTo(index < cards.length ? index : -1);
}

/* One line for each decision, with the columns of --export; medart reads it with --texts. */
function lineOf({ row, decision }) {
  if (decision.reject) {
    return { ...row, text: "", status: "rejected" };
  }
  if (decision.accept) {
    return { ...row, status: "accepted" };
  }
  return { ...row, text: decision.edit, status: "edited" };
}

function save() {
  const lines = [...decisions.values()].map((entry) => JSON.stringify(lineOf(entry)) + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
  link.download = "corrections.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  saved = true;
  say("#memory", "Saved. Take it with: medart caption IMAGES --texts corrections.jsonl");
}

function forget() {
  if (!window.confirm(`Forget ${decisions.size} decisions on this page?`)) {
    return;
  }
  decisions.clear();
  storeDecisions();
  cards.forEach(show);
  showCounts();
  filter();
}

const KEYS = {
  j: () => step(1),
  ArrowDown: () => step(1),
  k: () => step(-1),
  ArrowUp: () => step(-1),
  a: (card) => toggle(card, "accept"),
  e: openEditor,
  r: (card) => toggle(card, "reject"),
  u: (card) => decide(card, null),
  "/": () => document.querySelector("#search").focus(),
};

function press(event) {
  const card = cards[current];
  if (event.isComposing || event.target.closest("dialog")) {
    return; /* Enter chooses a sign of a script that is typed in steps; an enlarged picture has keys */
  }
  if (event.target.matches("textarea")) {
    if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
      event.preventDefault();
      closeEditor(card, event.key === "Enter");
      moveTo(current);
    }
    return;
  }
  if (event.target.matches("input, select")) {
    if (event.key === "Escape" || event.key === "Enter") { /* Escape also empties a search */
      moveTo(cards.findIndex((it) => !it.element.hidden));
    }
    return;
  }
  const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : KEYS[event.key];
  if (act !== undefined && card !== undefined) {
    event.preventDefault();
    act(card);
  }
}

cards.forEach((card, index) => {
  card.element.addEventListener("focusin", () => { current = index; });
  card.element.querySelector("textarea").addEventListener("blur", () => closeEditor(card, true));
  for (const button of card.element.querySelectorAll("button[data-name]")) {
    const act = { accept: () => toggle(card, "accept"), reject: () => toggle(card, "reject"),
      edit: () => openEditor(card) }[button.dataset.name];
    button.addEventListener("click", act);
  }
  show(card);
});
document.addEventListener("keydown", press);
window.addEventListener("storage", (event) => { /* the same page in another window */
  if (event.key === storageKey) {
    decisions.clear();
    readDecisions().forEach((entry, key) => decisions.set(key, entry));
    cards.forEach(show);
    showCounts();
  }
});
document.querySelector("#filter").addEventListener("change", filter);
document.querySelector("#search").addEventListener("input", filter);
document.querySelector("#save").addEventListener("click", save);
document.querySelector("#forget").addEventListener("click", forget);
window.addEventListener("beforeunload", (event) => {
  if (!stored && !saved) {
    event.preventDefault();
  }
});
page.hidden = false;
showCounts();
filter();

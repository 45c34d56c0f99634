/* The readers' page: an answer for each image, kept in this browser, saved as JSON. */
"use strict";

const study = document.querySelector("#study");
const pictures = [...study.querySelectorAll("img")];
const storageKey = "medart reader " + study.dataset.kit;
/* reader; at: the place of the image that is shown; entries by image: {answer, confidence, seconds},
   answer and confidence null as long as there is none. */
let state = readState();
let resting = true;
let since = null; /* when the image came into sight; null while none is */
let stored = true;
let saved = true;

function readState() {
  const none = { reader: "", at: 0, entries: {} };
  try {
    const found = JSON.parse(localStorage.getItem(storageKey));
    return found === null ? none : found;
  } catch {
    say("#memory", "This browser keeps nothing between visits: save before you close the page.");
    return none;
  }
}

function storeState() {
  try {
    localStorage.setItem(storageKey, JSON.stringify(state));
    stored = true;
  } catch {
    stored = false;
    say("#memory", "This browser keeps nothing between visits: save before you close the page.");
  }
}

function say(place, text) {
  document.querySelector(place).textContent = text;
}

function entryAt(place) {
  const name = pictures[place].dataset.image;
  if (!Object.hasOwn(state.entries, name)) {
    state.entries[name] = { answer: null, confidence: null, seconds: 0 };
  }
  return state.entries[name];
}

function isAnswered(picture) {
  const entry = state.entries[picture.dataset.image];
  return entry !== undefined && entry.answer !== null;
}

/* Add the time for which the image was in sight; a pause and a hidden window do not count. */
function stopClock() {
  if (since !== null) {
    entryAt(state.at).seconds += (performance.now() - since) / 1000;
  }
  since = resting || document.hidden ? null : performance.now();
}

function answer(name) {
  const entry = entryAt(state.at);
  entry.confidence = entry.answer === name ? entry.confidence : null;
  entry.answer = name;
  keep();
}

function rate(number) {
  const entry = entryAt(state.at);
  if (entry.answer !== null) {
    entry.confidence = number;
    keep();
    moveOn();
  }
}

function keep() {
  saved = false;
  stopClock();
  storeState();
  show();
}

function moveTo(place) {
  stopClock();
  state.at = place;
  storeState();
  show();
}

/* After the last image go to the first one without an answer; with none left, the work is done. */
function moveOn() {
  if (state.at + 1 < pictures.length) {
    moveTo(state.at + 1);
    return;
  }
  const left = pictures.findIndex((picture) => !isAnswered(picture));
  if (left >= 0) {
    moveTo(left);
  } else {
    rest(true);
    document.querySelector("#save").focus();
  }
}

function moveBack() {
  moveTo(Math.max(0, state.at - 1));
}

function rest(wanted) {
  stopClock();
  resting = wanted;
  since = null;
  stopClock();
  storeState();
  show();
}

function start() {
  const field = document.querySelector("#reader");
  state.reader = field.value.trim();
  if (state.reader === "") {
    say("#memory", "Enter your name or a code first.");
    field.focus();
    return;
  }
  say("#memory", "");
  field.blur();
  rest(false);
}

function show() {
  const count = pictures.filter(isAnswered).length;
  document.querySelector("#rest").hidden = !resting;
  document.querySelector("#work").hidden = resting;
  pictures.forEach((picture, place) => { picture.hidden = resting || place !== state.at; });
  const entry = entryAt(state.at);
  for (const button of study.querySelectorAll("[data-answer]")) {
    button.setAttribute("aria-pressed", String(button.dataset.answer === entry.answer));
  }
  for (const button of study.querySelectorAll("[data-confidence]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.confidence) === entry.confidence));
    button.disabled = entry.answer === null;
  }
  document.querySelector("#back").disabled = state.at === 0;
  document.querySelector("#progress").value = count;
  document.querySelector("#start").textContent = count > 0 ? "Continue" : "Start";
  document.querySelector("#save").disabled = count === 0;
  const place = resting ? "" : `Image ${state.at + 1} of ${pictures.length}; `;
  say("#counts", `${place}${count} of ${pictures.length} answered`
    + (count === pictures.length ? ": all done, save your answers." : "."));
}

function save() {
  stopClock();
  const answers = pictures.filter(isAnswered).map((picture) => {
    const entry = state.entries[picture.dataset.image];
    return { image: picture.dataset.image, ...entry, seconds: Math.round(entry.seconds * 10) / 10 };
  });
  const facts = { format: 1, kit: study.dataset.kit, reader: state.reader, answers };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(
    new Blob([JSON.stringify(facts, null, 1) + "\n"], { type: "application/json" }));
  link.download = `answers-${state.reader.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  saved = true;
  say("#memory", `Saved as ${link.download}.`);
}

function forget() {
  const count = pictures.filter(isAnswered).length;
  if (!window.confirm(`Forget your name and ${count} answers on this page?`)) {
    return;
  }
  state = { reader: "", at: 0, entries: {} };
  document.querySelector("#reader").value = "";
  since = null;
  saved = true;
  storeState();
  show();
}

const KEYS = {
  r: () => answer("real"),
  s: () => answer("synthetic"),
  Enter: moveOn,
  ArrowRight: moveOn,
  ArrowLeft: moveBack,
  Backspace: moveBack,
  p: () => rest(true),
};

function press(event) {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) {
    return;
  }
  if (resting) {
    if (event.key === "Enter" && event.target.matches("#reader")) {
      event.preventDefault();
      start();
    }
    return;
  }
  if (event.key === "Enter" && event.target.matches("button")) { /* presses the button */
    return;
  }
  const act = /^[1-5]$/.test(event.key) ? () => rate(Number(event.key)) : KEYS[event.key];
  if (act !== undefined) {
    event.preventDefault();
    act();
  }
}

function onClick(place, act) {
  for (const button of study.querySelectorAll(place)) {
    button.addEventListener("click", () => {
      act(button);
      if (button.closest("#bar")) { /* so that Enter goes on, and does not press it again */
        button.blur();
      }
    });
  }
}

onClick("[data-answer]", (button) => answer(button.dataset.answer));
onClick("[data-confidence]", (button) => rate(Number(button.dataset.confidence)));
onClick("#back", moveBack);
onClick("#next", moveOn);
onClick("#pause", () => rest(true));
onClick("#start", start);
onClick("#save", save);
onClick("#forget", forget);
document.addEventListener("keydown", press);
document.addEventListener("visibilitychange", () => { stopClock(); storeState(); });
window.addEventListener("storage", (event) => { /* the same page in another window */
  if (event.key === storageKey) {
    state = readState();
    show();
  }
});
window.addEventListener("beforeunload", (event) => {
  stopClock();
  storeState();
  if (!stored && !saved) {
    event.preventDefault();
  }
});
document.querySelector("#reader").value = state.reader;
study.hidden = false;
show();

// Keeps the page true: asks for it again every two seconds and changes what differs, so that focus, selection and what
// is folded open stay as they are. Asks for nothing while nobody looks.
"use strict";

const PERIOD = 2000;
const PATIENCE = 5000;
const live = document.getElementById("live");
const pause = document.getElementById("pause");
let paused = false;
let timer = 0;

function attributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(document.importNode(fresh, true));
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    attributes(old, fresh);
    const before = [...old.childNodes];
    const after = [...fresh.childNodes];
    after.forEach((child, place) => {
      if (place < before.length) morph(before[place], child);
      else old.append(document.importNode(child, true));
    });
    before.slice(after.length).forEach((child) => child.remove());
  }
}

async function refresh() {
  const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  morph(document.querySelector("main"), fresh.querySelector("main"));
  document.title = fresh.title;
  return fresh.getElementById("live").textContent;
}

async function turn() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  try {
    const said = await refresh();
    document.body.classList.remove("lost");
    live.removeAttribute("role");
    live.textContent = said;
  } catch {
    if (document.body.classList.contains("lost")) return;
    document.body.classList.add("lost");
    live.setAttribute("role", "alert");
    live.textContent = `no answer, this is ${live.textContent}`;
  } finally {
    clearTimeout(timer);
    timer = setTimeout(turn, PERIOD);
  }
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  pause.textContent = paused ? "Go on" : "Pause";
  turn();
});
document.addEventListener("visibilitychange", turn);
timer = setTimeout(turn, PERIOD);

// Asks for the page again while it is looked at, and takes over what has changed: nodes
// that stay keep focus, scroll and whether they are open. Pages work without it.
"use strict";

const everyMs = 3000;
const slowestMs = 60000;
const live = document.getElementById("live");
const time = () => new Date().toLocaleTimeString();

// key tells children apart that may move: rows and list items by their ids.
const key = (node) => (node.nodeType === Node.ELEMENT_NODE && node.id) || "";

// kept is what the reader decides: whether details are open.
const kept = (node, name) => name === "open" && node.tagName === "DETAILS";

// morph makes one node like another of the same kind, and says whether they differed.
function morph(now, next) {
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.nodeValue === next.nodeValue) return false;
    now.nodeValue = next.nodeValue;
    return true;
  }
  let differed = false;
  for (const { name } of [...now.attributes]) {
    if (next.hasAttribute(name) || kept(now, name)) continue;
    now.removeAttribute(name);
    differed = true;
  }
  for (const { name, value } of next.attributes) {
    if (now.getAttribute(name) === value || kept(now, name)) continue;
    now.setAttribute(name, value);
    differed = true;
  }
  if (now.tagName === "FORM") return differed; // what somebody is typing stays
  return morphChildren(now, next) || differed;
}

function morphChildren(now, next) {
  let differed = false;
  let at = now.firstChild;
  for (const wanted of [...next.childNodes]) {
    if (at && key(at) === key(wanted) && at.nodeName === wanted.nodeName) {
      const same = at;
      at = at.nextSibling;
      differed = morph(same, wanted) || differed;
    } else {
      differed = true;
      const known = key(wanted) && [...now.children].find((child) => key(child) === key(wanted));
      const node = known || document.importNode(wanted, true);
      if (known) morph(known, wanted);
      now.insertBefore(node, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
    differed = true;
  }
  return differed;
}

let tag = "";
let failed = 0;

function say(text, lost) {
  if (live.textContent !== text) live.textContent = text;
  live.classList.toggle("lost", lost);
}

// refresh asks once. The server answers 304 while nothing has changed.
async function refresh() {
  const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store", signal: AbortSignal.timeout(20000) });
  if (answer.redirected) {
    location.assign(answer.url); // signed out meanwhile
    return;
  }
  if (answer.status !== 304) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = page.getElementById("main");
    if (!main) throw new Error("no page: " + answer.status);
    tag = answer.headers.get("ETag") || "";
    const differed = morph(document.getElementById("main"), main);
    document.title = page.title;
    if (differed) say("Changed at " + time(), false);
  }
  if (failed > 0) say("Connected again at " + time(), false);
  failed = 0;
}

async function loop() {
  if (!document.hidden) {
    try {
      await refresh();
    } catch {
      failed++;
      if (failed === 2) say("No connection since " + time() + ". What is shown may be old.", true);
    }
  }
  setTimeout(loop, Math.min(everyMs * 2 ** Math.min(failed, 5), slowestMs));
}

// A link from another site brings no cookie. Somebody who is signed in is let on.
async function letOn(form) {
  const answer = await fetch(form.dataset.next, { cache: "no-store" });
  if (answer.ok && !answer.redirected) location.replace(form.dataset.next);
}

if ("live" in document.body.dataset) setTimeout(loop, everyMs);
const form = document.querySelector("form[data-next]");
if (form) letOn(form).catch(() => {});

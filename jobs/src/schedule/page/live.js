// Keeps the page current every two seconds while the tab is visible, and remembers the token in this tab.
"use strict";

const KEY = "legenda-token";
const PERIOD_MS = 2000;
const live = document.getElementById("live");
const act = document.getElementById("act");
const status = document.getElementById("status");

// Storage may be disabled.
const store = {
  get() {
    try {
      return sessionStorage.getItem(KEY) || "";
    } catch {
      return "";
    }
  },
  set(token) {
    try {
      if (token) sessionStorage.setItem(KEY, token);
      else sessionStorage.removeItem(KEY);
    } catch {
      // The field keeps the token until the next page.
    }
  },
};

function showToken() {
  if (!act) return;
  const token = store.get();
  if (token) act.elements.token.value = token;
  act.classList.toggle("known", Boolean(token));
}

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || "" : "");

// Makes `old` equal to `fresh`, and keeps every node that need not change: with the nodes, focus and selection stay.
function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  patchChildren(old, fresh);
}

function patchChildren(old, fresh) {
  const next = [...fresh.childNodes];
  const wanted = new Set(next.map(keyOf));
  const kept = new Map();
  for (const node of [...old.childNodes]) {
    if (!keyOf(node)) continue;
    if (wanted.has(keyOf(node))) kept.set(keyOf(node), node);
    else node.remove();
  }
  let at = old.firstChild;
  for (const node of next) {
    const key = keyOf(node);
    const isLike = (other) => other && other.nodeName === node.nodeName && keyOf(other) === key;
    const match = key ? kept.get(key) : at;
    if (!isLike(match)) {
      old.insertBefore(document.importNode(node, true), at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    patch(match, node);
  }
  while (at) {
    const rest = at.nextSibling;
    at.remove();
    at = rest;
  }
}

let isRefreshing = false;

async function refresh() {
  const source = live.dataset.source;
  if (document.hidden || isRefreshing || !source) return;
  isRefreshing = true;
  try {
    // With the token, the page shows why a job file is invalid. A header holds ASCII only.
    const token = store.get();
    const headers = /^[ -~]+$/.test(token) ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch(source, { cache: "no-store", headers });
    if (!response.ok) throw new Error(response.statusText);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    patchChildren(live, page.getElementById("live"));
    document.title = page.title;
    if (status.dataset.kind === "stale") tell("");
  } catch {
    tell("The service does not answer: what is shown may be out of date.", "stale");
  }
  isRefreshing = false;
}

function tell(text, kind = "") {
  if (status.textContent !== text) status.textContent = text;
  status.dataset.kind = kind;
}

async function useToken(form) {
  const token = form.elements.token.value;
  try {
    const response = await fetch("/token", { method: "POST", body: new URLSearchParams({ token }) });
    store.set(response.ok ? token : "");
    tell(response.ok ? "" : "This is not the token of the service.");
  } catch {
    tell("The service does not answer.");
  }
  showToken();
  (store.get() ? document.getElementById("forget") : form.elements.token).focus();
  refresh();
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.elements.token) return;
  if (event.submitter && event.submitter.getAttribute("formaction") === "/token") {
    event.preventDefault();
    useToken(form);
  } else {
    store.set(form.elements.token.value);
  }
});

document.addEventListener("click", (event) => {
  if (event.target.id !== "forget") return;
  store.set("");
  act.elements.token.value = "";
  showToken();
  act.elements.token.focus();
});

if (live.dataset.token === "refused") store.set("");
showToken();
addEventListener("pageshow", showToken);
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, PERIOD_MS);

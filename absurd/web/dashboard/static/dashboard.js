// Conveniences: pages that stay up to date, light and dark, "/" for the search, questions before what cannot be taken back.
// Everything works without this file too.
"use strict";
(() => {
  const SECONDS = 2;
  const SLOWEST = 30;
  const root = document.documentElement;

  // Live: the page is fetched again while it is looked at, and its marked elements are changed to what came.
  const button = document.getElementById("live");
  let timer = 0;
  let failures = 0;
  let paused = false;

  const keeps = {
    // A form that somebody fills in, and what somebody has opened, stay as they are. So does the mark by which a form that is sent
    // twice is known: the page may have been fetched again between two clicks.
    beforeNodeMorphed: (old) => !(old instanceof HTMLFormElement && old.dataset.touched !== undefined) && old.name !== "once",
    beforeAttributeUpdated: (name, node) => !(name === "open" && node instanceof HTMLDetailsElement),
  };

  function marked() {
    return document.querySelectorAll("[data-live][id]");
  }

  function isBusy() {
    const selection = window.getSelection();
    return selection && !selection.isCollapsed && [...marked()].some((part) => part.contains(selection.anchorNode));
  }

  function show(state, text) {
    button.dataset.state = state;
    button.querySelector("[data-text]").textContent = text;
  }

  function replace(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const part of marked()) {
      const other = fresh.getElementById(part.id);
      if (other) Idiomorph.morph(part, other, { morphStyle: "outerHTML", ignoreActiveValue: true, callbacks: keeps });
    }
    const secret = fresh.querySelector("meta[name=csrf]");
    if (secret) for (const field of document.querySelectorAll("input[name=csrf]")) field.value = secret.content;
  }

  async function refresh() {
    const begun = Date.now();
    try {
      if (!isBusy()) {
        const answer = await fetch(location.href, { headers: { "X-Absurd-Live": "1" }, cache: "no-store", redirect: "manual" });
        if (answer.status === 401) return location.reload();
        if (!answer.ok) throw new Error(String(answer.status));
        const text = await answer.text();
        if (paused) return; // meanwhile
        replace(text);
      }
      failures = 0;
      if (!paused) show("on", "live");
    } catch {
      if (paused) return;
      failures += 1;
      show("off", "no answer");
    }
    // A page that is slow to make is asked for less often.
    schedule(Math.min(Math.max(SECONDS * 2 ** failures, (Date.now() - begun) / 200), SLOWEST));
  }

  function schedule(seconds) {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(refresh, seconds * 1000);
  }

  if (button && marked().length && window.Idiomorph) {
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      button.setAttribute("aria-pressed", String(!paused));
      show(paused ? "paused" : "on", paused ? "paused" : "live");
      schedule(0);
    });
    document.addEventListener("visibilitychange", () => schedule(0));
    document.addEventListener("input", (event) => {
      const form = event.target.closest("form");
      if (form) form.dataset.touched = "";
    });
    schedule(SECONDS);
  }

  // Whoever comes back to a page and sends its form once more means it: he gets a new page.
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });

  // Light and dark: the server writes the choice into the page, so that no other flashes up first.
  const theme = document.getElementById("theme");
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      document.cookie = `absurd_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
    });
  }

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const search = document.querySelector("[data-search]");
    if (search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });

  // A choice in the filters needs no button.
  document.addEventListener("change", (event) => {
    if (event.target.matches("form[data-filters] select")) event.target.form.requestSubmit();
  });

  const current = document.querySelector("nav [aria-current]");
  if (current && innerWidth <= 760) current.scrollIntoView({ block: "nearest", inline: "center" });
})();

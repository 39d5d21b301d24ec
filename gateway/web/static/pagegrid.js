// All that the pages need of script. Without it everything but copying works.
"use strict";
const said = document.getElementById("said");

function say(words) {
  if (said) said.textContent = words;
}

// Copying: buttons come hidden, as they need this.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  const label = button.querySelector("span");
  const words = label.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      label.textContent = "Copied";
      say("Copied");
    } catch {
      // Only pages that came over TLS, or from this machine, may write to the clipboard.
      getSelection().selectAllChildren(source);
      label.textContent = "Press Ctrl+C";
      say("Selected. Press Ctrl+C to copy.");
    }
    setTimeout(() => { label.textContent = words; say(""); }, 2000);
  });
}

// The theme, at once and without losing one's place; the form's own way is a cookie and the page anew.
for (const form of document.querySelectorAll("form.theme")) {
  form.addEventListener("submit", (event) => {
    const theme = event.submitter && event.submitter.value;
    if (!theme) return;
    event.preventDefault();
    const secure = location.protocol === "https:" ? "; secure" : "";
    document.cookie = `theme=${theme}; path=/; max-age=31536000; samesite=lax${secure}`;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    for (const button of form.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === theme));
  });
}

// One open menu at a time; Escape closes it and gives focus back.
const menus = document.querySelectorAll("details.menu");
addEventListener("click", (event) => {
  for (const menu of menus) if (!menu.contains(event.target)) menu.open = false;
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of menus) if (menu.open) { menu.open = false; menu.querySelector("summary").focus(); }
});

// Live parts (gateway/web/live.py): the server sends a page's changing elements anew, each known by its id. What is the same stays
// the same node, so that focus, selection and open disclosures stay where they are; screen readers are not told.
function renew(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName) {
    if (!old.contains(document.activeElement)) old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) { old.data = fresh.data; return; }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== "open") old.setAttribute(name, value);
  // Children that have an id are known by it wherever they stand; the others by their place.
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  const wanted = new Set([...fresh.children].map((child) => child.id).filter(Boolean));
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const named = child.id ? known.get(child.id) : null;
    while (place && (named ? place !== named && !wanted.has(place.id) : place.id && !wanted.has(place.id))) place = drop(place);
    const same = child.id ? named : place && !place.id ? place : null;
    if (!same) { old.insertBefore(child, place); continue; }
    if (same === place) place = place.nextSibling;
    else old.insertBefore(same, place);
    renew(same, child);
  }
  while (place) place = drop(place);
}

// Nothing goes away under somebody's focus: it goes with the next change.
function drop(node) {
  const next = node.nextSibling;
  if (!node.contains(document.activeElement)) node.remove();
  return next;
}

for (const note of document.querySelectorAll("[data-live]")) {
  let source = null, ended = false, waiting = 0;
  const tell = (live) => { note.children[0].hidden = !live; note.children[1].hidden = live; };
  const close = () => { clearTimeout(waiting); if (source) source.close(); source = null; };
  const open = () => {
    close();
    if (ended || document.hidden) return;
    source = new EventSource(note.dataset.live);
    source.addEventListener("part", (event) => {
      const fresh = document.createElement("template");
      fresh.innerHTML = event.data;
      for (const child of [...fresh.content.children]) {
        const old = child.id && document.getElementById(child.id);
        if (old) renew(old, document.importNode(child, true));
      }
      tell(true);
    });
    source.addEventListener("end", () => { ended = true; close(); tell(false); });
    source.addEventListener("error", () => {
      tell(false);
      // The browser itself tries again only after a stream that had begun.
      if (source && source.readyState === EventSource.CLOSED) waiting = setTimeout(open, 30000);
    });
  };
  // A browser has six connections to a host: those of windows that nobody looks at are given back.
  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else open(); });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  open();
}

// On a docs page: where the reader is, in the contents at the side.
const sections = new Map();
for (const link of document.querySelectorAll(".toc nav a")) sections.set(link.hash.slice(1), link);
if (sections.size) {
  const headings = [...sections.keys()].map((id) => document.getElementById(id)).filter(Boolean);
  let due = false;
  const mark = () => {
    due = false;
    let here = headings[0];
    for (const heading of headings) if (heading.getBoundingClientRect().top < 120) here = heading;
    // At the end of a page the last sections cannot reach its top: the one that was asked for, else the last.
    if (innerHeight + scrollY >= document.documentElement.scrollHeight - 2) {
      const asked = headings.find((heading) => `#${heading.id}` === location.hash);
      here = asked && asked.getBoundingClientRect().top >= 0 ? asked : headings.at(-1);
    }
    for (const [id, link] of sections) {
      if (id === here.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", () => { if (!due) { due = true; requestAnimationFrame(mark); } }, { passive: true });
  mark();
}

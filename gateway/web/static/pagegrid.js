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

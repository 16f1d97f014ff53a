// What an update of a live page leaves alone: what a person has opened, selected, scrolled or begun to fill in.
(() => {
  const busy = (live) => {
    const focus = document.activeElement, selected = getSelection();
    return (live.contains(focus) && focus.matches("input, select, textarea"))
      || (!selected.isCollapsed && live.contains(selected.anchorNode));
  };
  const kept = { open: new Map(), scroll: new Map(), focus: null };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.id === "live" && (document.hidden || busy(event.target))) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const live = document.getElementById("live");
    if (!live || event.detail.target !== live || !event.detail.shouldSwap) return;
    if (busy(live)) { event.detail.shouldSwap = false; return; }
    live.querySelectorAll("details[id]").forEach((one) => kept.open.set(one.id, one.open));
    live.querySelectorAll("[data-scroll]").forEach((one) => kept.scroll.set(one.dataset.scroll, one.scrollLeft));
    const focus = document.activeElement;
    kept.focus = live.contains(focus) ? focus.closest("details[id]")?.id ?? focus.getAttribute("href") : null;
  });
  document.addEventListener("htmx:afterSwap", () => {
    const live = document.getElementById("live");
    if (!live) return;
    kept.open.forEach((open, id) => { const one = document.getElementById(id); if (one) one.open = open; });
    live.querySelectorAll("[data-scroll]").forEach((one) => {
      if (kept.scroll.has(one.dataset.scroll)) one.scrollLeft = kept.scroll.get(one.dataset.scroll);
    });
    if (kept.focus) {
      const within = document.getElementById(kept.focus)?.querySelector("summary");
      (within ?? live.querySelector(`[href="${CSS.escape(kept.focus)}"]`))?.focus({ preventScroll: true });
    }
    offer();
  });
  const lost = (yes) => { const note = document.getElementById("lost"); if (note) note.hidden = !yes; };
  document.addEventListener("htmx:sendError", () => lost(true));
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.xhr.status) lost(false); });

  // Commands can be copied with one click, where the browser lets a page do that.
  const offer = () => {
    if (navigator.clipboard) document.querySelectorAll("button[data-copy]").forEach((one) => { one.hidden = false; });
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  document.addEventListener("DOMContentLoaded", offer);
})();

"use strict";
// Keeps a page fresh by asking the server for it again, and sends what people do to the API.
(() => {
  const EVERY = 10_000; // milliseconds
  const main = document.getElementById("main");
  const fresh = document.getElementById("fresh");
  let shown = main.innerHTML;
  let since = null; // when the server last answered, if it does not now

  /** Somebody types or chooses; nothing may be taken from under their hands. */
  const isBusy = () =>
    main.contains(document.activeElement) && document.activeElement.matches("input, select, textarea, button") ||
    String(getSelection()) !== "";

  function take(page) {
    const next = page.getElementById("main").innerHTML;
    if (next === shown) return;
    const opened = [...main.querySelectorAll("details")].map((one) => one.open);
    const focus = document.activeElement;
    const again = main.contains(focus) && focus.href ? focus.getAttribute("href") : null;
    main.innerHTML = shown = next;
    document.title = page.title;
    main.querySelectorAll("details").forEach((one, n) => (one.open = opened[n] ?? false));
    if (again) [...main.querySelectorAll("a")].find((a) => a.getAttribute("href") === again)?.focus();
    Plots.show();
  }

  async function refresh() {
    if (document.hidden || isBusy()) return;
    try {
      const answer = await fetch(location.href, { cache: "no-cache", headers: { Accept: "text/html" } });
      const text = await answer.text();
      if (!answer.ok && answer.status !== 404) throw new Error(`${answer.status} ${answer.statusText}`);
      take(new DOMParser().parseFromString(text, "text/html"));
      if (since) fresh.textContent = "";
      since = null;
    } catch (error) {
      since ??= new Date();
      const why = error instanceof TypeError ? "" : ` (${error.message})`; // fetch's own error: nobody answers
      fresh.textContent = `No answer since ${since.toLocaleTimeString()}${why}`;
    }
  }

  function tell(near, line) {
    let place = near.parentElement.querySelector(".failed");
    if (!place) {
      place = document.createElement("p");
      place.className = "failed";
      place.setAttribute("role", "alert");
      near.after(place);
    }
    place.textContent = line;
  }

  async function act(near, path, method, body) {
    try {
      const answer = await fetch(path, {
        method,
        headers: { "Content-Type": "application/json", "X-Detector-Request": "page" },
        body: body && JSON.stringify(body),
      });
      if (!answer.ok) {
        const said = await answer.text();
        return tell(near, said.startsWith("{") ? JSON.parse(said).detail : said);
      }
    } catch {
      return tell(near, "The server does not answer.");
    }
    document.activeElement?.blur();
    await refresh();
    main.focus();
  }

  const inHours = (hours) => new Date(Date.now() + 3_600_000 * hours).toISOString();

  function exclusion(form, fields) {
    const { monitor, entity } = form.dataset;
    const glob = entity.replace(/[*?]/g, "?"); // the very name, as near as a glob can say it
    const [start, end] = [inHours(0), inHours(Number(fields.hours))];
    return { monitor, entity: glob, start, end, effect: fields.effect, comment: fields.comment || null };
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.act) return;
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(form));
    const comment = fields.comment || null;
    const verb = event.submitter?.value;
    if (form.dataset.monitor) act(form, form.dataset.act, "POST", exclusion(form, fields));
    else if (verb === "real" || verb === "false") act(form, `${form.dataset.act}/verdict`, "POST", { verdict: verb, comment });
    else act(form, `${form.dataset.act}/${verb}`, "POST", { comment });
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-act]");
    if (button) act(button, button.dataset.act, button.dataset.method);
  });

  setInterval(refresh, EVERY);
  document.addEventListener("visibilitychange", refresh);
})();

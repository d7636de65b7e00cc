// Refreshes the page every two seconds while the tab is visible.
"use strict";
const live = document.getElementById("live");
let shown = live.innerHTML;
async function refresh() {
  if (document.hidden) return;
  try {
    const response = await fetch(location.href, { cache: "no-store" });
    if (!response.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("live").innerHTML;
    if (fresh !== shown) {
      live.innerHTML = fresh;
      shown = fresh;
    }
    document.body.classList.remove("stale");
  } catch {
    document.body.classList.add("stale");
  }
}
setInterval(refresh, 2000);

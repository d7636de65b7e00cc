// Shows what is new every two seconds, but not in a tab that nobody looks at.
"use strict";
const live = document.getElementById("live");
let shown = live.innerHTML;
async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
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

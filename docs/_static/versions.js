// The versions of the site stand in versions.json, beside their folders. Without it (one version, or a file on a disk)
// the choice stays hidden.
document.addEventListener("DOMContentLoaded", async () => {
  const choice = document.querySelector(".versions select");
  if (!choice) return;
  const root = new URL(choice.dataset.root || "./", location.href);
  const page = location.href.slice(root.href.length);
  let versions;
  try {
    versions = await (await fetch(new URL("../versions.json", root))).json();
  } catch {
    return;
  }
  choice.replaceChildren(
    ...versions.map((name) => new Option(name, name, false, name === choice.dataset.current)),
  );
  choice.parentElement.hidden = versions.length < 2;
  choice.addEventListener("change", async () => {
    const there = new URL(`../${choice.value}/`, root);
    const same = new URL(page, there);
    const found = await fetch(same, { method: "HEAD" }).catch(() => ({ ok: false }));
    location.href = found.ok ? same : there;
  });
});

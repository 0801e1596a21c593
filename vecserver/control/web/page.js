// What the pages of vecserver do in the browser by themselves: the theme, whether they are seen, and walls of frames.
window.vecserver = {
  switchTheme() {
    const theme = Quasar.Dark.isActive ? "light" : "dark";
    Quasar.Dark.set(theme === "dark");
    document.cookie = `vecserver_theme=${theme}; path=/; max-age=31536000; samesite=lax`;
  },

  // One request at a time: the server answers when the next frame may be rendered, so it sets the pace.
  async wall(id) {
    const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    const isSeen = (figure) => {
      const box = figure.getBoundingClientRect();
      return box.bottom > 0 && box.top < window.innerHeight;
    };
    const root = document.getElementById(id);
    if (!root || root.isWalked) return; // the socket was lost for a moment, and the page was not
    root.isWalked = true;
    let last = -1;
    while (document.contains(root)) {
      const idle = document.hidden || root.dataset.ready !== "yes";
      const seen = idle ? [] : [...root.querySelectorAll("figure")].filter(isSeen);
      if (!seen.length) {
        await pause(500);
        continue;
      }
      const next = seen.find((figure) => Number(figure.dataset.row) > last) || seen[0];
      last = Number(next.dataset.row);
      const says = await this.frame(next, root.dataset.frames);
      const note = root.parentElement.querySelector(".vs-wall-error");
      if (note && note.textContent !== says) note.textContent = says;
      if (says) await pause(2000);
    }
  },

  // Show a row's frame; returns what the server says instead of one.
  async frame(figure, address) {
    const image = figure.querySelector("img");
    const width = Math.min(640, Math.ceil((figure.clientWidth || 300) * 1.25));
    try {
      const answer = await fetch(`${address}?row=${figure.dataset.row}&width=${width}`);
      if (!answer.ok) return (await answer.json()).detail;
      const old = image.src;
      image.src = URL.createObjectURL(await answer.blob());
      await image.decode();
      image.classList.add("vs-shown");
      if (old.startsWith("blob:")) URL.revokeObjectURL(old);
      return "";
    } catch (error) {
      return "The server does not answer.";
    }
  },
};
document.addEventListener("visibilitychange", () => emitEvent("vecserver_seen", !document.hidden));

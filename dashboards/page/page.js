// Draws the figures of the page in the light or dark theme, chooses and copies settings, sorts and filters tables.
(function () {
  // no button that sends a figure to a server: the page works offline
  const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const themes = JSON.parse((document.getElementById("themes") || { textContent: "{}" }).textContent);
  const texts = JSON.parse((document.getElementById("texts") || { textContent: "[]" }).textContent);
  const plots = Array.from(document.querySelectorAll(".plot"));
  function draw(place) {
    if (place.closest("details:not([open])")) return;
    const spec = JSON.parse(document.getElementById(place.id + "-data").textContent);
    spec.data.forEach(function (trace) {  // each longer hover text stands on the page once
      if (Array.isArray(trace.text)) trace.text = trace.text.map((t) => (typeof t === "number" ? texts[t] : t));
    });
    // panels side by side do not fit a phone: the card scrolls
    const first = spec.layout.xaxis && spec.layout.xaxis.domain;
    place.style.minWidth = spec.layout.xaxis2 && first && first[1] < 0.9 ? "640px" : place.dataset.least ? place.dataset.least + "px" : "";
    spec.layout.height = place.clientHeight;
    spec.layout.template = dark.matches ? themes.dark : themes.light;
    Plotly.react(place, spec.data, spec.layout, CONFIG);
  }
  // one figure after the other, so that the first ones appear at once
  function drawAll(left) {
    if (!left.length) return;
    draw(left[0]);
    setTimeout(drawAll, 0, left.slice(1));
  }
  dark.addEventListener("change", function () { drawAll(plots); });
  drawAll(plots);
  document.querySelectorAll("details").forEach(function (fold) {
    fold.addEventListener("toggle", function () { if (fold.open) fold.querySelectorAll(".plot").forEach(draw); });
  });

  const use = document.getElementById("use"), size = use && use.querySelector("select");
  if (size) {
    const choices = Array.from(use.querySelectorAll(".choice"));
    const show = function () { choices.forEach(function (c, i) { c.hidden = i !== Number(size.value); }); };
    size.addEventListener("change", show);
    show();  // a reloaded page keeps the reader's choice
    use.querySelector(".copy").addEventListener("click", function (event) {
      const code = choices[Number(size.value)].querySelector("code"), button = event.target;
      const say = function (text) {
        button.textContent = text;
        setTimeout(function () { button.textContent = "copy"; }, 1500);
      };
      const select = function () {
        code.closest("details").open = true;
        const range = document.createRange();
        range.selectNodeContents(code);
        const selection = window.getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
        say(document.execCommand("copy") ? "copied" : "press Ctrl+C");
      };
      if (!navigator.clipboard) { select(); return; }
      navigator.clipboard.writeText(code.textContent).then(function () { say("copied"); }, select);
    });
  }

  // the table of trials: a click on a head sorts, numbers by their full value; empty cells stay at the end
  const list = document.querySelector("#trials table");
  if (list) {
    const heads = Array.from(list.tHead.rows[0].cells), body = list.tBodies[0], rows = Array.from(body.rows);
    const number = function (cell) { return parseFloat(cell.title || cell.textContent); };
    const sort = function (head) {
      const at = heads.indexOf(head), up = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      heads.forEach(function (h) { h.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
      const texts = !rows.some(function (r) { return !isNaN(number(r.cells[at])); });
      const empty = function (cell) { return texts ? ["", "–"].includes(cell.textContent) : isNaN(number(cell)); };
      rows.sort(function (p, q) {
        const a = p.cells[at], b = q.cells[at];
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        return up * (texts ? a.textContent.localeCompare(b.textContent) : number(a) - number(b));
      });
      body.append(...rows);
    };
    heads.forEach(function (head) {
      head.tabIndex = 0;
      head.addEventListener("click", function () { sort(head); });
      head.addEventListener("keydown", function (e) { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); sort(head); } });
    });
    const filter = document.querySelector("#trials input"), left = document.getElementById("left");
    const compare = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
      "=": (a, b) => Math.abs(a - b) <= 1e-3 * Math.abs(b) };
    filter.addEventListener("input", function () {
      // conditions such as `B > 64 noise < 0.01` all act; the rest are words, which a row must contain
      const rules = [];
      const rest = filter.value.replace(/([^<>=]+?)\s*(<=|>=|<|>|=)\s*([^\s<>=,;]+)[,;]?(?=\s|$)/g, function (_, name, sign, text) {
        const parts = name.toLowerCase().split(/\s+/).filter((w) => w && w !== "and");
        let at = -1, before = 0;
        for (; before < parts.length && at < 0; before++) {  // words may precede the column's name
          const wanted = parts.slice(before).join(" ");
          at = heads.findIndex((h) => h.textContent.toLowerCase().startsWith(wanted) || h.title.toLowerCase().startsWith(wanted));
        }
        rules.push({ at: at, name: parts.join(" "), sign: sign, text: text, value: Number(text) });
        return " " + (at < 0 ? "" : parts.slice(0, before - 1).join(" ")) + " ";
      });
      const words = rest.toLowerCase().split(/\s+/);
      const troubles = rules.map((r) => r.at < 0 ? "no column begins with " + r.name
        : isNaN(r.value) && r.sign !== "=" ? r.text + " is no number" : "").filter(Boolean);
      const trouble = /[<>=]/.test(rest) ? "a number must follow, as in B >= 32" : troubles[0] || "";
      filter.toggleAttribute("aria-invalid", Boolean(trouble));
      if (trouble) { left.textContent = trouble + "; the rows stay as they are"; return; }
      const meets = (row, r) => isNaN(r.value) ? row.cells[r.at].textContent.toLowerCase() === r.text.toLowerCase()
        : compare[r.sign](number(row.cells[r.at]), r.value);
      const keeps = (row) => words.every((w) => row.textContent.toLowerCase().includes(w)) && rules.every((r) => meets(row, r));
      rows.forEach(function (r) { r.hidden = !keeps(r); });
      const shown = rows.filter((r) => !r.hidden).length;
      left.textContent = shown === rows.length ? "" : shown + " of " + rows.length;
    });
  }
})();

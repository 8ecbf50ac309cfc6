// What the browser does by itself: the theme, the address, saving figures, and keeping grid and address together.
(function () {
  const LOST_MS = 20000;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function stored() { try { return localStorage.getItem("sweeper-theme"); } catch (e) { return null; } }
  function theme() { return stored() || (dark.matches ? "dark" : "light"); }
  function wear(name) {
    if (stored()) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
  }
  dark.addEventListener("change", function () {
    if (!stored()) window.dash_clientside.set_props("theme", { data: theme() });
  });

  // the browser's address is the one truth of what is selected; the store `search` only tells the callbacks of it
  function query(search, changes) {
    const found = new URLSearchParams(search);
    for (const [field, value] of Object.entries(changes)) {
      if (value) found.set(field, value); else found.delete(field);
    }
    const text = found.toString();
    return text ? "?" + text : "";
  }
  function go(search) {
    history.pushState(null, "", search || location.pathname);
    return location.search;
  }
  function changed(changes) {
    const next = query(location.search, changes);
    return next === query(location.search, {}) ? window.dash_clientside.no_update : go(next);
  }
  const tell = () => window.dash_clientside.set_props("search", { data: location.search });
  window.addEventListener("popstate", tell);
  document.addEventListener("click", function (event) {
    const link = event.target.closest("a.go");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(new URL(link.href).search);
    tell();
  });

  // when the server is asked whether anything is new: a service's events tell, each second where there are none. A tab
  // that is hidden asks nothing, and looks once when it is shown again
  const TICK_MS = 1000, STREAMED_MS = 30000, BEAT_MS = 500, AGAIN_MS = 15000;
  const KINDS = ["trial", "target", "verdict", "state", "progress"];
  let stream = "", source = null, streaming = false, busy = false, beaten = 0, due = null, pace = {};
  function beat() {
    if (document.hidden || due) return;
    due = setTimeout(function () {
      due = null;
      beaten = performance.now();
      if (!document.hidden) window.dash_clientside.set_props("beat", { data: beaten });
    }, Math.max(0, beaten + BEAT_MS - performance.now()));
  }
  function keepPace() {
    const next = { disabled: document.hidden, interval: streaming && !busy ? STREAMED_MS : TICK_MS };
    if (next.disabled === pace.disabled && next.interval === pace.interval) return;
    pace = next;
    window.dash_clientside.set_props("tick", next);
  }
  function happened(event) {
    const shown = new URLSearchParams(location.search).get("run");
    try {
      if (!shown || shown.split(",").includes(JSON.parse(event.data).sweep)) beat();
    } catch (e) { beat(); }
  }
  function listen() {
    if (!stream || source || document.hidden) return;
    const mine = source = new EventSource(stream);
    mine.onopen = function () { streaming = true; keepPace(); beat(); };  // what it missed
    mine.onerror = function () {
      streaming = false;
      keepPace();
      if (mine.readyState !== EventSource.CLOSED || source !== mine) return;  // else the browser tries again by itself
      source = null;
      setTimeout(listen, AGAIN_MS);
      // who is no longer signed in is sent to where that is done
      fetch(location.pathname, { redirect: "manual" }).then(function (answer) {
        if (answer.type === "opaqueredirect") location.reload();
      }, function () { /* the server is away */ });
    };
    for (const kind of KINDS) mine.addEventListener(kind, happened);
  }
  // a stream takes one of the few connections that a browser has for a server
  function hush() {
    if (source) source.close();
    source = null;
    streaming = false;
  }
  document.addEventListener("visibilitychange", function () {
    if (document.hidden) hush(); else { listen(); beat(); }
    keepPace();
  });
  let wanted = {}, flying = 0, waiting = false;
  function question() {
    const mine = flying = performance.now();
    waiting = false;
    // an answer that got lost must not end the conversation
    setTimeout(function () { if (flying === mine) window.dash_clientside.sweeper.answered(); }, LOST_MS);
    return { ...wanted, search: location.search };
  }
  const text = (value) => (Array.isArray(value) ? value.join(",") : String(value ?? ""));
  const plain = (model) => (model && Object.keys(model).length ? JSON.stringify(model) : "");
  const order = (model) => (model && model.length ? JSON.stringify(model.map((s) => ({ colId: s.colId, sort: s.sort }))) : "");
  function grid() {
    try { return window.dash_ag_grid && window.dash_ag_grid.getApi("grid"); } catch (e) { return null; }
  }

  // Plotly gives up a reader's zoom where the new figure's own range differs from the old one's, as it does with each
  // new trial: what it takes for the range before the zoom is brought up to date before it compares
  function keepZoom(plotly) {
    const react = plotly.react;
    plotly.react = function (place, data, layout, ...rest) {
      const next = layout || (data && data.layout), before = place._fullLayout && place._fullLayout._preGUI;
      if (before && next && place.layout && place.layout.uirevision === next.uirevision) {
        for (const key of Object.keys(before)) {
          const [, axis, end] = key.match(/^([xy]axis\d*)\.range(?:\[([01])\])?$/) || [];
          const range = axis && next[axis] && next[axis].range;
          if (range) before[key] = end === undefined ? range.slice() : range[Number(end)];
        }
      }
      return react.call(this, place, data, layout, ...rest);
    };
    return plotly;
  }
  let held;
  Object.defineProperty(window, "Plotly", { configurable: true, get: () => held, set: (p) => { held = keepZoom(p); } });

  // four digits, small ones as 1.2e-5; what is no number is left to the grid
  function shortNumber(v) {
    if (typeof v !== "number") return v;
    const digits = Number(v.toPrecision(4));
    return v && Math.abs(v) < 1e-3 ? digits.toExponential() : String(digits);
  }
  window.dashAgGridFunctions = Object.assign({}, window.dashAgGridFunctions, { shortNumber });

  window.dash_clientside = Object.assign({}, window.dash_clientside, { sweeper: {
    // the theme at the start and after each click on the button; it is kept where it is not the system's
    theme: function (clicks) {
      if (clicks) {
        const next = theme() === "dark" ? "light" : "dark";
        try {
          if ((next === "dark") === dark.matches) localStorage.removeItem("sweeper-theme");
          else localStorage.setItem("sweeper-theme", next);
        } catch (e) { document.documentElement.dataset.theme = next; return next; }
      }
      wear(theme());
      return theme();
    },
    start: function (tabs, events) {
      stream = events || "";
      listen();
      keepPace();
      return location.search;
    },
    // a choice goes to the address; what is at its default needs no word there. Controls that were just drawn for an
    // address come here too: they must not change one that the reader went to meanwhile
    choose: function (values, shown) {
      const context = window.dash_clientside.callback_context;
      const changes = {}, drawn = JSON.parse((shown || {}).values || "{}");
      for (const hit of context.triggered) {
        const id = JSON.parse(hit.prop_id.slice(0, hit.prop_id.lastIndexOf(".")));
        if (text(hit.value) === text(drawn[id.field])) continue;
        const value = text(hit.value);
        changes[id.field] = value === id.default ? "" : value;
        if (id.field === "state" || id.field === "owner") changes.before = "";
      }
      return changed(changes);
    },
    // one question at a time: an answer leaves out what the page shows already, so it must know what that is
    ask: function (search, theme, version) {
      wanted = { theme: theme || "light", version: version };
      if (flying) { waiting = true; return window.dash_clientside.no_update; }
      return question();
    },
    answered: function (shown) {
      flying = 0;
      busy = Boolean((shown || {}).busy);
      keepPace();
      if (waiting) window.dash_clientside.set_props("asked", { data: question() });
    },
    // filter, order and open trial of the grid go to the address
    listed: function (request) {
      if (!request) return window.dash_clientside.no_update;
      return changed({ filter: plain(request.filterModel), sort: order(request.sortModel) });
    },
    opened: function (cell) {
      if (!cell || !cell.rowId) return window.dash_clientside.no_update;
      return changed({ trial: cell.rowId });
    },
    // the address goes to the grid, as after the browser's back button
    address: function (search) {
      const api = grid(), asked = new URLSearchParams(search || "");
      if (api && asked.get("tab") === "trials") {
        if (plain(api.getFilterModel()) !== (asked.get("filter") || "")) {
          try { api.setFilterModel(JSON.parse(asked.get("filter") || "{}")); } catch (e) { /* said by the server */ }
        }
        const now = api.getColumnState().filter((c) => c.sort).sort((a, b) => a.sortIndex - b.sortIndex);
        if (order(now) !== (asked.get("sort") || "")) {
          try {
            const state = JSON.parse(asked.get("sort") || "[]").map((s, i) => ({ ...s, sortIndex: i }));
            api.applyColumnState({ state: state, defaultState: { sort: null } });
          } catch (e) { /* said by the server */ }
        }
      }
      return "trials.csv" + (search || "");
    },
    // new trials: the grid asks again for the rows it shows, where it stands
    refresh: function (version) {
      const api = grid();
      if (api) api.refreshInfiniteCache();
      return window.dash_clientside.no_update;
    },
  } });

  document.addEventListener("click", function (event) {
    const button = event.target.closest("button.save");
    if (!button || !button.dataset.format) return;
    const plot = button.closest(".card").querySelector(".js-plotly-plot");
    if (!plot) return;
    const title = button.closest(".card").querySelector("h3").textContent.trim().replace(/[^\w]+/g, "-");
    window.Plotly.downloadImage(plot, { format: button.dataset.format, filename: "sweeper-" + title, scale: 2,
      width: plot.clientWidth, height: plot.clientHeight });
  });
})();

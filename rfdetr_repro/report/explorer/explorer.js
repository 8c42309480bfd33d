// The reader's choices, what is shown for them, and their place in the address of the page.

const PLACE = "#explore:"; // the address of a view: this, and the choices
const ROWS = 25; // of one page of the list
const MOST_ANSWERS = 3;
const FILTERS = [
  { key: "data", path: "shown.images", label: "Data" },
  { key: "backend", path: "shown.backend", label: "Backend" },
  { key: "machine", path: "shown.machine", label: "Machine" },
  { key: "weights", path: "shown.series", label: "Checkpoint or family" },
];
const ORIGINS = ["measured", "modelled", "published"];
const RANK = { modelled: 0, published: 1, measured: 2 }; // drawn in this order

class Explorer {
  constructor(root, data) {
    this.root = root;
    this.records = new Records(data);
    this.xAxes = xAxesOf(this.records);
    this.yAxes = yAxesOf(this.records);
    this.stats = this.xAxes.filter((axis) => axis.mode);
    this.seriesNumbers = new Map(
      this.records.distinct("shown.series", everyRecord(this.records)).map((name, number) => [name, number]),
    );
    this.chart = new Chart(this.part("plot"), (point) => this.meet(point), (point) => this.open(point));
    this.state = this.read();
    this.fillControls();
    this.listen();
    root.hidden = false;
    this.update();
    if (this.state.record) this.reveal();
  }

  part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  // The view that the page opens with: the run's own points, or the published ones, on the latency and the images that
  // most measured ones have; of equally many, those that `rfdetr-repro pick` chooses among.
  standard() {
    const { records } = this;
    const published = (record) => records.value("shown.origin", record) === "published";
    const wanted = everyRecord(records).filter((record) => published(record) === (records.opens === "published"));
    const y = this.yAxes[0];
    const scored = (wanted.length ? wanted : everyRecord(records)).filter((record) => records.value(y.path, record) !== null);
    const usable = this.xAxes.map((axis) => [axis, scored.filter((record) => onAxis(records, axis, record) !== null)]);
    const timed = usable.filter(([axis, members]) => axis.quantile === "median" && members.length);
    const order = timed.length ? timed : usable;
    const [x, members] = order.reduce((best, one) => (this.worth(one[1]) > this.worth(best[1]) ? one : best));
    const groups = grouped(members, (record) => records.value("shown.images", record) || "");
    const data = [...groups].reduce((best, one) => (this.worth(one[1]) > this.worth(best[1]) ? one : best), ["", []])[0];
    return {
      x: x.key,
      y: y.key,
      stat: "",
      log: "auto",
      budget: "",
      data,
      backend: "",
      machine: "",
      weights: "",
      origins: wanted.length && records.opens === "measured" ? "measured,modelled" : ORIGINS.join(","),
      search: "",
      sort: "-y",
      page: 1,
      front: "",
      record: "",
    };
  }

  // How much a set of Records has to show: measured files first.
  worth(members) {
    const { records } = this;
    const measured = members.filter((record) => records.value("shown.origin", record) === "measured");
    const pickable = measured.filter((record) => records.value("shown.pickable", record));
    return measured.length * 1e9 + pickable.length * 1e5 + members.length;
  }

  // The choices that the address states; unknown ones are replaced by the standard.
  read() {
    const standard = this.standard();
    const state = { ...standard };
    if (location.hash.startsWith(PLACE)) {
      for (const [key, value] of new URLSearchParams(location.hash.slice(PLACE.length))) {
        if (key in state) state[key] = value;
      }
    }
    if (!this.xAxes.some((axis) => axis.key === state.x)) state.x = standard.x;
    if (!this.yAxes.some((axis) => axis.key === state.y)) state.y = standard.y;
    if (!this.stats.some((axis) => axis.key === state.stat)) state.stat = "";
    if (!isBudget(state.budget)) state.budget = "";
    if (!["auto", "log", "linear"].includes(state.log)) state.log = standard.log;
    state.page = Math.max(1, Math.floor(Number(state.page)) || 1);
    for (const { key, path } of FILTERS) {
      if (state[key] && !this.records.column(path).includes(state[key])) state[key] = standard[key];
    }
    return state;
  }

  address(changes = {}) {
    const standard = this.standardState || (this.standardState = this.standard());
    const chosen = new URLSearchParams();
    for (const [key, value] of Object.entries({ ...this.state, ...changes })) {
      if (String(value) !== String(standard[key])) chosen.set(key, value);
    }
    return PLACE + chosen;
  }

  set(changes) {
    if (!("page" in changes) && !("record" in changes)) changes.page = 1;
    Object.assign(this.state, changes);
    history.replaceState(null, "", this.address());
    if (Object.keys(changes).every((key) => key === "budget" || key === "page") && "budget" in changes) this.updateBudget();
    else this.update();
  }

  listen() {
    window.addEventListener("hashchange", () => {
      if (!location.hash.startsWith(PLACE)) return;
      const before = this.state.record;
      this.state = this.read();
      this.update();
      if (this.state.record) this.reveal();
      else this.part("list").querySelector(`tr[data-record="${CSS.escape(before)}"] a`)?.focus();
    });
    // the colours of the canvas follow the theme
    window.addEventListener("themechange", () => this.chart.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.chart.draw());
    this.root.querySelectorAll("[data-state]").forEach((control) => {
      const key = control.dataset.state;
      const event = control.type === "text" || control.type === "search" ? "input" : "change";
      control.addEventListener(event, () => this.set({ [key]: control.type === "checkbox" ? (control.checked ? "1" : "") : control.value }));
    });
    this.part("origins").addEventListener("change", () => {
      const chosen = [...this.part("origins").querySelectorAll("input:checked")].map((input) => input.value);
      this.set({ origins: chosen.join(",") });
    });
    this.part("slider").addEventListener("input", () => this.set({ budget: String(this.budgetAt(Number(this.part("slider").value))) }));
    this.part("budget").addEventListener("input", () => {
      const words = this.part("budget").value;
      if (isBudget(words)) this.set({ budget: String(Number(words)) });
    });
    this.part("reset").addEventListener("click", () => {
      Object.assign(this.state, this.standard());
      this.set({});
    });
    this.part("plot").addEventListener("keydown", (event) => this.walk(event));
    this.part("plot").addEventListener("focus", () => {
      if (!this.met && this.ordered.length) this.meet(this.ordered[0]);
    });
    this.part("plot").addEventListener("blur", () => this.meet(null));
    this.part("pages").addEventListener("click", (event) => {
      const step = event.target.closest("button")?.dataset.step;
      if (step) this.set({ page: this.state.page + Number(step) });
    });
  }

  fillControls() {
    fillSelect(this.root.querySelector('[data-state="x"]'), this.xAxes.map((axis) => [axis.key, axis.label]));
    fillSelect(this.root.querySelector('[data-state="y"]'), this.yAxes.map((axis) => [axis.key, axis.label]));
    fillSelect(this.root.querySelector('[data-state="stat"]'), this.stats.map((axis) => [axis.key, axis.label]));
    const everything = everyRecord(this.records);
    for (const { key, path } of FILTERS) {
      const values = this.records.distinct(path, everything);
      const select = this.root.querySelector(`[data-state="${key}"]`);
      fillSelect(select, [["", "all"], ...values.map((value) => [value, value])]);
      select.closest("label").hidden = values.length < 2;
    }
    const present = this.records.distinct("shown.origin", everything);
    for (const origin of ORIGINS.filter((name) => present.includes(name))) {
      const label = element("label", {}, element("input", { type: "checkbox", value: origin }), ` ${origin}`);
      this.part("origins").append(label);
    }
    this.part("origins").hidden = present.length < 2;
    this.part("ask").hidden = !this.stats.length;
    this.part("filters").open = window.innerWidth > 640;
  }

  // What follows from the choices, and all of the page that shows it.
  update() {
    const { state, records } = this;
    this.xAxis = this.xAxes.find((axis) => axis.key === state.x);
    this.yAxis = this.yAxes.find((axis) => axis.key === state.y);
    this.stat = this.stats.find((axis) => axis.key === state.stat) || (this.xAxis.mode ? this.xAxis : this.stats[0]) || null;
    this.kept = this.keptRecords();
    this.points = this.onceEach(this.kept.map((record) => this.pointOf(record)).filter(Boolean));
    this.fronts = this.frontsOf(this.points);
    this.onFront = new Set(this.fronts.flat().map((point) => point.record));
    if (state.front) this.points = this.points.filter((point) => this.onFront.has(point.record));
    this.ordered = this.points.slice().sort((a, b) => a.x - b.x || b.y - a.y || a.record - b.record);
    const ends = this.points.map((point) => point.x);
    const positive = ends.length > 0 && smallest(ends) > 0;
    const wide = positive && largest(ends) > 2.5 * smallest(ends);
    this.log = positive && (state.log === "log" || (state.log === "auto" && wide));
    this.met = null;
    this.candidates = this.stat ? this.candidatesOf() : [];
    const groupOf = this.records.groupsBy(COMPARABLE);
    this.comparableSets = [...grouped(this.candidates, (one) => groupOf[one.record]).values()];
    this.updateBudget();
    this.showLegend();
    this.showList();
  }

  // What the filters leave.
  keptRecords() {
    const { state, records } = this;
    const origins = state.origins.split(",");
    const words = state.search.toLowerCase();
    const chosen = FILTERS.filter(({ key }) => state[key]).map(({ key, path }) => [records.column(path), state[key]]);
    const originOf = records.column("shown.origin");
    const nameOf = records.column("shown.name");
    return everyRecord(records).filter(
      (record) =>
        origins.includes(originOf[record]) &&
        chosen.every(([values, wanted]) => values[record] === wanted) &&
        (!words || nameOf[record].toLowerCase().includes(words)),
    );
  }

  // What the budget changes: neither the points nor the list.
  updateBudget() {
    this.budget = this.candidates.length ? Number(this.state.budget) || this.firstBudget() : null;
    this.answers = this.answersOf();
    this.showControls();
    this.showAnswers();
    this.showChart();
  }

  pointOf(record) {
    const { records, xAxis, yAxis } = this;
    const x = onAxis(records, xAxis, record);
    const y = records.value(yAxis.path, record);
    if (x === null || y === null) return null;
    const optional = (path) => (path ? records.value(path, record) : null);
    const origin = records.value("shown.origin", record);
    return {
      record,
      x,
      y,
      ms: this.stat ? onAxis(records, this.stat, record) : null,
      xLow: optional(xAxis.low),
      xHigh: optional(xAxis.high),
      yLow: optional(yAxis.low),
      yHigh: optional(yAxis.high),
      origin,
      rank: RANK[origin],
      name: records.value("shown.name", record),
      series: this.seriesNumbers.get(records.value("shown.series", record)),
    };
  }

  // A file that was timed in two modes has two Records, which are one point where x is no latency.
  onceEach(points) {
    if (this.xAxis.mode || this.xAxis.higher) return points;
    const seen = new Set();
    return points.filter((point) => {
      const file = this.records.value("artifact.sha256", point.record);
      if (file === null) return true;
      const key = JSON.stringify([file, this.records.value("shown.images", point.record), this.records.value("shown.machine", point.record), point.x, point.y]);
      return !seen.has(key) && seen.add(key);
    });
  }

  frontsOf(points) {
    const groupOf = this.records.groupsBy(frontPaths(this.xAxis));
    const groups = grouped(points, (point) => groupOf[point.record]);
    return [...groups.values()].map((group) => paretoFront(group, this.xAxis));
  }

  // The Records that have the latency of the budget and the accuracy.
  candidatesOf() {
    const found = [];
    for (const record of this.kept) {
      const ms = onAxis(this.records, this.stat, record);
      const y = this.records.value(this.yAxis.path, record);
      if (ms !== null && y !== null) found.push({ record, ms, y });
    }
    return found;
  }

  get ends() {
    const all = this.candidates.map((one) => one.ms);
    return [0.9 * smallest(all), 1.1 * largest(all)];
  }

  // The middle of the range, in round numbers.
  firstBudget() {
    const [low, high] = this.ends;
    return Number(Math.sqrt(low * high).toPrecision(2));
  }

  // The budget at a place of the slider, 0 to 1000: logarithmic, with three digits.
  budgetAt(place) {
    const [low, high] = this.ends;
    return Number((low * (high / low) ** (place / 1000)).toPrecision(3));
  }

  // One answer for every set of comparable models: the run's own measured files first.
  answersOf() {
    if (this.budget === null) return [];
    const answers = this.comparableSets.map((group) => ({
      ...bestWithin(group, this.budget),
      count: group.length,
      origin: this.records.value("shown.origin", group[0].record),
      pickable: group.some((one) => this.records.value("shown.pickable", one.record)),
    }));
    const order = (answer) => (answer.pickable ? 0 : 3 - RANK[answer.origin]);
    return answers.sort((a, b) => order(a) - order(b) || b.count - a.count || a.chosen.record - b.chosen.record);
  }

  showControls() {
    const { state } = this;
    this.root.querySelectorAll("[data-state]").forEach((control) => {
      const value = control.dataset.state === "stat" && this.stat ? this.stat.key : state[control.dataset.state];
      if (control.type === "checkbox") control.checked = Boolean(value);
      else if (control.value !== value) control.value = value;
    });
    this.part("origins").querySelectorAll("input").forEach((input) => {
      input.checked = state.origins.split(",").includes(input.value);
    });
    const known = this.budget !== null;
    this.part("slider").disabled = this.part("budget").disabled = !known;
    if (!known) return;
    const [low, high] = this.ends;
    const slider = this.part("slider");
    const place = (1000 * Math.log(this.budget / low)) / Math.log(high / low);
    if (document.activeElement !== slider || this.budgetAt(Number(slider.value)) !== this.budget) slider.value = String(Math.round(place));
    slider.setAttribute("aria-valuetext", `${this.budget} ms`);
    if (Number(this.part("budget").value) !== this.budget) this.part("budget").value = String(this.budget);
  }

  showAnswers() {
    const box = this.part("answers");
    box.replaceChildren(...this.answers.slice(0, MOST_ANSWERS).map((answer) => this.card(answer)));
    const more = this.answers.length - MOST_ANSWERS;
    if (more > 0) box.append(element("p", { class: "note" }, `${more} more sets of comparable models have an answer of their own. The filters choose among them.`));
    if (this.stats.length && !this.candidates.length) box.append(element("p", {}, "No model that the filters leave has this latency and this accuracy."));
  }

  card(answer) {
    const { records } = this;
    const { record, ms, y } = answer.chosen;
    const name = records.value("shown.name", record);
    const kind = this.kindWords(record);
    const lead = answer.fits ? `Best ${answer.origin} model within ${this.budget} ms` : `No ${answer.origin} model is within ${this.budget} ms. The nearest is`;
    const card = element(
      "article",
      { class: answer.fits ? "answer" : "answer none" },
      element("p", { class: "lead" }, lead),
      element("p", { class: "name" }, element("a", { href: this.address({ record: records.value("id", record) }) }, name)),
      element("p", { class: "numbers" }, ...this.numbers(y, ms, record)),
      element("p", { class: "note" }, `${kind}; best of ${answer.count.toLocaleString("en")} comparable ${answer.count === 1 ? "model" : "models"}.`),
    );
    card.dataset.record = records.value("id", record);
    card.append(...this.next(answer));
    return card;
  }

  numbers(y, ms, record) {
    const { records, stat, yAxis } = this;
    const parts = [element("b", {}, `${yAxis.label} ${percent(y)}`)];
    const yLow = yAxis.low ? records.value(yAxis.low, record) : null;
    const yHigh = yAxis.high ? records.value(yAxis.high, record) : null;
    if (yLow !== null && yHigh !== null) parts.push(` [${percent(yLow)}, ${percent(yHigh)}]`);
    parts.push(" at ", element("b", {}, `${significant(ms)} ms`));
    const low = stat.low ? records.value(stat.low, record) : null;
    const high = stat.high ? records.value(stat.high, record) : null;
    if (low !== null && high !== null) {
      const inside = high <= this.budget ? "within the budget" : "not wholly within the budget";
      parts.push(` [${significant(low)}, ${significant(high)}], 95 % interval ${inside}`);
    } else {
      const error = records.value("shown.origin", record) === "modelled" ? records.value("latency.heldout_error", record) : null;
      const certainty = error === null ? "no interval is known for this latency" : `the model's median error is ${percent(error)} % on engines left out of its fit`;
      parts.push(`, ${stat.quantile}; ${certainty}`);
    }
    return parts;
  }

  kindWords(record) {
    const { records } = this;
    const timed = records.value("shown.timed", record);
    const origin = records.value("shown.origin", record);
    const how = timed.startsWith(origin) ? timed : `${origin} by ${timed}`;
    return `${how}, AP on ${records.value("shown.images", record) || "unknown data"}`;
  }

  // The command to type after an answer, where there is one.
  next(answer) {
    const { records, stat, yAxis } = this;
    const { record } = answer.chosen;
    if (!answer.fits) return [];
    if (answer.pickable) {
      const picked = pickOf(records, stat, yAxis, this.budget);
      if (!picked) return [];
      if (picked.chosen.record === record) return [commandLine(pickCommand(records.run, stat, yAxis, this.budget))];
      return [element("p", { class: "note" }, `Without the filters, rfdetr-repro pick chooses ${records.value("shown.name", picked.chosen.record)}.`)];
    }
    const key = records.value("shown.arch", record);
    if (answer.origin === "modelled" && key) {
      return [commandLine(`rfdetr-repro export --model CHECKPOINT --arch ${key} --out ${key}.onnx`)];
    }
    return [];
  }

  showChart() {
    const { points, xAxis } = this;
    const chosen = this.answers.filter((answer) => answer.fits).slice(0, MOST_ANSWERS).map((answer) => answer.chosen.record);
    const onBudget = this.budget !== null && this.stat === xAxis;
    this.chart.show({
      points,
      fronts: this.fronts,
      xAxis,
      yAxis: this.yAxis,
      log: this.log,
      budget: onBudget ? this.budget : null,
      over: (point) => this.budget !== null && point.ms !== null && point.ms > this.budget,
      chosen: chosen.map((record) => points.find((point) => point.record === record)).filter(Boolean),
    });
    this.part("empty").hidden = points.length > 0;
    const words = `${points.length.toLocaleString("en")} points: ${this.yAxis.label} against ${xAxis.label}.`;
    this.part("plot").setAttribute("aria-label", `Scatter plot of ${words} Arrow keys move between the points.`);
  }

  // The colours, with what the filters leave of each. A click leaves that colour alone.
  showLegend() {
    const groups = grouped(this.points, (point) => point.series);
    const names = [...this.seriesNumbers.keys()];
    const entries = [...groups].sort((a, b) => b[1].length - a[1].length).slice(0, 14).map(([series, members]) => {
      const counts = ORIGINS.map((origin) => [members.filter((point) => point.origin === origin).length, origin]);
      const words = counts.filter(([count]) => count).map(([count, origin]) => `${count.toLocaleString("en")} ${origin}`).join(", ");
      const pressed = this.state.weights === names[series];
      const swatch = swatchOf(series, members.every((point) => point.origin === "published"));
      const button = element("button", { type: "button", "aria-pressed": String(pressed) }, swatch, ` ${names[series]} `, element("small", {}, words));
      button.addEventListener("click", () => this.set({ weights: pressed ? "" : names[series] }));
      return element("li", {}, button);
    });
    const more = groups.size - entries.length;
    if (more > 0) entries.push(element("li", { class: "note" }, `and ${more} more`));
    this.part("legend").replaceChildren(...entries);
  }

  get listColumns() {
    const { records, xAxis, yAxis } = this;
    const number = (axis) => ({ label: axis.unit ? `${axis.label}, ${axis.unit}` : axis.label, right: true, value: (record) => onAxis(records, axis, record), show: (value) => shownValue(axis, value) });
    const text = (label, path) => ({ label, value: (record) => records.value(path, record), show: (value) => value ?? "" });
    const columns = [
      { key: "name", ...text("model", "shown.name") },
      { key: "y", ...number(yAxis) },
      { key: "x", ...number(xAxis) },
      { key: "origin", ...text("origin", "shown.origin") },
    ];
    for (const axis of [...this.yAxes.filter((one) => ["ap", "ap50", "mask_ap"].includes(one.key)), ...COSTS.filter((one) => records.has(one.path))]) {
      if (axis.key !== yAxis.key && axis.key !== xAxis.key) columns.push({ key: axis.key, ...number(axis) });
    }
    columns.push({ key: "data", ...text("data", "shown.images") }, { key: "timed", ...text("timed by", "shown.timed") }, { key: "series", ...text("checkpoint or family", "shown.series") }, { key: "source", ...text("source", "source") });
    return columns.filter((column) => column.key.length < 3 || this.points.some((point) => column.value(point.record) !== null));
  }

  showList() {
    const columns = this.listColumns;
    const down = this.state.sort.startsWith("-");
    const key = this.state.sort.replace(/^-/, "");
    const by = columns.find((column) => column.key === key) || columns[1];
    const rows = this.points.map((point) => point.record);
    const values = new Array(this.records.count);
    for (const record of rows) values[record] = by.value(record);
    rows.sort((a, b) => compared(values[a], values[b], down) || a - b);
    const pages = Math.max(1, Math.ceil(rows.length / ROWS));
    const wanted = this.recordNamed(this.state.record);
    if (this.turnTo !== undefined && rows.includes(this.turnTo)) this.state.page = Math.floor(rows.indexOf(this.turnTo) / ROWS) + 1;
    this.turnTo = undefined;
    this.state.page = Math.min(this.state.page, pages);
    const shown = rows.slice((this.state.page - 1) * ROWS, this.state.page * ROWS);
    // a Record that the filters leave out is shown nevertheless where the address names it
    if (wanted !== undefined && !rows.includes(wanted)) shown.unshift(wanted);
    const table = this.part("list");
    const heads = columns.map((column) => {
      const sorted = column === by ? (down ? "descending" : "ascending") : "none";
      const button = element("button", { type: "button" }, column.label);
      button.addEventListener("click", () => {
        this.set({ sort: sorted === "descending" ? column.key : sorted === "ascending" || column.right ? `-${column.key}` : column.key });
        table.querySelector(`th[data-key="${column.key}"] button`).focus();
      });
      return element("th", { scope: "col", "aria-sort": sorted, "data-key": column.key, class: column.right ? "right" : "" }, button);
    });
    table.querySelector("thead").replaceChildren(element("tr", {}, ...heads));
    table.querySelector("tbody").replaceChildren(...shown.flatMap((record) => this.rowsOf(record, columns, record === wanted)));
    const first = rows.length ? (this.state.page - 1) * ROWS + 1 : 0;
    this.part("count").textContent = `${first.toLocaleString("en")} to ${Math.min(first + ROWS - 1, rows.length).toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    this.part("pages").hidden = pages < 2;
    this.part("pages").querySelector('[data-step="-1"]').disabled = this.state.page <= 1;
    this.part("pages").querySelector('[data-step="1"]').disabled = this.state.page >= pages;
  }

  rowsOf(record, columns, opened) {
    const id = this.records.value("id", record);
    const cells = columns.map((column) => {
      const words = column.show(column.value(record));
      if (column.key !== "name") return element("td", column.right ? { class: "right" } : {}, words);
      const link = element("a", { href: this.address({ record: opened ? "" : id }), "aria-expanded": String(opened) }, words);
      const mark = this.onFront.has(record) ? element("span", { class: "mark", title: "on the front of its checkpoint" }, "front") : "";
      return element("th", { scope: "row" }, link, " ", mark);
    });
    const row = element("tr", opened ? { class: "opened" } : {}, ...cells);
    row.dataset.record = id;
    if (!opened) return [row];
    return [row, element("tr", { class: "whole" }, element("td", { colspan: columns.length }, this.wholeRecord(record)))];
  }

  // Every field of a Record as it is stored.
  wholeRecord(record) {
    const { records } = this;
    const fields = records.paths.filter((path) => !path.startsWith("shown.") && records.value(path, record) !== null);
    const list = element("dl", {}, ...fields.map((path) => {
      const value = records.value(path, record);
      return element("div", {}, element("dt", {}, path), element("dd", {}, String(value)));
    }));
    list.id = "record";
    list.tabIndex = -1;
    list.setAttribute("aria-label", `Record ${records.value("id", record)}`);
    return list;
  }

  recordNamed(id) {
    if (!id) return undefined;
    const place = this.records.column("id").indexOf(id);
    return place < 0 ? undefined : place;
  }

  open(point) {
    this.turnTo = point.record;
    this.set({ record: this.records.value("id", point.record), page: this.state.page });
    this.reveal();
  }

  reveal() {
    const wanted = this.recordNamed(this.state.record);
    if (wanted === undefined) return;
    if (!this.root.querySelector("#record")) {
      this.turnTo = wanted;
      this.showList();
    }
    const list = this.root.querySelector("#record");
    list.closest("tr").previousElementSibling.scrollIntoView({ block: "start" });
    list.focus({ preventScroll: true });
  }

  // The point that the pointer or the keyboard is at; null: none.
  meet(point) {
    if (point === this.met) return;
    this.met = point;
    this.chart.meet(point);
    const tip = this.part("tip");
    tip.hidden = !point;
    if (!point) return;
    const { records, xAxis, yAxis } = this;
    const interval = (axis, low, high) => (low === null || high === null ? "" : ` [${shownValue(axis, low)}, ${shownValue(axis, high)}]`);
    const unit = xAxis.unit ? ` ${xAxis.unit}` : "";
    const lines = [
      `${yAxis.label} ${shownValue(yAxis, point.y)}${interval(yAxis, point.yLow, point.yHigh)}`,
      `${xAxis.label} ${shownValue(xAxis, point.x)}${unit}${interval(xAxis, point.xLow, point.xHigh)}`,
      `${point.origin}${records.value("shown.backend", point.record) ? `, ${records.value("shown.backend", point.record)}` : ""}, ${records.value("shown.images", point.record) || "unknown data"}`,
    ];
    tip.replaceChildren(element("b", {}, point.name), ...lines.map((line) => element("span", {}, line)));
    const width = this.part("plot").clientWidth;
    tip.style.left = `${Math.max(4, Math.min(point.left + 14, width - tip.offsetWidth - 4))}px`;
    const below = point.top < tip.offsetHeight + 20;
    tip.style.top = `${below ? point.top + 16 : point.top - tip.offsetHeight - 12}px`;
    if (document.activeElement === this.part("plot")) this.part("said").textContent = `${point.name}. ${lines.join(". ")}`;
  }

  // Arrow keys walk along x, up and down along the fronts, Enter opens the Record.
  walk(event) {
    const along = event.key === "ArrowUp" || event.key === "ArrowDown" ? this.ordered.filter((point) => this.onFront.has(point.record)) : this.ordered;
    const here = along.indexOf(this.met);
    const far = Math.max(1, Math.round(along.length / 10));
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 1, ArrowDown: -1, PageDown: far, PageUp: -far, Home: -Infinity, End: Infinity };
    if (event.key === "Enter" && this.met) this.open(this.met);
    else if (event.key === "Escape") this.meet(null);
    else if (event.key in steps && along.length) {
      const from = here >= 0 ? here : nearestPlace(along, this.met) - (steps[event.key] > 0 ? 0 : -1);
      this.meet(along[Math.max(0, Math.min(along.length - 1, from + steps[event.key]))]);
    } else return;
    event.preventDefault();
  }
}

// As `rfdetr-repro pick` takes it.
function isBudget(words) {
  return Number(words) > 0 && Number(words) < 1e6;
}

function nearestPlace(along, point) {
  if (!point) return -1;
  const place = along.findIndex((one) => one.x > point.x);
  return (place < 0 ? along.length : place) - 1;
}

function grouped(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (groups.has(key)) groups.get(key).push(item);
    else groups.set(key, [item]);
  }
  return groups;
}

function smallest(values) {
  return values.reduce((least, value) => Math.min(least, value), Infinity);
}

function largest(values) {
  return values.reduce((most, value) => Math.max(most, value), -Infinity);
}

// Absent values come last in both directions.
function compared(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function fillSelect(select, options) {
  select.replaceChildren(...options.map(([value, label]) => element("option", { value }, label)));
}

function swatchOf(series, hollow) {
  const shape = ["circle", "square", "triangle"][Math.floor(series / COLOURS) % 3];
  return element("span", { class: `swatch ${shape} c${series % COLOURS}${hollow ? " hollow" : ""}`, "aria-hidden": "true" });
}

function commandLine(command) {
  // no line breaks within a word, whose hyphens would else invite one
  const code = element("code", {}, ...command.split(" ").flatMap((word) => [element("span", {}, word), " "]).slice(0, -1));
  const button = element("button", { type: "button", class: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  });
  return element("p", { class: "next" }, element("span", { class: "note" }, "next: "), code, " ", button);
}

// The Records of the page and what follows from them. Nothing here knows of the document.

const LATENCIES = { median: "latency.median_ms", p90: "latency.p90_ms", p95: "latency.p95_ms", p99: "latency.p99_ms" };

const ACCURACIES = [
  { key: "ap", label: "AP", path: "accuracy.ap", low: "accuracy.ap_low", high: "accuracy.ap_high" },
  { key: "ap50", label: "AP50", path: "accuracy.ap50" },
  { key: "ap75", label: "AP75", path: "accuracy.ap75" },
  { key: "ap_s", label: "AP small", path: "accuracy.ap_s" },
  { key: "ap_m", label: "AP medium", path: "accuracy.ap_m" },
  { key: "ap_l", label: "AP large", path: "accuracy.ap_l" },
  { key: "mask_ap", label: "mask AP", path: "mask_accuracy.ap", low: "mask_accuracy.ap_low", high: "mask_accuracy.ap_high" },
  { key: "mask_ap50", label: "mask AP50", path: "mask_accuracy.ap50" },
];
const PICK_METRICS = ["ap", "ap50", "mask_ap", "mask_ap50"]; // what `rfdetr-repro pick --metric` takes

const COSTS = [
  { key: "throughput", label: "throughput", unit: "images/s", path: "latency.images_per_s", low: "latency.images_per_s_low", high: "latency.images_per_s_high", higher: true },
  { key: "params", label: "parameters", unit: "M", path: "cost.params", scale: 1e-6 },
  { key: "flops", label: "FLOPs", unit: "G", path: "cost.flops", scale: 1e-9 },
  { key: "size", label: "file size", unit: "MB", path: "artifact.size_bytes", scale: 1e-6 },
];

class Records {
  // `data`: the JSON that data.py wrote
  constructor(data) {
    this.count = data.count;
    this.run = data.run;
    this.opens = data.opens; // "published" or "measured": what the page opens with
    this.encoded = data.columns;
    this.decoded = new Map();
    this.grouped = new Map();
  }

  get paths() {
    return Object.keys(this.encoded);
  }

  // The values of all Records at a path; null where a Record has none.
  column(path) {
    let values = this.decoded.get(path);
    if (!values) {
      values = decode(this.encoded[path], this.count);
      this.decoded.set(path, values);
    }
    return values;
  }

  value(path, record) {
    return this.column(path)[record];
  }

  has(path) {
    return path in this.encoded;
  }

  // A number for every Record, the same for Records whose values at all the paths are the same.
  groupsBy(paths) {
    const name = paths.join(" ");
    if (!this.grouped.has(name)) {
      const columns = paths.map((path) => this.column(path));
      const numbers = new Map();
      this.grouped.set(name, everyRecord(this).map((record) => {
        const key = JSON.stringify(columns.map((values) => values[record]));
        if (!numbers.has(key)) numbers.set(key, numbers.size);
        return numbers.get(key);
      }));
    }
    return this.grouped.get(name);
  }

  // The distinct values at a path, the most frequent first.
  distinct(path, among) {
    const counts = new Map();
    const values = this.column(path);
    for (const record of among) {
      if (values[record] !== null) counts.set(values[record], (counts.get(values[record]) || 0) + 1);
    }
    return [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
  }
}

function decode(encoded, count) {
  if (encoded === undefined) return new Array(count).fill(null);
  if (Array.isArray(encoded)) return encoded;
  if ("same" in encoded) return new Array(count).fill(encoded.same);
  if ("words" in encoded) return encoded.codes.map((code) => (code < 0 ? null : encoded.words[code]));
  const values = new Array(count).fill(null);
  encoded.at.forEach((record, place) => { values[record] = encoded.values[place]; });
  return values;
}

function everyRecord(records) {
  return Array.from({ length: records.count }, (_, record) => record);
}

// The axes that at least one Record has a value for.
function xAxesOf(records) {
  const everything = everyRecord(records);
  const modes = records.distinct("shown.mode", everything);
  const order = (mode) => (mode === "buffered" ? 0 : mode === "sustained" ? 1 : 2);
  modes.sort((a, b) => order(a) - order(b));
  const axes = [];
  for (const quantile of Object.keys(LATENCIES)) {
    const path = LATENCIES[quantile];
    const values = records.column(path);
    const shownMode = records.column("shown.mode");
    for (const mode of modes) {
      if (everything.some((record) => values[record] !== null && shownMode[record] === mode)) {
        const axis = { key: `${mode}.${quantile}`, label: `${mode} latency (${quantile})`, unit: "ms", path, mode, quantile };
        if (quantile === "median") Object.assign(axis, { low: "latency.ci_low_ms", high: "latency.ci_high_ms" });
        axes.push(axis);
      }
    }
  }
  return axes.concat(COSTS.filter((axis) => records.has(axis.path)));
}

function yAxesOf(records) {
  return ACCURACIES.filter((axis) => records.has(axis.path));
}

// The value of a Record on an axis, as stored; null where the Record has none in the axis's mode.
function onAxis(records, axis, record) {
  if (axis.mode && records.value("shown.mode", record) !== axis.mode) return null;
  return records.value(axis.path, record);
}

// What must be equal for two latencies and two APs to be compared.
const COMPARABLE = ["shown.timed", "shown.images", "data.sha256"];

// What must be equal for a front to join two points.
function frontPaths(axis) {
  const same = ["shown.origin", "shown.weights", "shown.images", "data.sha256", "shown.backend", "shown.machine"];
  if (axis.mode) same.push("shown.timed");
  if (axis.key === "throughput") same.push("shown.served");
  if (axis.key === "flops") same.push("cost.counter", "cost.form");
  return same;
}

// The points that no other one beats in x without losing in y, best x first, as
// rfdetr_repro.records.pareto.frontier does; of equal points the first.
function paretoFront(points, axis) {
  const cost = (point) => (axis.higher ? -point.x : point.x);
  const ordered = points.slice().sort((a, b) => cost(a) - cost(b) || b.y - a.y || a.record - b.record);
  const front = [];
  for (const point of ordered) {
    if (!front.length || point.y > front[front.length - 1].y) front.push(point);
  }
  return front;
}

// The best of `candidates` (record, ms, y) within the budget, and whether any is; of equally
// accurate ones the faster, then the first, as rfdetr_repro.search.pick.best_within does. Where
// none is within the budget, the fastest.
function bestWithin(candidates, budget) {
  let best = null;
  let nearest = null;
  for (const one of candidates) {
    if (one.ms <= budget && (!best || one.y > best.y || (one.y === best.y && one.ms < best.ms))) best = one;
    if (!nearest || one.ms < nearest.ms) nearest = one;
  }
  return { chosen: best || nearest, fits: best !== null };
}

// What `rfdetr-repro pick` would choose among all Records of the run; null where it refuses.
function pickOf(records, stat, yAxis, budget) {
  if (!records.run || !PICK_METRICS.includes(yAxis.key) || !records.has("shown.pickable")) return null;
  const candidates = [];
  const kinds = new Set();
  const mode = withoutWait(stat.mode);
  const groups = records.groupsBy(COMPARABLE);
  for (let record = 0; record < records.count; record += 1) {
    if (!records.value("shown.pickable", record) || records.value("protocol.mode", record) !== mode) continue;
    const ms = records.value(stat.path, record);
    const y = records.value(yAxis.path, record);
    if (ms === null || y === null) continue;
    candidates.push({ record, ms, y });
    kinds.add(groups[record]);
  }
  return kinds.size === 1 ? bestWithin(candidates, budget) : null;
}

// "buffered" of "buffered 100 ms" or of "buffered, cold L2": a protocol's mode, which `--mode` takes.
function withoutWait(mode) {
  return mode.split(/[ ,]/)[0];
}

function pickCommand(run, stat, yAxis, budget) {
  const words = ["rfdetr-repro pick", run, `--budget-ms ${budget}`];
  if (stat.quantile !== "median") words.push(`--quantile ${stat.quantile}`);
  if (withoutWait(stat.mode) !== "buffered") words.push(`--mode ${withoutWait(stat.mode)}`);
  if (yAxis.key !== "ap") words.push(`--metric ${yAxis.key}`);
  return words.join(" ");
}

// A number with so many decimals, rounded half up on its decimal digits, as
// rfdetr_repro.spec.metrics.decimals does.
function decimals(value, digits) {
  const text = Number(`${value.toFixed(12)}e${digits}`);
  const rounded = text < 0 ? -Math.round(-text) : Math.round(text);
  return (rounded / 10 ** digits || 0).toFixed(digits);
}

function percent(fraction) {
  return decimals(100 * fraction, 1);
}

// A number with three significant digits, without an exponent.
function significant(value) {
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return decimals(value, Math.min(digits, 9));
}

function shownValue(axis, value) {
  if (value === null) return "";
  return axis.path.includes("accuracy.") ? percent(value) : significant(value * (axis.scale || 1));
}

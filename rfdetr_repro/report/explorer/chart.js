// A scatter plot on two canvases: points and fronts below, what follows the pointer above.

const MARGIN = { left: 52, right: 16, top: 14, bottom: 44 };
const COLOURS = 7; // --c0 to --c6 of the style sheet
const MANY = 400; // points of one origin, from which they are drawn smaller
const RANKS = 3; // of a point: what is drawn above what
const NEAR = 18; // pixels within which a pointer meets a point

class Chart {
  // `box`: the element to fill; `onMeet(point or null)`, `onOpen(point)`: what the reader does.
  constructor(box, onMeet, onOpen) {
    this.box = box;
    this.base = box.querySelector(".base");
    this.over = box.querySelector(".over");
    this.scene = null;
    this.met = null;
    this.tapped = null;
    box.addEventListener("pointermove", (event) => onMeet(this.at(event)));
    box.addEventListener("pointerleave", () => onMeet(null));
    box.addEventListener("click", (event) => {
      const point = this.at(event);
      // a finger cannot hover: the first tap shows a point, the second one opens it
      const shows = event.pointerType === "touch" && point !== this.tapped;
      this.tapped = point;
      if (shows) onMeet(point);
      else if (point) onOpen(point);
    });
    new ResizeObserver(() => this.show(this.scene)).observe(box);
  }

  // `scene`: {points, fronts, xAxis, yAxis, log, budget, over(point), chosen}. The points get their
  // places at once; they are drawn with the next frame of the screen, however often this is called.
  show(scene) {
    this.scene = scene;
    const width = this.box.clientWidth;
    const height = this.box.clientHeight;
    if (!scene || !width || !height) return;
    const shape = `${width} ${height} ${scene.log}`;
    if (scene.points !== this.placed || shape !== this.shape) {
      this.scales = scalesOf(scene, width, height);
      for (const point of scene.points) {
        point.left = this.scales.x.place(point.x);
        point.top = this.scales.y.place(point.y);
      }
      this.placed = scene.points;
      this.shape = shape;
    }
    this.draw();
  }

  meet(point) {
    this.met = point;
    this.drawOver();
  }

  at(event) {
    const frame = this.box.getBoundingClientRect();
    const left = event.clientX - frame.left;
    const top = event.clientY - frame.top;
    let found = null;
    let least = NEAR * NEAR;
    for (const point of this.scene ? this.scene.points : []) {
      const away = (point.left - left) ** 2 + (point.top - top) ** 2;
      // a measured point that lies on a modelled one is met first
      if (away < least || (away === least && point.rank > found.rank)) {
        found = point;
        least = away;
      }
    }
    return found;
  }

  draw() {
    if (this.waiting || !this.scales) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.colours = coloursOf(this.box);
      const width = this.box.clientWidth;
      const height = this.box.clientHeight;
      const context = prepared(this.base, width, height);
      drawGrid(context, this.scene, this.scales, this.colours, width, height);
      drawFronts(context, this.scene, this.colours);
      drawPoints(context, this.scene, this.colours, this.scales);
      this.drawOver();
    });
  }

  drawOver() {
    if (!this.colours) return;
    const context = prepared(this.over, this.box.clientWidth, this.box.clientHeight);
    const { scene, colours, scales } = this;
    if (scene.budget !== null) drawBudget(context, scene, scales, colours);
    for (const point of scene.chosen) ring(context, point, 9, colours.accent, 2.5);
    if (scene.chosen.length) drawName(context, scene.chosen[0], scales, colours);
    if (this.met) {
      whiskers(context, this.met, scales, colours.text, 1.5);
      ring(context, this.met, 7, colours.text, 2);
    }
  }
}

function coloursOf(element) {
  const style = getComputedStyle(element);
  const named = (name) => style.getPropertyValue(name).trim();
  return {
    text: named("--text"),
    soft: named("--soft"),
    line: named("--line"),
    page: named("--page"),
    accent: named("--accent"),
    series: Array.from({ length: COLOURS }, (_, number) => named(`--c${number}`)),
    font: style.fontFamily,
  };
}

// A cleared context whose unit is a CSS pixel.
function prepared(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

function scalesOf(scene, width, height) {
  const x = [Infinity, -Infinity];
  const y = [Infinity, -Infinity];
  for (const point of scene.points) {
    const known = point.origin !== "modelled"; // their intervals are drawn
    widen(x, known ? point.xLow : null, point.x, known ? point.xHigh : null);
    widen(y, known ? point.yLow : null, point.y, known ? point.yHigh : null);
  }
  return {
    x: scale(x, scene.log, MARGIN.left, width - MARGIN.right),
    y: scale(y, false, height - MARGIN.bottom, MARGIN.top),
  };
}

function widen(ends, ...values) {
  for (const value of values) {
    if (value !== null) {
      ends[0] = Math.min(ends[0], value);
      ends[1] = Math.max(ends[1], value);
    }
  }
}

// Maps values to pixels; `ends` of the values are widened so that no point lies on an edge.
function scale(ends, log, from, to) {
  let [low, high] = ends[0] <= ends[1] ? ends : [0, 1];
  if (log) {
    const room = Math.max(0.06 * Math.log(high / low), 0.05);
    low *= Math.exp(-room);
    high *= Math.exp(room);
  } else {
    const room = high > low ? 0.07 * (high - low) : 0.1 * Math.abs(high) || 1;
    low = low >= 0 ? Math.max(0, low - room) : low - room;
    high += room;
  }
  const along = log ? (value) => Math.log(value / low) / Math.log(high / low) : (value) => (value - low) / (high - low);
  const back = log ? (part) => low * (high / low) ** part : (part) => low + part * (high - low);
  return {
    low,
    high,
    ticks: log ? logTicks(low, high, Math.abs(to - from)) : linearTicks(low, high, from < to ? to - from : 1.6 * (from - to)),
    place: (value) => from + along(value) * (to - from),
    value: (place) => back((place - from) / (to - from)),
  };
}

function linearTicks(low, high, pixels) {
  const rough = (high - low) / Math.max(2, Math.floor(pixels / 70));
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((size) => size >= rough);
  const ticks = [];
  for (let number = Math.ceil(low / step); number * step <= high; number += 1) ticks.push(Number((number * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high, pixels) {
  const decades = Math.log10(high / low);
  if (decades < 0.5) return linearTicks(low, high, pixels);
  const factors = decades < 1.5 && pixels > 420 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : decades * 160 < pixels ? [1, 2, 3, 5] : [1, 3];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const factor of factors) {
      const tick = Number((factor * 10 ** power).toPrecision(12));
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  }
  return ticks;
}

function drawGrid(context, scene, scales, colours, width, height) {
  context.font = `12px ${colours.font}`;
  context.lineWidth = 1;
  context.strokeStyle = colours.line;
  context.fillStyle = colours.soft;
  const bottom = height - MARGIN.bottom;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const tick of scales.y.ticks) {
    const top = Math.round(scales.y.place(tick)) + 0.5;
    stroke(context, [[MARGIN.left, top], [width - MARGIN.right, top]]);
    context.fillText(tickLabel(scene.yAxis, tick), MARGIN.left - 8, top);
  }
  context.textAlign = "center";
  context.textBaseline = "top";
  let free = -Infinity; // labels do not touch
  for (const tick of scales.x.ticks) {
    const left = Math.round(scales.x.place(tick)) + 0.5;
    stroke(context, [[left, bottom], [left, bottom + 4]]);
    const label = tickLabel(scene.xAxis, tick);
    const half = context.measureText(label).width / 2;
    if (left - half > free && left + half < width) {
      context.fillText(label, left, bottom + 8);
      free = left + half + 6;
    }
  }
  context.strokeStyle = colours.soft;
  stroke(context, [[MARGIN.left, bottom + 0.5], [width - MARGIN.right, bottom + 0.5]]);
  context.fillStyle = colours.text;
  const unit = scene.xAxis.unit ? `, ${scene.xAxis.unit}` : "";
  const better = scene.xAxis.higher ? "more is better →" : "← less is better";
  context.fillText(`${scene.xAxis.label}${unit}${width > 520 ? `  (${better})` : ""}`, (MARGIN.left + width - MARGIN.right) / 2, height - 18);
  context.save();
  context.translate(12, (MARGIN.top + bottom) / 2);
  context.rotate(-Math.PI / 2);
  context.textBaseline = "middle";
  context.fillText(scene.yAxis.label, 0, 0);
  context.restore();
}

function tickLabel(axis, tick) {
  const value = axis.path.includes("accuracy.") ? 100 * tick : tick * (axis.scale || 1);
  return String(Number(value.toPrecision(6)));
}

function stroke(context, places) {
  context.beginPath();
  places.forEach(([left, top], number) => (number ? context.lineTo(left, top) : context.moveTo(left, top)));
  context.stroke();
}

function drawFronts(context, scene, colours) {
  for (const front of scene.fronts) {
    context.strokeStyle = colours.series[front[0].series % COLOURS];
    context.globalAlpha = front[0].origin === "modelled" ? 0.45 : 0.9;
    context.lineWidth = front[0].origin === "modelled" ? 1 : 1.75;
    context.setLineDash(front[0].origin === "modelled" ? [3, 3] : []);
    stroke(context, front.map((point) => [point.left, point.top]));
  }
  context.setLineDash([]);
  context.globalAlpha = 1;
}

// Points of one colour, origin and side of the budget are drawn together, so that 20,000 are quick.
function drawPoints(context, scene, colours, scales) {
  const groups = new Map();
  const counts = {};
  for (const point of scene.points) {
    counts[point.origin] = (counts[point.origin] || 0) + 1;
    const key = 2 * (RANKS * point.series + point.rank) + scene.over(point);
    if (groups.has(key)) groups.get(key).push(point);
    else groups.set(key, [point]);
  }
  for (const members of [...groups.values()].sort((a, b) => a[0].rank - b[0].rank)) {
    const { origin, series } = members[0];
    const colour = colours.series[series % COLOURS];
    const faint = origin === "modelled" ? 0.5 : 1;
    context.globalAlpha = scene.over(members[0]) ? 0.3 * faint : faint;
    if (origin === "modelled" && members.length > MANY) drawDots(context, members, colour, counts);
    else drawMarkers(context, members, colour, colours.page, scales, counts);
  }
  context.globalAlpha = 1;
}

function drawDots(context, members, colour, counts) {
  const size = 2 * radiusOf(members[0], counts);
  context.fillStyle = colour;
  for (const { left, top } of members) context.fillRect(left - size / 2, top - size / 2, size, size);
}

function drawMarkers(context, members, colour, page, scales, counts) {
  const { origin } = members[0];
  if (origin !== "modelled" && members.length <= MANY / 2) {
    for (const member of members) whiskers(context, member, scales, colour, 1);
  }
  const path = new Path2D();
  for (const member of members) addMarker(path, member, radiusOf(member, counts));
  context.fillStyle = origin === "published" ? page : colour;
  context.fill(path);
  context.strokeStyle = origin === "published" ? colour : page;
  context.lineWidth = origin === "published" ? 1.75 : 1;
  if (origin !== "modelled") context.stroke(path);
}

function radiusOf(point, counts) {
  const many = counts[point.origin] > MANY;
  if (point.origin === "modelled") return counts.modelled > 5000 ? 1.5 : many ? 2 : 2.75;
  return many ? 3 : 5;
}

// Seven colours, then the same colours with another shape.
function addMarker(path, { left, top, series }, radius) {
  const shape = Math.floor(series / COLOURS) % 3;
  if (shape === 0 && radius > 2.5) {
    path.moveTo(left + radius, top);
    path.arc(left, top, radius, 0, 2 * Math.PI);
  } else if (shape === 2) {
    path.moveTo(left, top - 1.3 * radius);
    path.lineTo(left + 1.2 * radius, top + 0.8 * radius);
    path.lineTo(left - 1.2 * radius, top + 0.8 * radius);
    path.closePath();
  } else {
    path.rect(left - 0.9 * radius, top - 0.9 * radius, 1.8 * radius, 1.8 * radius);
  }
}

function whiskers(context, point, scales, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  if (point.xLow !== null && point.xHigh !== null) {
    stroke(context, [[scales.x.place(point.xLow), point.top], [scales.x.place(point.xHigh), point.top]]);
  }
  if (point.yLow !== null && point.yHigh !== null) {
    const inside = (top) => Math.min(Math.max(top, scales.y.place(scales.y.high)), scales.y.place(scales.y.low));
    stroke(context, [[point.left, inside(scales.y.place(point.yLow))], [point.left, inside(scales.y.place(point.yHigh))]]);
  }
}

function ring(context, { left, top }, radius, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  context.arc(left, top, radius, 0, 2 * Math.PI);
  context.stroke();
}

function drawBudget(context, scene, scales, colours) {
  const left = Math.min(Math.max(scales.x.place(scene.budget), MARGIN.left), scales.x.place(scales.x.high));
  const bottom = scales.y.place(scales.y.low);
  context.strokeStyle = colours.accent;
  context.lineWidth = 1.5;
  context.setLineDash([6, 4]);
  stroke(context, [[left, MARGIN.top], [left, bottom]]);
  context.setLineDash([]);
  context.font = `600 12px ${colours.font}`;
  context.fillStyle = colours.accent;
  const words = `${scene.budget} ms`;
  const beside = left + 6 + context.measureText(words).width < scales.x.place(scales.x.high);
  context.textAlign = beside ? "left" : "right";
  context.textBaseline = "bottom";
  context.fillText(words, left + (beside ? 6 : -6), bottom - 4);
}

function drawName(context, point, scales, colours) {
  context.font = `600 13px ${colours.font}`;
  const words = point.name.length > 44 ? `${point.name.slice(0, 43)}…` : point.name;
  const width = context.measureText(words).width;
  const end = scales.x.place(scales.x.high);
  const left = Math.max(MARGIN.left + 4, Math.min(point.left - width / 2, end - width));
  const above = point.top - 16 > MARGIN.top + 12;
  context.textAlign = "left";
  context.textBaseline = above ? "bottom" : "top";
  context.lineWidth = 4;
  context.strokeStyle = colours.page;
  context.lineJoin = "round";
  const top = point.top + (above ? -13 : 13);
  context.strokeText(words, left, top);
  context.fillStyle = colours.text;
  context.fillText(words, left, top);
}

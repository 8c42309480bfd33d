// What every page of a report has: tables that can be sorted, and the choice of a theme.

const THEMES = ["auto", "light", "dark"];

// The buttons of a table's last row of headings sort its rows, within each section.
function makeSortable(table) {
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  const rows = [...table.querySelectorAll("tbody tr")];
  if (rows.filter((row) => row.querySelector("td")).length < 3) return;
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      table.querySelector("tbody").replaceChildren(...sortedRows(rows, column, down));
    });
  });
}

function sortedRows(rows, column, down) {
  const sections = [];
  for (const row of rows) {
    const heading = !row.querySelector("td");
    if (heading || !sections.length) sections.push({ heading: heading ? row : null, rows: [] });
    if (!heading) sections[sections.length - 1].rows.push(row);
  }
  return sections.flatMap(({ heading, rows: members }) => {
    const keyed = members.map((row) => ({ row, key: sortKey(row.cells[column]?.textContent || "") }));
    keyed.sort((a, b) => compared(a.key, b.key, down));
    return [...(heading ? [heading] : []), ...keyed.map(({ row }) => row)];
  });
}

// A number where the text begins with one; null where a cell states nothing.
function sortKey(text) {
  const words = text.trim();
  if (["", "-", "·", "×"].includes(words)) return null;
  const number = /^[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?(?=$|[\s%[(±*†])/.exec(words.replace("−", "-"));
  return number ? Number(number[0].replaceAll(",", "")) : words;
}

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  window.dispatchEvent(new Event("themechange"));
}

// Storage may be refused, for instance to a page of a file.
function remembered() {
  try {
    const theme = localStorage.getItem("theme");
    return THEMES.includes(theme) ? theme : "auto";
  } catch {
    return "auto";
  }
}

function addThemeButton() {
  let theme = remembered();
  const button = element("button", { type: "button", class: "theme" });
  const tell = () => { button.textContent = `Theme: ${theme}`; };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // the theme then lasts as long as the page
    }
    applyTheme(theme);
    tell();
  });
  applyTheme(theme);
  tell();
  document.body.prepend(button);
}

document.documentElement.classList.add("scripted");
addThemeButton();
document.querySelectorAll("main .table table").forEach(makeSortable);
const explorerData = document.getElementById("explorer-data");
if (explorerData) new Explorer(document.getElementById("explore"), JSON.parse(explorerData.textContent));

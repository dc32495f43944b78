// The tables of classes: sorted by any column, grown on demand; uses what gallery.js has made.

const CLASSES_AT_ONCE = 200;
const classes = read("class-data");

const showClass = (place, label) => {
  fields.group.value = String(place);
  fields.label.value = `"${gallery.labels[label]}"`;
  fields.outcome.value = "";
  fields.reason.value = "";
  fields.pictured.checked = false;
  select();
  document.getElementById("queries").scrollIntoView();
};

const classRow = (place, [label, ...figures]) => {
  const link = make("button", { type: "button", class: "link", title: bothOf(label) }, make("bdi", {}, nameOf(label)));
  link.addEventListener("click", () => showClass(place, label));
  const { decimals, whole } = classes[place]; // the first figures are counts
  const shown = (figure, at) => (at < whole ? grouped(figure) : figure.toFixed(decimals));
  const cells = figures.map((figure, at) => make("td", {}, shown(figure, at)));
  return make("tr", {}, make("th", { scope: "row" }, link), ...cells);
};

const order = (rows, column, falling) => {
  const key = column === 0 ? (row) => nameOf(row[0]).toLowerCase() : (row) => row[column];
  const sorted = [...rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : b[1] - a[1]));
  return falling ? sorted.reverse() : sorted;
};

const classTable = (details) => {
  const place = Number(details.dataset.group);
  const { rows, by } = classes[place];
  const body = details.querySelector("tbody");
  const heads = [...details.querySelectorAll("thead th")];
  const more = make("button", { type: "button" }, "Show more classes");
  let sorted = rows; // as they come: by column ``by``, if any
  let [shown, column, falling] = [0, by, false];
  const grow = () => {
    body.append(...sorted.slice(shown, shown + CLASSES_AT_ONCE).map((row) => classRow(place, row)));
    shown = Math.min(rows.length, shown + CLASSES_AT_ONCE);
    more.hidden = shown === rows.length;
  };
  const sort = (wanted) => {
    falling = wanted === column && !falling;
    column = wanted;
    sorted = order(rows, column, falling);
    shown = 0;
    body.replaceChildren();
    heads.forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    grow();
  };
  heads.forEach((head, at) => {
    const button = make("button", { type: "button" }, head.textContent);
    button.addEventListener("click", () => sort(at));
    head.replaceChildren(button);
  });
  more.addEventListener("click", grow);
  details.append(more);
  body.replaceChildren();
  grow();
};

document.querySelectorAll("details.classes").forEach((details) => {
  details.addEventListener("toggle", () => classTable(details), { once: true });
});

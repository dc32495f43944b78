"use strict";
// Everything untrusted enters as text: by textContent, by append of strings, or as the value of a harmless attribute.

const PAGE = 20;
const PAUSE_MILLISECONDS = 150;
const UNREADABLE = 8; // bits of a query's flags; bits 0 and 1 say whether its answers are right

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const gallery = read("gallery-data");
const pictures = read("picture-data");
const codes = gallery.reasons.map((reason) => reason.split(":")[0]);

const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const percent = (share) => `${Math.round(100 * share)} %`;
const grouped = (number) => number.toLocaleString("en");
const nameOf = (label) => gallery.names[label];
const bothOf = (label) =>
  gallery.names[label] === gallery.labels[label] ? gallery.labels[label] : `${gallery.names[label]} (${gallery.labels[label]})`;

// One query

const cards = gallery.groups.map(() => new Map()); // of queries with pictures: their templates
document.querySelectorAll("template.case").forEach((one) => cards[one.dataset.group].set(Number(one.dataset.place), one));

const card = (template) => {
  const made = document.importNode(template.content, true).firstElementChild;
  made.querySelectorAll("[data-picture]").forEach((image) => { image.src = pictures[image.dataset.picture]; });
  return made;
};

const verdict = (group, query) => {
  const last = group.heads.length - 1;
  if (group.flags[query] & UNREADABLE) return ["", "The picture could not be used"];
  const right = (group.flags[query] >> last) & 1;
  const truth = gallery.truths[group.truths[query]].map(bothOf).join(" or ");
  const answer = bothOf(group.answers[last][query]);
  return right ? ["right", `✓ right: ${answer}`] : ["wrong", `✗ wrong: ${answer}, but it is ${truth}`];
};

const answers = (group, query) => {
  if (group.heads.length < 2 || group.flags[query] & UNREADABLE) return [];
  const told = group.heads.map((head, place) =>
    `${head}: ${(group.flags[query] >> place) & 1 ? "✓" : "✗"} ${bothOf(group.answers[place][query])}`);
  return [make("p", { class: "soft small" }, told.join(" · "))];
};

const reason = (group, query) => {
  const confidence = (group.confidences || [])[query];
  const sure = confidence === null || confidence === undefined ? "" : ` (confidence ${percent(confidence)})`;
  const told = gallery.reasons[group.reasons[query]] + sure;
  return told ? [make("p", { class: "soft small" }, told)] : [];
};

// A card without pictures has the classes that card.html.jinja gives to the others.
const article = (place, query) => {
  const template = cards[place].get(query);
  if (template) return card(template);
  const group = gallery.groups[place];
  const [outcome, told] = verdict(group, query);
  const facts = make("div", { class: "facts" },
    make("p", { class: "verdict" }, told),
    make("p", { class: "soft small" }, `${group.name}: ${group.ids[query]}`),
    ...answers(group, query), ...reason(group, query));
  return make("article", { class: `decision ${outcome} text` }, facts);
};

// Filters

const form = document.getElementById("filters");
const fields = form.elements;
let matches = []; // group, query, group, query, …
let page = 0;

const labelTest = (typed) => {
  const wanted = typed.trim().toLowerCase();
  if (!wanted) return null;
  const whole = /^"(.+)"$/.exec(wanted);
  const fits = whole ? (text) => text.toLowerCase() === whole[1] : (text) => text.toLowerCase().includes(wanted);
  const labels = gallery.labels.map((label, code) => fits(label) || fits(gallery.names[code]));
  return { labels, truths: gallery.truths.map((truth) => truth.some((code) => labels[code])) };
};

const select = () => {
  const fitting = labelTest(fields.label.value);
  const [, mask, value] = gallery.outcomes[fields.outcome.value] || ["", 0, 0];
  const onlyReason = fields.reason.value;
  matches = [];
  gallery.groups.forEach((group, place) => {
    if (fields.group.value !== "" && Number(fields.group.value) !== place) return;
    for (let query = 0; query < group.ids.length; query++) {
      if ((group.flags[query] & mask) !== value) continue;
      if (onlyReason && codes[group.reasons[query]] !== onlyReason) continue;
      if (fields.pictured.checked && !cards[place].has(query)) continue;
      if (fitting && !fitting.truths[group.truths[query]] &&
          !group.answers.some((column) => fitting.labels[column[query]])) continue;
      matches.push(place, query);
    }
  });
  show(0);
};

const pages = () => Math.max(1, Math.ceil(matches.length / 2 / PAGE));

const show = (wanted) => {
  page = Math.min(Math.max(0, wanted), pages() - 1);
  const articles = [];
  for (let i = 2 * PAGE * page; i < Math.min(matches.length, 2 * PAGE * (page + 1)); i += 2) {
    articles.push(article(matches[i], matches[i + 1]));
  }
  document.getElementById("gallery").replaceChildren(...articles);
  const all = gallery.groups.reduce((sum, group) => sum + group.ids.length, 0);
  document.getElementById("count").textContent =
    `${grouped(matches.length / 2)} of ${grouped(all)} ${all === 1 ? "query" : "queries"}; page ${grouped(page + 1)} of ${grouped(pages())}`;
  updatePagers.forEach((update) => update());
};

const turn = (wanted) => {
  show(wanted);
  document.getElementById("queries").scrollIntoView();
};

const pager = (nav) => {
  const button = (text, name, target) => {
    const made = make("button", { type: "button", "aria-label": `${name} page` }, text);
    made.addEventListener("click", () => turn(target()));
    return made;
  };
  const back = [button("«", "first", () => 0), button("‹ Previous", "previous", () => page - 1)];
  const ahead = [button("Next ›", "next", () => page + 1), button("»", "last", () => pages() - 1)];
  const number = make("input", { type: "number", min: 1, "aria-label": "page" });
  number.addEventListener("change", () => turn((Number(number.value) || 1) - 1));
  nav.append(...back, number, ...ahead);
  nav.hidden = false;
  return () => {
    number.value = page + 1;
    number.max = pages();
    back.forEach((made) => { made.disabled = page === 0; });
    ahead.forEach((made) => { made.disabled = page === pages() - 1; });
  };
};

const updatePagers = [...document.querySelectorAll("nav.pages")].map(pager);
const shownCodes = [...new Set(codes)].filter((code) => code).sort();
fields.reason.append(...shownCodes.map((code) => make("option", { value: code }, code)));
fields.reason.parentElement.hidden = shownCodes.length === 0;
fields.pictured.checked = cards.some((group) => group.size > 0);
let waiting = 0;
form.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(select, PAUSE_MILLISECONDS);
});
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
select();

// Sorting, searching and filtering, as an extra: without this script the page shows everything in the record's order.
(function () {
  "use strict";
  var make = function (name, attributes, text) {
    var element = document.createElement(name);
    Object.keys(attributes).forEach(function (key) { element.setAttribute(key, attributes[key]); });
    if (text) element.textContent = text;
    return element;
  };
  var list = function (root, selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };

  // What a cell sorts by: its number, else its text. Undefined numbers come last either way.
  var key = function (cell) {
    var text = (cell ? cell.getAttribute("data-v") || cell.textContent : "").trim();
    var number = parseFloat(text.replace(/[\u2009\u202f\u00a0]/g, "").replace(/^[<\u00b1+]/, "").replace("\u2212", "-"));
    return { number: /^[<\u00b1+\u2212-]?[\u2009\u202f\u00a0]?\d/.test(text) ? number : NaN, text: text.toLowerCase() };
  };
  var compare = function (a, b, down) {
    var known = [!isNaN(a.number), !isNaN(b.number)];
    if (known[0] && known[1]) return down ? b.number - a.number : a.number - b.number;
    if (known[0] !== known[1]) return known[0] ? -1 : 1;
    return (down ? -1 : 1) * a.text.localeCompare(b.text);
  };

  list(document, "table[data-sort]").forEach(function (table) {
    var bodies = list(table, "tbody");
    var original = bodies.map(function (body) { return list(body, "tr"); });
    var rows = [].concat.apply([], original).filter(function (row) { return !row.classList.contains("group"); });
    var groups = list(table, "tr.group");
    var place = 0;
    list(table, "thead th").forEach(function (head) {
      place += head.colSpan;
      var column = place - 1;
      var button = make("button", { type: "button", "class": "sort", "aria-label": "Sort by " + head.textContent.trim() });
      head.appendChild(button);
      button.addEventListener("click", function () {
        var before = head.getAttribute("aria-sort");
        list(table, "thead th").forEach(function (other) { other.removeAttribute("aria-sort"); });
        if (before === "ascending") {
          original.forEach(function (own, i) { own.forEach(function (row) { bodies[i].appendChild(row); }); });
          groups.forEach(function (row) { row.hidden = false; });
          return;
        }
        var down = before !== "descending";
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        groups.forEach(function (row) { row.hidden = true; });
        rows.map(function (row) { return [key(row.cells[column]), row]; })
          .sort(function (a, b) { return compare(a[0], b[0], down); })
          .forEach(function (pair) { bodies[0].appendChild(pair[1]); });
      });
    });
  });

  var section = document.getElementById("latent-list");
  var items = section ? list(section, "[data-side]") : [];
  var reset = function () {};
  if (items.length > 1) {
    var form = make("div", { "class": "tools", role: "search", "aria-label": "Latents" });
    var choose = function (label, attribute) {
      var select = make("select", {});
      select.appendChild(make("option", { value: "" }, "all"));
      var seen = {};
      items.forEach(function (item) { seen[item.getAttribute(attribute)] = true; });
      Object.keys(seen).sort().forEach(function (value) {
        select.appendChild(make("option", { value: value }, value === "-" ? "none" : value));
      });
      var field = make("label", {}, label + " ");
      field.appendChild(select);
      form.appendChild(field);
      return select;
    };
    var search = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
    var field = make("label", {}, "Search latents ");
    field.appendChild(search);
    form.appendChild(field);
    var side = choose("Model", "data-side"), group = choose("Class", "data-class");
    var count = make("span", { role: "status", "class": "muted" });
    form.appendChild(count);
    section.insertBefore(form, section.firstChild);
    var words = null;
    var apply = function () {
      words = words || items.map(function (item) { return item.textContent.toLowerCase(); });
      var wanted = search.value.trim().toLowerCase().split(/\s+/);
      var shown = { all: 0 };
      items.forEach(function (item, i) {
        var ok = (!side.value || item.getAttribute("data-side") === side.value) &&
          (!group.value || item.getAttribute("data-class") === group.value) &&
          wanted.every(function (word) { return words[i].indexOf(word) >= 0; });
        item.hidden = !ok;
        if (ok && item.tagName === "TR") shown.all += 1;
      });
      list(section, ".latents").forEach(function (box) {
        box.hidden = box.previousElementSibling.hidden = !list(box, ".latent").some(function (item) { return !item.hidden; });
      });
      count.textContent = shown.all + " of " + list(section, "tr[data-side]").length + " latents";
    };
    [search, side, group].forEach(function (control) { control.addEventListener("input", apply); });
    reset = function () { search.value = side.value = group.value = ""; apply(); };
  }

  // A table that scrolls sideways can be reached, and then moved, by the keyboard.
  var reach = function () {
    list(document, "table").forEach(function (table) {
      if (table.scrollWidth > table.clientWidth + 1) { table.tabIndex = 0; } else { table.removeAttribute("tabindex"); }
    });
  };
  window.addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);
  reach();

  // A link to something folded or filtered away opens the way to it.
  var open = function () {
    var target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.hidden) reset();
    var moved = false;
    for (var up = target.parentElement; up; up = up.parentElement) {
      if (up.tagName === "DETAILS" && !up.open) { up.open = moved = true; }
    }
    if (moved) target.scrollIntoView();
  };
  window.addEventListener("hashchange", open);
  open();
})();

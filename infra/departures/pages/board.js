// Fills the table after a delay, as boards of real airports do. The address holds the page that is shown.
const DELAY_MS = 400;

const query = new URLSearchParams(location.search);
const table = document.querySelector("table");
const next = document.querySelector("#next");
const warning = document.querySelector("[role=alert]");
const cookies = document.querySelector("#cookies");

function makeRow(tag, texts) {
  const row = document.createElement("tr");
  row.append(...texts.map((text) => Object.assign(document.createElement(tag), { textContent: text })));
  return row;
}

async function show(page) {
  table.setAttribute("aria-busy", "true");
  table.tBodies[0].replaceChildren();
  next.disabled = true;
  query.set("page", page);
  history.replaceState(null, "", `?${query}`);
  await new Promise((resolve) => setTimeout(resolve, DELAY_MS));
  try {
    const board = await (await fetch(`${table.dataset.source}?${query}`)).json();
    if (!board.rows.length) return;
    table.tHead.replaceChildren(makeRow("th", board.columns));
    table.tBodies[0].replaceChildren(...board.rows.map((cells) => makeRow("td", cells)));
    document.querySelector("time").dateTime = board.updated;
    document.querySelector("time").textContent = board.updated;
    document.querySelector("#page").textContent = board.page;
    next.disabled = board.page >= board.pages;
    table.setAttribute("aria-busy", "false");
  } catch (error) {
    warning.textContent = `The board cannot be read: ${error.message}`;
    warning.hidden = false;
  }
}

next.addEventListener("click", () => show(Number(query.get("page")) + 1));
cookies.addEventListener("close", () => { document.cookie = "read=1; path=/; samesite=strict"; });
if (!document.cookie.includes("read=1")) cookies.showModal();
show(Number(query.get("page") ?? 1));

// Sends images as soon as they are dropped or chosen, and puts the answers above the earlier ones.
// Without it the form works as a form.
"use strict";

const form = document.querySelector("form");
const input = document.getElementById("images");
const results = document.getElementById("results");
const status = document.getElementById("status");
const button = form.querySelector("button");
let under_way = 0;

button.hidden = true; // what is chosen is sent

function say(line, bad) {
  status.textContent = line;
  status.classList.toggle("bad", Boolean(bad));
}

function refusal(files) {
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  if (files.length > Number(form.dataset.files)) {
    return `${files.length} files, and ${form.dataset.files} at once is the most: send fewer.`;
  }
  if (bytes > Number(form.dataset.bytes)) {
    return `${(bytes / 1048576).toFixed(1)} MiB, and ${form.dataset.bytes / 1048576} is the most: send fewer or smaller images.`;
  }
  return "";
}

function counted(count) {
  return count === 1 ? "1 image" : `${count} images`;
}

function answered(count) {
  const articles = Array.from(results.querySelectorAll("article")).slice(0, count);
  const bad = articles.filter((article) => article.classList.contains("bad")).length;
  const unlike = articles.filter((article) => article.classList.contains("unlike")).length;
  return `Looked at ${counted(count)}.` + (bad ? ` ${bad} cannot be used.` : "") +
    (unlike ? ` ${unlike} unlike the training images.` : "");
}

async function ask(files) {
  const refused = refusal(files);
  if (refused) {
    say(`Not sent: ${refused}`, true);
    return;
  }
  const body = new FormData();
  files.forEach((file) => body.append("images", file));
  under_way += files.length;
  form.classList.add("busy");
  say(`Waiting for the answer about ${counted(under_way)} …`);
  let line = "";
  try {
    const answer = await fetch("answers", { method: "POST", body });
    const html = await answer.text();
    if ((answer.headers.get("content-type") || "").startsWith("text/html")) {
      results.insertAdjacentHTML("afterbegin", html); // every name in it was escaped
      line = answer.ok ? answered(files.length) : "There is no answer; see below.";
    } else {
      line = `No answer: ${html.trim() || answer.status}. Try again.`;
    }
    say(line, !answer.ok);
  } catch (error) {
    line = "No answer: the page's program cannot be reached, or broke off. Try again.";
    say(line, true);
  }
  under_way -= files.length;
  if (under_way > 0) {
    say(`${line} Waiting for ${counted(under_way)} …`);
  } else {
    form.classList.remove("busy");
  }
}

input.addEventListener("change", () => {
  const files = Array.from(input.files);
  if (files.length) {
    ask(files);
  }
  form.reset();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  input.click();
});

// The input covers the zone and takes what is dropped there; elsewhere a browser would leave the
// page and show the file.
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    form.classList.toggle("over", kind === "dragover");
    if (event.target !== input) {
      event.preventDefault();
      if (kind === "drop" && event.dataTransfer.files.length) {
        ask(Array.from(event.dataTransfer.files));
      }
    }
  });
}
document.addEventListener("dragleave", () => form.classList.remove("over"));

// Sends images as soon as they are dropped or chosen, and inserts the results above earlier ones.
// Without scripts the form is submitted by its button.
"use strict";

const form = document.querySelector("form");
const input = document.getElementById("images");
const results = document.getElementById("results");
const status = document.getElementById("status");
const button = form.querySelector("button");
let pending = 0;

button.hidden = true; // chosen files are sent at once

function setStatus(line, bad) {
  status.textContent = line;
  status.classList.toggle("bad", Boolean(bad));
}

function limitError(files) {
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  if (files.length > Number(form.dataset.files)) {
    return `${files.length} files, and the limit is ${form.dataset.files}: send fewer.`;
  }
  if (bytes > Number(form.dataset.bytes)) {
    return `${(bytes / 1048576).toFixed(1)} MiB, and the limit is ${form.dataset.bytes / 1048576}: send fewer or smaller images.`;
  }
  return "";
}

function imageCount(count) {
  return count === 1 ? "1 image" : `${count} images`;
}

function summary(count) {
  const articles = Array.from(results.querySelectorAll("article")).slice(0, count);
  const bad = articles.filter((article) => article.classList.contains("bad")).length;
  const unlike = articles.filter((article) => article.classList.contains("unlike")).length;
  return `Processed ${imageCount(count)}.` + (bad ? ` ${bad} cannot be used.` : "") +
    (unlike ? ` ${unlike} unlike the training images.` : "");
}

async function send(files) {
  const error = limitError(files);
  if (error) {
    setStatus(`Not sent: ${error}`, true);
    return;
  }
  const body = new FormData();
  files.forEach((file) => body.append("images", file));
  pending += files.length;
  form.classList.add("busy");
  setStatus(`Waiting for ${imageCount(pending)} …`);
  let line = "";
  try {
    const response = await fetch("answers", { method: "POST", body });
    const html = await response.text();
    if ((response.headers.get("content-type") || "").startsWith("text/html")) {
      results.insertAdjacentHTML("afterbegin", html); // the server has escaped every name
      line = response.ok ? summary(files.length) : "No prediction; see below.";
    } else {
      line = `No prediction: ${html.trim() || response.status}. Try again.`;
    }
    setStatus(line, !response.ok);
  } catch (error) {
    line = "No prediction: the server cannot be reached or closed the connection. Try again.";
    setStatus(line, true);
  }
  pending -= files.length;
  if (pending > 0) {
    setStatus(`${line} Waiting for ${imageCount(pending)} …`);
  } else {
    form.classList.remove("busy");
  }
}

input.addEventListener("change", () => {
  const files = Array.from(input.files);
  if (files.length) {
    send(files);
  }
  form.reset();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  input.click();
});

// The input covers the drop zone; files dropped elsewhere would make the browser leave the page.
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    form.classList.toggle("over", kind === "dragover");
    if (event.target !== input) {
      event.preventDefault();
      if (kind === "drop" && event.dataTransfer.files.length) {
        send(Array.from(event.dataTransfer.files));
      }
    }
  });
}
document.addEventListener("dragleave", () => form.classList.remove("over"));

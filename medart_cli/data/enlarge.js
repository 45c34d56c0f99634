/* Enlarges pictures: each is a button that opens it; arrows go to the others, Escape closes. */
"use strict";
{
  const pictures = [...document.querySelectorAll("main img")];
  const dialog = document.createElement("dialog");
  const image = document.createElement("img");
  const caption = document.createElement("p");
  let current = 0;

  function captionOf(picture) {
    const figure = picture.closest("figure");
    const told = figure ? figure.querySelector("figcaption") : null;
    const text = told ? told.textContent.trim() : picture.alt;
    return picture.alt.endsWith(text) ? picture.alt : text; /* of which set it is, and its name */
  }

  function show(index) {
    current = (index + pictures.length) % pictures.length;
    image.src = pictures[current].src;
    image.alt = pictures[current].alt || captionOf(pictures[current]);
    caption.textContent = captionOf(pictures[current]);
  }

  function addButton(text, act) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", act);
    dialog.append(button);
  }

  pictures.forEach((picture, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.title = "Enlarge";
    button.setAttribute("aria-haspopup", "dialog");
    button.setAttribute("aria-label", `Enlarge: ${picture.alt || captionOf(picture)}`);
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener("click", () => {
      show(index);
      dialog.showModal();
    });
  });
  dialog.setAttribute("aria-label", "Enlarged picture");
  dialog.id = "enlarged";
  dialog.append(image, caption);
  addButton("← Previous", () => show(current - 1));
  addButton("Next →", () => show(current + 1));
  addButton("Close (Esc)", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) { /* beside the picture */
      dialog.close();
    }
  });
  dialog.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (way !== undefined) {
      event.preventDefault();
      show(current + way);
    }
  });
  document.body.append(dialog);
}

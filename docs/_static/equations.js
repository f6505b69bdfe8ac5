/* Draws the equations of a page with KaTeX, which lies beside this file: no network needed. */
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".math")) renderMathInElement(element);
});

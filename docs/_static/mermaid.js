// Draw the page's Mermaid diagrams, and draw them again when the reader changes between light and dark.
(() => {
  const root = document.documentElement;
  const load = () => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `${root.dataset.content_root}_static/mermaid.min.js`;
    script.onload = resolve;
    script.onerror = reject;
    document.head.append(script);
  });
  const draw = async (diagrams) => {
    for (const diagram of diagrams) {
      diagram.textContent = diagram.dataset.source;
      diagram.removeAttribute("data-processed");
    }
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(`--book-diagram-${name}`).trim();
    window.mermaid.initialize({
      startOnLoad: false,
      theme: "base",
      flowchart: { curve: "basis", useMaxWidth: true },
      themeVariables: {
        darkMode: root.dataset.theme === "dark",
        fontFamily: style.getPropertyValue("--pst-font-family-base"),
        fontSize: "15px",
        background: colour("page"),
        primaryColor: colour("box"),
        primaryTextColor: colour("text"),
        primaryBorderColor: colour("border"),
        secondaryColor: colour("box"),
        tertiaryColor: colour("group"),
        lineColor: colour("line"),
        textColor: colour("text"),
        edgeLabelBackground: colour("page"),
        clusterBkg: colour("group"),
        clusterBorder: colour("line"),
      },
    });
    await window.mermaid.run({ nodes: diagrams });
  };
  document.addEventListener("DOMContentLoaded", async () => {
    const diagrams = [...document.querySelectorAll("pre.mermaid")];
    if (!diagrams.length) return;
    for (const diagram of diagrams) diagram.dataset.source = diagram.textContent;
    await load();
    let last = root.dataset.theme;
    let drawing = draw(diagrams);
    new MutationObserver(() => {
      if (root.dataset.theme === last) return;
      last = root.dataset.theme;
      drawing = drawing.then(() => draw(diagrams));
    }).observe(root, { attributeFilter: ["data-theme"] });
  });
})();

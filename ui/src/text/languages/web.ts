// Languages of code blocks that are loaded together, once the first of them is seen.

export { default as css } from "highlight.js/lib/languages/css";
export { default as javascript } from "highlight.js/lib/languages/javascript";
export { default as json } from "highlight.js/lib/languages/json";
export { default as markdown } from "highlight.js/lib/languages/markdown";
export { default as php } from "highlight.js/lib/languages/php";
export { default as typescript } from "highlight.js/lib/languages/typescript";
export { default as xml } from "highlight.js/lib/languages/xml";

// Languages of code blocks that are loaded together, once the first of them is seen.

export { default as bash } from "highlight.js/lib/languages/bash";
export { default as diff } from "highlight.js/lib/languages/diff";
export { default as ini } from "highlight.js/lib/languages/ini";
export { default as lua } from "highlight.js/lib/languages/lua";
export { default as python } from "highlight.js/lib/languages/python";
export { default as ruby } from "highlight.js/lib/languages/ruby";
export { default as sql } from "highlight.js/lib/languages/sql";
export { default as yaml } from "highlight.js/lib/languages/yaml";

// Languages of code blocks that are loaded together, once the first of them is seen.

export { default as c } from "highlight.js/lib/languages/c";
export { default as cpp } from "highlight.js/lib/languages/cpp";
export { default as csharp } from "highlight.js/lib/languages/csharp";
export { default as go } from "highlight.js/lib/languages/go";
export { default as haskell } from "highlight.js/lib/languages/haskell";
export { default as java } from "highlight.js/lib/languages/java";
export { default as kotlin } from "highlight.js/lib/languages/kotlin";
export { default as rust } from "highlight.js/lib/languages/rust";
export { default as swift } from "highlight.js/lib/languages/swift";

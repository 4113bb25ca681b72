// A small, safe part of Markdown: code fences, inline code, bold, italics, lists, headings. Text only ever becomes text nodes.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)\s*$/;
const BULLET = /^ {0,3}[-*+]\s+(.*)$/;
const NUMBER = /^ {0,3}(\d{1,9})[.)]\s+(.*)$/;
const HEADING = /^ {0,3}#{1,6}\s+(.*?)\s*#*$/;
const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|\*(?=[^\s*])([^*\n]*[^\s*])\*(?!\w)/g;

/** Shows `source` in `target`, in place of what was there. */
export function render(target, source) {
  target.replaceChildren(...blocks(source.replace(/\r\n?/g, "\n").split("\n")));
}

function blocks(lines) {
  const out = [];
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) out.push(element("p", inline(paragraph.join("\n"))));
    paragraph = [];
  };
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    if (fence) {
      flush();
      const end = closing(lines, at + 1, fence[1]);
      out.push(element("pre", [element("code", [lines.slice(at + 1, end).join("\n")])]));
      at = end + 1;
    } else if (BULLET.test(line) || NUMBER.test(line)) {
      flush();
      const [list, next] = listAt(lines, at);
      out.push(list);
      at = next;
    } else {
      if (heading) {
        flush();
        out.push(element("h3", inline(heading[1])));
      } else if (line.trim() === "") {
        flush();
      } else {
        paragraph.push(line);
      }
      at += 1;
    }
  }
  flush();
  return out;
}

/** Index of the line that closes a fence, or the end while it is still being written. */
function closing(lines, from, mark) {
  for (let at = from; at < lines.length; at += 1) {
    const line = lines[at].trim();
    if (line.startsWith(mark) && line.replaceAll(mark[0], "") === "") return at;
  }
  return lines.length;
}

function listAt(lines, start) {
  const ordered = NUMBER.test(lines[start]);
  const pattern = ordered ? NUMBER : BULLET;
  const list = document.createElement(ordered ? "ol" : "ul");
  if (ordered) list.start = Number(NUMBER.exec(lines[start])[1]);
  let at = start;
  while (at < lines.length) {
    const item = pattern.exec(lines[at]);
    if (item) {
      const words = [item[item.length - 1]];
      at += 1;
      while (at < lines.length && /^\s{2,}\S/.test(lines[at]) && !pattern.test(lines[at])) {
        words.push(lines[at].trim());
        at += 1;
      }
      list.append(element("li", inline(words.join("\n"))));
    } else if (lines[at].trim() === "" && at + 1 < lines.length && pattern.test(lines[at + 1])) {
      at += 1;
    } else {
      break;
    }
  }
  return [list, at];
}

function inline(text) {
  const out = [];
  let from = 0;
  for (const found of text.matchAll(INLINE)) {
    out.push(...broken(text.slice(from, found.index)));
    if (found[1]) out.push(element("code", [found[2]]));
    else if (found[3]) out.push(element("strong", inline(found[3])));
    else out.push(element("em", [found[4]]));
    from = found.index + found[0].length;
  }
  out.push(...broken(text.slice(from)));
  return out;
}

/** Text with its line breaks. */
function broken(text) {
  return text.split("\n").flatMap((line, index) => (index ? [document.createElement("br"), line] : [line]));
}

function element(name, children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

// Counts what has come that changes how texts look: the colours of a language, the setter of formulas.

let count = $state(0);

/** Read by whoever shows a text. */
export function late(): number {
  return count;
}

export function arrived(): void {
  count += 1;
}

/** Which rows of a long list are on the screen: every row has the same height, so it is a division. */

export interface Window {
  first: number;
  last: number;
  above: number;
  below: number;
}

export function visible(total: number, rowHeight: number, scrolled: number, height: number, spare = 4): Window {
  const top = Math.min(Math.max(0, scrolled), Math.max(0, total * rowHeight - height));
  const first = Math.max(0, Math.floor(top / rowHeight) - spare);
  const last = Math.min(total, Math.ceil((top + height) / rowHeight) + spare);
  return { first, last, above: first * rowHeight, below: (total - last) * rowHeight };
}

// How fast a reply is written, and what to say when it is slow.

/** Tokens a second below which a word of explanation is due. */
const SLOW = 1;
/** Milliseconds before the first token after which the wait is explained. */
const LONG_WAIT = 6000;

export class Speed {
  /** `show` gets a line to display while the reply is written. */
  constructor(show) {
    this.show = show;
    this.begun = performance.now();
    this.first = null;
    this.last = null;
    this.pieces = 0;
    this.timer = setInterval(() => this.tick(), 500);
    show("");
  }

  /** A piece arrived; each holds about one token. */
  more() {
    this.last = performance.now();
    this.first ??= this.last;
    this.pieces += 1;
  }

  end() {
    clearInterval(this.timer);
    this.show("");
  }

  /** One line on a finished reply. The first token is waited for, not written, so it does not count. */
  summary(usage) {
    if (this.first === null) return "";
    const tokens = usage?.completion_tokens ?? this.pieces;
    const rate = (tokens - 1) / ((this.last - this.first) / 1000);
    const speed = tokens > 2 && Number.isFinite(rate) ? `${tidy(rate)} tokens/s` : "";
    const wait = `first token after ${((this.first - this.begun) / 1000).toFixed(1)} s`;
    return [speed, wait, `${tokens} ${tokens === 1 ? "token" : "tokens"}`].filter(Boolean).join(" · ");
  }

  tick() {
    const now = performance.now();
    if (this.first === null) {
      const slow = now - this.begun > LONG_WAIT;
      this.show(slow ? "Before the first word, the model reads the whole conversation." : "");
      return;
    }
    const rate = (this.pieces - 1) / ((now - this.first) / 1000);
    if (now - this.first < 1500 || this.pieces < 2) {
      if (now - this.first > 4000) this.show(WHY);
      return;
    }
    this.show(rate < SLOW ? `${tidy(rate)} tokens/s. ${WHY}` : `${tidy(rate)} tokens/s`);
  }
}

const WHY = "Slow: the model is large for this machine, or many are using it.";

function tidy(rate) {
  return rate >= 10 ? rate.toFixed(0) : rate.toFixed(1);
}

// @ts-check
// `POST /lookup`: VINs out, one JSON line each in, as they are answered.

/**
 * One answer: the six fields of a vehicle, or why there is none.
 * @typedef {object} Line
 * @property {string} [Make]
 * @property {string} [Model]
 * @property {string} [source] Who answered: vpic, embedded, or a sibling of them.
 * @property {string} [error] Why there is no vehicle.
 * @property {number} [status] 404 rejected, 503 no source could be asked, 403 may not ask.
 * @property {string | null} [suggested_vin] What vPIC believes was meant.
 */

/** @typedef {Line & {"Input VIN Requested": string, "Model Year"?: string, "Body Class"?: string, "Cached Result?"?: boolean}} Answer */

/** A request that was refused as a whole; `retryAfter`, in seconds, where asking again helps. */
export class Refused extends Error {
  /** @param {string} words @param {number | null} retryAfter */
  constructor(words, retryAfter) {
    super(words);
    this.retryAfter = retryAfter;
  }
}

/**
 * The answers to some VINs, a few at a time as they arrive. Raises `Refused`, `TypeError`
 * where the server cannot be reached and `AbortError` when `signal` says so.
 * @param {string} url
 * @param {string} token Datasette's token against forged requests.
 * @param {string[]} vins
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Answer[], void>}
 */
export async function* answers(url, token, vins, signal) {
  const response = await fetch(`${url}?_extra=source,suggested_vin`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-csrftoken": token },
    body: JSON.stringify(vins),
    signal,
  });
  if (!response.ok || !response.body) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : (lines.pop() ?? "");
    const whole = lines.filter(Boolean);
    if (whole.length) yield whole.map((line) => JSON.parse(line));
    if (done) return;
  }
}

/**
 * A new token: a server that was started anew, without a secret that it keeps, knows none of its old ones.
 * @param {string} url
 * @param {string} token The old one, where there is no better.
 * @returns {Promise<string>}
 */
export async function newToken(url, token) {
  const html = await fetch(url).then((response) => (response.ok ? response.text() : "")).catch(() => "");
  const main = new DOMParser().parseFromString(html, "text/html").querySelector("main");
  return main?.dataset.token ?? token;
}

/** @param {Response} response @returns {Promise<Refused>} */
async function refusal(response) {
  const said = await response.json().catch(() => ({}));
  const again = Number(response.headers.get("retry-after"));
  return new Refused(said.error ?? `The server answered with status ${response.status}.`, again || null);
}

// The admin API. The key lives in this tab only and leaves it in one header, to this origin.

const STORED = "locum-admin-key";

export class ApiError extends Error {
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
    this.code = body?.error?.code ?? null;
  }
}

export class Api {
  constructor(onSignedOut) {
    this.onSignedOut = onSignedOut;
    this.key = sessionStorage.getItem(STORED);
  }

  get signedIn() {
    return this.key !== null;
  }

  /** Try a key; it is kept when the gateway takes it. Throws ApiError. */
  async signIn(key) {
    await this.ask("GET", "status", { key });
    this.key = key;
    sessionStorage.setItem(STORED, key);
  }

  signOut() {
    this.key = null;
    sessionStorage.removeItem(STORED);
  }

  get(path, query, options) {
    return this.ask("GET", path, { query, ...options });
  }

  post(path, body, options) {
    return this.ask("POST", path, { body, ...options });
  }

  /** The answer's JSON. Throws ApiError with the gateway's own words. */
  async ask(method, path, { query, body, key, signal } = {}) {
    const url = new URL(path, document.baseURI);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
    }
    const headers = { authorization: `Bearer ${key ?? this.key}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(url, {
        method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
        credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The gateway cannot be reached.", null);
    }
    const content = await response.json().catch(() => null);
    if (response.ok && content !== null) return content;
    const failed = new ApiError(response.status, content?.error?.message ?? `The gateway answered ${response.status}.`, content);
    if (key === undefined && (response.status === 401 || response.status === 403)) {
      failed.signedOut = true;
      this.signOut();
      this.onSignedOut(failed);
    }
    throw failed;
  }
}

// A real OpenID Connect provider for the tests: client credentials, access tokens as JWT (RFC 9068), discovery, JWKS.
// Usage: node oidc-provider.mjs MODULES PORT AUDIENCE. Knows one client, `agent` with the secret `agent-secret`.
import { pathToFileURL } from "node:url";

const [modules, port, audience] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{ client_id: "agent", client_secret: "agent-secret", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] }],
  scopes: ["call"],
  extraTokenClaims: () => ({ groups: ["engineers"] }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => audience,
      getResourceServerInfo: () => ({ scope: "call", audience, accessTokenTTL: 600, accessTokenFormat: "jwt", jwt: { sign: { alg: "RS256" } } }),
    },
  },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));

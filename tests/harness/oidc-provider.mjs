// A real OpenID Connect provider for the tests: client credentials, access tokens as JWT (RFC 9068), discovery, JWKS.
// Usage: node oidc-provider.mjs MODULES PORT AUDIENCE CLIENTS. CLIENTS is JSON: by each client's name, which is its `sub`, the
// claims of its tokens. Its secret is its name and `-secret`.
import { pathToFileURL } from "node:url";

const [modules, port, audience, known] = process.argv.slice(2);
const claims = JSON.parse(known);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: Object.keys(claims).map((name) => (
    { client_id: name, client_secret: `${name}-secret`, grant_types: ["client_credentials"], redirect_uris: [], response_types: [] })),
  scopes: ["call"],
  extraTokenClaims: (_, token) => claims[token.clientId],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => "urn:tidegate:tests:any",
      getResourceServerInfo: () => ({ scope: "call", audience, accessTokenTTL: 600, accessTokenFormat: "jwt", jwt: { sign: { alg: "RS256" } } }),
    },
  },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));

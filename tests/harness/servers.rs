//! Servers that people really run: nginx, and an OpenID Connect provider. Foreground, unprivileged ports, their files in
//! the host's folder; gone with the test.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::Process;
use crate::{Seat, workspace};

/// A running nginx.
pub struct Nginx {
    process: Process,
    port: u16,
}

impl Nginx {
    /// Serves the files of this folder on this port, on IPv4 and IPv6.
    ///
    /// # Panics
    /// When it does not start listening.
    #[must_use]
    pub fn serving(seat: &Seat, port: u16, files: &Path) -> Self {
        Self::start(seat, port, &format!("root {};", files.display()))
    }

    /// Passes everything on to this upstream, as `proxy_pass` with keep-alive does.
    ///
    /// # Panics
    /// When it does not start listening.
    #[must_use]
    pub fn proxying(seat: &Seat, port: u16, upstream: &str) -> Self {
        Self::start(
            seat,
            port,
            &format!(
                "location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}"
            ),
        )
    }

    /// Runs with this inside its one `server` block.
    ///
    /// # Panics
    /// When it does not start listening.
    #[must_use]
    pub fn start(seat: &Seat, port: u16, server: &str) -> Self {
        let folder = seat.folder().join(format!("nginx-{port}"));
        fs::create_dir_all(&folder).expect("the host's folder is writable");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = temporary.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
        let text = format!(
            "user root; worker_processes 1; daemon off; pid nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; types {{ application/json json; text/plain txt; }} {temporary}\n\
             server {{ listen {port}; listen [::]:{port}; {server} }} }}\n"
        );
        fs::write(folder.join("nginx.conf"), text).expect("the host's folder is writable");
        let folder = folder.display().to_string();
        let process = seat.spawn("/usr/sbin/nginx", &["-e", "stderr", "-p", &folder, "-c", "nginx.conf"]);
        let nginx = Self { process, port };
        seat.await_listening(port);
        nginx
    }

    /// Its master process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master takes its worker with it only when asked.
        self.process.stop(std::time::Duration::from_secs(5));
    }
}

/// A running OpenID Connect provider (npm `oidc-provider`) on 127.0.0.1.
pub struct Oidc {
    _process: Process,
    seat: Seat,
    port: u16,
}

impl Oidc {
    /// Starts it on a free port. Its tokens are for this audience and carry the group `engineers`.
    ///
    /// # Panics
    /// When `cargo xtask setup` has not brought it, or it does not start.
    #[must_use]
    pub fn start(seat: &Seat, audience: &str) -> Self {
        Self::knowing(seat, audience, &json!({ "agent": { "groups": ["engineers"] } }))
    }

    /// Starts it on a free port. Its tokens are for this audience; it knows these clients, by their names, and puts these
    /// claims into their tokens: `{ "ann": { "groups": ["auditors"] } }`.
    ///
    /// # Panics
    /// As [`Oidc::start`].
    #[must_use]
    pub fn knowing(seat: &Seat, audience: &str, clients: &Value) -> Self {
        let modules = testbed().join("node_modules");
        assert!(
            modules.join("oidc-provider").exists(),
            "no oidc-provider in {}: run `cargo xtask setup`",
            modules.display()
        );
        let program = workspace().join("tests/harness/oidc-provider.mjs").display().to_string();
        let port = seat.free_port();
        let (modules, clients) = (modules.display().to_string(), clients.to_string());
        let mut process = seat.spawn("node", &[&program, &modules, &port.to_string(), audience, &clients]);
        process.await_text("ready");
        Self { _process: process, seat: seat.clone(), port }
    }

    /// Its issuer, also the base of its discovery document.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Where its keys are.
    #[must_use]
    pub fn jwks_uri(&self) -> String {
        let discovery = self.seat.curl(&[&format!("{}/.well-known/openid-configuration", self.issuer())]);
        discovery.json()["jwks_uri"].as_str().expect("discovery names the keys").to_owned()
    }

    /// An access token of the client `agent`, by client credentials.
    ///
    /// # Panics
    /// When the provider refuses.
    #[must_use]
    pub fn token(&self) -> String {
        self.token_of("agent")
    }

    /// An access token of this client, by client credentials: its `sub` is the client's name.
    ///
    /// # Panics
    /// When the provider refuses.
    #[must_use]
    pub fn token_of(&self, client: &str) -> String {
        let (user, url) = (format!("{client}:{client}-secret"), format!("{}/token", self.issuer()));
        let form = "grant_type=client_credentials&scope=call";
        let answered = self.seat.curl(&["--user", &user, "--data", form, &url]);
        let token: Value = answered.json();
        token["access_token"].as_str().unwrap_or_else(|| panic!("no token: {}", answered.body)).to_owned()
    }
}

fn testbed() -> PathBuf {
    workspace().join("target/testbed")
}

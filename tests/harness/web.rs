//! Clients that people really use, unmodified: curl, wget, Python's requests and aiohttp, node's fetch. Tell the test
//! what they got and, where they can, which peer they believe to talk to. Know nothing of any gate.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::process::Finished;
use crate::{PATIENCE, Seat};

/// What a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
    /// What getpeername(2) told the client, where it can say.
    pub peer: Option<SocketAddr>,
}

impl Answered {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.body))
    }
}

const REQUESTS: &str = r#"
import json, sys, requests
session = requests.Session()
session.trust_env = False
method, url, headers, body = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4].encode() or None
answer = session.request(method, url, headers=headers, data=body, stream=True, timeout=25)
peer = answer.raw._connection.sock.getpeername()
print(json.dumps({"status": answer.status_code, "ip": peer[0], "port": peer[1], "body": answer.text}))
"#;

const AIOHTTP: &str = r#"
import asyncio, json, sys, aiohttp
method, url, headers, body = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4].encode() or None
class Connector(aiohttp.TCPConnector):
    async def _wrap_create_connection(self, *words, **named):
        transport, protocol = await super()._wrap_create_connection(*words, **named)
        self.peer = transport.get_extra_info("socket").getpeername()
        return transport, protocol
async def main():
    connector = Connector()
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.request(method, url, headers=headers, data=body) as answer:
            ip, port = connector.peer[:2]
            print(json.dumps({"status": answer.status, "ip": ip, "port": port, "body": await answer.text()}))
asyncio.run(main())
"#;

const FETCH: &str = r#"
const { subscribe } = require("node:diagnostics_channel");
let peer = {};
subscribe("undici:client:connected", ({ socket }) => { peer = { ip: socket.remoteAddress, port: socket.remotePort }; });
const [method, url, headers, body] = process.argv.slice(1);
fetch(url, { method, headers: JSON.parse(headers), body: body || undefined }).then(async (answer) =>
  console.log(JSON.stringify({ status: answer.status, body: await answer.text(), ...peer })));
"#;

impl Seat {
    /// curl with these arguments (the URL among them).
    ///
    /// # Panics
    /// When curl got no HTTP answer, with what it said.
    #[must_use]
    pub fn curl(&self, arguments: &[&str]) -> Answered {
        let finished = self.try_curl(arguments).success();
        let text = finished.text();
        let (body, facts) = text.rsplit_once('\n').expect("curl writes what it is told to");
        let facts: Vec<&str> = facts.split(' ').collect();
        let peer = match facts[..] {
            [_, ip, port] => address(ip, port),
            _ => None,
        };
        Answered { status: facts[0].parse().expect("curl writes a number"), body: body.to_owned(), peer }
    }

    /// curl with these arguments, however it ends: 7 is "refused", 28 "timed out", 52 "empty reply", 56 "reset".
    ///
    /// # Panics
    /// When curl cannot start, or never ends.
    #[must_use]
    pub fn try_curl(&self, arguments: &[&str]) -> Finished {
        let facts = "\n%{http_code} %{remote_ip} %{remote_port}";
        let fixed = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "25", "--write-out", facts];
        self.run("curl", &[&fixed[..], arguments].concat())
    }

    /// wget of this URL. Its status is 200, or what wget reports.
    ///
    /// # Panics
    /// When wget got no HTTP answer.
    #[must_use]
    pub fn wget(&self, url: &str, arguments: &[&str]) -> Answered {
        let fixed = [
            "--no-proxy",
            "--tries=1",
            "--timeout=25",
            "--content-on-error",
            "--server-response",
            "--output-document=-",
            url,
        ];
        let finished = self.run("wget", &[&fixed[..], arguments].concat());
        let status = finished
            .errors()
            .lines()
            .filter_map(|line| line.trim().strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
            .next_back();
        let status = status.unwrap_or_else(|| panic!("wget got no answer:\n{}", finished.errors()));
        Answered { status, body: finished.text(), peer: None }
    }

    /// Python requests.
    ///
    /// # Panics
    /// When it got no HTTP answer.
    #[must_use]
    pub fn requests(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Answered {
        told(&self.python(REQUESTS, &[method, url, &object(headers), body]).success())
    }

    /// Python aiohttp.
    ///
    /// # Panics
    /// When it got no HTTP answer.
    #[must_use]
    pub fn aiohttp(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Answered {
        told(&self.python(AIOHTTP, &[method, url, &object(headers), body]).success())
    }

    /// node's own fetch.
    ///
    /// # Panics
    /// When it got no HTTP answer.
    #[must_use]
    pub fn fetch(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Answered {
        told(&self.run("node", &["-e", FETCH, method, url, &object(headers), body]).success())
    }

    /// Runs to the end, for at most so long.
    ///
    /// # Panics
    /// When it cannot start, or takes longer.
    #[must_use]
    pub fn run_for(&self, patience: Duration, program: &str, arguments: &[&str]) -> Finished {
        debug_assert!(patience != PATIENCE, "Seat::run does that");
        let mut command = self.command(program);
        command.args(arguments);
        Finished::of(command, patience)
    }
}

fn told(finished: &Finished) -> Answered {
    let told = finished.json();
    let port = told["port"].as_u64().unwrap_or_default().to_string();
    let peer = told["ip"].as_str().and_then(|ip| address(ip, &port));
    let status = told["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    Answered {
        status: status.expect("a status"),
        body: told["body"].as_str().unwrap_or_default().to_owned(),
        peer,
    }
}

fn address(ip: &str, port: &str) -> Option<SocketAddr> {
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

fn object(headers: &[(&str, &str)]) -> String {
    headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
        .collect::<serde_json::Map<_, _>>()
        .into_iter()
        .collect::<Value>()
        .to_string()
}

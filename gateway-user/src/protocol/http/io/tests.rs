//! An upload that nobody takes any more ends in time, and one that moves goes on. The clock is the test's: it stands
//! while bytes move, and jumps where time must pass.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::tally::Tally;

/// Of each socket, so that little is on its way when the upstream stops reading.
const BUFFER_BYTES: u32 = 32 * 1024;
/// More than all buffers between the client and the upstream hold.
const ON_THE_WAY_BYTES: usize = 8 * 1024 * 1024;

fn socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(BUFFER_BYTES).unwrap();
    socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
    socket
}

fn listener() -> (TcpListener, SocketAddr) {
    let socket = socket();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The screen and the engine in front, the upstream's engine behind, joined as an exchange joins them; no judge.
async fn carry(client: TcpStream, upstream: SocketAddr) -> hyper::Result<()> {
    let (io, wire) = Screened::new(Tally::default().take(client));
    let lines = Mutex::new(Vec::new());
    let exchange = async |request: Request<Incoming>| {
        let (_, answering) = wire.next_seen().unwrap();
        let line = socket().connect(upstream).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(line)).await.unwrap();
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        // Kept for the next request, as an exchange keeps it.
        lines.lock().unwrap().push(sender);
        let whole = body.collect().await.unwrap().to_bytes();
        drop(answering);
        Ok::<_, Infallible>(Response::from_parts(parts, Full::<Bytes>::new(whole)))
    };
    Builder::new().header_read_timeout(None).serve_connection(io, service_fn(exchange)).await
}

/// A client that uploads without end, its answer read; the upstream's side of that, and the gate between them.
async fn answered_early() -> (JoinHandle<hyper::Result<()>>, TcpStream, JoinHandle<io::Result<()>>) {
    let ((upstream, to), (gate, at)) = (listener(), listener());
    let client = socket().connect(at).await.unwrap();
    let gate = tokio::spawn(carry(gate.accept().await.unwrap().0, to));
    let (mut answer, mut upload) = client.into_split();
    upload
        .write_all(b"PUT /film HTTP/1.1\r\nHost: films\r\nContent-Length: 99999999999\r\n\r\n")
        .await
        .unwrap();
    let uploading = tokio::spawn(async move {
        loop {
            upload.write_all(&[b'x'; 64 * 1024]).await?;
        }
    });
    let (mut upstream, _) = upstream.accept().await.unwrap();
    upstream.read_exact(&mut [0; 16]).await.unwrap();
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nseen").await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"seen") {
        assert_ne!(answer.read_buf(&mut got).await.unwrap(), 0, "{got:?}");
    }
    // Until the buffers are full.
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::spawn(async move { answer.read_to_end(&mut got).await });
    (gate, upstream, uploading)
}

async fn jump(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn an_upload_that_the_upstream_takes_no_more_of_ends_once_its_answer_has() {
    let (gate, _upstream, uploading) = answered_early().await;
    jump(BODY_IDLE_TIMEOUT - Duration::from_secs(10)).await;
    assert!(!gate.is_finished() && !uploading.is_finished(), "before its time");
    jump(Duration::from_secs(11)).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), gate).await.expect("it stays for ever");
    let ended = ended.unwrap().unwrap_err();
    let cause = std::error::Error::source(&ended).unwrap().to_string();
    assert!(cause.contains("took no byte of the request body"), "{cause}");
    assert!(uploading.await.unwrap().is_err(), "the client hears of it");
}

#[tokio::test]
async fn an_upload_that_moves_goes_on_after_its_answer_however_long_it_takes() {
    let (gate, mut upstream, _uploading) = answered_early().await;
    let mut some = vec![0; ON_THE_WAY_BYTES];
    for _ in 0..4 {
        jump(BODY_IDLE_TIMEOUT - Duration::from_secs(10)).await;
        assert!(!gate.is_finished());
        upstream.read_exact(&mut some).await.unwrap();
    }
    assert!(!gate.is_finished());
}

#[tokio::test]
async fn a_connection_between_two_requests_is_not_taken_for_an_upload() {
    let ((upstream, to), (gate, at)) = (listener(), listener());
    let mut client = socket().connect(at).await.unwrap();
    let gate = tokio::spawn(carry(gate.accept().await.unwrap().0, to));
    client.write_all(b"PUT / HTTP/1.1\r\nHost: films\r\nContent-Length: 1\r\n\r\nx").await.unwrap();
    let (mut upstream, _) = upstream.accept().await.unwrap();
    upstream.read_exact(&mut [0; 16]).await.unwrap();
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_ne!(client.read(&mut [0; 1024]).await.unwrap(), 0);
    jump(IDLE_TIMEOUT - Duration::from_secs(5)).await;
    assert!(!gate.is_finished(), "its own bound is longer");
    jump(Duration::from_secs(6)).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), gate).await.expect("it ends by its own bound");
    assert!(ended.as_ref().unwrap().is_ok(), "and in order: {ended:?}");
}

#[tokio::test]
async fn a_client_that_reads_its_answer_slowly_is_taken_for_neither_an_upload_nor_idle() {
    let ((upstream, to), (gate, at)) = (listener(), listener());
    let mut client = socket().connect(at).await.unwrap();
    let gate = tokio::spawn(carry(gate.accept().await.unwrap().0, to));
    client.write_all(b"GET / HTTP/1.1\r\nHost: films\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut upstream, _) = upstream.accept().await.unwrap();
    upstream.read_exact(&mut [0; 16]).await.unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {ON_THE_WAY_BYTES}\r\n\r\n");
    upstream.write_all(head.as_bytes()).await.unwrap();
    upstream.write_all(&vec![b'y'; ON_THE_WAY_BYTES]).await.unwrap();
    let mut some = vec![0; ON_THE_WAY_BYTES / 8];
    for _ in 0..4 {
        client.read_exact(&mut some).await.unwrap();
        jump(BODY_IDLE_TIMEOUT - Duration::from_secs(10)).await;
        assert!(!gate.is_finished());
    }
    let mut rest = Vec::new();
    assert!(client.read_to_end(&mut rest).await.unwrap() >= ON_THE_WAY_BYTES / 2, "nothing is cut off");
    assert!(gate.await.unwrap().is_ok());
}

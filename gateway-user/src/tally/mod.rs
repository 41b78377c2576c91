//! What the enforcer says of every flow that it took: whether it is on record or why it was refused, and the bytes that it read
//! and wrote. `compare` lays that beside what the kernel counted.
//!
//! Counts a flow's end before its socket is closed, so that the kernel never knows of an end first. Refuses to keep more rows
//! than the kernel does.

mod compare;

pub use compare::{Flows, Gap, Names, Process, Reconciled, Why, compare};

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::kernel::{self, Lane};
use crate::limits::TALLY_LANES_MAX;

/// Flows of one lane, as the enforcer counts them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Taken from the kernel.
    pub taken: u64,
    /// Ended.
    pub ended: u64,
    /// Those of them that have a session in the record.
    pub recorded: u64,
    /// The others, by why.
    pub refused: BTreeMap<String, u64>,
    /// Bytes read from clients, all of which went through the screen; of flows that have ended.
    pub read: u64,
    /// Bytes written to clients; of flows that have ended.
    pub written: u64,
}

/// All of it at one moment. `None` stands for flows that the kernel does not count.
pub type Account = Vec<(Option<Lane>, Told)>;

/// The enforcer's counts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<Option<Lane>, Told>>>);

impl Tally {
    /// Takes a flow that was just accepted, and counts it from here on.
    #[must_use]
    pub fn take(&self, stream: TcpStream) -> Metered {
        let lane = kernel::take_flow(&stream).unwrap_or_else(|error| {
            tracing::warn!(%error, "the kernel does not say what it counts a flow by");
            None
        });
        self.with(lane, |told| told.taken += 1);
        let flow = Flow { tally: self.clone(), lane, read: 0, written: 0, refused: Some(UNFINISHED) };
        Metered { flow, stream }
    }

    /// What was counted until now.
    #[must_use]
    pub fn account(&self) -> Account {
        self.lock().iter().map(|(lane, told)| (*lane, told.clone())).collect()
    }

    fn with(&self, lane: Option<Lane>, change: impl FnOnce(&mut Told)) {
        let mut lanes = self.lock();
        // The kernel has no more lanes than that, so this is nobody's.
        let lane = if lanes.len() < TALLY_LANES_MAX || lanes.contains_key(&lane) { lane } else { None };
        change(lanes.entry(lane).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<Lane>, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a flow is called that ends before anybody said what became of it.
const UNFINISHED: &str = "the gate was stopped or failed before it was judged";

/// One flow; counts its end.
#[derive(Debug)]
struct Flow {
    tally: Tally,
    lane: Option<Lane>,
    read: u64,
    written: u64,
    /// `None`: it is on record.
    refused: Option<&'static str>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.tally.with(self.lane, |told| {
            told.ended += 1;
            told.read += self.read;
            told.written += self.written;
            match self.refused {
                None => told.recorded += 1,
                Some(why) => *told.refused.entry(why.to_owned()).or_default() += 1,
            }
        });
    }
}

/// A client's socket, whose bytes are counted.
#[derive(Debug)]
pub struct Metered {
    // Fields are dropped in this order: the end is counted before the kernel sees it.
    flow: Flow,
    stream: TcpStream,
}

impl Metered {
    /// The socket, to ask it things.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// It is on record.
    pub fn recorded(&mut self) {
        self.flow.refused = None;
    }

    /// Closes it unserved.
    pub fn refuse(mut self, why: &'static str) {
        self.flow.refused = Some(why);
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        self.flow.read += (into.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.flow.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.flow.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(tally: &Tally) -> (Metered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (tally.take(listener.accept().await.unwrap().0), client)
    }

    #[tokio::test]
    async fn a_flow_is_counted_when_it_is_taken_and_its_bytes_when_it_ends() {
        let tally = Tally::default();
        let (mut served, mut client) = pair(&tally).await;
        client.write_all(b"12345").await.unwrap();
        served.read_exact(&mut [0; 5]).await.unwrap();
        served.write_all(b"123").await.unwrap();
        let begun = Told { taken: 1, ..Told::default() };
        assert_eq!(tally.account(), [(None, begun.clone())], "no kernel program counts this one");
        served.recorded();
        drop(served);
        let ended = Told { ended: 1, recorded: 1, read: 5, written: 3, ..begun };
        assert_eq!(tally.account(), [(None, ended)]);
    }

    #[tokio::test]
    async fn what_is_refused_or_forgotten_has_a_reason() {
        let tally = Tally::default();
        pair(&tally).await.0.refuse("no room");
        drop(pair(&tally).await.0);
        let account = tally.account();
        let refused = &account[0].1.refused;
        assert_eq!(
            refused.iter().map(|(why, count)| (why.as_str(), *count)).collect::<Vec<_>>(),
            [("no room", 1), (UNFINISHED, 1)]
        );
        assert_eq!((account[0].1.recorded, account[0].1.ended), (0, 2));
    }

    #[test]
    fn no_more_lanes_are_kept_than_the_kernel_has() {
        let tally = Tally::default();
        for row in 0..TALLY_LANES_MAX as u32 + 10 {
            let lane = Lane { taker: 1, row, guard: 0, way: kernel::Way::Outbound };
            tally.with(Some(lane), |told| told.taken += 1);
        }
        let account = tally.account();
        assert_eq!(account.len(), TALLY_LANES_MAX + 1);
        assert_eq!(account.iter().map(|(_, told)| told.taken).sum::<u64>(), TALLY_LANES_MAX as u64 + 10);
    }
}

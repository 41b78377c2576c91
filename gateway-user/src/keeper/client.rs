//! The enforcer's side: asks, waits for the answer, and gives up in time. When the keeper is gone, so is the enforcer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::link::Link;
use super::message::{Answer, News, Request, pack, unpack};
use super::{Change, Counted};
use crate::credential::Secret;
use crate::identity::process::Facts;
use crate::kernel::{Exempt, Listeners, counter_names};
use crate::limits::{KEEPER_PUBLISH_TIMEOUT, KEEPER_TIMEOUT};
use crate::operation::{Sha256, Workload};
use crate::record::entry::{CredentialClaimed, Event};

/// The keeper is gone.
#[derive(Debug, thiserror::Error)]
#[error("the keeper is gone")]
pub struct Lost;

type Answered = (Answer, Vec<OwnedFd>);

/// Asks the keeper. Clones share the line.
#[derive(Debug, Clone)]
pub struct Client(Arc<Line>);

#[derive(Debug)]
struct Line {
    link: Link,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answered>>>,
    counters: ArcSwap<(Vec<u64>, Counted)>,
}

impl Client {
    /// Over the line that the keeper gave this process. Needs a tokio runtime.
    ///
    /// # Errors
    /// It is no such line.
    pub fn over(socket: OwnedFd) -> io::Result<Self> {
        let line = Line {
            link: Link::over(socket)?,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            counters: ArcSwap::default(),
        };
        Ok(Self(Arc::new(line)))
    }

    /// Hands answers to those who asked, until the keeper is gone.
    pub async fn listen(self) -> Lost {
        loop {
            match self.0.link.receive().await {
                Ok(Some((bytes, descriptors))) => {
                    let Some((number, answer)) = unpack::<Answer>(&bytes) else {
                        tracing::error!("the keeper said something that is no answer");
                        return Lost;
                    };
                    let asked = self.0.waiting().remove(&number);
                    // Who no longer waits has dropped the other end; descriptors close by themselves.
                    drop(asked.map(|asked| asked.send((answer, descriptors))));
                }
                Ok(None) => return Lost,
                Err(error) => {
                    tracing::error!(%error, "the line to the keeper is broken");
                    return Lost;
                }
            }
        }
    }

    async fn ask(&self, what: &Request) -> io::Result<Answered> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.0.waiting().insert(number, answer);
        let forget = Forget { line: &self.0, number };
        let patience = match what {
            Request::Publish => KEEPER_PUBLISH_TIMEOUT,
            _ => KEEPER_TIMEOUT,
        };
        let asked = async {
            self.0.link.send(&pack(number, what)?, &[]).await?;
            answered.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        };
        let answer = tokio::time::timeout(patience, asked)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the keeper did not answer in time"))?;
        drop(forget);
        match answer? {
            (Answer::Refused { errno: Some(errno), .. }, _) => Err(io::Error::from_raw_os_error(errno)),
            (Answer::Refused { why, .. }, _) => Err(io::Error::other(why)),
            answered => Ok(answered),
        }
    }

    /// Who this process is.
    ///
    /// # Errors
    /// The keeper did not answer; so for every method here.
    pub async fn resolve(&self, facts: Facts) -> io::Result<Workload> {
        match self.ask(&Request::Resolve(facts)).await? {
            (Answer::Workload(workload), _) => Ok(*workload),
            _ => Err(misunderstood()),
        }
    }

    /// The gate's own sockets, each for the place it was asked for.
    #[must_use]
    pub fn exempt(&self) -> Exempt {
        let client = self.clone();
        Exempt::from_maker(move |space, to| Box::pin(client.clone().socket(space, to)))
    }

    async fn socket(self, space: Option<u64>, to: SocketAddr) -> io::Result<OwnedFd> {
        let (_, mut descriptors) = self.ask(&Request::Socket(to, space)).await?;
        descriptors.pop().ok_or_else(misunderstood)
    }

    /// The next change of the network namespaces that are served, for whoever serves these sets; `None`: nothing changed for a while.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn space(&self, serves: Vec<u64>) -> io::Result<Option<Change>> {
        match self.ask(&Request::Space(serves)).await? {
            (Answer::Space(None), _) => Ok(None),
            (Answer::Space(Some(News { set, came: None })), _) => Ok(Some(Change::Went(set))),
            (Answer::Space(Some(News { set, came: Some(came) })), descriptors) => {
                let listeners = listeners((came.outbound, came.inbound), descriptors)?;
                Ok(Some(Change::Came { set, space: came.space, listeners }))
            }
            _ => Err(misunderstood()),
        }
    }

    /// Whether an address is own in the network namespace with this cookie.
    ///
    /// # Errors
    /// As [`Client::resolve`], and where that namespace is not served.
    pub async fn is_own(&self, space: u64, address: IpAddr) -> io::Result<bool> {
        match self.ask(&Request::IsOwn(space, address)).await? {
            (Answer::IsOwn(own), _) => Ok(own),
            _ => Err(misunderstood()),
        }
    }

    /// The gate's listeners.
    ///
    /// # Errors
    /// As [`Client::resolve`], and where they cannot be had.
    pub async fn listeners(&self) -> io::Result<Listeners> {
        let (Answer::Listeners { outbound, inbound }, descriptors) = self.ask(&Request::Listeners).await?
        else {
            return Err(misunderstood());
        };
        listeners((outbound, inbound), descriptors)
    }

    /// Has the admin socket opened.
    ///
    /// # Errors
    /// As [`Client::listeners`].
    pub async fn door(&self) -> io::Result<()> {
        self.ask(&Request::Door).await.map(drop)
    }

    /// A line to admin.
    ///
    /// # Errors
    /// As [`Client::listeners`].
    pub async fn admin(&self) -> io::Result<UnixStream> {
        let (_, mut descriptors) = self.ask(&Request::Admin).await?;
        descriptors.pop().map(UnixStream::from).ok_or_else(misunderstood)
    }

    /// A line to the recorder.
    ///
    /// # Errors
    /// As [`Client::listeners`].
    pub async fn record(&self) -> io::Result<UnixStream> {
        let (_, mut descriptors) = self.ask(&Request::Record).await?;
        descriptors.pop().map(UnixStream::from).ok_or_else(misunderstood)
    }

    /// Has the kernel's tables brought up to date with the policy directory; gives the digest of what they are of now.
    ///
    /// # Errors
    /// As [`Client::resolve`], and where they cannot be: what stood there still protects.
    pub async fn publish(&self) -> io::Result<Sha256> {
        match self.ask(&Request::Publish).await? {
            (Answer::Published(digest), _) => Ok(digest),
            _ => Err(misunderstood()),
        }
    }

    /// What was cut or refused in the kernel and is not recorded yet, with its number; what came with this number last is recorded.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn unrecorded(&self, recorded: Option<u64>) -> io::Result<Option<(u64, Box<Event>)>> {
        match self.ask(&Request::Unrecorded(recorded)).await? {
            (Answer::Unrecorded(next), _) => Ok(next),
            _ => Err(misunderstood()),
        }
    }

    /// The credential that an operation claims, whose claim is in the record.
    ///
    /// # Errors
    /// As [`Client::resolve`], and where it is not given out.
    pub async fn release(&self, claim: CredentialClaimed) -> io::Result<Secret> {
        match self.ask(&Request::Release(claim)).await? {
            (Answer::Released(secret), _) => Ok(secret),
            _ => Err(misunderstood()),
        }
    }

    /// Fetches the kernel's counters, for [`Client::counters`].
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn count(&self) -> io::Result<()> {
        match self.ask(&Request::Counters).await? {
            (Answer::Counters(counters, spaces), _) => {
                self.0.counters.store(Arc::new((counters, spaces)));
                Ok(())
            }
            _ => Err(misunderstood()),
        }
    }

    /// The kernel's counters by name, as they were fetched last.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        counter_names().zip(self.0.counters.load().0.iter().copied()).collect()
    }

    /// How many other network namespaces there are, as it was fetched last.
    #[must_use]
    pub fn spaces(&self) -> Counted {
        self.0.counters.load().1
    }

    /// Has the kernel told that the enforcer lives. False: a newer gate has taken over.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn beat(&self) -> io::Result<bool> {
        match self.ask(&Request::Beat).await? {
            (Answer::Beat(heard), _) => Ok(heard),
            _ => Err(misunderstood()),
        }
    }

    /// Says that the gate is open.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn ready(&self) -> io::Result<()> {
        self.ask(&Request::Ready).await.map(drop)
    }
}

impl Line {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answered>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a question back when nobody waits for its answer any more.
struct Forget<'a> {
    line: &'a Line,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.line.waiting().remove(&self.number);
    }
}

/// Descriptors as what they are: so many for outbound flows, then so many for inbound ones.
fn listeners((outbound, inbound): (u8, u8), descriptors: Vec<OwnedFd>) -> io::Result<Listeners> {
    if descriptors.len() != usize::from(outbound) + usize::from(inbound) {
        return Err(misunderstood());
    }
    let mut all = descriptors.into_iter().map(TcpListener::from);
    let outbound = all.by_ref().take(usize::from(outbound)).collect();
    Ok(Listeners { outbound, inbound: all.collect() })
}

fn misunderstood() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the keeper answered something else than it was asked")
}

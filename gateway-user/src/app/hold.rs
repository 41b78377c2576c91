//! What the enforcer has of the kernel: all of it, where it has the privilege itself; else what the keeper gives it, one thing at
//! a time.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::coverage;
use crate::admin::coverage::Coverage;
use crate::credential::Release;
use crate::identity::process::Processes;
use crate::keeper::{Change, Client, Counted, Refusals, Releases, Spaces, Standing, Tables};
use crate::kernel::{Exempt, Gate, Listeners, Place, Seen};
use crate::limits::SPACES_NEWS_TIMEOUT;
use crate::operation::{Sha256, Workload};
use crate::policy::Set;
use crate::record::entry::Event;
use crate::service;
use crate::tally::Tally;

/// Its hold on the kernel. Clones share it.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a process has a handful of them")]
pub(super) enum Hold {
    /// This process loaded the programs, and is privileged.
    Own {
        /// What is loaded.
        gate: Arc<Gate>,
        /// Who is who.
        processes: Arc<Processes>,
        /// The cgroup v2 root.
        cgroups: PathBuf,
        /// The words of listeners that were left for it.
        left: Option<String>,
        /// The gate, as long as it stands open.
        standing: Arc<Mutex<Option<Standing>>>,
        /// Where the programs are attached.
        place: Box<Place>,
        /// The other network namespaces.
        spaces: Arc<Spaces>,
        /// What the kernel refused.
        refusals: Arc<Refusals>,
        /// Who gives credentials out.
        releases: Arc<Releases>,
    },
    /// The keeper has it.
    Kept(Client),
}

impl Hold {
    /// Over programs that this process loaded.
    pub(super) fn own(
        (gate, spaces, refusals): (Arc<Gate>, Arc<Spaces>, Arc<Refusals>),
        releases: Releases,
        cgroups: PathBuf,
        place: Place,
        left: Option<String>,
    ) -> Self {
        let processes = Arc::new(Processes::new(&cgroups));
        Self::Own {
            gate,
            processes,
            cgroups,
            left,
            standing: Arc::default(),
            place: Box::new(place),
            spaces,
            refusals,
            releases: Arc::new(releases),
        }
    }

    /// Sockets that the programs let out.
    pub(super) fn exempt(&self) -> Exempt {
        match self {
            Self::Own { gate, spaces, .. } => {
                let (gate, spaces) = (gate.clone(), spaces.clone());
                let here = Exempt::new(move |socket| gate.exempt(socket));
                Exempt::from_maker(move |space, to| match space {
                    None => here.make(None, to),
                    Some(cookie) => {
                        let spaces = spaces.clone();
                        // Enters the namespace on a thread of its own, and waits for it.
                        let made = tokio::task::spawn_blocking(move || spaces.socket(cookie, to));
                        Box::pin(async move { made.await.map_err(io::Error::other)? })
                    }
                })
            }
            Self::Kept(keeper) => keeper.exempt(),
        }
    }

    /// What gives an operation the credential that it claims.
    pub(super) fn releases(&self) -> Release {
        match self {
            Self::Own { releases, .. } => {
                let releases = releases.clone();
                Release::by(move |claim| {
                    let releases = releases.clone();
                    Box::pin(async move { releases.release(&claim).await })
                })
            }
            Self::Kept(keeper) => {
                let keeper = keeper.clone();
                Release::by(move |claim| {
                    let keeper = keeper.clone();
                    Box::pin(async move { keeper.release(claim).await })
                })
            }
        }
    }

    /// Who connected.
    pub(super) async fn resolve(&self, seen: Seen) -> io::Result<Workload> {
        match self {
            Self::Own { processes, .. } => {
                let processes = processes.clone();
                // Reads /proc, and hashes a program the first time it is seen.
                tokio::task::spawn_blocking(move || processes.resolve(&seen)).await.map_err(io::Error::other)
            }
            Self::Kept(keeper) => keeper.resolve((&seen).into()).await,
        }
    }

    /// The gate's listeners: from here on the gate is open.
    pub(super) async fn listeners(&self) -> io::Result<Listeners> {
        match self {
            Self::Own { gate, left, standing, .. } => {
                let (stands, listeners) = Standing::up(gate, left.as_deref())?;
                *standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(stands);
                Ok(listeners)
            }
            Self::Kept(keeper) => keeper.listeners().await,
        }
    }

    /// The next change of the other network namespaces where the gate listens, for whoever serves these sets; `None`: there was none for a while.
    pub(super) async fn space(&self, serves: Vec<u64>) -> io::Result<Option<Change>> {
        match self {
            Self::Own { spaces, .. } => {
                Ok(tokio::time::timeout(SPACES_NEWS_TIMEOUT, spaces.next(&serves)).await.ok())
            }
            Self::Kept(keeper) => keeper.space(serves).await,
        }
    }

    /// Whether an address is own in the network namespace with this cookie.
    pub(super) async fn is_own(&self, space: u64, address: IpAddr) -> io::Result<bool> {
        match self {
            Self::Own { spaces, .. } => {
                let spaces = spaces.clone();
                let asked = tokio::task::spawn_blocking(move || spaces.is_own(space, address)).await;
                asked.map_err(io::Error::other)?
            }
            Self::Kept(keeper) => keeper.is_own(space, address).await,
        }
    }

    /// How many other network namespaces there are; those of a moment ago where the keeper counts them.
    pub(super) fn spaces(&self) -> Counted {
        match self {
            Self::Own { spaces, .. } => spaces.counted(),
            Self::Kept(keeper) => keeper.spaces(),
        }
    }

    /// What was cut or refused in the kernel and is not recorded yet, with its number; what came with this number last is recorded.
    pub(super) async fn unrecorded(&self, recorded: Option<u64>) -> io::Result<Option<(u64, Box<Event>)>> {
        match self {
            Self::Own { refusals, .. } => Ok(refusals.next(recorded)),
            Self::Kept(keeper) => keeper.unrecorded(recorded).await,
        }
    }

    /// Tells the kernel that the gate lives. False: a newer gate has taken over.
    pub(super) async fn beat(&self) -> io::Result<bool> {
        match self {
            Self::Own { standing, .. } => {
                let standing = standing.lock().unwrap_or_else(PoisonError::into_inner);
                let heard = standing.as_ref().map_or(Ok(false), Standing::beat);
                if matches!(heard, Ok(true)) {
                    service::alive();
                }
                heard.map_err(io::Error::other)
            }
            Self::Kept(keeper) => keeper.beat().await,
        }
    }

    /// From here on the gate is shut.
    pub(super) fn shut(&self) {
        if let Self::Own { standing, spaces, .. } = self {
            service::stopping();
            spaces.shut();
            drop(standing.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Leaves the gate standing for the program that goes on; `None` where the keeper does that.
    pub(super) fn leave(&self) -> Option<Listeners> {
        match self {
            Self::Own { standing, spaces, .. } => {
                // They are made anew by the program that goes on.
                spaces.shut();
                let standing = standing.lock().unwrap_or_else(PoisonError::into_inner).take();
                service::changing("another program goes on");
                standing.map(Standing::leave)
            }
            Self::Kept(_) => None,
        }
    }

    /// The kernel's counters by name; those of a moment ago where the keeper has them.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Own { gate, .. } => gate.counters().unwrap_or_default(),
            Self::Kept(keeper) => keeper.counters(),
        }
    }

    /// What reaches past the gate now.
    pub(super) fn coverage(&self, set: &Set, tally: &Tally) -> io::Result<Coverage> {
        match self {
            Self::Own { gate, .. } => coverage::asked(gate.pins(), set, tally),
            Self::Kept(_) => {
                Err(io::Error::other("the enforcer may not look: ask `tidegate coverage` as root"))
            }
        }
    }

    /// What keeps the kernel's tables in step with the policy.
    pub(super) fn follow(&self) -> Followed {
        match self {
            Self::Own { gate, cgroups, place, spaces, refusals, .. } => {
                let kernel = (gate.clone(), spaces.clone(), refusals.clone());
                Followed::Own(Box::new(Tables::new(kernel, (cgroups.clone(), Place::clone(place)), None)))
            }
            Self::Kept(keeper) => Followed::Kept { keeper: keeper.clone(), told: None },
        }
    }
}

/// The kernel's tables, as seen from here.
pub(super) enum Followed {
    /// This process writes them.
    Own(Box<Tables>),
    /// The keeper does, of the set with this digest.
    Kept {
        /// The keeper.
        keeper: Client,
        /// What the tables are of, as far as it said.
        told: Option<Sha256>,
    },
}

impl Followed {
    /// Sees to it that the kernel's tables are of this set.
    pub(super) async fn follow(&mut self, set: &Arc<Set>) {
        match self {
            Self::Own(tables) => {
                tables.follow(set).await;
            }
            Self::Kept { keeper, told } => {
                if let Err(error) = keeper.count().await {
                    tracing::warn!(%error, "the kernel's counters are as they were");
                }
                if *told != Some(set.digest()) {
                    *told = keeper.publish().await.map_or_else(
                        |error| {
                            tracing::error!(%error, "the kernel's tables are as they were; trying again");
                            None
                        },
                        Some,
                    );
                }
            }
        }
    }
}

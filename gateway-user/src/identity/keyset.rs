//! A provider's key set, kept current: a file that is read again when it changes, or a URL that is fetched again.
//!
//! A set that cannot be renewed serves on for [`STALE_MAX`] and no longer; a token with an unknown key makes us look
//! again at most every [`RETRY`], so that nobody can make us hammer a provider.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use super::fetch::fetch;
use super::keys::KeySet;
use crate::kernel::Exempt;
use crate::limits::JWKS_BYTES_MAX;
use crate::operation::Sha256;
use crate::policy::nouns::Jwks;

/// Seconds between two looks at a source.
pub(super) const RETRY: i64 = 10;
/// Seconds a fetched set serves before it is fetched again, whatever longer time the server allows.
pub(super) const AGE_MAX: i64 = 3600;
/// The same where the server says nothing.
const AGE_DEFAULT: i64 = 600;
/// Seconds a set serves while its source fails: providers have outages, users have work.
pub(super) const STALE_MAX: i64 = 24 * 3600;

/// A key set as it was read.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) keys: KeySet,
    /// Changes with the content, and with nothing else; unique in this process.
    pub(super) generation: u64,
    digest: Sha256,
    renewed: i64,
    fresh_until: i64,
    version: Option<Version>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Where a key set comes from, and the last one that was good.
#[derive(Debug)]
pub(super) struct Source {
    jwks: Jwks,
    exempt: Exempt,
    current: ArcSwapOption<Current>,
    /// When the source was last tried, in seconds since the epoch, and why that failed.
    tried: Mutex<Tried>,
}

#[derive(Debug)]
struct Tried {
    at: i64,
    failed: Option<String>,
    /// The version of the file that was tried.
    version: Option<Version>,
}

impl Source {
    /// The key set of `jwks`, fetched where it has to be through sockets of `exempt`.
    pub(super) fn new(jwks: Jwks, exempt: Exempt) -> Self {
        let tried = Tried { at: i64::MIN, failed: None, version: None };
        Self { jwks, exempt, current: ArcSwapOption::empty(), tried: Mutex::new(tried) }
    }

    pub(super) fn is(&self, jwks: &Jwks) -> bool {
        self.jwks == *jwks
    }

    /// The key set to use at `now`, renewed where that is due, or why there is none.
    pub(super) async fn current(&self, now: i64) -> Result<Arc<Current>, String> {
        let known = self.current.load_full();
        if let Some(current) = &known
            && !self.is_due(current, now)
        {
            return Ok(current.clone());
        }
        // While somebody else renews it, the known set serves.
        let tried = match (self.tried.try_lock(), known.is_some()) {
            (Ok(tried), _) => Some(tried),
            (Err(_), true) => None,
            (Err(_), false) => Some(self.tried.lock().await),
        };
        if let Some(mut tried) = tried {
            self.renew(&mut tried, now).await;
        }
        self.usable(now).await
    }

    /// The key set after another look at the source, for a token whose key is not in `known`. Looks at most every
    /// [`RETRY`] seconds.
    pub(super) async fn newer(&self, known: &Current, now: i64) -> Result<Arc<Current>, String> {
        let mut tried = self.tried.lock().await;
        let replaced =
            self.current.load().as_ref().is_some_and(|current| current.generation != known.generation);
        if !replaced {
            self.renew(&mut tried, now).await;
        }
        drop(tried);
        self.usable(now).await
    }

    async fn usable(&self, now: i64) -> Result<Arc<Current>, String> {
        if let Some(current) = self.current.load_full() {
            if now - current.renewed <= STALE_MAX {
                return Ok(current);
            }
            return Err(format!("its keys were last renewed more than {} hours ago", STALE_MAX / 3600));
        }
        let tried = self.tried.lock().await;
        Err(tried.failed.clone().unwrap_or_else(|| "they were not read yet".to_owned()))
    }

    fn is_due(&self, current: &Current, now: i64) -> bool {
        match &self.jwks {
            Jwks::File(path) => current.version != version(path) || now - current.renewed > AGE_MAX,
            Jwks::Url(_) => now >= current.fresh_until,
        }
    }

    async fn renew(&self, tried: &mut Tried, now: i64) {
        let version = match &self.jwks {
            Jwks::File(path) => version(path),
            Jwks::Url(_) => None,
        };
        // A file that has changed since is looked at whenever that happened.
        let changed = version.is_some() && tried.version != version;
        if !changed && now >= tried.at && now.saturating_sub(tried.at) < RETRY {
            return;
        }
        (tried.at, tried.version) = (now, version);
        let read = match &self.jwks {
            Jwks::File(path) => read_file(path).map(|bytes| (bytes, None)),
            Jwks::Url(url) => fetch(url, &self.exempt)
                .await
                .map(|got| (got.bytes, got.max_age))
                .map_err(|error| error.to_string()),
        };
        let renewed = read.and_then(|(bytes, max_age)| self.take(&bytes, max_age, version, now));
        if let Err(why) = &renewed {
            tracing::warn!(source = %self.name(), error = %why, "a key set could not be renewed; the last good one serves on");
        }
        tried.failed = renewed.err();
    }

    fn take(
        &self,
        bytes: &[u8],
        max_age: Option<i64>,
        version: Option<Version>,
        now: i64,
    ) -> Result<(), String> {
        let keys = KeySet::parse(bytes).map_err(|error| error.to_string())?;
        let digest = Sha256::of(bytes);
        let known = self.current.load();
        let generation = match known.as_ref() {
            Some(known) if known.digest == digest => known.generation,
            _ => GENERATION.fetch_add(1, Ordering::Relaxed),
        };
        let age = max_age.unwrap_or(AGE_DEFAULT).clamp(RETRY, AGE_MAX);
        let fresh_until = now.saturating_add(age);
        self.current.store(Some(Arc::new(Current {
            keys,
            generation,
            digest,
            renewed: now,
            fresh_until,
            version,
        })));
        Ok(())
    }

    fn name(&self) -> String {
        match &self.jwks {
            Jwks::File(path) => path.display().to_string(),
            Jwks::Url(url) => url.clone(),
        }
    }
}

fn version(path: &Path) -> Option<Version> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Version {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(JWKS_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > JWKS_BYTES_MAX {
        return Err(format!("{} is longer than {JWKS_BYTES_MAX} bytes", path.display()));
    }
    Ok(bytes)
}

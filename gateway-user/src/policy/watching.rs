//! Signs that a directory may have changed, from inotify. A missed sign costs a moment, never a change: the shelf also
//! looks by itself.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// A source of signs. Works without inotify too: then no sign ever comes.
pub(super) struct Signs {
    came: Receiver<()>,
    /// Keeps the channel open where there is no watcher.
    _sender: SyncSender<()>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that is watched.
    watched: Option<(u64, u64)>,
}

/// Starts to look for signs.
pub(super) fn signs(dir: &Path) -> Signs {
    // One sign waiting is enough: whoever takes it looks at everything.
    let (sender, came) = sync_channel(1);
    let tell = sender.clone();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Being read is no change; our own reads would otherwise wake us for ever.
        if event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            return;
        }
        match tell.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    });
    let watcher = watcher
        .inspect_err(
            |error| tracing::warn!(%error, "no inotify: policy changes are seen within seconds instead"),
        )
        .ok();
    let mut signs = Signs { came, _sender: sender, watcher, watched: None };
    signs.renew(dir);
    signs
}

impl Signs {
    /// Waits for a sign. `false` when none came in time.
    pub(super) fn wait(&self, most: Duration) -> bool {
        match self.came.recv_timeout(most) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }

    /// Watches the directory that stands under the name now, where it is another one than before.
    pub(super) fn renew(&mut self, dir: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let now = fs::metadata(dir).ok().map(|about| (about.dev(), about.ino()));
        if now == self.watched {
            return;
        }
        // Failure means that it is already gone again; the next look tries once more.
        let _ = watcher.unwatch(dir);
        self.watched = now.filter(|_| watcher.watch(dir, RecursiveMode::NonRecursive).is_ok());
    }
}

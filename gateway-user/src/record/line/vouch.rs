//! The line over which admin, the process that operators talk to, tells the recorder what humans are about to have done. Nothing
//! else can be said there, and nothing be asked.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Frames, pack};
use crate::record::warrant::{Deed, Warrants};

/// Bytes of one read. A deed has a comment at most, or a reason.
const READ_BYTES: usize = 16 * 1024;
/// How long the recorder may take to answer: it does nothing for it but remember.
const PATIENCE: Duration = Duration::from_secs(5);

/// What admin says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vouch {
    /// A human is about to have this done.
    Deposit(u64, Deed),
    /// It was done, or will not be.
    Lapse(u64),
}

/// What the recorder answers to a [`Vouch::Deposit`]: its number, and why it was not taken.
pub type Vouched = (u64, Result<(), String>);

/// Takes warrants until the other end is gone, or says something that is none; then none of its own counts any more. Blocks.
///
/// # Errors
/// The line broke, or carried something that is no message.
pub fn take(mut stream: &UnixStream, warrants: &Warrants) -> io::Result<()> {
    let mut frames = Frames::default();
    let line = warrants.line();
    let taken = loop {
        match frames.fill(stream, READ_BYTES) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
        let heard = loop {
            match frames.message::<Vouch>() {
                Ok(None) => break Ok(()),
                Ok(Some(Vouch::Lapse(number))) => warrants.lapse((line, number)),
                Ok(Some(Vouch::Deposit(number, deed))) => {
                    let taken = warrants.deposit((line, number), deed).map_err(|why| why.to_string());
                    let said = pack(&(number, taken)).map_err(io::Error::other);
                    if let Err(error) = said.and_then(|said| stream.write_all(&said)) {
                        break Err(error);
                    }
                }
                Err(garbled) => break Err(io::Error::other(garbled)),
            }
        };
        if heard.is_err() {
            break heard;
        }
    };
    warrants.end(line);
    taken
}

/// Why a deed is not vouched for.
#[derive(Debug, thiserror::Error)]
pub enum NotVouched {
    /// The recorder would not, or was not asked.
    #[error("{0}")]
    Refused(String),
    /// There is no telling; it takes another line.
    #[error("it does not answer: {0}")]
    Broken(io::Error),
}

/// Admin's end.
#[derive(Debug)]
pub struct Voucher {
    /// One at a time.
    line: Mutex<(UnixStream, Frames)>,
    next: AtomicU64,
}

impl Voucher {
    /// Over a line to the recorder.
    ///
    /// # Errors
    /// It cannot be waited on.
    pub fn over(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { line: Mutex::new((stream, Frames::default())), next: AtomicU64::new(1) })
    }

    /// Has the recorder believe this once. Gives the number to take it back by. Blocks; does nothing any more after `until`.
    ///
    /// # Errors
    /// It did not take it. [`NotVouched::Broken`]: the line is of no use any more, and nothing that was said over it counts.
    pub fn deposit(&self, deed: Deed, until: Instant) -> Result<u64, NotVouched> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame =
            pack(&Vouch::Deposit(number, deed)).map_err(|error| NotVouched::Refused(error.to_string()))?;
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() >= until {
            return Err(NotVouched::Refused("others waited for the recorder for too long".to_owned()));
        }
        match Self::exchange(&mut line, &frame, number) {
            Ok(taken) => taken.map(|()| number).map_err(NotVouched::Refused),
            Err(error) => {
                // What it may yet read of it is to count for nothing: the end of a line is the end of its warrants.
                drop(line.0.shutdown(Shutdown::Both));
                Err(NotVouched::Broken(error))
            }
        }
    }

    fn exchange(
        (stream, frames): &mut (UnixStream, Frames),
        frame: &[u8],
        number: u64,
    ) -> io::Result<Result<(), String>> {
        stream.write_all(frame)?;
        let begun = Instant::now();
        loop {
            match frames.message::<Vouched>().map_err(io::Error::other)? {
                Some((answered, taken)) if answered == number => return Ok(taken),
                Some(_) => return Err(io::Error::other("the recorder answered what was not asked")),
                None if begun.elapsed() > PATIENCE => return Err(io::ErrorKind::TimedOut.into()),
                None => {}
            }
            match frames.fill(&*stream, READ_BYTES) {
                Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes one back, whether it was used or not. Blocks.
    pub fn lapse(&self, number: u64) {
        if let Ok(frame) = pack(&Vouch::Lapse(number)) {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if line.0.write_all(&frame).is_err() {
                // A recorder that is gone has none; of one that hangs, the line's end is its end.
                drop(line.0.shutdown(Shutdown::Both));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::entry::{Event, Unblocked};

    fn soon() -> Instant {
        Instant::now() + PATIENCE
    }

    #[test]
    fn a_deed_counts_once_it_is_vouched_for_until_it_lapses_or_the_line_ends() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let warrants = Arc::new(Warrants::default());
        let known = Arc::clone(&warrants);
        let taking = std::thread::spawn(move || take(&theirs, &known));
        let voucher = Voucher::over(ours).unwrap();
        let event = Event::Unblocked(Unblocked { at: 1, subject: "uid:7".into(), by: "root".into() });
        let deed = Deed::of(&event).unwrap();
        let first = voucher.deposit(deed.clone(), soon()).unwrap();
        assert!(warrants.cover(std::slice::from_ref(&event)));
        voucher.lapse(first);
        let second = voucher.deposit(deed.clone(), soon()).unwrap();
        voucher.lapse(second);
        voucher.deposit(Deed::Unblocked { subject: "uid:8".into(), by: "root".into() }, soon()).unwrap();
        assert!(!warrants.cover(std::slice::from_ref(&event)), "lapsed");
        voucher.deposit(deed, soon()).unwrap();
        drop(voucher);
        taking.join().unwrap().unwrap();
        assert!(!warrants.cover(&[event]), "nobody stands for it any more");
    }

    #[test]
    fn a_recorder_that_is_gone_or_says_something_else_takes_nothing() {
        let deed = || Deed::Unblocked { subject: "uid:8".into(), by: "root".into() };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let voucher = Voucher::over(ours).unwrap();
        (&theirs).write_all(&[0xff; 64]).unwrap();
        assert!(voucher.deposit(deed(), soon()).is_err());
        drop(theirs);
        assert!(voucher.deposit(deed(), soon()).is_err());
    }

    #[test]
    fn a_recorder_that_hangs_believes_nothing_of_what_it_reads_later() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let voucher = Voucher::over(ours).unwrap();
        voucher.line.lock().unwrap().0.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let event = Event::Unblocked(Unblocked { at: 1, subject: "uid:8".into(), by: "root".into() });
        let deed = Deed::of(&event).unwrap();
        assert!(matches!(voucher.deposit(deed.clone(), soon()), Err(NotVouched::Broken(_))));
        // It wakes up while admin still has the line.
        let warrants = Warrants::default();
        drop(take(&theirs, &warrants));
        assert!(!warrants.cover(&[event]));
        assert!(matches!(voucher.deposit(deed.clone(), soon()), Err(NotVouched::Broken(_))));
        assert!(matches!(voucher.deposit(deed, Instant::now()), Err(NotVouched::Refused(_))), "too late");
    }

    #[test]
    fn what_is_no_message_ends_the_line() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(&[1, 0, 0, 0, 0xff]).unwrap();
        assert!(take(&theirs, &Warrants::default()).is_err());
    }
}

//! The line over which the keeper, which has the vault, asks the recorder whether an operation may have the credential it
//! claims. Nothing else can be asked there.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Frames, pack};
use crate::record::entry::CredentialClaimed;

/// Bytes of one read: a question has two names.
const READ_BYTES: usize = 1024;

/// Answers until the other end is gone, or says something that is no question. Blocks. `spend`: whether it is so.
///
/// # Errors
/// The line broke, or carried something that is no message.
pub fn answer(mut stream: &UnixStream, spend: impl Fn(&CredentialClaimed) -> bool) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut bytes = vec![0; READ_BYTES];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => frames.push(&bytes[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        while let Some(asked) = frames.message::<CredentialClaimed>().map_err(io::Error::other)? {
            stream.write_all(&pack(&spend(&asked)).map_err(io::Error::other)?)?;
        }
    }
}

/// The keeper's end. One question at a time.
#[derive(Debug)]
pub struct Asking {
    stream: tokio::net::UnixStream,
    frames: Frames,
}

impl Asking {
    /// Over a line to the recorder. Needs a tokio runtime.
    ///
    /// # Errors
    /// It cannot be waited on.
    pub fn over(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream: tokio::net::UnixStream::from_std(stream)?, frames: Frames::default() })
    }

    /// Whether the record says so; then it does not a second time.
    ///
    /// # Errors
    /// The line broke, or the answer is none. It is of no use any more then, and neither where this was dropped before its end.
    pub async fn spend(&mut self, claim: &CredentialClaimed) -> io::Result<bool> {
        self.stream.write_all(&pack(claim).map_err(io::Error::other)?).await?;
        let mut bytes = [0; READ_BYTES];
        loop {
            if let Some(said) = self.frames.message::<bool>().map_err(io::Error::other)? {
                return Ok(said);
            }
            match self.stream.read(&mut bytes).await? {
                0 => return Err(io::ErrorKind::BrokenPipe.into()),
                read => self.frames.push(&bytes[..read]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::EntryId;

    #[tokio::test]
    async fn what_is_asked_is_answered_and_what_is_no_question_ends_the_line() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || answer(&theirs, |claim| claim.target == "crm"));
        let mut asking = Asking::over(ours.try_clone().unwrap()).unwrap();
        let claim = |target: &str| CredentialClaimed {
            entry: EntryId::now(),
            at: 1,
            target: target.into(),
            credential: "crm".into(),
        };
        assert!(asking.spend(&claim("crm")).await.unwrap());
        assert!(!asking.spend(&claim("bank")).await.unwrap());
        asking.stream.write_all(&[1, 0, 0, 0, 0xff]).await.unwrap();
        assert!(answering.join().unwrap().is_err());
        assert!(asking.spend(&claim("crm")).await.is_err(), "nobody is there any more");
    }
}
